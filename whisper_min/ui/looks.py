"""How runs are told apart: a colour and a marker each, by the run's number, the same on every screen.

There are as many markers as no theme has colours, so that two runs of one colour have different markers, and without
colours the markers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.style import Style
from textual.app import App
from textual.color import Color

from whisper_min.ui.themes import run_colour

MARKERS = "●■▲◆▼○□△◇"
ASCII_MARKERS = "oxa#v*%@&"


@dataclass(frozen=True)
class Look:
    """A run's colour and marker."""

    colour: str
    marker: str

    @property
    def style(self) -> Style:
        """The colour as a style."""
        return Style(color=self.colour)

    def dimmed(self, background: Color, share: float = 0.4) -> Style:
        """The colour faded into the background; `share` of it stays."""
        return Style(color=background.blend(Color.parse(self.colour), share, alpha=1.0).rich_color)


def look_of(number: int, app: App[Any], *, ascii_only: bool = False) -> Look:
    """The look of the run with this number in the app's theme."""
    colour = run_colour(number, app.theme, app.current_theme.dark)
    return Look(colour, marker_of(number, ascii_only=ascii_only))


def marker_of(number: int, *, ascii_only: bool = False) -> str:
    """The marker of the run with this number."""
    markers = ASCII_MARKERS if ascii_only else MARKERS
    return markers[number % len(markers)]
