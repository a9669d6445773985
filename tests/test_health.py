"""Loops are what Whisper itself takes for them."""

from __future__ import annotations

import pytest
from whisper.utils import compression_ratio

from whisper_min.scoring.health import LOOP_COMPRESSION_RATIO, is_loop


def test_nothing_and_speech_are_no_loops() -> None:
    """An empty transcript, one word, sentences as people say them."""
    for text in (
        "",
        "Yes.",
        "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
        "The quick brown fox jumps over the lazy dog while seven wizards quietly box his brother's jug of ale.",
    ):
        assert not is_loop(text)


@pytest.mark.parametrize("unit", ["I'm going to ", "the ", "Codec Sect ", "ha"])
def test_repetition_is_a_loop(unit: str) -> None:
    """A few words over and over, as far as 224 tokens go."""
    assert is_loop(unit * 70)


@pytest.mark.parametrize("unit", ["no, ", "thank you so much for watching. "])
def test_the_threshold_is_whispers(unit: str) -> None:
    """Growing repetition turns exactly where `transcribe` would decode again."""
    turned = [is_loop(unit * count) for count in range(1, 40)]
    assert turned == [compression_ratio(unit * count) > LOOP_COMPRESSION_RATIO for count in range(1, 40)]
    assert not turned[0]
    assert turned[-1]
    assert turned == sorted(turned)
