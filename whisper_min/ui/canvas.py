"""A grid of terminal cells to draw on: lines and points in braille dots, text above them, one style a cell.

A cell holds 2 × 4 dots. Coordinates of dots are floats: x grows to the right, y **down**, and a coordinate lands in the
nearest dot; what is not finite draws nothing and leaves a gap. Everything that loops over points is numpy, because a
grid of charts is drawn anew at every tick.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

Floats = NDArray[np.floating[Any]]

DOTS_X, DOTS_Y = 2, 4
BRAILLE = 0x2800
# The bit of each dot of a braille cell, by row and column; not in reading order, for historical reasons.
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
# The right half of a wide character: stands in the grid, is never written (the last code point is no character).
_CONTINUED = 0x10FFFF

# What a pattern of dots looks like where there is no braille: the character of the most similar picture.
_PICTURES = {
    "'": ("#./../../..", ".#/../../..", "##/../../..", "../#./../..", "../.#/../.."),
    "-": ("../##/../..", "../../##/..", "../##/##/..", "../#./.#/..", "../.#/#./.."),
    ".": ("../../#./..", "../../.#/..", "../../../#.", "../../../.#"),
    "_": ("../../../##", "../../##/##"),
    '"': ("##/##/../..",),
    "|": ("#./#./#./#.", ".#/.#/.#/.#", "#./#./#./..", ".#/.#/.#/..", "../#./#./#.", "../.#/.#/.#"),
    "/": (".#/.#/#./#.", ".#/#./../..", "../../.#/#.", "../.#/#./..", ".#/.#/#./.."),
    "\\": ("#./#./.#/.#", "#./.#/../..", "../../#./.#", "../#./.#/..", "#./#./.#/.."),
    "#": ("##/##/##/##", "##/##/##/..", "../##/##/##", "##/##/##/#."),
}


def _ascii_table() -> NDArray[np.uint32]:
    """The character for each of the 256 patterns of dots."""
    pictures = [(ord(char), picture) for char, several in _PICTURES.items() for picture in several]
    inked = np.array([[dot == "#" for dot in picture.replace("/", "")] for _, picture in pictures])
    patterns = (np.arange(256)[:, None] & BITS.ravel()) > 0
    nearest = (patterns[:, None] != inked).sum(axis=2).argmin(axis=1)
    table: NDArray[np.uint32] = np.array([code for code, _ in pictures], np.uint32)[nearest]
    table[0] = ord(" ")
    return table


_ASCII = _ascii_table()


class Canvas:
    """Draw, then take `strips()` (for a widget) or `rows()` (for a test)."""

    def __init__(self, width: int, height: int, *, ascii_only: bool = False) -> None:
        self.width, self.height, self.ascii_only = width, height, ascii_only
        self._dots = np.zeros((height, width), np.uint8)
        self._glyphs = np.zeros((height, width), np.uint32)
        self._inks = np.zeros((height, width), np.intp)
        self._styles: dict[Style, int] = {Style.null(): 0}
        self._has_wide = False

    @property
    def size_in_dots(self) -> tuple[int, int]:
        """Dots across and down."""
        return self.width * DOTS_X, self.height * DOTS_Y

    def points(self, x: Floats, y: Floats, style: Style, *, over: bool = True) -> None:
        """Single dots. With `over`, a cell shows only what was drawn last: mixed in one colour, two lines lie."""
        self._ink(np.rint(x), np.rint(y), style, over)

    def lines(
        self,
        x: Floats,
        y: Floats,
        style: Style,
        *,
        over: bool = True,
        dash: int = 0,
        window: tuple[int, int, int, int] | None = None,
    ) -> None:
        """A line through all points, broken where one is not finite; `dash` dots are drawn, as many left out.

        Nothing is drawn outside of the window: its left column, top row, columns and rows.
        """
        left, top, columns, rows = window or (0, 0, self.width, self.height)
        left, top = left * DOTS_X, top * DOTS_Y
        path_x, path_y = trace(x - left, y - top, columns * DOTS_X, rows * DOTS_Y)
        if dash:
            kept = (path_x + path_y) // dash % 2 == 0
            path_x, path_y = path_x[kept], path_y[kept]
        self._ink(path_x + left, path_y + top, style, over)

    def text(self, column: int, row: int, text: str, style: Style) -> None:
        """Characters above all dots; what lies outside is left out, what does not print becomes `?`."""
        if not 0 <= row < self.height:
            return
        if text.isprintable() and cell_len(text) == len(text) and column >= 0:
            text = text[: max(self.width - column, 0)]  # all at once: most texts are such
            cells_of_text = row, slice(column, column + len(text))
            self._halve(row, column, column + len(text))
            self._glyphs[cells_of_text] = np.frombuffer(text.encode("utf-32-le"), "<u4")
            self._inks[cells_of_text] = self._index(style)
            return
        for char in text:
            cells = cell_len(char) if char.isprintable() else 1
            if cells and column >= 0 and column + cells <= self.width:
                self._halve(row, column, column + cells)
                self._glyphs[row, column] = ord(char) if char.isprintable() else ord("?")
                self._glyphs[row, column + 1 : column + cells] = _CONTINUED
                self._has_wide |= cells > 1
                self._inks[row, column : column + cells] = self._index(style)
            column += cells

    def marks(self, x: Floats, y: Floats, glyph: str, style: Style) -> None:
        """One character in the cell of each dot."""
        with np.errstate(invalid="ignore"):
            column, row = np.rint(x) // DOTS_X, np.rint(y) // DOTS_Y
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        cells = row[inside].astype(np.intp), column[inside].astype(np.intp)
        self._glyphs[cells] = ord(glyph)
        self._inks[cells] = self._index(style)

    def fill(self, column: int, row: int, columns: int, rows: int, glyph: str, style: Style) -> None:
        """One character in all cells of a rectangle in which nothing is drawn yet."""
        cells = slice(max(row, 0), max(row + rows, 0)), slice(max(column, 0), max(column + columns, 0))
        free = (self._dots[cells] == 0) & (self._glyphs[cells] == 0)
        self._glyphs[cells][free] = ord(glyph)
        self._inks[cells][free] = self._index(style)

    def is_free(self, column: int, row: int, length: int, *, dots: bool = True) -> bool:
        """Whether nothing is drawn in these cells of a row, all of them on the canvas; without `dots`, no text."""
        if not (0 <= row < self.height and column >= 0 and column + length <= self.width):
            return False
        cells = (row, slice(column, column + length))
        return not ((dots and self._dots[cells].any()) or self._glyphs[cells].any())

    def rows(self) -> list[str]:
        """The characters alone, a string a row."""
        return [row.replace(chr(_CONTINUED), "") for row in self._characters()]

    def strips(self, base: Style | None = None) -> list[Strip]:
        """Rows of styled text for a widget; `base` lies below every style."""
        base = base or Style.null()
        styles = [base + style for style in self._styles]
        # a blank has no colour of its own: let it continue the run before it, so that a row has few segments
        blank = (self._dots == 0) & (self._glyphs == 0)
        last_inked = np.maximum.accumulate(np.where(blank, 0, np.arange(self.width)), axis=1)
        inks = np.take_along_axis(self._inks, last_inked, axis=1)
        # but a background would show on it
        shows = np.array([style.bgcolor is not None or bool(style.reverse) for style in self._styles])
        inks = np.where(blank & shows[inks], 0, inks)
        row_of, starts = np.nonzero(np.diff(inks, axis=1, prepend=-1))
        first_of_row = np.searchsorted(row_of, np.arange(self.height + 1)).tolist()
        starts_list, inks_list = starts.tolist(), inks[row_of, starts].tolist()
        strips = []
        for row, text in enumerate(self._characters()):
            runs = range(first_of_row[row], first_of_row[row + 1])
            ends = [*starts_list[runs.start + 1 : runs.stop], self.width]
            cut = [text[starts_list[run] : end] for run, end in zip(runs, ends, strict=True)] if self.width else []
            if chr(_CONTINUED) in text:
                cut = [each.replace(chr(_CONTINUED), "") for each in cut]
            segments = [Segment(each, styles[inks_list[run]]) for run, each in zip(runs, cut, strict=False)]
            strips.append(Strip(segments, self.width))
        return strips

    def _characters(self) -> list[str]:
        braille = np.where(self._dots == 0, ord(" "), BRAILLE + self._dots.astype(np.uint32))
        codes = np.where(self._glyphs == 0, _ASCII[self._dots] if self.ascii_only else braille, self._glyphs)
        whole = codes.astype("<u4").tobytes().decode("utf-32-le")
        return [whole[row * self.width : (row + 1) * self.width] for row in range(self.height)]

    def _halve(self, row: int, start: int, end: int) -> None:
        """Before these cells are written: a wide character of which they take one half is gone altogether."""
        if not self._has_wide:
            return
        if start < self.width and self._glyphs[row, start] == _CONTINUED:
            self._glyphs[row, start - 1] = 0
        if end < self.width and self._glyphs[row, end] == _CONTINUED:
            self._glyphs[row, end] = 0

    def _index(self, style: Style) -> int:
        return self._styles.setdefault(style, len(self._styles))

    def _ink(self, x: Floats, y: Floats, style: Style, over: bool) -> None:
        across, down = self.size_in_dots
        with np.errstate(invalid="ignore"):
            inside = (x >= 0) & (x < across) & (y >= 0) & (y < down)
        drawn = np.zeros((down, across), np.uint8)
        drawn[y[inside].astype(np.intp), x[inside].astype(np.intp)] = 1
        cells = drawn.reshape(self.height, DOTS_Y, self.width, DOTS_X)
        dots = (cells * BITS[:, None, :]).sum(axis=(1, 3), dtype=np.uint8)
        touched = dots > 0
        self._dots = np.where(touched & over, dots, self._dots | dots)
        self._inks[touched] = self._index(style)


def trace(x: Floats, y: Floats, across: int, down: int) -> tuple[Floats, Floats]:
    """The dots of a line through points, clipped to the canvas; single points between gaps are dots of their own."""
    finite = np.isfinite(x) & np.isfinite(y)
    joined = np.flatnonzero(finite[:-1] & finite[1:])
    start_x, start_y = x[joined], y[joined]
    delta_x, delta_y = x[joined + 1] - start_x, y[joined + 1] - start_y
    # Liang and Barsky: the part [enter, leave] of each segment that lies inside; points far outside cost nothing
    enter, leave = np.zeros(len(joined)), np.ones(len(joined))
    for delta, start, size in ((delta_x, start_x, across), (delta_y, start_y, down)):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            low, high = (-0.49 - start) / delta, (size - 0.51 - start) / delta
        outside = (start < -0.5) | (start > size - 0.5)
        low, high = np.minimum(low, high), np.maximum(low, high)
        still = delta == 0
        enter = np.where(still, np.where(outside, 2.0, enter), np.maximum(enter, low))
        leave = np.where(still, leave, np.minimum(leave, high))
    seen = enter <= leave
    start_x, start_y, delta_x, delta_y = start_x[seen], start_y[seen], delta_x[seen], delta_y[seen]
    enter, length = enter[seen], (leave - enter)[seen]
    steps = np.ceil(np.maximum(np.abs(delta_x), np.abs(delta_y)) * length).astype(np.intp) + 1
    segment = np.repeat(np.arange(len(steps)), steps)
    position = np.arange(len(segment)) - np.repeat(np.cumsum(steps) - steps, steps)
    along = enter[segment] + length[segment] * position / np.maximum(steps[segment] - 1, 1)
    inside = finite & (x >= -0.5) & (x < across - 0.5) & (y >= -0.5) & (y < down - 0.5)
    path_x = np.concatenate([x[inside], start_x[segment] + along * delta_x[segment]])
    path_y = np.concatenate([y[inside], start_y[segment] + along * delta_y[segment]])
    return np.rint(path_x), np.rint(path_y)
