"""Whisper's normalisers: what is left of a text when words are counted."""

from __future__ import annotations

from collections.abc import Callable

import whisper
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer


def normalizer(language: str) -> tuple[str, Callable[[str], str]]:
    """(name, function): Whisper's English normaliser for English, its basic one for other languages."""
    if language == "en":
        return f"whisper-english-{whisper.__version__}", EnglishTextNormalizer()
    return f"whisper-basic-{whisper.__version__}", BasicTextNormalizer()
