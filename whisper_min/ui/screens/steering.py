"""Ask a run for something, after a second look; and hear whether it heard."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from whisper_min import runs
from whisper_min.ui import words
from whisper_min.ui.model import CRASHED, ENDED, RunView

# key, command, what it does
CHOICES = (
    ("s", "stop", "stop: finish the step, save a checkpoint, end"),
    ("v", "save", "save: write a checkpoint now and go on"),
    ("e", "eval", "evaluate now and go on"),
    ("p", "pause", "pause between steps; memory stays taken"),
    ("r", "resume", "resume after a pause"),
)
# After this long without an answer, say so; a step of a large model on a slow machine may take that long.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What to tell about a command that was sent; `final` where nothing more will come."""

    text: str
    severity: Literal["information", "warning", "error"]
    final: bool = True


@dataclass
class Sent:
    """A command on its way to a run."""

    run: str
    command: str
    at: float = field(default_factory=time.monotonic)
    told_late: bool = False

    def answer(self, run: RunView | None) -> Answer | None:
        """Whether the run heard it: `control` is consumed and status.json names it. None while there is no answer."""
        if run is None:
            return Answer(f"{self.command}: the run's folder is gone", "error")
        waited = time.monotonic() - self.at
        consumed = not (run.path / "control").exists()
        if consumed and run.status.get("last_command") == self.command:
            done = f"{self.command}: the run heard it after {waited:.1f} s; it is {run.state}"
            return Answer(done, "information")
        if run.state in (*ENDED, CRASHED):
            return Answer(f"{self.command}: the run is {run.state}, it was too late to ask", "warning")
        if waited > PATIENCE_SECONDS and not self.told_late:
            self.told_late = True
            text = f"{self.command}: not heard yet; a run listens between steps and inside evaluations"
            return Answer(text, "warning", final=False)
        return None


def refusal(run: RunView) -> str | None:
    """Why nothing can be asked of a run; None where it would hear."""
    state = run.state
    again = f"Continue it with:\n\n  python train.py --resume {words.printable(str(run.path))}"
    if state in ENDED:
        return f"The run is {state}: nobody listens any more. {again}"
    if state == CRASHED:
        return f"The run's process is gone: nobody listens any more. {again}"
    if state == "unknown":
        return "The run has no status.json: whether anybody listens is unknown."
    return None


def possible(run: RunView) -> list[tuple[str, str, str]]:
    """The commands that make sense now."""
    paused = run.state == "paused"
    return [each for each in CHOICES if each[1] != ("pause" if paused else "resume")]


class SteerScreen(ModalScreen[Sent | None]):
    """Choose a command, confirm it; gives what was sent, or None."""

    DEFAULT_CSS = """
    SteerScreen { align: center middle; }
    SteerScreen Vertical {
        width: 64; max-width: 100%; height: auto; background: $surface; border: round $primary; padding: 1 2;
    }
    SteerScreen Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,n", "back", "Back"),
        Binding("y,enter", "confirm", "Yes"),
        *[Binding(key, f"choose('{command}')", command, show=False) for key, command, _ in CHOICES],
    ]

    def __init__(self, run: RunView) -> None:
        super().__init__()
        self.run, self.command = run, ""

    def compose(self) -> ComposeResult:
        """One text that changes."""
        with Vertical() as box:
            box.border_title = f"steer {words.printable(self.run.name)}"
            yield Static(id="steer-text")

    def on_mount(self) -> None:
        """Show the choice, and keep it true while the run goes on."""
        self._draw()
        self.set_interval(0.5, self._draw)

    def _draw(self) -> None:
        run, colours = self.run, self.app.theme_variables
        text = Text(f"{run.state}, step {words.steps(run.step, run.max_steps)}", colours["secondary"])
        if not run.on_this_host:
            text.append(f", on {words.printable(str(run.status.get('host')))}: asked through the shared folder")
        text.append("\n\n")
        refused = refusal(run)
        if refused is not None:
            text.append(f"{refused}\n\n", colours["foreground"])
            text.append("esc", f"bold {colours['primary']}").append(" back")
        elif self.command:
            what = next(text for _, command, text in CHOICES if command == self.command)
            text.append(f"{what}?\n\n", f"bold {colours['warning']}")
            for key, answer in (("y", " yes    "), ("n", " no")):
                text.append(key, f"bold {colours['primary']}").append(answer, colours["foreground"])
        else:
            for key, _, what in possible(run):
                text.append(f"{key}", f"bold {colours['primary']}").append(f"  {what}\n", colours["foreground"])
            text.append("\nesc", f"bold {colours['primary']}").append(" back", colours["foreground"])
        self.query_one("#steer-text", Static).update(text)

    def action_choose(self, command: str) -> None:
        """A command was chosen; ask once more."""
        if refusal(self.run) is None and command in [each[1] for each in possible(self.run)]:
            self.command = command
            self._draw()

    def action_back(self) -> None:
        """From the question to the choice, from there back to the app."""
        if self.command and refusal(self.run) is None:
            self.command = ""
            self._draw()
        else:
            self.dismiss(None)

    def action_confirm(self) -> None:
        """Send it."""
        if not self.command or refusal(self.run) is not None:
            return
        try:
            runs.send_command(self.run.path, self.command)
        except OSError as error:
            self.notify(f"not sent: {error}", severity="error", markup=False)
            self.dismiss(None)
            return
        self.notify(f"{self.command}: sent, waiting for the run", title=self.run.name, markup=False)
        self.dismiss(Sent(self.run.name, self.command))
