"""One utterance as a row of fields: a line of a manifest, or the `.json` beside a recording in a tar."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from whisper_min.data.examples import Example

AUDIO_COLUMNS = ("audio_filepath", "audio", "path", "file")
TEXT_COLUMNS = ("text", "sentence", "transcript")
# Read from a manifest beside audio and text; other columns are left alone.
KNOWN_COLUMNS = ("duration", "offset", "speaker", "language", "id")
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"),  # through soundfile
    *(".m4a", ".aac", ".mp4", ".webm", ".mkv", ".wma", ".amr", ".g722", ".3gp"),  # through ffmpeg
)


def read_row(path: Path, where: str, row: dict[str, Any]) -> Example:
    """One example from a row of a manifest, or of the .json in a tar; ValueError says what is wrong with it."""
    audio_column = next((column for column in AUDIO_COLUMNS if row.get(column)), None)
    if audio_column is None:
        raise ValueError(f"names no audio; add one of {', '.join(AUDIO_COLUMNS)}")
    if not isinstance(row[audio_column], str):
        raise ValueError(f"{audio_column} is not a path but {type(row[audio_column]).__name__}")
    text_column = next((column for column in TEXT_COLUMNS if row.get(column) is not None), None)
    if text_column is None:
        raise ValueError(f"has no text; add one of {', '.join(TEXT_COLUMNS)} (empty where there is no transcript)")
    if not isinstance(row[text_column], str):
        raise ValueError(f"{text_column} is not text but {type(row[text_column]).__name__}")
    offset, duration = (_seconds(row, column) for column in ("offset", "duration"))
    if duration == 0:
        raise ValueError("duration is 0; remove the entry")
    audio_filepath = Path(row[audio_column])
    return Example(
        id=str(row.get("id") or (row[audio_column] if offset is None else f"{row[audio_column]}@{offset:g}")),
        audio_filepath=path.parent / audio_filepath,
        text=row[text_column].strip(),
        where=where,
        offset=offset,
        duration=duration,
        speaker=str(row["speaker"]) if row.get("speaker") not in (None, "") else None,
        language=str(row["language"]) if row.get("language") else None,
    )


def _seconds(row: dict[str, Any], column: str) -> float | None:
    if row.get(column) in (None, ""):
        return None
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"{column} {row[column]!r} is not a number of seconds") from None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{column} {row[column]} is not a number of seconds from 0 up")
    return value
