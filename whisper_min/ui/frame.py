"""A rectangle of a canvas with a scale on each side: where values lie in it, and its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.style import Style

from whisper_min.ui.axes import Kind, Scale, format_value
from whisper_min.ui.canvas import DOTS_X, DOTS_Y, Canvas

Floats = NDArray[np.floating[Any]]

# Columns for the labels at the left and the axis, the same for most charts, so that those of a grid stand in line.
LABELS = 7
# Below this there is room for a title alone.
LEAST_WIDTH, LEAST_HEIGHT = 14, 5

_NAMES = ("side", "tick", "corner", "floor", "mark", "grid", "cursor", "gap")
GLYPHS = dict(zip(_NAMES, "│┤└─┴┈│×", strict=True))
ASCII_GLYPHS = dict(zip(_NAMES, "|++-+ :!", strict=True))


def spacing(ticks: Sequence[float], scale: Scale) -> float:
    """The smallest distance between ticks: as many decimals as it asks for; 0 where they are powers."""
    if len(ticks) < 2 or (scale.log and scale.high / scale.low >= 10):
        return 0.0
    return min(after - before for before, after in pairwise(ticks))


def labelled(scale: Scale, most: int, kind: Kind) -> list[tuple[float, str]]:
    """At most so many ticks of a scale, and how they are written."""
    ticks = scale.ticks(most, kind)
    step = spacing(ticks, scale)
    return [(tick, format_value(tick, kind, step)) for tick in ticks]


@dataclass(frozen=True)
class Frame:
    """The rectangle inside the axes; the axis at the left lies in the column before it, the one below under it."""

    canvas: Canvas
    x: Scale
    y: Scale
    left: int
    top: int
    columns: int
    rows: int

    @property
    def window(self) -> tuple[int, int, int, int]:
        """As `Canvas.lines` takes it."""
        return self.left, self.top, self.columns, self.rows

    def dots(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where values lie on the canvas, in dots; also those that lie outside of the frame."""
        across, down = self.columns * DOTS_X, self.rows * DOTS_Y
        return self.x.at(x, across) + self.left * DOTS_X, down - 1 - self.y.at(y, down) + self.top * DOTS_Y

    def cells(self, x: Sequence[float], y: Sequence[float]) -> tuple[list[int], list[int]]:
        """The columns and the rows of finite values."""
        dots_x, dots_y = self.dots(np.array(x, float), np.array(y, float))
        columns, rows = np.rint(dots_x) // DOTS_X, np.rint(dots_y) // DOTS_Y
        return columns.astype(int).tolist(), rows.astype(int).tolist()

    def column(self, x: float) -> int:
        """The column of a value."""
        return self.cells([x], [self.y.low])[0][0]

    def line(self, x: Floats, y: Floats, style: Style, dash: int = 0) -> None:
        """A line, as far as it lies in the frame."""
        self.canvas.lines(*self.dots(x, y), style, dash=dash, window=self.window)

    def marks(self, x: Floats, y: Floats, glyph: str, style: Style) -> None:
        """Characters at points, those inside of the frame."""
        dots_x, dots_y = self.dots(x, y)
        with np.errstate(invalid="ignore"):
            column, row = np.rint(dots_x) // DOTS_X, np.rint(dots_y) // DOTS_Y
            inside = (row >= self.top) & (row < self.top + self.rows) & (column >= self.left)
        self.canvas.marks(dots_x[inside], dots_y[inside], glyph, style)

    def axes(
        self,
        y_ticks: Sequence[tuple[float, str]],
        x_ticks: Sequence[tuple[float, str]],
        glyphs: dict[str, str],
        style: Style,
        grid: Style | None = None,
    ) -> None:
        """Both axes with their ticks and labels; with a style for it, a line of the grid at every tick of y."""
        canvas, axis, floor = self.canvas, self.left - 1, self.top + self.rows
        canvas.fill(axis, self.top, 1, self.rows, glyphs["side"], style)
        _, rows = self.cells([self.x.low] * len(y_ticks), [tick for tick, _ in y_ticks])
        for row, (_, label) in zip(rows, y_ticks, strict=True):
            canvas.text(axis - len(label), row, label + glyphs["tick"], style)
            if grid is not None:
                canvas.fill(self.left, row, self.columns, 1, glyphs["grid"], grid)
        columns, _ = self.cells([tick for tick, _ in x_ticks], [self.y.low] * len(x_ticks))
        line, labels = [glyphs["floor"]] * self.columns, [" "] * canvas.width
        free = 0
        for column, (_, label) in zip(columns, x_ticks, strict=True):
            line[column - self.left] = glyphs["mark"]
            start = min(max(column - len(label) // 2, 0), canvas.width - len(label))
            if start >= free:
                labels[start : start + len(label)] = label
                free = start + len(label) + 1
        canvas.text(axis, floor, glyphs["corner"] + "".join(line), style)
        canvas.text(0, floor + 1, "".join(labels), style)
