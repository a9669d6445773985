"""Numbers and states as people read them; the same in the list, in plain text and in alerts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# State -> (glyph, theme colour): told apart without colour, too.
STATES = {
    "starting": ("○", "primary"),
    "training": ("▶", "success"),
    "evaluating": ("◆", "success"),
    "saving": ("◇", "success"),
    "paused": ("‖", "warning"),
    "finished": ("✓", "secondary"),
    "stopped": ("■", "secondary"),
    "failed": ("✗", "error"),
    "crashed": ("✗", "error"),
    "stalled": ("…", "warning"),
    "unknown": ("?", "secondary"),
}


def duration(seconds: float | None) -> str:
    """`42 s`, `3:20 min`, `2:05 h`, `3.1 d`; `–` where nobody knows."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{seconds / 86400:.1f} d"


def age(seconds: float | None) -> str:
    """How long ago, in one unit."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def percent(fraction: float) -> str:
    """`23.5`, without the sign, as columns say it once; `–` where there is none."""
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else "–"


def change(first: float, now: float) -> str:
    """`57.2→23.5`; one number where nothing changed yet."""
    if not math.isfinite(first) or not math.isfinite(now):
        return percent(now if math.isfinite(now) else first)
    return f"{percent(first)}→{percent(now)}"


def number(value: float) -> str:
    """A metric's value in at most eight characters or so."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.0f}" if size >= 1e4 or value == int(value) else f"{value:.4g}"


def size(count: float) -> str:
    """Bytes."""
    if not math.isfinite(count):
        return "–"
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def steps(step: int | None, end: int | None) -> str:
    """`113/190`; thousands are counted where there are very many."""
    large = max(step or 0, end or 0) >= 100_000
    shown = ["–" if each is None else f"{each / 1000:.4g}k" if large else str(each) for each in (step, end)]
    return "/".join(shown)


def sparkline(values: NDArray[np.float32], width: int) -> str:
    """Seven heights of blocks (a full one would touch the line above), each a mean; `·` where nothing finite was."""
    # some hundred values a block tell its mean as well as all
    values = values[:: max(1, len(values) // (256 * max(1, width)))]
    count = min(width, len(values))
    if count < 1:
        return ""
    edges = np.arange(count) * len(values) // count
    finite = np.isfinite(values)
    known = np.add.reduceat(finite, edges, dtype=np.int64)
    sums = np.add.reduceat(np.where(finite, values, 0), edges, dtype=np.float64)
    means = sums[known > 0] / known[known > 0]
    low, high = (means.min(), means.max()) if len(means) else (0.0, 0.0)
    heights = np.full(count, -1)
    heights[known > 0] = np.rint(6 * (means - low) / (high - low)) if high > low else 2
    return "".join("·" if height < 0 else "▁▂▃▄▅▆▇"[height] for height in heights)


def printable(text: str) -> str:
    """Text from a file without what would move the cursor or colour the terminal."""
    return "".join(char if char.isprintable() else " " if char in "\t\r\n" else "�" for char in text)
