"""Label styles: what a style does to a text, and what it never does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_min import text

# Words as people write them, and anything else that unicode holds.
WORDS = st.sampled_from(
    ["I", "i'm", "I'LL", "i's", "Dr.", "no?", "Yes!", "ßen", "ﬁnd", "ışık", "ÉTÉ", "«x»", "i.e.", "…"]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=8).map(" ".join), st.text(max_size=40))
WRITTEN = [style for style in text.STYLES if style != "auto"]


@pytest.mark.parametrize(
    ("style", "given", "written"),
    [
        ("keep", "  HELLO There ", "HELLO There"),
        ("lower", "HELLO There, Anna!", "hello there, anna!"),
        ("sentence", "HELLO THERE", "Hello there."),
        ("sentence", "is it? YES. NO", "Is it? Yes. No."),
        ("sentence", "already done!", "Already done!"),
        ("sentence", "and then…", "And then…"),
        ("sentence", "était-ce fini? état second", "Était-ce fini? État second."),
        ("sentence", "AND I SAID I'M SURE I'VE SEEN WHAT I'LL DO IF I'D GO", None),
        ("sentence", "THE I'S AND THE T'S", "The i's and the t's."),
        ("sentence", "", ""),
        ("lower", "  ", ""),
        ("sentence", "7 up", "7 up."),
    ],
)
def test_a_style_writes(style: str, given: str, written: str | None) -> None:
    expected = "And I said I'm sure I've seen what I'll do if I'd go." if written is None else written
    assert text.restyle(given, style) == expected


@settings(deadline=None)
@given(TEXTS, st.sampled_from(WRITTEN))
def test_a_style_never_changes_the_words(given: str, style: str) -> None:
    restyled, before = text.restyle(given, style).lower(), given.strip().lower()
    assert restyled in (before, before + "."), "at the most a full stop is added"


@settings(deadline=None)
@given(TEXTS, st.sampled_from(WRITTEN))
def test_a_style_is_idempotent(given: str, style: str) -> None:
    once = text.restyle(given, style)
    assert text.restyle(once, style) == once


@settings(deadline=None)
@given(TEXTS)
def test_a_sentence_begins_large_and_ends(given: str) -> None:
    written = text.restyle(given, "sentence")
    if written:
        assert written[-1] in ".!?…"
        assert not ("a" <= written[0] <= "z")
    assert text.restyle(given.upper(), "lower") == text.restyle(given.upper(), "keep").lower()


def test_an_unknown_style_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'shouted'; known are auto, keep, lower, sentence"):
        text.restyle("hello", "shouted")


@pytest.mark.parametrize(
    ("texts", "description", "resolved"),
    [
        (["HELLO THERE", "GOOD DAY"], "upper-case unpunctuated", "sentence"),
        (["HELLO, THERE.", "GOOD DAY!"], "upper-case", "sentence"),
        (["hello there", "good day"], "lower-case unpunctuated", "sentence"),
        (["hello, there.", "good day!"], "lower-case", "sentence"),
        (["Hello there", "Good day"], "cased unpunctuated", "sentence"),
        (["Hello there.", "Good day!"], "cased", "keep"),
        (["", " ", "42"], "no text", "keep"),
        ([], "no text", "keep"),
        (["", "HELLO THERE"], "upper-case unpunctuated", "sentence"),
    ],
)
def test_auto_follows_what_the_texts_look_like(texts: list[str], description: str, resolved: str) -> None:
    assert text.describe_style(texts) == description
    assert text.resolve_style("auto", texts) == resolved
    assert text.resolve_style("lower", texts) == "lower", "a style that was asked for is kept"


def test_nine_in_ten_make_a_style() -> None:
    loud, calm = "HELLO THERE", "Hello there."
    assert text.describe_style([loud] * 9 + [calm]) == "upper-case unpunctuated"
    assert text.describe_style([loud] * 8 + [calm] * 2) == "cased"
