"""What a word error rate does not show: repetition, endless text, words where nobody speaks."""

from __future__ import annotations

from whisper.utils import compression_ratio

# whisper/transcribe.py: text that compresses better than this repeats itself.
LOOP_COMPRESSION_RATIO = 2.4


def is_loop(text: str) -> bool:
    """Whether a transcript repeats itself, by Whisper's own threshold."""
    return bool(text) and compression_ratio(text) > LOOP_COMPRESSION_RATIO
