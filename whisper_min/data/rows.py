"""One utterance as a row of fields: a line of a manifest, or the `.json` beside a recording in a tar."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whisper_min.data.examples import AUDIO_COLUMNS, TEXT_COLUMNS, TIMESTAMP_SECONDS, Example, Segment

# No recording is longer (31 years): beyond it times lose their milliseconds, and samples are no longer counted exactly.
LONGEST_SECONDS = 1e9


def read_row(
    path: Path,
    where: str,
    row: dict[str, Any],
    audio_columns: Sequence[str] = AUDIO_COLUMNS,
    text_columns: Sequence[str] = TEXT_COLUMNS,
) -> Example:
    """One example from a row of a manifest, or of the .json in a tar; ValueError says what is wrong with it."""
    audio_column = next((column for column in audio_columns if row.get(column)), None)
    if audio_column is None:
        raise ValueError(f"names no audio; add one of {', '.join(audio_columns)}")
    if not isinstance(row[audio_column], str):
        raise ValueError(f"{audio_column} is not a path but {type(row[audio_column]).__name__}")
    text_column = next((column for column in text_columns if row.get(column) is not None), None)
    if text_column is None:
        raise ValueError(f"has no text; add one of {', '.join(text_columns)} (empty where there is no transcript)")
    if not isinstance(row[text_column], str):
        raise ValueError(f"{text_column} is not text but {type(row[text_column]).__name__}")
    offset, duration = (_seconds(row, column) for column in ("offset", "duration"))
    if duration == 0:
        raise ValueError("duration is 0; remove the entry")
    audio_filepath = Path(row[audio_column])
    text = row[text_column].strip()
    if not isinstance(row.get("prompt") or "", str):
        raise ValueError(f"prompt is not text but {type(row['prompt']).__name__}")
    return Example(
        id=str(row.get("id") or (row[audio_column] if offset is None else f"{row[audio_column]}@{offset:g}")),
        audio_filepath=path.parent / audio_filepath,
        text=text,
        where=where,
        offset=offset,
        duration=duration,
        speaker=str(row["speaker"]) if row.get("speaker") not in (None, "") else None,
        language=str(row["language"]) if row.get("language") else None,
        segments=_segments(row.get("segments"), text, duration),
        prompt=(row.get("prompt") or "").strip() or None,
    )


def _segments(value: Any, text: str, duration: float | None) -> tuple[Segment, ...]:
    """The column `segments`: a list, or in a table's cell its JSON; ValueError says all that is wrong with it."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"segments is not JSON ({error})") from None
    if not value:
        return ()
    form = 'write [{"start": 0.0, "end": 2.5, "text": "…"}, …]'
    if not isinstance(value, list):
        raise ValueError(f"segments is not a list but {type(value).__name__}; {form}")
    segments: list[Segment] = []
    faults: list[str] = []
    for number, entry in enumerate(value, start=1):
        if not (isinstance(entry, dict) and isinstance(entry.get("text"), str) and entry["text"].strip()):
            faults.append(f"segment {number} is not an object with a text; {form}")
            continue
        try:
            start, end = (_seconds(entry, column) for column in ("start", "end"))
        except ValueError as error:
            faults.append(f"segment {number}: {error}")
            continue
        if start is None or end is None:
            faults.append(f"segment {number} has no {'start' if start is None else 'end'}; {form}")
            continue
        if start >= end:
            faults.append(f"segment {number} begins at {start:g} s and ends at {end:g} s; correct its times")
        if segments and start < segments[-1].end:
            faults.append(
                f"segment {number} begins at {start:g} s, before segment {number - 1} ends at {segments[-1].end:g} s; "
                "order them, without overlap"
            )
        if duration is not None and end > duration + TIMESTAMP_SECONDS:  # a step beyond the end is rounding
            faults.append(f"segment {number} ends at {end:g} s, beyond the duration of {duration:g} s; correct one")
        segments.append(Segment(start, end, entry["text"].strip()))
    # without any whitespace, for not every language has spaces between its sentences
    if not faults and "".join("".join(each.text for each in segments).split()) != "".join(text.split()):
        faults.append("the segments' texts do not make up the text; write the same words in both")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(segments)


def _seconds(row: dict[str, Any], column: str) -> float | None:
    if row.get(column) in (None, ""):
        return None
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"{column} {row[column]!r} is not a number of seconds") from None
    except OverflowError:  # JSON has whole numbers of any length
        value = math.inf
    if not 0 <= value <= LONGEST_SECONDS:
        raise ValueError(f"{column} {value:g} is not a number of seconds from 0 up to {LONGEST_SECONDS:g}")
    return value
