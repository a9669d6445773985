"""Curves made fit to look at: smoothed first, on the raw data, and only then thinned to the columns of a chart.

The other way round, the same run looks different whenever its length changes (an average over what thinning left).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 128


def smooth(values: Floats, weight: float) -> Floats:
    """The exponential moving average, free of the bias to its start: each value weighs `weight` times its successor.

    Where a value is not finite the result is not a number, and the average goes on after it as if it were not there.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"a weight is at least 0 and below 1, not {weight}")
    smoothed = np.full(len(values), np.nan)
    finite = np.isfinite(values)
    if not weight or not finite.any():
        smoothed[finite] = values[finite]
        return smoothed
    known = values[finite]
    # s[n] = w s[n-1] + (1-w) v[n] by blocks: a product of matrices inside a block, and only its last value handed on
    age = np.arange(_BLOCK)[:, None] - np.arange(_BLOCK)
    kernel = np.where(age >= 0, (1 - weight) * weight ** np.maximum(age, 0), 0.0)
    padded = np.zeros(-(-len(known) // _BLOCK) * _BLOCK)
    padded[: len(known)] = known
    with np.errstate(over="ignore", invalid="ignore"):
        inside = padded.reshape(-1, _BLOCK) @ kernel.T
        handed_on, carry, fade = np.zeros(len(inside)), 0.0, weight**_BLOCK
        for block, last in enumerate(inside[:, -1].tolist()):
            handed_on[block] = carry
            carry = carry * fade + last
        inside += handed_on[:, None] * weight ** np.arange(1, _BLOCK + 1)
    # the weights given out so far add up to less than 1; divided by their sum, the first average is the first value
    average = inside.ravel()[: len(known)]
    start = min(len(known), int(-40 / np.log(weight)) + 1)  # from there on the sum is 1 to the last bit
    average[:start] /= 1 - weight ** np.arange(1, start + 1)
    smoothed[finite] = average
    return smoothed


def thin(x: Floats, y: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """First, lowest, highest and last value in each of the columns between `edges`: draws what all points would draw.

    `x` rises. One point before the first edge and one behind the last are kept, so that lines run on to the margin. A
    column in which no value is finite is one that is not, which breaks a line; one that is empty is left out.
    """
    if not len(x):
        return x, y
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
