"""The tab that shows what was gained against what was forgotten, by all marked runs and their sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from whisper_min.ui.axes import format_value
from whisper_min.ui.chart import PARTS, chart_colours
from whisper_min.ui.frontier_plot import ASCII_GLYPHS, GLYPHS, FrontierDrawing
from whisper_min.ui.lines import LineView
from whisper_min.ui.looks import Look, look_of
from whisper_min.ui.model import RunView
from whisper_min.ui.points import Point, Track, track_of
from whisper_min.ui.words import printable

if TYPE_CHECKING:
    from typing_extensions import Self

COLUMNS = (("point", 12), ("domain", 8), ("change", 8), ("general", 9), ("loss", 9), ("budget", 8))
LEAST_NAME = 12
# Lines of the list of points; what is left belongs to the drawing.
MOST_ROWS = 14


class FrontierPlot(Widget):
    """The drawing."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"chart--{part}" for part in PARTS}
    DEFAULT_CSS = """
    FrontierPlot {
        height: 1fr; min-height: 8; margin: 0 1;
        & > .chart--title { text-style: bold; }
        & > .chart--axis { color: $foreground 55%; }
        & > .chart--grid { color: $foreground 12%; }
        & > .chart--alarm { color: $warning; }
    }
    """

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.ascii_only = ascii_only
        self.tracks: Sequence[Track] = ()
        self.looks: dict[str, Look] = {}
        self.by_loss = True
        self.picked: Point | None = None
        self._strips: list[Strip] = []
        self._drawn_for: Size | None = None

    def redraw(self) -> None:
        """What is drawn no longer holds."""
        self._drawn_for = None
        self.refresh()

    def notify_style_update(self) -> None:
        """The theme changed."""
        self._drawn_for = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """A row of the drawing, which is made when the first one is asked for."""
        if self._drawn_for != self.size:
            drawing = FrontierDrawing(
                (self.size.width, self.size.height),
                self.tracks,
                self.looks,
                chart_colours(self),
                by_loss=self.by_loss,
                picked=self.picked,
                ascii_only=self.ascii_only,
            )
            base = Style(color=self.rich_style.color, bgcolor=self.rich_style.bgcolor)
            self._strips, self._drawn_for = drawing.canvas.strips(base), self.size
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)


class PointList(LineView):
    """The numbers of all points; the one under the cursor is marked in the drawing."""

    def __init__(self) -> None:
        super().__init__(id="frontier-points")
        self.points: Sequence[tuple[Point, Look, Track]] = ()
        self.glyphs = GLYPHS

    def line(self, index: int, width: int) -> Text:
        """One point."""
        point, look, track = self.points[index]
        glyph = self.glyphs["original"] if point.is_original else self.glyphs["chosen"] if point.chosen else look.marker
        name = f"{glyph} {'' if point.is_original else printable(point.run)}"
        text = Text()
        text.append(set_cell_size(name, self.name_width(width)), "" if point.is_original else look.colour)
        origin = track.original
        change = (point.domain - origin.domain) if origin is not None else math.nan
        verdict = "" if track.budget is None or point.is_original or not math.isfinite(point.loss) else "within"
        if verdict and track.budget is not None and point.loss > track.budget:
            verdict = "over"
        label = point.label.replace("α", "a") if self.glyphs is ASCII_GLYPHS else point.label
        cells = (
            (label, "bold" if point.chosen else ""),
            (format_value(point.domain, "percent"), "bold"),
            ("" if point.is_original else format_value(change, "signed"), self.tone(change)),
            (format_value(point.general, "percent"), "bold"),
            ("" if point.is_original else format_value(point.loss, "signed"), self.tone(point.loss)),
            (verdict, self.colour("error") if verdict == "over" else self.colour("success")),
        )
        for (_, room), (said, style) in zip(COLUMNS, cells, strict=True):
            text.append(said.rjust(room), style)
        return text

    def tone(self, change: float) -> str:
        """The colour of a change of errors."""
        if not abs(change) >= 5e-4:
            return ""
        return self.colour("success" if change < 0 else "error")

    def name_width(self, width: int) -> int:
        """As wide as the longest name, if the numbers leave so much."""
        longest = max([cell_len(point.run) for point, _, _ in self.points], default=0) + 4
        return max(min(longest, width - sum(room for _, room in COLUMNS)), LEAST_NAME)


class FrontierPane(Vertical):
    """Shows runs between domain and general; `show` is called at every tick and does nothing where nothing changed."""

    DEFAULT_CSS = """
    FrontierPane {
        & > #frontier-header { height: 1; margin: 0 1; color: $foreground 55%; text-wrap: nowrap; }
        & > #frontier-points { height: 3; min-height: 3; max-height: 33%; margin: 0 1; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "axis", "General WER or loss")]

    def __init__(self, *, ascii_only: bool = False, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self.ascii_only = ascii_only
        self.by_loss = True
        """Whether the relative loss lies along x, or else the general WER."""
        self._signature: tuple[object, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What a later session should find again."""
        return {"by_loss": self.by_loss}

    def from_json(self, record: dict[str, Any]) -> None:
        """Take over what `to_json` gave an earlier session."""
        self.by_loss = record.get("by_loss") is not False
        self._signature = ()

    def compose(self) -> ComposeResult:
        """The drawing above, the numbers below."""
        yield FrontierPlot(ascii_only=self.ascii_only)
        yield Static(id="frontier-header")
        yield PointList()

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """These runs, the selected one above the others."""
        runs = sorted(runs, key=lambda run: run is selected)
        signature = (self.app.theme, *((run.name, run.number, run.version) for run in runs))
        if signature == self._signature or not self.is_mounted:
            return
        self._signature = signature
        plot, points = self.query_one(FrontierPlot), self.query_one(PointList)
        looks = {run.name: look_of(run.number, self.app, ascii_only=self.ascii_only) for run in runs}
        tracks = [track_of(run) for run in runs]
        points.glyphs = ASCII_GLYPHS if self.ascii_only else GLYPHS
        if (tracks, looks, self.by_loss) != (plot.tracks, plot.looks, plot.by_loss):
            plot.tracks, plot.looks, plot.by_loss = tracks, looks, self.by_loss
            rows: list[tuple[Point, Look, Track]] = []
            originals: set[tuple[float, float]] = set()
            for track in reversed(tracks):
                for point in listed(track):
                    where = (point.domain, point.general)
                    if not (point.is_original and where in originals):  # runs mostly begin at one and the same
                        rows.append((point, looks[track.run], track))
                    originals |= {where} if point.is_original else set()
            # the cursor stays on its point
            points.points = rows
            points.cursor = next((index for index, row in enumerate(rows) if row[0] == plot.picked), 0)
            points.set_count(len(rows))
            points.styles.height = min(len(rows), MOST_ROWS)
            plot.redraw()

            self._show_header()

    def _show_header(self) -> None:
        """The columns of the list have names."""
        points = self.query_one(PointList)
        titles = "".join(title.rjust(room) for title, room in COLUMNS)
        left = points.name_width(points.scrollable_content_region.width)
        self.query_one("#frontier-header", Static).update(Text(" " * left + titles))

    def on_resize(self) -> None:
        """Another width has other columns."""
        self.call_after_refresh(self._show_header)

    def focus(self, scroll_visible: bool = True) -> Self:
        """Focus the list."""
        self.query_one(PointList).focus(scroll_visible)
        return self

    def action_axis(self) -> None:
        """General WER along x, or the relative loss."""
        plot = self.query_one(FrontierPlot)
        self.by_loss = plot.by_loss = not self.by_loss
        plot.redraw()

    @on(LineView.Moved)
    def _point_picked(self, event: LineView.Moved) -> None:
        event.stop()
        points, plot = self.query_one(PointList), self.query_one(FrontierPlot)
        plot.picked = points.points[event.index][0] if event.index < len(points.points) else None
        plot.redraw()


def listed(track: Track) -> list[Point]:
    """A run's points in the order of the list: the original once, what was chosen, evaluations, sweeps."""
    original = track.original
    rest = [point for point in track.points if not point.is_original]
    chosen = [point for point in rest if point.chosen]
    return [*([original] if original else []), *chosen, *(point for point in rest if not point.chosen)]
