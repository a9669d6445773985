"""The lines of the list of runs and their titles: which columns fit, what they say and how they are sorted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from whisper_min.ui import words
from whisper_min.ui.lines import LineView
from whisper_min.ui.looks import marker_of
from whisper_min.ui.model import RunView
from whisper_min.ui.themes import run_colour


@dataclass(frozen=True)
class Column:
    """One column of the list; `sort` gives what it is sorted by, smallest first."""

    title: str
    width: int
    text: Callable[[RunView], str]
    sort: Callable[[RunView], object]
    right: bool = True


def _or_last(value: float | None) -> float:
    """Unknown numbers come last."""
    return math.inf if value is None or math.isnan(value) else value


NAME = Column("name", 0, lambda run: words.printable(run.name), lambda run: run.name.lower(), right=False)
STATE = Column("state", 12, lambda run: run.state, lambda run: (not run.alive, run.state), right=False)
COLUMNS = {
    "state": STATE,
    "name": NAME,
    "step": Column("step", 11, lambda run: words.steps(run.step, run.max_steps), lambda run: -(run.step or 0)),
    "left": Column("left", 8, lambda run: words.duration(run.eta), lambda run: _or_last(run.eta)),
    "domain": Column(
        "domain %", 10, lambda run: words.change(*run.domain_wer), lambda run: _or_last(run.domain_wer[1])
    ),
    "general": Column(
        "general %", 10, lambda run: words.change(*run.general_wer), lambda run: _or_last(run.general_wer[1])
    ),
    "heard": Column("heard", 5, lambda run: words.age(run.heartbeat_age), lambda run: _or_last(run.heartbeat_age)),
}
GAP = 1
# Marks, pin and colour stand before the first column.
HEAD = 4
# A wide terminal has room for the loss as a line of blocks; narrower than this it tells nothing.
LEAST_CURVE = 16


def fitting(width: int) -> list[str]:
    """The columns that a width has room for; names never get fewer than 10 cells."""
    names = list(COLUMNS)
    for leave in ("heard", "left", "step", "general", "state"):
        if HEAD + 10 + sum(COLUMNS[name].width + GAP for name in names) <= width:
            break
        names.remove(leave)
    return names


class RunList(LineView):
    """The lines of the list."""

    def __init__(self) -> None:
        super().__init__(id="run-list")
        self.runs: list[RunView] = []
        self.marked: Sequence[str] = ()
        self.pinned: Sequence[str] = ()
        self._curves: dict[str, tuple[tuple[int, int], str]] = {}

    def looks(self, index: int) -> object:
        """Everything in the line that changes with time or by a key."""
        run = self.runs[index]
        by_key = (run.name, run.number, run.name in self.marked, run.name in self.pinned, len(self.runs))
        numbers = (run.step, run.max_steps, run.domain_wer, run.general_wer, len(run.metrics.get("train/loss") or ()))
        return (by_key, run.state, numbers, words.age(run.heartbeat_age), words.duration(run.eta))

    def line(self, index: int, width: int) -> Text:
        """One run."""
        run = self.runs[index]
        colour = run_colour(run.number, self.app.theme, self.app.current_theme.dark)
        marked = run.name in self.marked
        text = Text().append(" ★" if run.name in self.pinned else "  ", self.colour("warning"))
        marker = marker_of(run.number, ascii_only=getattr(self.app, "ascii_only", False)) if marked else "·"
        text.append(f"{marker} ", colour if marked else self.colour("secondary"))
        columns = fitting(width)
        room_of_name, room_of_curve = flexible(width, columns, self.runs)
        for name in columns:
            column = COLUMNS[name]
            room = column.width or room_of_name
            cell = fit(column.text(run), room, right=column.right)
            if name == "state":
                glyph, tone = words.STATES.get(run.state, ("?", "secondary"))
                text.append(fit(f"{glyph} {words.printable(run.state)}", room), self.colour(tone))
            else:
                text.append(cell, self.tone(name, run, colour if marked else ""))
            text.append(" " * GAP)
            if name == "name" and room_of_curve:
                text.append(self.curve(run, room_of_curve).ljust(room_of_curve), self.colour("primary"))
                text.append(" " * GAP)
        return text

    def curve(self, run: RunView, width: int) -> str:
        """The run's loss as blocks; made anew where it changed."""
        state = (run.version, width)
        known = self._curves.get(run.name)
        if known is None or known[0] != state:
            series = run.metrics.get("train/loss")
            known = self._curves[run.name] = (state, words.sparkline(series.values, width) if series else "")
        return known[1]

    def tone(self, name: str, run: RunView, colour: str) -> str:
        """The colour of a cell: better is good, worse is bad."""
        if name == "name":
            return colour
        if name in ("domain", "general"):
            first, now = run.domain_wer if name == "domain" else run.general_wer
            if first > now + 5e-4:
                return self.colour("success")
            return self.colour("error" if now > first + 5e-4 else "")
        return self.colour("secondary") if name == "heard" else ""


class Titles(Static):
    """The line of column titles; a click sorts."""

    _ends: Sequence[tuple[int, str]] = ()
    _drawn: object = None

    class Sort(Message):
        """Sort by this column."""

        def __init__(self, column: str) -> None:
            self.column = column
            super().__init__()

    def draw(self, width: int, runs: Sequence[RunView], sort: str, descending: bool) -> None:
        """Write the titles above their columns."""
        text = Text(" " * HEAD, no_wrap=True)
        columns = fitting(width)
        room_of_name, room_of_curve = flexible(width, columns, runs)
        self._ends = ends = []
        for name in columns:
            column = COLUMNS[name]
            arrow = ("▾" if descending else "▴") if name == sort else ""
            title = f"{column.title}{arrow}"
            text.append(fit(title, column.width or room_of_name, right=column.right), "bold")
            text.append(" " * GAP)
            if name == "name" and room_of_curve:
                text.append(fit("loss", room_of_curve + GAP))
            ends.append((text.cell_len, name))
        state = (text.plain, self.app.theme)
        if state != self._drawn:
            self._drawn = state
            self.update(text, layout=False)

    def on_click(self, event: Click) -> None:
        """Which title lies there."""
        name = next((name for end, name in self._ends if event.x < end), None)
        if name is not None:
            self.post_message(self.Sort(name))


def flexible(width: int, columns: Sequence[str], runs: Sequence[RunView]) -> tuple[int, int]:
    """The widths of the names and of the loss beside them (0 where there is no room), which the others leave."""
    room = max(1, width - HEAD - sum(COLUMNS[name].width + GAP for name in columns))
    longest = max([20, *(cell_len(run.name) for run in runs)]) + 1
    curve = min(60, room - longest - GAP)
    return (longest, curve) if curve >= LEAST_CURVE else (room, 0)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` cells; what is cut ends in `…`."""
    made = Text(text, no_wrap=True, overflow="ellipsis")
    made.truncate(width, overflow="ellipsis")
    space = " " * max(0, width - made.cell_len)
    return space + made.plain if right else made.plain + space
