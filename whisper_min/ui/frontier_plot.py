"""The frontier drawn on a canvas: gain on the domain downwards, loss in general to the right. No widgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.style import Style

from whisper_min.ui import frame
from whisper_min.ui.axes import Kind, Scale, format_value
from whisper_min.ui.canvas import Canvas
from whisper_min.ui.frame import LABELS, LEAST_HEIGHT, LEAST_WIDTH, Frame
from whisper_min.ui.looks import Look
from whisper_min.ui.plot import Colours
from whisper_min.ui.points import Point, Track

_NAMES = ("original", "chosen", "between", "budget", "beyond", "better")
GLYPHS = frame.GLYPHS | dict(zip(_NAMES, "◎★∙┊╱↙", strict=True))
ASCII_GLYPHS = frame.ASCII_GLYPHS | dict(zip(_NAMES, "OC.:  ", strict=True))


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
        x, y = Scale.around(min(xs), max(xs), margin=0.06), Scale.around(min(ys), max(ys), margin=0.08)
        self.frame = Frame(canvas, x, y, LABELS, 1, canvas.width - LABELS, canvas.height - 3)
        for track in self.tracks:
            self._line(track.evaluations, self.looks[track.run].dimmed(self.colours.background, 0.55))
            for sweep in track.sweeps:
                self._line(sweep, self.looks[track.run].style, dash=2)
        marked = self._marks()
        self._budget_lines()
        self._labels(marked)
        self._beyond()
        y_ticks = frame.labelled(y, max(self.frame.rows // 3, 2), "percent")
        x_ticks = frame.labelled(x, max(self.frame.columns // 14, 2), self._kind)
        self.frame.axes(y_ticks, x_ticks, self.glyphs, self.colours.axis)

    def cell(self, point: Point) -> tuple[int, int]:
        """Column and row of a point."""
        columns, rows = self.frame.cells([self.x_of(point)], [point.domain])
        return columns[0], rows[0]

    def _line(self, points: Sequence[Point], style: Style, dash: int = 0) -> None:
        x, y = np.array([self.x_of(point) for point in points]), np.array([point.domain for point in points])
        self.frame.line(x, y, style, dash)

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
                style = self.colours.title
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
        left, top, columns, rows = self.frame.window
        ends = left, left + columns - width
        return [at for at in places if ends[0] <= at[0] <= ends[1] and top <= at[1] < top + rows]

    def _budget_lines(self) -> None:
        _, top, _, rows = self.frame.window
        for budget in self.budgets:
            column = self.frame.column(budget)
            text = f"budget {format_value(budget, self._kind)}"
            start = column + 1 if column + 2 + len(text) <= self.canvas.width else column - len(text)
            lines = range(top, top + rows)
            row = next((row for row in lines if self.canvas.is_free(start - 1, row, len(text) + 2)), None)
            if row is not None:
                self.canvas.text(start, row, text, self.colours.alarm)
            self.canvas.fill(column, top, 1, rows, self.glyphs["budget"], self.colours.alarm)

    def _beyond(self) -> None:
        """What lies beyond every budget is hatched."""
        if self.budgets:
            column = self.frame.column(self.budgets[-1]) + 1
            _, top, _, rows = self.frame.window
            self.canvas.fill(column, top, self.canvas.width - column, rows, self.glyphs["beyond"], self.colours.grid)

    @property
    def _kind(self) -> Kind:
        return "signed" if self.by_loss else "percent"
