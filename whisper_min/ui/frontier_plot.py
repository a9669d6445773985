"""The frontier drawn on a canvas: gain on the domain downwards, loss in general to the right. No widgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.style import Style

from whisper_min.ui.axes import Kind, Scale, format_value
from whisper_min.ui.canvas import DOTS_X, DOTS_Y, Canvas
from whisper_min.ui.looks import Look
from whisper_min.ui.plot import LABELS, LEAST_HEIGHT, LEAST_WIDTH, Colours, spacing
from whisper_min.ui.points import Point, Track

_NAMES = ("side", "tick", "corner", "floor", "mark", "original", "chosen", "between", "budget", "beyond", "better")
GLYPHS = dict(zip(_NAMES, "│┤└─┴◎★∙┊╱↙", strict=True))
ASCII_GLYPHS = dict(zip(_NAMES, "|++-+OC.:  ", strict=True))


class FrontierDrawing:
    """Draws tracks; `by_loss` lays the relative loss, else the general WER, along x."""

    def __init__(
        self,
        size: tuple[int, int],
        tracks: Sequence[Track],
        looks: Mapping[str, Look],
        colours: Colours,
        *,
        by_loss: bool = True,
        picked: Point | None = None,
        ascii_only: bool = False,
    ) -> None:
        self.canvas = Canvas(*size, ascii_only=ascii_only)
        self.tracks, self.looks, self.colours = tracks, looks, colours
        self.by_loss, self.picked, self.ascii_only = by_loss, picked, ascii_only
        self.glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
        self.points = [point for track in tracks for point in track.points if math.isfinite(self.x_of(point))]
        self.left, self.top = LABELS, 1
        self.columns, self.rows = size[0] - LABELS, size[1] - 3
        self._draw()

    def x_of(self, point: Point) -> float:
        """Where a point lies along x."""
        return point.loss if self.by_loss else point.general

    @property
    def budgets(self) -> list[float]:
        """Where along x the budgets of the runs lie, each once."""
        found = set()
        for track in self.tracks:
            if track.budget is not None and self.by_loss:
                found.add(round(track.budget, 9))
            elif track.budget is not None and track.original is not None:
                found.add(round(track.original.general * (1 + track.budget), 9))
        return sorted(found)

    def _draw(self) -> None:
        canvas, arrows = self.canvas, ("", "") if self.ascii_only else (" ↑", " →")
        along = "relative loss in general" if self.by_loss else "general WER"
        title = f"domain WER{arrows[0]}  {along}{arrows[1]}"
        canvas.text(0, 0, title, self.colours.title)
        if canvas.width < LEAST_WIDTH or canvas.height < LEAST_HEIGHT:
            return
        better = f"{self.glyphs['better']} better".strip()
        if cell_len(title) + cell_len(better) + 2 <= canvas.width:
            canvas.text(canvas.width - cell_len(better), 0, better, self.colours.axis)
        if not self.points:
            hint = "no run here was evaluated on its domain and in general yet"
            canvas.text(max((canvas.width - len(hint)) // 2, 0), canvas.height // 2, hint, self.colours.axis)
            return
        xs = [self.x_of(point) for point in self.points] + self.budgets + [0.0] * self.by_loss
        ys = [point.domain for point in self.points]
        self.x = Scale.around(min(xs), max(xs), margin=0.06)
        self.y = Scale.around(min(ys), max(ys), margin=0.08)
        for track in self.tracks:
            self._line(track.evaluations, self.looks[track.run].dimmed(self.colours.background, 0.55))
            for sweep in track.sweeps:
                self._line(sweep, self.looks[track.run].style, dash=2)
        marked = self._marks()
        self._budget_lines()
        self._labels(marked)
        self._beyond()
        self._frame()

    def _dots(self, x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        across, down = self.columns * DOTS_X, self.rows * DOTS_Y
        dots_x = self.x.at(np.array(x, float), across) + self.left * DOTS_X
        return dots_x, down - 1 - self.y.at(np.array(y, float), down) + self.top * DOTS_Y

    def cell(self, point: Point) -> tuple[int, int]:
        """Column and row of a point."""
        x, y = self._dots([self.x_of(point)], [point.domain])
        return int(np.rint(x[0])) // DOTS_X, int(np.rint(y[0])) // DOTS_Y

    def _line(self, points: Sequence[Point], style: Style, dash: int = 0) -> None:
        dots = self._dots([self.x_of(point) for point in points], [point.domain for point in points])
        self.canvas.lines(*dots, style, dash=dash, window=(self.left, self.top, self.columns, self.rows))

    def _marks(self) -> list[tuple[Point, Style]]:
        """Every point's glyph; the more it tells, the later, so that nothing hides it. In the order of labels."""
        order = sorted(self.points, key=self._weight)
        marked = []
        for point in order:
            look = self.looks[point.run]
            glyph, style = look.marker, look.style
            if point.is_original:
                glyph, style = self.glyphs["original"], self.colours.title
            elif point.chosen:
                glyph, style = self.glyphs["chosen"], look.style + Style(bold=True)
            elif point.alpha is not None:
                glyph = self.glyphs["between"]
            if point == self.picked:
                style = style + Style(reverse=True, bold=True)
            column, row = self.cell(point)
            self.canvas.text(column, row, glyph, style)
            marked.append((point, style))
        return marked[::-1]

    def _weight(self, point: Point) -> tuple[bool, bool, bool, bool, int]:
        last = any(track.evaluations and point is track.evaluations[-1] for track in self.tracks)
        return point == self.picked, point.chosen, point.is_original, last, point.step if point.alpha is None else -1

    def _labels(self, marked: Sequence[tuple[Point, Style]]) -> None:
        """Names beside the points, as many as find a free place; of the originals, which lie together, one."""
        named = False
        for point, style in marked:
            if point.is_original and named:
                continue
            named |= point.is_original
            text = point.label.replace("α", "a") if self.ascii_only else point.label
            text = f"chosen {text}" if point.chosen else text.removeprefix("step ")
            matters = point.is_original or point.chosen or point == self.picked
            places = self._places(point, cell_len(text))
            free = [place for place in places if self.canvas.is_free(place[0] - 1, place[1], cell_len(text) + 2)]
            # what matters is named in any case, over lines if need be, but not over other points or names
            if matters and not free:
                free = [place for place in places if self.canvas.is_free(*place, cell_len(text), dots=False)]
            if free:
                self.canvas.text(*free[0], text, Style(color=style.color, bold=style.bold))

    def _places(self, point: Point, width: int) -> list[tuple[int, int]]:
        """Where the name of a point can stand inside the plot, the best first."""
        column, row = self.cell(point)
        right, left = column + 2, column - 1 - width
        places = [(right, row), (left, row)]
        places += [(start, line) for line in (row - 1, row + 1) for start in (right - 1, left + 1)]
        ends = self.left, self.left + self.columns - width
        return [at for at in places if ends[0] <= at[0] <= ends[1] and self.top <= at[1] < self.top + self.rows]

    def _budget_lines(self) -> None:
        for budget in self.budgets:
            column = int(np.rint(self._dots([budget], [0.0])[0][0])) // DOTS_X
            text = f"budget {format_value(budget, self._kind)}"
            start = column + 1 if column + 2 + len(text) <= self.canvas.width else column - len(text)
            rows = range(self.top, self.top + self.rows)
            row = next((row for row in rows if self.canvas.is_free(start - 1, row, len(text) + 2)), None)
            if row is not None:
                self.canvas.text(start, row, text, self.colours.alarm)
            self.canvas.fill(column, self.top, 1, self.rows, self.glyphs["budget"], self.colours.alarm)

    def _beyond(self) -> None:
        """What lies beyond every budget is hatched."""
        if self.budgets:
            column = int(np.rint(self._dots([self.budgets[-1]], [0.0])[0][0])) // DOTS_X + 1
            beyond = max(self.canvas.width - column, 0)
            self.canvas.fill(column, self.top, beyond, self.rows, self.glyphs["beyond"], self.colours.grid)

    @property
    def _kind(self) -> Kind:
        return "signed" if self.by_loss else "percent"

    def _frame(self) -> None:
        canvas, axis, floor, style = self.canvas, self.left - 1, self.top + self.rows, self.colours.axis
        ticks = self.y.ticks(max(self.rows // 3, 2), "percent")
        step = spacing(ticks, self.y)
        canvas.fill(axis, self.top, 1, self.rows, self.glyphs["side"], style)
        for tick in ticks:
            row = int(np.rint(self._dots([self.x.low], [tick])[1][0])) // DOTS_Y
            label = format_value(tick, "percent", step)
            canvas.text(axis - len(label), row, label, style)
            canvas.text(axis, row, self.glyphs["tick"], style)
        canvas.text(axis, floor, self.glyphs["corner"] + self.glyphs["floor"] * self.columns, style)
        ticks = self.x.ticks(max(self.columns // 14, 2), self._kind)
        step, free = spacing(ticks, self.x), 0
        for tick in ticks:
            label = format_value(tick, self._kind, step)
            column = int(np.rint(self._dots([tick], [0.0])[0][0])) // DOTS_X
            canvas.text(column, floor, self.glyphs["mark"], style)
            start = min(max(column - len(label) // 2, 0), canvas.width - len(label))
            if free <= start:
                canvas.text(start, floor + 1, label, style)
                free = start + len(label) + 1
