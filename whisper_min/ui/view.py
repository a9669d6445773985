"""What of the curves is looked at: which x, smoothing, logarithms, range and crosshair; the same for all charts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from whisper_min.ui.axes import Kind, Scale, format_value

Axis = Literal["step", "relative", "time", "audio"]
AXES: tuple[Axis, ...] = get_args(Axis)
AXIS_NAMES = {"step": "step", "relative": "relative step", "time": "time", "audio": "audio hours"}
AXIS_KINDS: dict[Axis, Kind] = {"step": "count", "relative": "count", "time": "time", "audio": "number"}
WEIGHTS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
# Dots into which a range is divided to reckon in its own scale, linear or logarithmic.
_FINE = 10_001


@dataclass
class View:
    """The settings that keys change. `x_range` is what was zoomed to; None is everything there is."""

    axis: Axis = "step"
    weight: float = 0.9
    log_x: bool = False
    log_y: set[str] = field(default_factory=set)
    """The metrics drawn on a logarithmic scale."""
    clip: bool = False
    x_range: tuple[float, float] | None = None
    at_end: bool = False
    """Whether the range ends where the data end, and so moves on with them."""
    cursor: float | None = None
    wanted: str = ""

    def next_axis(self) -> None:
        """The next kind of x; ranges and cursors of another kind mean nothing there."""
        self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
        self.reset()

    def smooth(self, steps: int) -> None:
        """More or less smoothing."""
        nearest = min(range(len(WEIGHTS)), key=lambda index: abs(WEIGHTS[index] - self.weight))
        self.weight = WEIGHTS[min(max(nearest + steps, 0), len(WEIGHTS) - 1)]

    def reset(self) -> None:
        """Everything in sight again, and no crosshair."""
        self.x_range, self.cursor, self.at_end = None, None, False

    def range_within(self, data: tuple[float, float]) -> tuple[float, float]:
        """What of x is shown, given what there is."""
        if self.x_range is None:
            return data
        low, high = self.x_range
        if self.at_end and data[1] > high:
            low, high = low + data[1] - high, data[1]
            self.x_range = low, high
        return low, high

    def zoom(self, factor: float, around: float | None, data: tuple[float, float]) -> None:
        """Show `factor` of the range, with `around` (else the crosshair, else the middle) staying where it is."""
        scale = self._scale(data)
        around = self.cursor if around is None else around
        middle = float(scale.at(around, _FINE)) if around is not None else -1.0
        if not 0 <= middle <= _FINE - 1:
            middle = (_FINE - 1) / 2
        self._set(scale, middle * (1 - factor), middle + (_FINE - 1 - middle) * factor, data)

    def pan(self, share: float, data: tuple[float, float]) -> None:
        """Move the range by a share of its width, not beyond the data."""
        shift = share * (_FINE - 1)
        self._set(self._scale(data), shift, shift + _FINE - 1, data)

    def select(self, low: float, high: float, data: tuple[float, float]) -> None:
        """Zoom to a range."""
        self.x_range = min(low, high), max(low, high)
        self.at_end = self.x_range[1] >= data[1]

    def point(self, x: float | None) -> None:
        """The crosshair to a value of x, which is a whole one where x counts steps."""
        self.cursor = float(round(x)) if x is not None and AXIS_KINDS[self.axis] == "count" else x

    def move_cursor(self, share: float, data: tuple[float, float]) -> None:
        """The crosshair by a share of the range, at least by a step; it starts in the middle."""
        scale, before = self._scale(data), self.cursor
        low, high = self.range_within(data)
        at = float(scale.at(before, _FINE)) if before is not None else (_FINE - 1) / 2 * (1 - share)
        self.point(float(scale.value(min(max(at + share * (_FINE - 1), 0.0), _FINE - 1.0), _FINE)))
        if self.cursor == before is not None and AXIS_KINDS[self.axis] == "count":
            self.cursor = before + math.copysign(1.0, share)
        self.cursor = min(max(self.cursor if self.cursor is not None else low, low), high)

    def describe(self) -> list[str]:
        """The settings in words."""
        said = [f"x {AXIS_NAMES[self.axis]}{' log' * self.log_x}"]
        said.append(f"smoothing {self.weight:g}" if self.weight else "no smoothing")
        if self.clip:
            said.append("without outliers")
        if self.x_range is not None:
            said.append("zoomed: 0 resets")
        if self.wanted:
            said.append(f"/{self.wanted}")
        return said

    def describe_x(self, x: float) -> str:
        """A value of x in words."""
        if self.axis == "time":
            return f"after {format_value(x, 'time', 1.0)}"
        return f"{x:.2f} audio hours" if self.axis == "audio" else f"{AXIS_NAMES[self.axis]} {x:,.0f}"

    def to_json(self) -> dict[str, Any]:
        """What a later session should find again."""
        return {"axis": self.axis, "weight": self.weight, "log_y": sorted(self.log_y), "clip": self.clip}

    def from_json(self, record: dict[str, Any]) -> None:
        """Take over what an earlier session remembered; whatever is not understood stays as it is."""
        known: dict[str, Callable[[Any], bool]] = {
            "axis": lambda value: value in AXES,
            "weight": lambda value: value in WEIGHTS,
            "clip": lambda value: isinstance(value, bool),
        }
        for key, fits in known.items():
            if fits(record.get(key)):
                setattr(self, key, record[key])
        log_y = record.get("log_y")
        self.log_y = {key for key in log_y if isinstance(key, str)} if isinstance(log_y, list) else self.log_y

    def _scale(self, data: tuple[float, float]) -> Scale:
        return Scale.around(*self.range_within(data), log=self.log_x)

    def _set(self, scale: Scale, first: float, last: float, data: tuple[float, float]) -> None:
        """The range between two of the scale's dots, moved into the data; all of them is no range at all."""
        whole = Scale.around(*data, log=self.log_x)
        least, most = (float(scale.at(end, _FINE)) for end in (whole.low, whole.high))
        self.at_end = False
        if last - first >= most - least:
            self.x_range = None
        elif last - first > (most - least) * 1e-6:
            shift = max(least - first, 0.0) + min(most - last, 0.0)
            low, high = (float(scale.value(dot + shift, _FINE)) for dot in (first, last))
            self.x_range = max(low, whole.low), min(high, whole.high)
            self.at_end = high >= whole.high - (high - low) * 1e-6
