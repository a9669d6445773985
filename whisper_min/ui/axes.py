"""Scales, round numbers for ticks, and how numbers are written on an axis. No terminal, no widgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Kind = Literal["number", "count", "percent", "signed", "time"]
"""How values are written: `count` is whole, `signed` a percentage with its sign, `time` counts seconds."""

# Seconds between ticks that a person reads without reckoning.
_SPANS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Scale:
    """A range of values laid over a number of dots, linearly or by the logarithm."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, low: float, high: float, *, log: bool = False, margin: float = 0.0) -> Scale:
        """A scale that holds the range with a margin on both sides; one value alone gets room around it."""
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = (1.0, 10.0) if log else (0.0, 1.0)
        if log:
            if high < 1e-290:  # nothing positive, or too little to divide by
                low, high = 1.0, 10.0
            low = low if low > 1e-300 else high / 1000
            wider = (high / low) ** margin if high > low else 2.0
            # numbers at either end of what a float can hold have no room beyond them
            return cls(max(low / wider, 5e-300), min(high * wider, 1e300), log=True)
        size = max(abs(low), abs(high))
        if high - low > max(size * 1e-12, 1e-290):
            wider = (high - low) * margin
        else:
            wider = size * 0.1 if size > 1e-290 else 1.0
        return cls(max(low - wider, -1e300), min(high + wider, 1e300))

    def at(self, values: Floats | float, dots: int) -> Floats:
        """The dot of each value, from 0 for the lowest to `dots` - 1; not finite where a scale has no place for it."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.log:
                span = math.log(self.high) - math.log(self.low)
                share = (np.log(np.asarray(values, float)) - math.log(self.low)) / span
            else:
                # halves, as the difference of the two largest floats is none
                share = (np.asarray(values, float) / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
            return np.asarray(share * (dots - 1), float)

    def value(self, dot: Floats | float, dots: int) -> Floats:
        """The value at a dot: the inverse of `at`."""
        share = np.asarray(dot, float) / max(dots - 1, 1)
        if self.log:
            return np.asarray(np.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return np.asarray(self.low + share * (self.high - self.low))

    def ticks(self, most: int, kind: Kind = "number") -> list[float]:
        """At most `most` round values inside the range, evenly spread."""
        if self.log and math.log10(self.high / self.low) >= 1:
            return _log_ticks(self.low, self.high, most)
        steps = _SPANS if kind == "time" else ()
        ticks = _linear_ticks(self.low, self.high, most, steps)
        return [tick for tick in ticks if tick == round(tick)] if kind == "count" else ticks


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that fits into a span at most `most` times."""
    rough = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _linear_ticks(low: float, high: float, most: int, steps: Sequence[int] = ()) -> list[float]:
    span = high - low
    if not 0 < span < math.inf:
        return []
    # into a range of n steps go n - 1 ticks to n + 1, by where it begins
    for fewer in range(most + 1, 0, -1):
        step = _round_step(span, fewer, steps)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            # multiples, not sums, so that 0.3 is not 0.30000000000000004 further on
            return [min(max(index * step, low), high) for index in range(first, last + 1)]
    return []


def _round_step(span: float, most: int, steps: Sequence[int]) -> float:
    """A step that fits at most so often: one of `steps`, above them their last one's multiples, below round numbers."""
    if not steps or span / most <= steps[0] / 2:
        return nice_step(span, most)
    fitting = (step for step in steps if span / step <= most)
    return next(fitting, math.ceil(span / most / steps[-1]) * steps[-1])


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, every other one where they are many, with 2 and 5 between where they are few."""
    if most < 1:
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def format_value(value: float, kind: Kind = "number", step: float = 0.0) -> str:
    """A number as an axis or a readout says it; between ticks `step` apart, with the decimals that tell them apart."""
    if not math.isfinite(value):
        return "–"
    if kind == "time":
        return format_time(value, step)
    if kind in ("percent", "signed"):
        decimals = _decimals(100 * step) if step else 1
        sign = "+" if kind == "signed" and round(100 * value, decimals) else ""
        return f"{100 * value:{sign}.{decimals}f}%".replace("-0%", "0%" if not round(100 * value, decimals) else "-0%")
    size = max(abs(value), step)
    if value == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        return _short_exponent(f"{value:.{1 if step else 2}e}")
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            unit = 1e3 if suffix == "k" else limit
            said = f"{value / unit:.{_decimals(step / unit)}f}" if step else f"{value / unit:.3g}"
            return f"{said}{suffix}"
    if step:
        return f"{value:.{_decimals(step)}f}"
    return f"{value:.4g}"


def format_time(seconds: float, step: float = 0.0) -> str:
    """Seconds as `0.5s`, `45s`, `3m20`, `1h05` or `2d3h`; with whole units only where ticks lie whole units apart."""
    sign, seconds = "-" if seconds < 0 else "", abs(seconds)
    if seconds < _MINUTE or 0 < step < 1:
        return f"{sign}{seconds:.{_decimals(step) if step else 0 if seconds >= 10 else 1}f}s" if seconds else "0"
    whole = round(seconds)
    minutes, rest = divmod(whole, _MINUTE)
    if whole < _HOUR:
        return f"{sign}{minutes}m" if step >= _MINUTE and not rest else f"{sign}{minutes}m{rest:02d}"
    if 0 < step < _MINUTE:
        return f"{sign}{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    if whole < 2 * _DAY or 0 < step < _HOUR:
        hours, rest = divmod(round(whole / _MINUTE), _MINUTE)
        return f"{sign}{hours}h" if step >= _HOUR and not rest else f"{sign}{hours}h{rest:02d}"
    days, rest = divmod(round(whole / _HOUR), 24)
    return f"{sign}{days}d" if not rest else f"{sign}{days}d{rest}h"


@lru_cache(1024)
def _decimals(step: float) -> int:
    """Digits behind the point that tell multiples of a step apart."""
    if step <= 0:
        return 0
    exact = next((digits for digits in range(12) if abs(round(step, digits) - step) <= step * 1e-6), 12)
    return exact


def _short_exponent(text: str) -> str:
    """`1.0e-05` as `1e-5`."""
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"
