"""The curves of the marked runs: a grid of charts that fits the terminal, or one of them alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Input, Static

from whisper_min.ui.chart import Chart
from whisper_min.ui.curves import CurveStore
from whisper_min.ui.looks import Look, look_of
from whisper_min.ui.metric_names import in_order, kind_of
from whisper_min.ui.model import RunView
from whisper_min.ui.plot import Curve, Setting
from whisper_min.ui.readout import legend, numbers, settings
from whisper_min.ui.view import AXIS_KINDS
from whisper_min.ui.view_keys import ViewKeys

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Chart", "CurvesPane", "grid_for"]

# A chart wants at least these columns and rows, and more than these charts at once nobody looks at.
CHART_WIDTH, CHART_HEIGHT = 36, 9
MOST_COLUMNS, MOST_ROWS = 5, 5
MOST_READOUTS = 8


def grid_for(width: int, height: int, count: int) -> tuple[int, int]:
    """Columns and rows of the grid for this room: none so many that charts stay empty."""
    columns = min(max(width // CHART_WIDTH, 1), MOST_COLUMNS)
    rows = min(max(height // CHART_HEIGHT, 1), MOST_ROWS)
    if count < columns * rows:
        columns = min(columns, max(math.ceil(count / rows), math.ceil(math.sqrt(count)), 1))
        rows = min(rows, max(math.ceil(count / columns), 1))
    return columns, rows


class CurvesPane(ViewKeys):
    """Shows the metrics of runs; `show` is called at every tick and does nothing where nothing changed."""

    DEFAULT_CSS = """
    CurvesPane {
        & > #curves-head { height: 1; padding: 0 1; color: $foreground 70%; }
        & > #curves-search { height: 1; border: none; padding: 0 1; display: none; }
        & > #curves-search.-open { display: block; }
        & > #curves-grid { layout: grid; grid-gutter: 0 2; padding: 0 1; height: 1fr; overflow: hidden; }
        & > #curves-legend { height: auto; max-height: 9; padding: 0 1; }
        & > #curves-head, & > #curves-legend { text-wrap: nowrap; text-overflow: ellipsis; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open chart"),
        Binding("escape", "back", "Back", show=False),
        Binding("slash", "search", "Search"),
        Binding("left,h", "move(-1,0)", "Chart to the left", show=False),
        Binding("right,l", "move(1,0)", "Chart to the right", show=False),
        Binding("up,k", "move(0,-1)", "Chart above", show=False),
        Binding("down,j", "move(0,1)", "Chart below", show=False),
        Binding("pageup,left_square_bracket", "page(-1)", "Page before", show=False),
        Binding("pagedown,right_square_bracket", "page(1)", "Next page", show=False),
    ]

    def __init__(self, *, ascii_only: bool = False, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self.ascii_only = ascii_only
        self.keys: list[str] = []
        """The metrics, in order; `active` is the number of the one that keys act on."""
        self.active = 0
        self.full = False
        self._runs: list[RunView] = []
        self._selected: RunView | None = None
        self._store = CurveStore()
        self._charts: list[Chart] = []
        self._shape = (1, 1)
        self._signature: tuple[object, ...] = ()
        self._wants_focus = False
        self._texts: dict[str, Text] = {}

    def compose(self) -> ComposeResult:
        """Settings, search, charts, legend."""
        yield Static(id="curves-head")
        yield Input(id="curves-search", placeholder="metric's name, as in: wer general", compact=True, disabled=True)
        yield Container(id="curves-grid")
        yield Static(id="curves-legend")

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """These runs, the selected one above the others."""
        last = [run for run in runs if run is selected]
        self._runs, self._selected = [run for run in runs if run is not selected] + last, selected
        signature = (self.app.theme, *((run.name, run.number, run.version) for run in self._runs))
        if signature != self._signature:
            self._signature = signature
            self.sync()

    @property
    def active_key(self) -> str:
        """The metric that keys act on."""
        return self.keys[self.active] if self.active < len(self.keys) else ""

    def to_json(self) -> dict[str, Any]:
        """What a later session should find again."""
        return {**self.view.to_json(), "metric": self.active_key, "full": self.full}

    def from_json(self, record: dict[str, Any]) -> None:
        """Take over what `to_json` gave an earlier session."""
        self.view.from_json(record)
        self.full = record.get("full") is True
        metric = record.get("metric")
        self.keys = [metric] if isinstance(metric, str) else []
        self._signature = ()

    # ---- Drawing.

    def sync(self) -> None:
        """Bring every chart up to date; those that have nothing new do not draw."""
        if not self.is_mounted or not self.size:
            return
        active = self.active_key
        names = {key for run in self._runs for key in run.metrics}
        general = {name for run in self._runs for name in run.general_sets}
        self.keys = in_order(names, general, self.view.wanted)
        self.active = self.keys.index(active) if active in self.keys else min(self.active, max(len(self.keys) - 1, 0))
        grid = self.query_one("#curves-grid")
        inner = grid.content_size
        self._shape = (1, 1) if self.full else grid_for(inner.width, inner.height, len(self.keys))
        shown = self.keys[self._first : self._first + self._per_page]
        self._fit_charts(grid, len(shown))
        pairs = [self._curves_of(key) for key in shown]
        curves = [[curve for _, curve in each] for each in pairs]
        self._store.keep([run.name for run in self._runs], shown)
        ends = [curve.ends for each in curves for curve in each if curve.ends is not None]
        self.data = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
        x_range = self.view.range_within(self.data)
        marked = self.ascii_only or self.app.no_color
        for chart, key, its_curves in zip(self._charts, shown, curves, strict=False):
            how = Setting(
                title=key,
                kind=kind_of(key),
                x_kind=AXIS_KINDS[self.view.axis],
                x_range=x_range,
                log_x=self.view.log_x,
                log_y=key in self.view.log_y,
                clip=self.view.clip,
                cursor=self.view.cursor,
                marked=marked and len(its_curves) > 1,
                focused=key == self.active_key and self.has_focus_within,
                ascii_only=self.ascii_only,
            )
            chart.show(its_curves, how)
        self._show_text("#curves-head", settings(self.view, self._place(), self.active_key, self.ascii_only))
        if self.full and pairs:
            named = [(run.name, curve) for run, curve in reversed(pairs[0][-MOST_READOUTS:])]
            self._show_text("#curves-legend", numbers(named, kind_of(self.active_key), self.view))
        else:
            looks = [(run.name, self._look(run)) for run in reversed(self._runs)]
            self._show_text("#curves-legend", legend(looks, self._selected.name if self._selected else None))
        if self._wants_focus:
            self.focus()

    @property
    def _per_page(self) -> int:
        return self._shape[0] * self._shape[1]

    @property
    def _first(self) -> int:
        """The number of the page's first metric."""
        return self.active // self._per_page * self._per_page

    def _fit_charts(self, grid: Any, count: int) -> None:
        """As many charts as the page has metrics."""
        columns, rows = self._shape
        if (grid.styles.grid_size_columns, grid.styles.grid_size_rows) != (columns, rows):
            grid.styles.grid_size_columns, grid.styles.grid_size_rows = columns, rows
        new = [Chart() for _ in range(count - len(self._charts))]
        if new:
            self._charts += new
            grid.mount_all(new)
        for number, chart in enumerate(self._charts):
            if chart.display != (number < count):
                chart.display = number < count

    def _curves_of(self, key: str) -> list[tuple[RunView, Curve]]:
        """Every run that has the metric, and its curve."""
        axis, weight = self.view.axis, self.view.weight
        made = [(run, self._store.curve(run, key, axis, weight, self._look(run))) for run in self._runs]
        return [(run, curve) for run, curve in made if curve is not None]

    def _look(self, run: RunView) -> Look:
        return look_of(run.number, self.app, ascii_only=self.ascii_only)

    def _show_text(self, where: str, text: Text) -> None:
        text.no_wrap, text.overflow = True, "crop" if self.ascii_only else "ellipsis"
        if self._texts.get(where) != text:
            self._texts[where] = text
            self.query_one(where, Static).update(text)

    def _place(self) -> str:
        """Where on the pages the active chart is."""
        pages = math.ceil(len(self.keys) / self._per_page)
        if self.full and self.keys:
            return f"{self.active + 1} of {len(self.keys)} metrics"
        return f"page {self.active // self._per_page + 1} of {pages}" if pages > 1 else ""

    # ---- Keys.

    def focus(self, scroll_visible: bool = True) -> Self:
        """Focus the active chart."""
        # before the first runs are shown there is no chart
        self._wants_focus = self.active - self._first >= len(self._charts)
        if not self._wants_focus:
            self._charts[self.active - self._first].focus(scroll_visible)
        return self

    def _act(self, number: int) -> None:
        """Make a metric the active one."""
        self.active = min(max(number, 0), max(len(self.keys) - 1, 0))
        self.sync()
        self.focus()

    def action_move(self, right: int, down: int) -> None:
        """To a neighbouring chart, over the page's edge; where one is alone, to the next metric or along its curve."""
        if self.full and right:
            self.action_cursor(0.01 * right)
        else:
            self._act(self.active + right + down * (1 if self.full else self._shape[0]))

    def action_page(self, pages: int) -> None:
        """A page on."""
        self._act(self.active + pages * self._per_page)

    def action_open(self) -> None:
        """The active chart alone; once more: all of them."""
        self.full = not self.full
        self._act(self.active)

    def action_back(self) -> None:
        """Out of the search, the single chart, the crosshair, the zoom: whichever comes first."""
        search = self.query_one("#curves-search", Input)
        if search.has_class("-open"):
            self._close_search()
            search.value = ""
        elif self.full:
            self.full = False
        elif self.view.wanted:
            search.value = ""
        else:
            self.view.reset()
        self._act(self.active)

    def action_search(self) -> None:
        """Ask for a metric's name."""
        search = self.query_one("#curves-search", Input)
        search.add_class("-open")
        search.disabled = False
        search.focus()

    def _close_search(self) -> None:
        search = self.query_one("#curves-search", Input)
        search.remove_class("-open")
        search.disabled = True

    # ---- What charts and the search say.

    @on(Input.Changed, "#curves-search")
    def _search_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.view.wanted, self.active = event.value.strip(), 0
        self.keys = []
        self.sync()

    @on(Input.Submitted, "#curves-search")
    def _search_done(self, event: Input.Submitted) -> None:
        event.stop()
        self._close_search()
        self._act(self.active)

    @on(Chart.Pointed)
    def _pointed(self, event: Chart.Pointed) -> None:
        event.stop()
        if event.x is not None or self.by_mouse:
            self.by_mouse = event.x is not None
            self.view.point(event.x)
            self.sync()

    @on(Chart.Zoomed)
    def _zoomed(self, event: Chart.Zoomed) -> None:
        event.stop()
        if event.pan:
            self.view.pan(event.pan, self.data)
        else:
            self.view.zoom(event.factor, event.x, self.data)
        self.sync()

    @on(Chart.Selected)
    def _range_selected(self, event: Chart.Selected) -> None:
        event.stop()
        self.view.select(event.low, event.high, self.data)
        self.sync()

    @on(Chart.Opened)
    def _opened(self, event: Chart.Opened) -> None:
        event.stop()
        self.action_open()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The chart that is focused is the active one."""
        if event.widget in self._charts:
            self.active = self._first + self._charts.index(event.widget)
            self.sync()

    def on_resize(self) -> None:
        """Another size may have another grid."""
        self.call_after_refresh(self.sync)

    def on_show(self) -> None:
        """Behind another tab there was no size to fit into."""
        self.call_after_refresh(self.sync)
