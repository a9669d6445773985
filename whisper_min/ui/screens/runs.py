"""The list of runs: what each is doing, how far it is and what it gained and lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Click
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from whisper_min.ui import words
from whisper_min.ui.filters import HELP, Filter
from whisper_min.ui.lines import LineView
from whisper_min.ui.model import RunView
from whisper_min.ui.screens.card import RunCard
from whisper_min.ui.tabs import make_pane
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
# Rows that the curves need below the card.
LEAST_CURVES = 14


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
        text.append("● " if marked else "○ ", colour if marked else self.colour("secondary"))
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


class RunsPane(Vertical):
    """The list, its filter, and below it a card of the selected run where there is room."""

    DEFAULT_CSS = """
    RunsPane { height: 1fr; }
    RunsPane RunList { height: auto; min-height: 3; }
    RunsPane #titles { height: 1; color: $secondary; }
    RunsPane #filter { display: none; border: none; height: 1; padding: 0 1; background: $panel; }
    RunsPane #filter.shown { display: block; }
    RunsPane #nothing { display: none; padding: 1 2; color: $secondary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("space", "mark", "Mark", key_display="space"),
        Binding("enter", "open", "Curves", key_display="⏎"),
        Binding("p", "pin", "Pin"),
        Binding("u", "unmark", "Unmark all", show=False),
        Binding("o", "sort(1)", "Sort"),
        Binding("O", "reverse", "Reverse order", show=False),
        Binding("escape", "clear", "Clear the filter", show=False),
    ]

    class Changed(Message):
        """Marks, pins, order, filter or selection changed."""

    class Open(Message):
        """Look at the selected run's curves."""

    def __init__(self) -> None:
        super().__init__(id="runs-pane")
        self.marked: list[str] = []
        self.pinned: list[str] = []
        self.selected: str | None = None
        self.sort, self.descending = "state", False
        self.filter = Filter()
        self.listed: list[RunView] = []
        self._curves: list[Widget] = []

    def compose(self) -> ComposeResult:
        """Filter, titles, list, card."""
        yield Input(placeholder=HELP, id="filter", compact=True)
        yield Titles(id="titles")
        yield RunList()
        yield Static(id="nothing")
        yield RunCard()

    @property
    def view(self) -> RunList:
        """The list."""
        return self.query_one(RunList)

    # ---- What is shown.

    def list_runs(self, runs: Sequence[RunView]) -> None:
        """Choose and order what is listed; the selection stays on its run, wherever that moved."""
        order = COLUMNS[self.sort].sort
        kept = [run for run in runs if self.filter.accepts(run)]
        kept.sort(key=lambda run: run.name.lower())
        kept.sort(key=order, reverse=self.descending)  # type: ignore[arg-type]
        kept.sort(key=lambda run: run.name not in self.pinned)
        names = [run.name for run in kept]
        if self.selected not in names:
            before = [run.name for run in self.listed]
            near = before.index(self.selected) if self.selected in before else 0
            self.selected = names[min(near, len(names) - 1)] if names else None
        self.listed = kept

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw the list as `list_runs` left it."""
        view = self.view
        names = [run.name for run in self.listed]
        view.runs, view.marked, view.pinned = self.listed, self.marked, self.pinned
        at = names.index(self.selected) if self.selected in names else 0
        view.set_count(len(names))
        if at != view.cursor:
            view.move_to(at, tell=False)
        width = view.scrollable_content_region.width or self.size.width
        self.query_one(Titles).draw(width, self.listed, self.sort, self.descending)
        nothing = self.query_one("#nothing", Static)
        nothing.display = not names
        view.display = bool(names)
        if not names:
            nothing.update(f"No run fits {self.filter.text!r}; Esc lists all." if self.filter.text else "No runs yet.")
        self._fill(runs, selected, len(names))

    def _fill(self, runs: Sequence[RunView], selected: RunView | None, lines: int) -> None:
        """The card takes what the list leaves, if that is enough to be read; the curves take what the card leaves."""
        height, card = self.size.height, self.query_one(RunCard)
        room = height - min(lines, max(12, height // 2)) - 2
        card.display = selected is not None and room >= RunCard.LEAST
        curves = card.display and room >= RunCard.LEAST + LEAST_CURVES
        self.view.styles.height = "auto" if card.display else "1fr"
        self.view.styles.max_height = height - RunCard.LEAST - 2 - LEAST_CURVES * curves if card.display else None
        card.styles.height = "auto" if curves else "1fr"
        if card.display:
            card.show(runs, selected)
        if curves and not self._curves:
            self._curves = [make_pane("curves", getattr(self.app, "ascii_only", False))]
            self.mount(*self._curves)
        for pane in self._curves:
            pane.display = curves
            if curves and hasattr(pane, "show"):
                pane.show(runs, selected)

    # ---- Keys.

    @on(LineView.Moved)
    def _moved(self, event: LineView.Moved) -> None:
        if event.index < len(self.listed):
            self.selected = self.listed[event.index].name
            self.post_message(self.Changed())

    @on(LineView.Chosen)
    def _chosen(self) -> None:
        self.action_open()

    @on(Titles.Sort)
    def _sort_by(self, event: Titles.Sort) -> None:
        self.descending = not self.descending if event.column == self.sort else False
        self.sort = event.column
        self.post_message(self.Changed())

    @on(Input.Changed, "#filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        self.filter = Filter(event.value)
        self.post_message(self.Changed())

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#filter").set_class(bool(self.filter.text), "shown")
        self.view.focus()

    def start_with(self, text: str) -> None:
        """List what fits a filter from the start."""
        field = self.query_one("#filter", Input)
        field.value = text
        field.set_class(bool(text), "shown")
        self.filter = Filter(text)

    def action_filter(self) -> None:
        """Type a filter."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        """List all runs again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("shown")
        self.view.focus()

    def action_mark(self) -> None:
        """Mark or unmark the selected run for comparison."""
        toggle(self.marked, self.selected)
        self.view.action_move(1)
        self.post_message(self.Changed())

    def action_unmark(self) -> None:
        """Unmark all."""
        self.marked.clear()
        self.post_message(self.Changed())

    def action_pin(self) -> None:
        """Keep the selected run at the top, or let it go."""
        toggle(self.pinned, self.selected)
        self.post_message(self.Changed())

    def action_sort(self, by: int) -> None:
        """Sort by the next column."""
        names = list(COLUMNS)
        self.sort, self.descending = names[(names.index(self.sort) + by) % len(names)], False
        self.post_message(self.Changed())

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.descending = not self.descending
        self.post_message(self.Changed())

    def action_open(self) -> None:
        """Look at the selected run's curves."""
        self.post_message(self.Open())


def toggle(names: list[str], name: str | None) -> None:
    """Take a name in, or out where it is in."""
    if name is None:
        return
    if name in names:
        names.remove(name)
    else:
        names.append(name)
