"""Whisper's own normalisers, by language."""

from __future__ import annotations

import pytest
import whisper
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

from whisper_min.data.normalizer import normalizer


@pytest.mark.parametrize(("language", "kind"), [("en", EnglishTextNormalizer), ("de", BasicTextNormalizer)])
def test_the_normaliser_follows_the_language(language: str, kind: type) -> None:
    """Named with whisper's version, because scores depend on it."""
    name, normalize = normalizer(language)
    assert isinstance(normalize, kind)
    assert name == f"whisper-{'english' if language == 'en' else 'basic'}-{whisper.__version__}"
