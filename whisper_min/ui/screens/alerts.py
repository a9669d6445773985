"""The list of alerts; Enter goes to the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from whisper_min.ui import words
from whisper_min.ui.alerts import Alert
from whisper_min.ui.lines import LineView
from whisper_min.ui.model import RunView


class AlertLines(LineView):
    """One line an alert."""

    def __init__(self) -> None:
        super().__init__(id="alert-lines")
        self.alerts: Sequence[Alert] = ()

    def line(self, index: int, width: int) -> Text:
        """What is wrong, and with which run."""
        alert = self.alerts[index]
        text = Text()
        text.append(" ✗ " if alert.severe else " ! ", f"bold {self.colour('error' if alert.severe else 'warning')}")
        text.append(words.printable(alert.run) + ("  " if alert.run else ""), "bold")
        return text.append(alert.text)


class AlertsPane(Vertical):
    """All alerts of all runs, the worst first; the chosen one in full below."""

    DEFAULT_CSS = """
    AlertsPane { height: 1fr; }
    AlertsPane #alert-text { height: auto; max-height: 50%; padding: 0 1; border-top: solid $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Go to the run", key_display="⏎"),
        Binding("b", "bell", "Bell"),
    ]

    class Go(Message):
        """Look at a run."""

        def __init__(self, run: str) -> None:
            self.run = run
            super().__init__()

    class Bell(Message):
        """Ring for new alerts, or do not."""

    def __init__(self) -> None:
        super().__init__(id="alerts-pane")
        self.alerts: Sequence[Alert] = ()
        self.bell_on = False

    def compose(self) -> ComposeResult:
        """List and text."""
        yield AlertLines()
        yield Static(id="alert-text")

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw `alerts`, which the app sets."""
        view = self.query_one(AlertLines)
        view.alerts = self.alerts
        view.set_count(len(self.alerts))
        colours = self.app.theme_variables
        text = Text()
        if self.alerts:
            alert = self.alerts[view.cursor]
            text.append(words.printable(alert.run) + "\n" if alert.run else "", "bold").append(alert.text + "\n")
        else:
            text.append("Nothing is wrong with any run.\n", colours["success"])
        watched = "non-finite loss, divergence, stall, crash, forgetting past the budget, loops, a full disk"
        text.append(f"watched for: {watched}; the bell is {'on' if self.bell_on else 'off'}", colours["secondary"])
        self.query_one("#alert-text", Static).update(text)

    @on(LineView.Moved)
    def _moved(self) -> None:
        self.show([], None)

    @on(LineView.Chosen)
    def action_open(self) -> None:
        """Go to the run of the chosen alert."""
        view = self.query_one(AlertLines)
        if self.alerts and self.alerts[view.cursor].run:
            self.post_message(self.Go(self.alerts[view.cursor].run))

    def action_bell(self) -> None:
        """Ring the terminal's bell for new alerts, or do not."""
        self.post_message(self.Bell())
