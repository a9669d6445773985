"""Colour maps as small tables: what matplotlib calls magma and viridis, every eighth of the way, and grey.

Both grow steadily brighter, so that they also read in print and by people who see few colours.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

_STOPS = {
    "magma": ("000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fec488", "fcfdbf"),
    "viridis": ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"),
    "grey": ("000000", "ffffff"),
    "ink": ("ffffff", "000000"),  # for light terminals and for paper
}
NAMES = tuple(_STOPS)


@functools.cache
def table(name: str) -> npt.NDArray[np.uint8]:
    """256 colours from the lowest value to the highest, (256, 3)."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in _STOPS[name]], float)
    places = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(places, range(len(stops)), channel) for channel in stops.T]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def colour(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.uint8]:
    """Colours of values in [0, 1]: one more axis, of red, green and blue."""
    places = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    coloured: npt.NDArray[np.uint8] = table(name)[places]
    return coloured
