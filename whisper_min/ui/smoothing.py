"""Curves made fit to look at: smoothed first, on the raw data, and only then thinned to the columns of a chart.

The other way round, the same run looks different whenever its length changes (an average over what thinning left).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_BLOCK = 32


def smooth(values: Floats, weight: float) -> Floats:
    """The exponential moving average, free of the bias to its start: each value weighs `weight` times its successor.

    Where a value is not finite the result is not a number, and the average goes on after it as if it were not there.
    """
    return Smoother(weight)(values)


class Smoother:
    """The average of a series that grows: only what is new is reckoned, and all of it where known values changed."""

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"a weight is at least 0 and below 1, not {weight}")
        self.weight = weight
        self._forget()

    def _forget(self) -> None:
        self._values: Floats = np.empty(0)
        self._averages: Floats = np.empty(0)
        self._carry, self._count = 0.0, 0

    def __call__(self, values: Floats) -> Floats:
        """The averages of all values."""
        known = len(self._values)
        if not np.array_equal(self._values, values[:known], equal_nan=True):
            self._forget()
            known = 0
        if known < len(values):
            new = self._average(values[known:]).astype(values.dtype)
            self._averages = np.concatenate([self._averages[:known], new]) if known else new
            self._values = values
        return self._averages

    def _average(self, values: Floats) -> Floats:
        averages = np.full(len(values), np.nan)
        finite = np.isfinite(values)
        known = values[finite].astype(np.float64)
        if not len(known):
            return averages
        if not self.weight:
            averages[finite] = known
            return averages
        sums, self._carry = _weighted_sums(known, self.weight, self._carry)
        # the weights given out so far add up to less than 1; divided by their sum, the first average is the first value
        count = np.arange(self._count + 1, self._count + len(known) + 1)
        # from some point on the sum is 1 to the last bit
        start = int(np.searchsorted(count, -40 / np.log(self.weight)))
        sums[:start] /= 1 - self.weight ** count[:start]
        self._count += len(known)
        averages[finite] = sums
        return averages


def _weighted_sums(values: Floats, weight: float, carry: float) -> tuple[Floats, float]:
    """s[n] = weight s[n-1] + (1 - weight) v[n] from s[-1] = carry on, and the last one.

    By blocks: a product of matrices inside of them, and only their last values are handed on one by one.
    """
    age = np.arange(_BLOCK)[:, None] - np.arange(_BLOCK)
    kernel = np.where(age >= 0, (1 - weight) * weight ** np.maximum(age, 0), 0.0)
    padded = np.zeros(-(-len(values) // _BLOCK) * _BLOCK)
    padded[: len(values)] = values
    sums = padded.reshape(-1, _BLOCK) @ kernel.T
    handed_on, fade = np.empty(len(sums)), weight**_BLOCK
    for block, last in enumerate(sums[:, -1].tolist()):
        handed_on[block] = carry
        carry = carry * fade + last
    sums += handed_on[:, None] * weight ** np.arange(1, _BLOCK + 1)
    flat = sums.ravel()[: len(values)]
    return flat, float(flat[-1])


def thin(x: Floats, y: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """First, lowest, highest and last value in each of the columns between `edges`: draws what all points would draw.

    `x` rises; `y` is not a number where a value was not finite. One point before the first edge and one behind the last
    are kept, so that lines run on to the margin. A column without a finite value breaks a line; an empty one does not.
    """
    bounds = np.searchsorted(x, edges)
    if bounds[-1] - bounds[0] <= 4 * len(edges):
        part = slice(max(bounds[0] - 1, 0), bounds[-1] + 1)
        return x[part], y[part]
    starts, stops = bounds[:-1], bounds[1:]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    inside = y[starts[0] : stops[-1]]
    lowest = np.fmin.reduceat(inside, starts - starts[0])
    highest = np.fmax.reduceat(inside, starts - starts[0])
    first, last = (np.where(np.isfinite(ends), ends, lowest) for ends in (y[starts], y[stops - 1]))
    thin_x = np.repeat(x[starts], 4)
    thin_x[3::4] = x[stops - 1]
    thin_y = np.column_stack([first, lowest, highest, last]).ravel()
    before, behind = slice(max(bounds[0] - 1, 0), bounds[0]), slice(bounds[-1], bounds[-1] + 1)
    return (
        np.concatenate([x[before], thin_x, x[behind]]),
        np.concatenate([y[before], thin_y, y[behind]]),
    )
