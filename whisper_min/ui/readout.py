"""The lines of text above and below the charts: the settings, which run is which, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import set_cell_size
from rich.style import Style
from rich.text import Text

from whisper_min.ui.axes import Kind, format_value
from whisper_min.ui.looks import Look
from whisper_min.ui.plot import Curve
from whisper_min.ui.view import View
from whisper_min.ui.words import printable

NAME_WIDTH = 20


def legend(runs: Sequence[tuple[str, Look]], selected: str | None) -> Text:
    """Which run is which, the selected one bold where there are others."""
    text = Text()
    for name, look in runs:
        text.append(f"{look.marker} ", look.style)
        text.append(f"{printable(name)}   ", Style(bold=name == selected and len(runs) > 1))
    return text


def numbers(curves: Sequence[tuple[str, Curve]], kind: Kind, view: View) -> Text:
    """A line a run: the value now, at the crosshair, the original's, the lowest and the highest."""
    lines = []
    for name, curve in curves:
        line = Text()
        line.append(f"{curve.look.marker} ", curve.look.style)
        line.append(f"{set_cell_size(printable(name), NAME_WIDTH)} ", Style(bold=True))
        line.append(f" now {format_value(curve.last, kind):<8}")
        if view.cursor is not None:
            line.append(f" here {format_value(curve.value_at(view.cursor), kind):<8}", Style(bold=True))
        if math.isfinite(curve.base):
            line.append(f" original {format_value(curve.base, kind):<8}")
        if np.isfinite(curve.shown).any():
            for word, index in (("lowest", np.nanargmin(curve.shown)), ("highest", np.nanargmax(curve.shown))):
                extreme, at = float(curve.shown[index]), float(curve.x[index])
                line.append(f" {word} {format_value(extreme, kind)} ({view.describe_x(at)})")
        lines.append(line)
    return Text("\n").join(lines)


def settings(view: View, place: str, key: str, ascii_only: bool) -> Text:
    """How the charts are drawn, where on the pages one is, and where the crosshair is."""
    said = [place] * bool(place) + view.describe() + ["log y"] * (key in view.log_y)
    text = Text((" | " if ascii_only else " · ").join(said))
    if not key:
        text = Text(f"no metric is called {printable(view.wanted)}" if view.wanted else "no metrics yet")
    if view.cursor is not None:
        text.append(f"   {view.describe_x(view.cursor)}", Style(bold=True))
    return text
