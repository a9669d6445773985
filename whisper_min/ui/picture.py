"""A clip's spectrogram as files: PNG, the bare picture, and SVG, with axes, legend, waveform and the transcripts.

Both are written by hand: a PNG is three chunks around zlib, and an SVG is text.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from rich.text import Text

from whisper_min import runs
from whisper_min.ui import colourmaps
from whisper_min.ui.diff import plain
from whisper_min.ui.spectrogram import (
    DECIBELS,
    TOP_MEL,
    Clip,
    Floats,
    hz_to_mel,
    outline,
    resize,
    time_ticks,
)

# Pixels a mel bin and, for short clips, a frame; no picture is wider than the last.
BIN_PIXELS, LEAST_WIDTH, MOST_WIDTH = 4, 800, 4000
FREQUENCIES = (100, 500, 1000, 2000, 4000, 8000)

# The SVG's boxes, in its own units.
WIDTH, LEFT, RIGHT, WAVE, PICTURE, CHARACTERS = 960, 64, 76, 56, 300, 104
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK, FAINT = "#24292f", "#8c959f"
STYLES = {"substituted": "#9a6700", "deleted": "#cf222e", "inserted": "#0969da"}


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of (height, width, 3) bytes."""
    height, width, _ = pixels.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # every line begins with its filter: 0, none
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def pixels(clip: Clip, colours: str) -> npt.NDArray[np.uint8]:
    """The spectrogram in colours, low frequencies at the bottom, (height, width, 3)."""
    values: Floats = clip.decibels[::-1] / np.float32(DECIBELS) + 1
    frames = values.shape[1]
    if frames > MOST_WIDTH:
        values = resize(values, len(values), MOST_WIDTH)
    across = max(1, -(-LEAST_WIDTH // frames))
    return colourmaps.colour(values, colours).repeat(BIN_PIXELS, 0).repeat(across, 1)


def svg(clip: Clip, colours: str, title: str, lines: Sequence[Text] = ()) -> str:
    """The picture with axes in s and Hz, a legend in dB, the waveform's outline and lines of text below."""
    width, top = WIDTH - LEFT - RIGHT, 40
    wave_middle, picture_top = top + WAVE / 2, top + WAVE + 8
    bottom = picture_top + PICTURE
    height = bottom + 40 + (16 * len(lines) + 16 if lines else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="{FONT}" font-size="11" fill="{INK}">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="13" font-weight="bold">{escape(plain(title))}</text>',
    ]
    ends = outline(clip.waveform, 800)
    across = np.linspace(LEFT, LEFT + width, len(ends))
    edge = [*zip(across, ends[:, 1], strict=True), *reversed(list(zip(across, ends[:, 0], strict=True)))]
    points = " ".join(f"{x:.1f},{wave_middle - WAVE / 2 * y:.1f}" for x, y in edge)
    parts.append(f'<polygon points="{points}" fill="{FAINT}" stroke="{FAINT}" stroke-width="0.5"/>')
    image = base64.b64encode(png(pixels(clip, colours))).decode()
    parts.append(
        f'<image x="{LEFT}" y="{picture_top}" width="{width}" height="{PICTURE}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{image}"/>'
    )
    for seconds in time_ticks(clip.seconds, 12):
        x = LEFT + width * seconds / clip.seconds
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{INK}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{seconds:g}</text>')
    parts.append(f'<text x="{LEFT + width}" y="{bottom + 32}" text-anchor="end" fill="{FAINT}">s</text>')
    for hertz in FREQUENCIES:
        y = bottom - PICTURE * hz_to_mel(hertz) / TOP_MEL
        parts.append(f'<path d="M{LEFT - 5} {y:.1f}h5" stroke="{INK}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{hertz}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{picture_top - 8}" text-anchor="end" fill="{FAINT}">Hz</text>')
    parts += _legend(colours, LEFT + width + 14, picture_top)
    for number, line in enumerate(lines):
        parts.append(
            f'<text x="{LEFT}" y="{bottom + 56 + 16 * number}" xml:space="preserve" font-size="12">'
            f"{_tspans(line)}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(colours: str, x: float, top: float) -> list[str]:
    """A bar from the loudest colour to the quietest, with dB beside it."""
    bar = colourmaps.table(colours)[::-4, None, :].repeat(2, 1)
    image = base64.b64encode(png(bar)).decode()
    parts = [
        f'<image x="{x}" y="{top}" width="12" height="{PICTURE}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{image}"/>'
    ]
    for decibels in range(0, -81, -20):
        y = top - PICTURE * decibels / DECIBELS
        said = f"{decibels} dB" if decibels == 0 else f"−{-decibels}"
        parts.append(f'<text x="{x + 16}" y="{y + 4:.1f}">{said}</text>')
    return parts


def _tspans(line: Text) -> str:
    """A line of marked words; a span's style is the word for its kind."""
    made, at = [], 0
    for start, end, style in sorted((span.start, span.end, str(span.style)) for span in line.spans):
        made.append(escape(line.plain[at:start]))
        marks = {
            "substituted": ' font-weight="bold"',
            "wrong": ' font-weight="bold"',
            "deleted": ' text-decoration="line-through"',
            "inserted": ' font-weight="bold" text-decoration="underline"',
        }.get(style, "")
        fill = FAINT if style == "label" else STYLES.get(style, INK)
        made.append(f'<tspan fill="{fill}"{marks}>{escape(line.plain[start:end])}</tspan>')
        at = end
    return "".join(made) + escape(line.plain[at:])


def file_name(*parts: object) -> str:
    """A file's name made of anything: no folders, no blanks, never hidden."""
    names = (re.sub(r"[^\w.-]+", "-", plain(part)).strip("-.") for part in parts)
    return "_".join(name[-60:] for name in names if name) or "clip"


def write(clip: Clip, colours: str, title: str, lines: Sequence[Text], folder: Path, name: str) -> Path:
    """Write NAME.png and NAME.svg into a folder; the SVG's path."""
    (folder / f"{name}.png").write_bytes(png(pixels(clip, colours)))
    path = folder / f"{name}.svg"
    runs.write_atomic(path, svg(clip, colours, title, lines))
    return path


def export(clip: Clip, colours: str, title: str, lines: Sequence[Text], run: Path, name: str) -> Path:
    """Write NAME.svg and NAME.png into the run's `exports/`, or where that is not allowed, into the current folder.

    Returns the SVG's path; OSError where neither folder takes it.
    """
    for folder in (run / "exports", Path.cwd()):
        try:
            folder.mkdir(exist_ok=True)
            return write(clip, colours, title, lines, folder, name)
        except OSError as error:
            refused = error
    raise refused
