"""How ffmpeg is asked to decode a file that nobody vouches for; standard library only."""

from __future__ import annotations

from pathlib import Path

# Containers of sound. A playlist (HLS, ffconcat, DASH) that is called `clip.m4a` would have ffmpeg read other files.
FORMATS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "g722"),
    *("gsm", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "ogg", "rm", "tak", "tta", "voc", "w64", "wav"),
    "wv",
)


def arguments(path: Path, offset: float, seconds: float, rate: int, sample_format: str) -> list[str]:
    """Arguments that write so many seconds of a file from an offset, mono at a rate, to stdout.

    The path is never read as an option or a protocol, and no other file or address is opened on its behalf.
    """
    return [
        *("-nostdin", "-v", "error", "-threads", "1", "-protocol_whitelist", "file"),
        *("-format_whitelist", ",".join(FORMATS)),
        *(("-ss", str(offset)) if offset else ()),
        *("-t", str(seconds)),
        *("-i", f"file:{path.resolve()}", "-vn", "-ac", "1", "-ar", str(rate), "-f", sample_format, "-"),
    ]
