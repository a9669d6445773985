"""Subtitles beside long recordings: cues are parsed and joined into clips that Whisper hears in one window.

SubRip (`.srt`) as players read it, and WebVTT (`.vtt`, https://www.w3.org/TR/webvtt1/) without its regions and styles.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper.audio import CHUNK_LENGTH

from whisper_min.config import InputError
from whisper_min.data.examples import Example, Segment
from whisper_min.data.tokens import language_code

SUFFIXES = (".srt", ".vtt")
# A pause of so many seconds between two cues ends a clip: nobody wrote down what is in it.
PAUSE_SECONDS = 3.0

_TIME = r"(?:(\d{1,5}):)?([0-5]?\d):([0-5]?\d)[.,](\d{3})"
# Behind the times WebVTT has a cue's settings, and SubRip may have coordinates.
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
# <i>, </i>, <c.loud>, <v Name>, <font color=red>, the times of single words, and SubRip's {\an8}; no other < is a tag.
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
_LANGUAGE = re.compile(r"Language:\s*(\S+)", re.IGNORECASE)
_NO_CUE = ("NOTE", "STYLE", "REGION")


@dataclass(frozen=True)
class Cue:
    """One subtitle: its times in seconds, its text without tags, who says it, and its line in the file."""

    start: float
    end: float
    text: str
    speaker: str | None
    line: int


def stems(path: Path) -> list[str]:
    """Stems of recordings that subtitles may be of: `talk.en` and `talk` for `talk.en.srt`."""
    return [path.stem, *([Path(path.stem).stem] if language_of(path) else [])]


def language_of(path: Path) -> str | None:
    """The language in a name such as `talk.en.srt`."""
    return language_code(Path(path.stem).suffix[1:])


def examples(path: Path, content: str, recording: Path, name: str) -> list[Example]:
    """The clips of a recording that its subtitles make, each with the text of the one before as prompt.

    Parameters
    ----------
    path, content
        the subtitles
    recording : Path
        what they are of
    name : str
        the recording's name in the clips' ids

    Raises InputError with all faulty lines.
    """
    cues, language = parse(path, content)
    made: list[Example] = []
    for group in join(cues):
        start, speakers = group[0].start, {cue.speaker for cue in group}
        text = " ".join(cue.text for cue in group)
        made.append(
            Example(
                id=f"{name}@{start:g}",
                audio_filepath=recording,
                text=text,
                where=f"{path}, line {group[0].line}",
                offset=start,
                duration=round(group[-1].end - start, 3),
                speaker=speakers.pop() if len(speakers) == 1 else None,
                language=language or language_of(path),
                segments=tuple(
                    Segment(round(cue.start - start, 3), round(cue.end - start, 3), cue.text) for cue in group
                ),
                prompt=made[-1].text if made else None,
            )
        )
    return made


def join(cues: Sequence[Cue]) -> Iterator[list[Cue]]:
    """Neighbouring cues, as many as Whisper hears in one window; a pause begins a new group, no cue is cut."""
    group: list[Cue] = []
    for cue in cues:
        # milliseconds, as they were written: sums of floats would tell 30 s from 30 s
        too_long = group and round(cue.end - group[0].start, 3) > CHUNK_LENGTH
        if group and (too_long or round(cue.start - group[-1].end, 3) > PAUSE_SECONDS):
            yield group
            group = []
        group.append(cue)
    if group:
        yield group


def parse(path: Path, content: str) -> tuple[list[Cue], str | None]:
    """(cues, the language that a WebVTT header names) of a file's content; InputError with all that is wrong."""
    is_vtt = path.suffix.lower() == ".vtt"
    cues: list[Cue] = []
    faults: list[str] = []
    language = None
    blocks = list(_blocks(content))
    if is_vtt:
        is_headed = blocks and blocks[0][1][0].split()[0] == "WEBVTT"
        first, header = blocks.pop(0) if is_headed else (1, [])
        if at := next((index for index, line in enumerate(header) if "-->" in line), None):
            faults.append(f"{path}, line {first + at}: times in the header; put an empty line before each cue")
        if not header:
            faults.append(f"{path}, line 1: does not begin with WEBVTT; add that line and an empty one")
        language = next(
            (language_code(match[1].split("-")[0]) for match in map(_LANGUAGE.match, header) if match), None
        )
    for number, lines in blocks:
        if is_vtt and lines[0].split()[0] in _NO_CUE:
            continue
        try:
            cues.append(_cue(number, lines, is_vtt))
        except ValueError as error:
            faults.append(f"{path}, {error}")
    for before, cue in itertools.pairwise(cues):
        if cue.start < before.end:
            faults.append(
                f"{path}, line {cue.line}: begins at {cue.start:.3f} s, before the cue of line {before.line} ends at "
                f"{before.end:.3f} s; order the cues, and let none overlap"
            )
    if not cues and not faults:
        faults.append(f"{path}: holds no cues")
    if faults:
        raise InputError(faults)
    return cues, language


def _blocks(content: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of what stands between empty lines."""
    lines = enumerate(re.split(r"\r\n|\r|\n", content), start=1)
    for is_empty, block in itertools.groupby(lines, key=lambda line: not line[1].strip()):
        if not is_empty:
            numbered = list(block)
            yield numbered[0][0], [line for _, line in numbered]


def _cue(number: int, lines: Sequence[str], is_vtt: bool) -> Cue:
    """The cue of a block that begins at a line; ValueError says which line is wrong and why."""
    # a cue may begin with its number or name
    at = next((index for index, line in enumerate(lines[:2]) if "-->" in line), None)
    if at is None:
        raise ValueError(
            f"line {number}: {lines[0].strip()[:40]!r} has no times; write them as 00:00:01.000 --> 00:00:02.500, and "
            "no empty line inside a cue"
        )
    times = _TIMES.fullmatch(lines[at])
    if times is None:
        raise ValueError(f"line {number + at}: {lines[at].strip()!r} is not 00:00:01.000 --> 00:00:02.500")
    start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
    if inner := next((index for index, line in enumerate(lines) if index > at and _TIMES.fullmatch(line)), None):
        raise ValueError(f"line {number + inner}: times inside a cue; put an empty line before each cue")
    marked = " ".join(lines[at + 1 :])
    text = _TAG.sub("", marked)
    text = " ".join((html.unescape(text) if is_vtt else text).split())
    if not text:
        raise ValueError(f"line {number + at}: the cue has no text; write what is said, or remove it")
    if end <= start:
        raise ValueError(f"line {number + at}: ends at {end:.3f} s, not after its start at {start:.3f} s; correct it")
    if round(end - start, 3) > CHUNK_LENGTH:
        raise ValueError(
            f"line {number + at}: {end - start:.1f} s, but Whisper hears {CHUNK_LENGTH} s; split the cue into two"
        )
    voices = {html.unescape(voice).strip() for voice in _VOICE.findall(marked)}
    return Cue(start, end, text, voices.pop() if len(voices) == 1 else None, number + at)


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, milliseconds = (int(part or 0) for part in parts)
    return (3_600_000 * hours + 60_000 * minutes + 1_000 * seconds + milliseconds) / 1_000
