"""A clip in the terminal: waveform's outline, log-mel spectrogram, axes in s and Hz, legend in dB."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from whisper_min.ui import colourmaps
from whisper_min.ui.spectrogram import DECIBELS, TOP_MEL, Clip, hz_to_mel, outline, resize, time_ticks

FREQUENCIES = ((8000, "8k"), (4000, "4k"), (2000, "2k"), (1000, "1k"), (500, "500"), (200, "200"))
SHADES = " .:-=+*#%@"  # from silence to the loudest, for terminals without colour or block characters
DIM = Style(dim=True)
# Cells left of the picture for Hz, and right of it for dB.
LEFT, RIGHT = 5, 8
# Below this width there is no legend.
WIDE = 60
# dots of a braille cell from the top down, in its left and right half
BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def draw(clip: Clip, width: int, height: int, colours: str, ascii_only: bool = False) -> list[list[Segment]]:
    """The whole picture, `height` rows of segments; narrow or low ones leave axes and waveform out."""
    legend = RIGHT if width >= WIDE else 0
    across = max(width - LEFT - legend, 1)
    wave = 0 if height < 7 else 1 if height < 10 else 2 if height < 16 else 4
    down = max(height - wave - 1, 1)
    values = clip.decibels[::-1] / np.float32(DECIBELS) + 1  # the highest frequency first
    if ascii_only:
        picture, bar = _shades(values, down, across), _shades(_ramp(down), down, 2)
    else:
        picture, bar = _half_blocks(values, down, across, colours), _half_blocks(_ramp(2 * down), down, 2, colours)
    rows: list[list[Segment]] = []
    for number, waves in enumerate(_outline(clip, wave, across, ascii_only)):
        said = "Hz".rjust(LEFT - 1) if number == wave - 1 else ""
        rows.append([Segment(said.ljust(LEFT), DIM), Segment(waves), Segment(" " * legend)])
    labels = _frequency_labels(down, ascii_only)
    beside = {0: "0 dB", down // 2: f"{-DECIBELS / 2:.0f}", down - 1: f"{-DECIBELS:.0f}"}
    for number, (line, shade) in enumerate(zip(picture, bar, strict=True)):
        row = [Segment(labels[number], DIM), *line]
        if legend:
            said = beside[number] if number in beside and (down >= 4 or number != down // 2) else ""
            row += [Segment(" "), *shade, Segment(f" {said}".ljust(legend - 3), DIM)]
        rows.append(row)
    rows.append([Segment(" " * LEFT + _time_axis(clip.seconds, across + legend, across, ascii_only), DIM)])
    return rows[:height]


def _ramp(rows: int) -> npt.NDArray[np.float32]:
    """The legend's values: the loudest at the top."""
    return np.linspace(1, 0, max(rows, 1), dtype=np.float32)[:, None]


def _half_blocks(values: npt.NDArray[np.float32], rows: int, columns: int, colours: str) -> list[list[Segment]]:
    """Two values a cell: the upper one is the block's colour, the lower one what is behind it."""
    # 64 levels: more are not told apart, and equal neighbours become one segment
    levels = (resize(values, 2 * rows, columns).clip(0, 1) * 63).round().astype(int)
    made = []
    for upper, lower in zip(levels[::2].tolist(), levels[1::2].tolist(), strict=True):
        cells = itertools.groupby(zip(upper, lower, strict=True))
        made.append([Segment("▀" * len(list(same)), _pair(*pair, colours)) for pair, same in cells])
    return made


@functools.lru_cache(maxsize=16_384)
def _pair(upper: int, lower: int, colours: str) -> Style:
    table = colourmaps.table(colours)
    above, below = (f"#{bytes(table[level * 255 // 63]).hex()}" for level in (upper, lower))
    return Style(color=above, bgcolor=below)


def _shades(values: npt.NDArray[np.float32], rows: int, columns: int) -> list[list[Segment]]:
    """One character a value."""
    levels = (resize(values, rows, columns).clip(0, 1) * (len(SHADES) - 1)).round().astype(int)
    return [[Segment("".join(SHADES[level] for level in row))] for row in levels.tolist()]


def _outline(clip: Clip, rows: int, columns: int, ascii_only: bool) -> list[str]:
    """The waveform between its lowest and highest samples, in braille dots or `|`."""
    if not rows:
        return []
    across, down = (1, 1) if ascii_only else (2, 4)
    dots = rows * down
    ends = outline(clip.waveform, columns * across)  # (columns * across, 2) in [-1, 1]
    first = np.floor((1 - ends[:, 1]) / 2 * dots - 1e-6).astype(int).clip(0, dots - 1)
    last = np.floor((1 - ends[:, 0]) / 2 * dots - 1e-6).astype(int).clip(first, dots - 1)
    places = np.arange(dots)[:, None]
    filled = (first <= places) & (places <= last)  # (dots, columns * across)
    if ascii_only and rows == 1:
        heights = (np.abs(ends).max(axis=1) * (len(SHADES) - 1)).round().astype(int)
        return ["".join(SHADES[height] for height in heights)]
    if ascii_only:
        return ["".join("|" if dot else " " for dot in row) for row in filled]
    cells = np.zeros((rows, columns), int)
    for half, bits in enumerate(BRAILLE):
        for quarter, bit in enumerate(bits):
            cells |= np.where(filled[quarter::4, half::2], bit, 0)
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells.tolist()]


def _frequency_labels(rows: int, ascii_only: bool) -> list[str]:
    """What stands left of each row of the picture, the highest frequency first."""
    edge, tick = ("|", "+") if ascii_only else ("│", "┤")
    labels = [" " * (LEFT - 1) + edge] * rows
    free = -1
    for hertz, name in FREQUENCIES:
        row = min(int((1 - hz_to_mel(hertz) / TOP_MEL) * rows), rows - 1)
        if row > free:
            labels[row] = name.rjust(LEFT - 1) + tick
            free = row
    return labels


def _time_axis(seconds: float, room: int, columns: int, ascii_only: bool) -> str:
    """Ticks with their seconds to the right of them, the last with its unit."""
    tick = "'" if ascii_only else "╵"
    ticks = time_ticks(seconds, columns // 8)
    line = ""
    for number, at in enumerate(ticks):
        place = min(round(columns * at / max(seconds, 1e-9)), columns - 1)
        said = f"{tick}{at:g}" + (" s" if number == len(ticks) - 1 else "")
        if place >= len(line) and place + len(said) <= room:
            line = line.ljust(place) + said
    return line.ljust(room)


class SpectrogramView(Widget):
    """Shows a clip, or a sentence where there is none."""

    DEFAULT_CSS = "SpectrogramView { height: 1fr; min-height: 3; }"

    def __init__(self) -> None:
        super().__init__()
        self.ascii_only = False
        self.colours = colourmaps.NAMES[0]
        self.clip: Clip | None = None
        self.message = ""
        self._marked: float | None = None
        self._drawn: tuple[object, list[list[Segment]]] = (None, [])

    def show(self, clip: Clip | None, message: str = "") -> None:
        """Draw a clip, or say why there is none."""
        self.clip, self.message, self._marked = clip, message, None
        self.refresh()

    def redraw(self, *, colours: str | None = None, ascii_only: bool | None = None) -> None:
        """Change how it is drawn."""
        self.colours = colours or self.colours
        self.ascii_only = self.ascii_only if ascii_only is None else ascii_only
        self.refresh()

    def mark(self, seconds: float | None) -> None:
        """Mark a moment on the time axis, the one that is heard; None takes the mark away."""
        self._marked = seconds
        self.refresh(Region(0, max(self.size.height - 1, 0), self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One line of the picture; the whole of it is drawn once for a size."""
        width, height = self.size
        if self.clip is None:
            return self._sentence(y, width, height)
        wanted = (id(self.clip), width, height, self.colours, self.ascii_only)
        if self._drawn[0] != wanted:
            self._drawn = (wanted, draw(self.clip, width, height, self.colours, self.ascii_only))
        rows = self._drawn[1]
        strip = self._strip(rows[y] if y < len(rows) else [], width)
        if self._marked is None or y != height - 1:
            return strip
        across = max(width - LEFT - (RIGHT if width >= WIDE else 0), 1)
        at = LEFT + min(int(across * self._marked / self.clip.seconds), across - 1)
        head = Strip([Segment("^" if self.ascii_only else "▲", Style(bold=True) + self.rich_style)])
        return Strip.join([strip.crop(0, at), head, strip.crop(at + 1, width)])

    def _sentence(self, y: int, width: int, height: int) -> Strip:
        lines = _wrap(self.message, max(width - 4, 8))
        line = y - max((height - len(lines)) // 2, 0)
        text = f"  {lines[line]}" if 0 <= line < len(lines) else ""
        return self._strip([Segment(set_cell_size(text, width) if text else "", DIM)], width)

    def _strip(self, segments: Iterable[Segment], width: int) -> Strip:
        base = self.rich_style
        return Strip(Segment.apply_style(segments, base)).adjust_cell_length(width, base).simplify()


def _wrap(text: str, width: int) -> Sequence[str]:
    """Lines of whole words; long ones, such as paths, are cut where a line ends."""
    import textwrap

    return textwrap.wrap(text, width)
