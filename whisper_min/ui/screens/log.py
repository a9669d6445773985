"""The end of train.log, followed as it grows, with search."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from whisper_min.ui import words
from whisper_min.ui.lines import LineView
from whisper_min.ui.model import RunView

_BAD = re.compile(r"\b(error|failed|traceback|exception|not finite|interrupted)\b", re.IGNORECASE)
_LOOKS = ((_BAD, "error"), (re.compile(r"^(note|warning)\b|over the budget", re.IGNORECASE), "warning"))
_EVALUATION = re.compile(r"^step \d+: ")


class LogLines(LineView):
    """The lines; `found` are the numbers of those that hold what is searched for."""

    def __init__(self) -> None:
        super().__init__(has_cursor=False, id="log-lines")
        self.lines: Sequence[str] = ()
        self.pattern: re.Pattern[str] | None = None
        self.here = -1
        self.left = 0

    def line(self, index: int, width: int) -> Text:
        """One line from its `left`th character on, matches marked."""
        shown = words.printable(self.lines[index])
        text = Text(shown)
        for pattern, tone in _LOOKS:
            if pattern.search(shown):
                text.stylize(self.colour(tone))
                break
        if _EVALUATION.match(shown):
            text.stylize(f"bold {self.colour('primary')}")
        if self.pattern is not None:
            marked = "reverse bold" if index == self.here else "reverse"
            text.highlight_regex(self.pattern, marked)
        return text[self.left :] if self.left < len(text) else Text("")


class LogPane(Vertical):
    """The log of the selected run; it stays at the end until somebody scrolls up."""

    DEFAULT_CSS = """
    LogPane { height: 1fr; }
    LogPane #log-search { display: none; border: none; height: 1; padding: 0 1; background: $panel; }
    LogPane #log-search.shown { display: block; }
    LogPane #log-status { height: 1; padding: 0 1; color: $secondary; }
    LogPane LogLines { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("n", "next(1)", "Next match"),
        Binding("N", "next(-1)", "Previous match", show=False),
        Binding("m", "matches", "Matches only"),
        Binding("left,h", "sideways(-20)", "Left", show=False),
        Binding("right,l", "sideways(20)", "Right", show=False),
        Binding("escape", "clear", "Clear the search", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="log-pane")
        self._run: RunView | None = None
        self._lines: list[str] = []
        self._drawn: tuple[object, ...] = ()
        self._only = False

    def compose(self) -> ComposeResult:
        """Search, lines, where we are."""
        yield Input(placeholder="search, a word or a regular expression", id="log-search", compact=True)
        yield LogLines()
        yield Static(id="log-status")

    @property
    def view(self) -> LogLines:
        """The lines."""
        return self.query_one(LogLines)

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw the log of the selected run, or of the first that is marked where that is not read."""
        run = selected if selected is not None and (selected in runs or not runs) else runs[0] if runs else None
        state = (run and run.name, run and run.log_count, run and run.version, self._only, self.view.pattern)
        if state == self._drawn:
            return
        view = self.view
        new_run = run is not self._run
        at_end = new_run or view.scroll_offset.y >= view.max_scroll_y - 1
        self._run, self._drawn = run, state
        self._lines = list(run.log) if run else []
        pattern = view.pattern
        if self._only and pattern is not None:
            self._lines = [line for line in self._lines if pattern.search(line)]
        view.lines = self._lines
        view.set_count(len(self._lines))
        if at_end:
            view.call_after_refresh(view.scroll_end, animate=False)
        self._tell()

    def _tell(self) -> None:
        name = words.printable(self._run.name) if self._run else "no run"
        text = f"{name}  train.log, {len(self._lines)} lines"
        if self.view.pattern is not None:
            text += f", {len(self._found())} match {self.view.pattern.pattern!r}"
        self.query_one("#log-status", Static).update(Text(text))

    def _found(self) -> list[int]:
        pattern = self.view.pattern
        return [] if pattern is None else [index for index, line in enumerate(self._lines) if pattern.search(line)]

    @on(Input.Changed, "#log-search")
    def _typed(self, event: Input.Changed) -> None:
        try:
            self.view.pattern = re.compile(event.value, re.IGNORECASE) if event.value else None
        except re.error:
            self.view.pattern = re.compile(re.escape(event.value), re.IGNORECASE)
        self._again()

    @on(Input.Submitted, "#log-search")
    def _submitted(self) -> None:
        self.view.focus()
        self.action_next(-1)

    def _again(self) -> None:
        self._drawn = ()
        self.show([self._run] if self._run else [], self._run)

    def action_search(self) -> None:
        """Type what to search for."""
        field = self.query_one("#log-search", Input)
        field.add_class("shown")
        field.focus()

    def action_next(self, by: int) -> None:
        """To the next match below or above the one we are at, round the end."""
        found, view = self._found(), self.view
        if not found:
            return
        here = view.here if view.here >= 0 else len(self._lines)
        after = [index for index in found if (index > here if by > 0 else index < here)]
        view.here = (after or found)[0 if by > 0 else -1]
        view.scroll_to(y=max(0, view.here - view.size.height // 2), animate=False)
        view.refresh()

    def action_matches(self) -> None:
        """Show the lines that match alone, or all."""
        self._only = not self._only
        self._again()

    def action_sideways(self, by: int) -> None:
        """Long lines are looked at by moving sideways."""
        self.view.left = max(0, self.view.left + by)
        self.view.refresh()

    def action_clear(self) -> None:
        """Forget the search."""
        field = self.query_one("#log-search", Input)
        field.value, self._only, self.view.here = "", False, -1
        field.remove_class("shown")
        self.view.focus()
        self._again()
