"""Loops are what Whisper itself takes for them; casing in closed form; what got worse is said, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from whisper.utils import compression_ratio

from whisper_min.scoring.health import (
    LOOP_COMPRESSION_RATIO,
    Casing,
    Health,
    Loops,
    casing,
    flags,
    is_loop,
)
from whisper_min.scoring.languages import Language, Languages
from whisper_min.scoring.timestamps import Timestamps


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


# ---- Casing and punctuation.


def test_casing_in_closed_form() -> None:
    """Five transcripts with cased letters; one in digits and one in Chinese are left out."""
    texts = ["So it is, Mr. Fox.", "and on", "HELLO!", '"Why?" he said. "Why?"', "...¿Que?", "1, 2, 3.", "你好。"]
    assert casing(texts) == Casing(
        utterances=5,
        starts_with_capital=4 / 5,
        ends_with_mark=4 / 5,
        all_upper=1 / 5,
        all_lower=1 / 5,
        words=5 + 2 + 1 + 4 + 1,
        capitalised_words=(3 + 0 + 1 + 2 + 1) / 13,
        words_before_mark=(3 + 0 + 1 + 3 + 1) / 13,
    )


def test_a_comma_is_no_end() -> None:
    assert casing(["So it goes,"]).ends_with_mark == 0.0
    assert casing(["So it goes,"]).words_before_mark == 1 / 3


@pytest.mark.parametrize("texts", [[], [""], ["42", "你好"]])
def test_nothing_cased_has_no_rates(texts: list[str]) -> None:
    assert casing(texts) == Casing(0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)


# ---- What got worse.

SPANISH = Language(clips=4, identified=1.0, cer=0.1, translation_wer=0.5)
POLISH = Language(clips=2, identified=0.5, cer=0.3, translation_wer=None)
KNOWN = Languages(("espeak-ng",), 1.0, 20, Language(20, 0.8, 0.2, 0.5), {"es": SPANISH, "pl": POLISH})
ORIGINAL = Health(
    non_speech_seconds=150.0,
    non_speech={"silence": 6.0, "white noise": 0.0, "music": 40.0, "all": 46 / 3},
    loops=Loops(utterances=200, loops=1, no_end=0),
    casing=Casing(200, 0.9, 0.95, 0.0, 0.05, 2_000, 0.12, 0.13),
    timestamps=Timestamps(20, 1.0, 1.0, 0.95, 1.0, 1.0, 0.95),
    languages=KNOWN,
)


def changed(part: str, **values: Any) -> Health:
    """The original with other numbers in one part."""
    return replace(ORIGINAL, **{part: replace(getattr(ORIGINAL, part), **values)})


def noisy(**words: float) -> Health:
    """The original with other words on non-speech."""
    return replace(ORIGINAL, non_speech={**ORIGINAL.non_speech, **words})


def test_the_original_is_not_worse_than_itself() -> None:
    assert flags(ORIGINAL, ORIGINAL) == []
    english = replace(ORIGINAL, languages=None, timestamps=None)
    assert flags(english, english) == []


@pytest.mark.parametrize(
    ("tuned", "sentence"),
    [
        (
            replace(ORIGINAL, non_speech={**ORIGINAL.non_speech, "white noise": 4.0}),
            "writes 4.0 words/min on white noise, the original 0.0",
        ),
        (noisy(music=51.0), "writes 51.0 words/min on music, the original 40.0"),
        (changed("loops", loops=3), "repeats itself in 3 of 200 clips of speech, the original in 1"),
        (changed("loops", no_end=2), "finds no end in 2 of 200 clips of speech, the original in 0"),
        (
            changed("timestamps", written=0.5, paired=0.25, monotone=0.5, in_range=0.5, valid=0.25),
            "writes valid timestamps in 5 of 20 clips when asked, the original in 19 "
            "(written in 10, paired in 5, within the clip in 10, in order in 10)",
        ),
        (
            changed("casing", starts_with_capital=0.5),
            "starts 50 % of its transcripts with a capital, the original 90 %",
        ),
        (
            changed("casing", ends_with_mark=0.0),
            "ends 0 % of its transcripts with a full stop, ? or !, the original 95 %",
        ),
        (changed("casing", all_upper=1.0), "writes 100 % of its transcripts in capitals alone, the original 0 %"),
        (changed("casing", all_lower=0.2), "writes 20 % of its transcripts in small letters alone, the original 5 %"),
        (changed("casing", capitalised_words=1.0), "capitalises 100 % of its words, the original 12 %"),
        (changed("casing", capitalised_words=0.07), "capitalises 7 % of its words, the original 12 %"),
        (changed("casing", words_before_mark=0.08), "puts a mark after 8 % of its words, the original 13 %"),
        (
            changed("languages", own_identified=0.5),
            "knows the language of 10 of 20 clips in its own, the original of 20",
        ),
        (
            changed("languages", together=replace(KNOWN.together, identified=0.2)),
            "knows the language of 4 of 20 foreign clips, the original of 16",
        ),
        (
            changed("languages", together=replace(KNOWN.together, cer=0.35)),
            "gets 35 % of the characters of other languages wrong, the original 20 %",
        ),
        (
            changed("languages", together=replace(KNOWN.together, translation_wer=0.9)),
            "translates other languages with 90 % of the words wrong, the original 50 %",
        ),
        (
            changed("languages", each={"es": replace(SPANISH, cer=0.9), "pl": POLISH}),
            "gets 90 % of the characters of Spanish wrong, the original 10 %",
        ),
        (
            changed("languages", each={"es": replace(SPANISH, translation_wer=1.0), "pl": POLISH}),
            "translates Spanish with 100 % of the words wrong, the original 50 %",
        ),
    ],
)
def test_what_got_worse_is_said(tuned: Health, sentence: str) -> None:
    """One fault, one sentence."""
    assert flags(ORIGINAL, tuned) == [sentence]


@pytest.mark.parametrize(
    "tuned",
    [
        noisy(silence=0.0, music=0.0),
        noisy(silence=8.0),  # one word more in half a minute
        noisy(music=50.0),  # a quarter of what the original writes
        changed("loops", loops=2),
        changed("loops", loops=0),
        changed("timestamps", paired=1.0, valid=1.0),
        changed("timestamps", valid=0.85),
        changed("casing", starts_with_capital=1.0, ends_with_mark=1.0, all_lower=0.0),
        changed("casing", starts_with_capital=0.81, ends_with_mark=0.86, all_upper=0.09, words_before_mark=0.1),
        changed("languages", own_identified=0.95),  # one clip
        changed("languages", together=Language(20, 0.75, 0.29, 0.59)),
        changed("languages", together=Language(20, 1.0, 0.0, 0.0)),
        changed("languages", each={"es": replace(SPANISH, cer=0.3), "pl": replace(POLISH, identified=0.0)}),
    ],
)
def test_what_got_better_or_hardly_moved_is_not_said(tuned: Health) -> None:
    assert flags(ORIGINAL, tuned) == []


def test_one_clip_is_never_enough() -> None:
    """Of five clips, one is a fifth, and above every margin."""
    few = replace(
        ORIGINAL,
        loops=Loops(5, 0, 0),
        casing=replace(ORIGINAL.casing, utterances=5, starts_with_capital=1.0),
        timestamps=Timestamps(5, *[1.0] * 6),
    )
    tuned = replace(
        few,
        loops=Loops(5, 1, 1),
        casing=replace(few.casing, starts_with_capital=0.8),
        timestamps=replace(few.timestamps, valid=0.8) if few.timestamps else None,
    )
    assert flags(few, tuned) == []
    assert len(flags(few, replace(tuned, loops=Loops(5, 2, 1)))) == 1


@pytest.mark.parametrize(
    "other",
    [
        changed("loops", utterances=199),
        changed("timestamps", clips=19),
        changed("languages", each={"es": SPANISH}),
        replace(ORIGINAL, languages=None),
        replace(ORIGINAL, non_speech={"silence": 0.0, "all": 0.0}),
    ],
)
def test_models_examined_on_different_clips_cannot_be_compared(other: Health) -> None:
    with pytest.raises(ValueError, match="different clips"):
        flags(ORIGINAL, other)


def test_the_json_form_extends_the_contract() -> None:
    """`non_speech` and `timestamps` with the keys that other programs read; all of it plain JSON."""
    written = json.loads(json.dumps(replace(ORIGINAL, left_out=("x: y",)).to_json()))
    assert written["non_speech"] == {
        "seconds": 150.0,
        "words_per_minute": 46 / 3,
        "by_kind": {"silence": 6.0, "white noise": 0.0, "music": 40.0},
    }
    assert (written["timestamps"]["valid"], written["timestamps"]["monotone"]) == (0.95, 1.0)
    assert written["loops"] == {"utterances": 200, "loops": 1, "no_end": 0}
    assert written["casing"]["starts_with_capital"] == 0.9
    assert written["languages"]["each"]["es"]["cer"] == 0.1
    assert written["left_out"] == ["x: y"]
    bare = replace(ORIGINAL, languages=None, timestamps=None).to_json()
    assert bare["languages"] is bare["timestamps"] is None
