"""The list of runs: what each is doing, how far it is and what it gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from whisper_min.ui.filters import HELP, Filter
from whisper_min.ui.lines import LineView
from whisper_min.ui.model import RunView
from whisper_min.ui.screens.card import RunCard
from whisper_min.ui.screens.run_list import COLUMNS, RunList, Titles
from whisper_min.ui.tabs import make_pane

# Rows that the curves need below the card.
LEAST_CURVES = 14


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
