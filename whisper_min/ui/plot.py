"""One chart drawn on a canvas: title and readout, axes, grid, curves, crosshair. No widgets, so that tests read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.style import Style
from textual.color import Color

from whisper_min.ui.axes import Kind, Scale, format_value
from whisper_min.ui.canvas import DOTS_X, Canvas
from whisper_min.ui.frame import ASCII_GLYPHS, GLYPHS, LABELS, LEAST_HEIGHT, LEAST_WIDTH, Frame, labelled
from whisper_min.ui.looks import Look
from whisper_min.ui.smoothing import thin

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric along a run: `x` ascending, `y` NaN where a value was not finite."""

    x: Floats
    y: Floats
    look: Look
    smoothed: Floats | None = None
    base: float = math.nan
    """The original's value, drawn as a level."""

    _thinned: dict[tuple[Scale, int], list[tuple[Floats, Floats]]] = field(default_factory=dict)

    @property
    def shown(self) -> Floats:
        """What the eye should follow, and what is read out."""
        return self.y if self.smoothed is None else self.smoothed

    @property
    def ends(self) -> tuple[float, float] | None:
        """The lowest and the highest `x`; None where no value has a place along x."""
        first = int(np.searchsorted(self.x, -np.inf, side="right"))
        return (float(self.x[first]), float(self.x[-1])) if first < len(self.x) else None

    def near(self, x: float) -> int | None:
        """The number of the value nearest to `x`; None outside of the run."""
        if not len(self.x) or not self.x[0] <= x <= self.x[-1]:
            return None
        right = int(np.searchsorted(self.x, x))
        left = max(right - 1, 0)
        return left if x - self.x[left] <= self.x[right] - x else right

    def value_at(self, x: float) -> float:
        """The shown value nearest to `x`, NaN outside of the run."""
        index = self.near(x)
        return math.nan if index is None else float(self.shown[index])

    def thinned(self, scale: Scale, dots: int) -> list[tuple[Floats, Floats]]:
        """The values, and the smoothed ones if there are any, thinned to dots; known again while a cursor moves."""
        if (scale, dots) not in self._thinned:
            if len(self._thinned) > 1:
                self._thinned.clear()
            # from half a dot before the first to half a dot behind the last: a value belongs to the dot it is drawn in
            edges = scale.value(np.arange(dots + 1.0) - 0.5, dots)
            several = [self.y] if self.smoothed is None else [self.y, self.smoothed]
            self._thinned[scale, dots] = [thin(self.x, values, edges) for values in several]
        return self._thinned[scale, dots]

    def between(self, low: float, high: float) -> slice:
        """Where `x` lies in a range."""
        return slice(int(np.searchsorted(self.x, low)), int(np.searchsorted(self.x, high, side="right")))

    @cached_property
    def has_values(self) -> bool:
        """Whether anything of it can be drawn."""
        return len(self.missing) < len(self.y)

    @cached_property
    def missing(self) -> Floats:
        """Where values were not finite."""
        return self.x[np.isnan(self.y)]

    @property
    def last(self) -> float:
        """The newest finite value."""
        finite = np.flatnonzero(np.isfinite(self.shown[-512:]))
        return float(self.shown[-512:][finite[-1]]) if len(finite) else math.nan


@dataclass(frozen=True)
class Colours:
    """Styles of everything but the curves."""

    title: Style = field(default_factory=lambda: Style(bold=True))
    prefix: Style = field(default_factory=lambda: Style(dim=True))
    axis: Style = field(default_factory=lambda: Style(dim=True))
    grid: Style = field(default_factory=lambda: Style(dim=True))
    base: Style = field(default_factory=Style)
    cursor: Style = field(default_factory=Style)
    alarm: Style = field(default_factory=lambda: Style(bold=True))
    background: Color = field(default_factory=lambda: Color(0, 0, 0))


@dataclass(frozen=True)
class Setting:
    """How a chart is to be drawn."""

    title: str = ""
    kind: Kind = "number"
    x_kind: Kind = "count"
    x_range: tuple[float, float] = (0.0, 1.0)
    log_x: bool = False
    log_y: bool = False
    clip: bool = False
    """Whether the range leaves the most extreme values out."""
    cursor: float | None = None
    marked: bool = False
    """Whether markers along the curves tell runs apart, where colours cannot."""
    focused: bool = False
    ascii_only: bool = False


@dataclass(frozen=True)
class Drawing:
    """A chart drawn, and where its plot lies, so that a click finds its value."""

    canvas: Canvas
    x: Scale
    left: int
    columns: int

    def x_at(self, column: int) -> float | None:
        """The value of x at a column of the chart; None beside the plot."""
        if not (self.columns and self.left <= column < self.left + self.columns):
            return None
        return float(self.x.value((column - self.left) * DOTS_X + 0.5, self.columns * DOTS_X))


def draw(width: int, height: int, curves: Sequence[Curve], how: Setting, colours: Colours) -> Drawing:
    """Draw the curves; later ones lie above earlier ones."""
    canvas = Canvas(width, height, ascii_only=how.ascii_only)
    x_scale = Scale.around(*how.x_range, log=how.log_x)
    _draw_title(canvas, curves, how, colours)
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return Drawing(canvas, x_scale, 0, 0)
    plot_height = height - 3
    y_scale = y_range(curves, x_scale, how, (width - LABELS) * DOTS_X)
    ticks = labelled(y_scale, max(plot_height // 2, 2), how.kind)
    left = min(max([LABELS - 1, *(len(label) for _, label in ticks)]) + 1, width // 2)
    dots = (width - left) * DOTS_X
    plot = _Plot(canvas, x_scale, y_scale, left, 1, width - left, plot_height)
    glyphs = ASCII_GLYPHS if how.ascii_only else GLYPHS

    for curve in curves:
        if math.isfinite(curve.base):
            plot.level(curve.base, colours.base)
    for curve in curves:
        if curve.smoothed is not None:
            plot.line(*curve.thinned(x_scale, dots)[0], curve.look.dimmed(colours.background))
    for curve in curves:
        plot.line(*curve.thinned(x_scale, dots)[-1], curve.look.style)
    for number, curve in enumerate(curves):
        plot.markers(curve, how, number)
        plot.gaps(curve, glyphs["gap"], colours.alarm)
    if how.cursor is not None:
        plot.cursor(curves, how.cursor, glyphs["cursor"], colours.cursor, colours.title)
    if not any(curve.has_values for curve in curves):
        canvas.text(left + 1, 1 + plot_height // 2, "no values yet"[: plot.columns - 1], colours.axis)
    x_ticks = labelled(x_scale, max(plot.columns // 10, 2), how.x_kind)
    plot.axes(ticks, x_ticks, glyphs, colours.axis, grid=colours.grid)
    return Drawing(canvas, x_scale, left, plot.columns)


def y_range(curves: Sequence[Curve], x_scale: Scale, how: Setting, dots: int) -> Scale:
    """A scale that holds what is seen of the curves, with a little air."""
    seen = []
    for curve in curves:
        for x, y in curve.thinned(x_scale, dots):
            seen.append(y[(x >= x_scale.low) & (x <= x_scale.high)])
        seen.append(np.array([curve.base]))
    values = np.concatenate(seen) if seen else np.empty(0)
    values = values[np.isfinite(values)]
    if how.log_y:
        values = values[values > 0]
    if not len(values):
        return Scale.around(math.nan, math.nan, log=how.log_y)
    low, high = (float(end) for end in (np.percentile(values, (2, 98)) if how.clip else (values.min(), values.max())))
    scale = Scale.around(low, high, log=how.log_y, margin=0.04)
    # what is never negative gets no axis below zero
    return Scale(0.0, scale.high) if low >= 0 > scale.low and not how.log_y else scale


class _Plot(Frame):
    """The curves' part of a chart."""

    def level(self, y: float, style: Style) -> None:
        """A dashed horizontal line."""
        ends = np.array([self.x.low, self.x.high])
        self.line(ends, np.array([y, y]), style, dash=2)

    def markers(self, curve: Curve, how: Setting, number: int) -> None:
        """The run's marker at every point where they are few, else at the curve's end, or in intervals along it."""
        window = curve.between(self.x.low, self.x.high)
        x, y = curve.x[window], curve.shown[window]
        if len(x) > self.columns // 2:
            chosen = [len(x) - 1]
            if how.marked:
                # a fifth of the width apart, each run's elsewhere
                places = (np.arange(5.0) + 0.5 + number / 5 % 1) / 5 * self.columns * DOTS_X
                chosen += np.searchsorted(x, self.x.value(places, self.columns * DOTS_X)).clip(0, len(x) - 1).tolist()
            x, y = x[chosen], y[chosen]
        self.marks(x, y, curve.look.marker, curve.look.style)

    def gaps(self, curve: Curve, glyph: str, style: Style) -> None:
        """On the floor, where values were not finite."""
        if len(curve.missing):
            self.marks(curve.missing, np.full(len(curve.missing), self.y.low), glyph, style)

    def cursor(self, curves: Sequence[Curve], x: float, glyph: str, style: Style, bright: Style) -> None:
        """The crosshair: a line down, and every curve's value marked on it."""
        if not self.x.low <= x <= self.x.high:
            return
        for curve in curves:
            index = curve.near(x)
            if index is not None and math.isfinite(curve.shown[index]):
                at = curve.x[index : index + 1], curve.shown[index : index + 1]
                self.marks(*at, curve.look.marker, bright)
        self.canvas.fill(self.column(x), self.top, 1, self.rows, glyph, style)


def _draw_title(canvas: Canvas, curves: Sequence[Curve], how: Setting, colours: Colours) -> None:
    """The metric's name, its last part prominent, and the values at the crosshair, or else the newest, at the right."""
    readout: list[tuple[str, Style]] = []
    # the selected run, which is the last, says its value in any case, the others where the name leaves room
    room = canvas.width - cell_len(how.title) - 2 - how.focused
    for curve in reversed(curves):
        value = curve.last if how.cursor is None else curve.value_at(how.cursor)
        said = f" {curve.look.marker}{format_value(value, how.kind)}"
        if cell_len(said) <= room or curve is curves[-1]:
            room -= cell_len(said)
            readout.insert(0, (said, curve.look.style))
    column = canvas.width - sum(cell_len(said) for said, _ in readout)
    name = how.title
    if cell_len(name) > column - 2:
        name = "…" * (not how.ascii_only) + name[-max(column - 3, 1) :]
    *families, last = name.rsplit("/", 1)
    prefix = "".join(f"{family}/" for family in families)
    if how.focused:
        canvas.text(0, 0, f" {name} ", colours.title + Style(reverse=True))
    else:
        canvas.text(0, 0, prefix, colours.prefix)
        canvas.text(cell_len(prefix), 0, last, colours.title)
    for said, style in readout:
        canvas.text(column, 0, said, style)
        column += cell_len(said)
