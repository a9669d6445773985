"""Label styles: what a style does to a text, and what it never does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

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
    assert text.resolve_style("original", texts) == ("keep" if resolved == "keep" else "original")


def test_nine_in_ten_make_a_style() -> None:
    loud, calm = "HELLO THERE", "Hello there."
    assert text.describe_style([loud] * 9 + [calm]) == "upper-case unpunctuated"
    assert text.describe_style([loud] * 8 + [calm] * 2) == "cased"


# ---- Case and punctuation from a transcript.

ENGLISH, BASIC = EnglishTextNormalizer(), BasicTextNormalizer()


@pytest.mark.parametrize(
    ("reference", "transcript", "written"),
    [
        # the same words: the transcript as it is
        ("HELLO THERE ANNA HOW ARE YOU", "Hello there, Anna. How are you?", "Hello there, Anna. How are you?"),
        ("hello there anna how are you", "Hello there, Anna. How are you?", "Hello there, Anna. How are you?"),
        ("I SAW MR SMITH ON MAIN ST AND ON MONDAY", "I saw Mr. Smith on Main St. and on Monday.", None),
        ("WELL THEN", "Well… then…", "Well... then."),
        ("IN THE USA I'M SURE HE SAID MCDONALD", "In the USA, I'm sure he said McDonald.", None),
        # what was not heard so is written in sentence case, wherever it stands
        ("HELLO THEIR ANNA", "Hello there, Anna.", "Hello their Anna."),
        ("SO HELLO ANNA I SAID", "Hello, Anna.", "So hello, Anna I said."),
        ("WE AGREE HOWEVER SHE DOES NOT", "We agree. However, she does not.", "We agree. However, she does not."),
        ("WE DISAGREED HOWEVER SHE", "We agree. However, she does not.", "We disagreed however, she."),
        ("WE AGREE BUT SHE", "We agree. However, she does not.", "We agree. But she."),
        ("HELLO ANNA THEN", "Hello, Anna!", "Hello, Anna then."),
        ("HELLO ANNA", "Hello, Anna, and all the others.", "Hello, Anna."),
        ("HELLO THERE", "", "Hello there."),
        ("HELLO THERE I THINK", "Something else entirely.", "Hello there I think."),
        # words that Whisper's normaliser makes equal are the same, and ours is written
        ("COLOUR IS GRAY", "Color is Grey, always.", "Colour is Gray."),
        # a transcript without case or without an end says nothing of these
        ("HELLO ANNA I SAID", "HELLO, ANNA. I SAID", "Hello, anna. I said"),
        ("HELLO ANNA", "Hello Anna", "Hello Anna"),
        # a dash is no word, half a pair of quotes no punctuation, a Spanish question opens
        ("WELL HE SAID COME IN", 'Well - he said, "Come in."', "Well he said, Come in."),
        ("QUE TAL ANA", "¿Que tal, Ana?", "¿Que tal, Ana?"),
        # what people wrote stays: both, case alone, punctuation alone
        ("Hello, there.", "hello there", "Hello, there."),
        ("Hello there anna how are you", "Hello there, Anna. How are you?", "Hello there, anna. How are you?"),
        ("HELLO, THERE. ANNA", "Hello there. Anna!", "Hello, there. Anna!"),
        ("HELLO; THERE ANNA.", "Hello there, Anna!", "Hello; there Anna."),
        ("", "Hello.", ""),
        ("  ", "", ""),
        ("UM HELLO", "Hello.", "Um hello."),
        ("TWENTY ONE", "21.", "Twenty one."),
    ],
)
def test_a_transcript_gives_case_and_punctuation(reference: str, transcript: str, written: str | None) -> None:
    assert text.restyle_like(reference, transcript, ENGLISH) == (transcript if written is None else written)


PLAIN = st.sampled_from(
    ["hello", "there", "Anna", "the", "grey", "house", "don't", "McDonald", "USA", "however", "I'll"]
)
ENDED = st.tuples(PLAIN, st.sampled_from(["", "", "", ",", ";", ".", "?", "!", "..."]))


@settings(deadline=None)
@given(st.lists(ENDED, min_size=2, max_size=12), st.sampled_from([str.upper, str.lower]))
def test_of_the_same_words_the_transcript_is_written(words: list[tuple[str, str]], case: object) -> None:
    transcript, starts = ["Then,"], False
    for word, closing in words:
        transcript.append((word[0].upper() + word[1:] if starts else word) + closing)
        starts = closing in (".", "?", "!", "...")
    transcript[-1] = re.sub(r"\.+$", ".", transcript[-1])
    spoken = " ".join(["then", *(word for word, _ in words)])
    reference = case(spoken)  # type: ignore[operator]
    assert text.restyle_like(reference, " ".join(transcript), ENGLISH) == " ".join(transcript)


ODD = ["twenty", "one", "$5", "3.5", "5%", "[x", "x)", "mr", "'s", "-"]
SPOKEN = st.one_of(
    st.lists(st.one_of(WORDS, PLAIN, st.sampled_from(ODD)), max_size=10).map(" ".join),
    st.text(max_size=40),
)


@settings(deadline=None, max_examples=300)
@given(SPOKEN, SPOKEN, st.sampled_from([str.upper, str.lower, str]), st.sampled_from([ENGLISH, BASIC]))
def test_the_words_are_the_reference_s_whatever_was_heard(
    spoken: str, heard: str, case: object, normalize: BasicTextNormalizer
) -> None:
    reference = case(spoken)  # type: ignore[operator]
    written = text.restyle_like(reference, heard, normalize)
    assert normalize(written).split() == normalize(reference).split()


@settings(deadline=None)
@given(st.lists(PLAIN, min_size=1, max_size=10), st.lists(ENDED, max_size=10), st.sampled_from([str.upper, str.lower]))
def test_plain_words_keep_their_letters_and_become_sentences(
    spoken: list[str], heard: list[tuple[str, str]], case: object
) -> None:
    reference = case(" ".join(spoken))  # type: ignore[operator]
    written = text.restyle_like(reference, " ".join(word + closing for word, closing in heard), ENGLISH)
    assert [word.strip(".,!?;:…").lower() for word in written.split()] == reference.lower().split()
    assert written[0].isupper()
    same_end = bool(heard) and heard[-1][0].lower() == spoken[-1].lower()
    assert written[-1] in ".!?…" or same_end


def test_a_transcript_cannot_change_how_numbers_are_read() -> None:
    """`3. 5` is not `3 5`, and brackets hide words: the result is checked as a whole."""

    def strict(written: str) -> str:
        return written.lower() if "." in written[:-1] else written.lower().replace(".", "").replace(",", "")

    assert text.restyle_like("THREE FIVE", "Three. Five.", strict) == "Three five."
    assert text.restyle_like("THREE FIVE", "Three. Five.", str) == "THREE FIVE", "where a full stop is a change, too"


def test_the_text_of_non_speech_is_no_text_to_restyle() -> None:
    """In every style it stays the token, and it says nothing about the style of a set."""
    for style in WRITTEN:
        assert text.restyle(text.NON_SPEECH, style) == text.NON_SPEECH
    assert text.restyle_like(text.NON_SPEECH, "You", str.lower) == text.NON_SPEECH
    assert text.describe_style([text.NON_SPEECH, "SO HE SAID"]) == "upper-case unpunctuated"


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5))
def test_a_restyled_text_is_cut_where_its_parts_ended(parts: list[str]) -> None:
    """Each part restyled with the others holds its own words; without a change the parts come back."""
    whole = " ".join(parts)
    assert text.cut_like(whole, parts) == parts
    for style in ("lower", "sentence"):
        cut = text.cut_like(text.restyle(whole, style), parts)
        assert cut is not None
        assert " ".join(cut) == " ".join(text.restyle(whole, style).split())
        assert [len(part.split()) for part in cut] == [len(part.split()) for part in parts]


def test_texts_of_neighbours_are_joined_without_the_token_for_nobody() -> None:
    assert text.join(["One.", text.NON_SPEECH, "Two."]) == "One. Two."
    assert text.join([text.NON_SPEECH, text.NON_SPEECH]) == text.NON_SPEECH and text.join([]) == ""


def test_another_text_is_not_cut() -> None:
    """Languages without spaces are cut where nothing was restyled; other words have no place to be cut at."""
    assert text.cut_like("你好世界", ["你好", "世界"]) == ["你好", "世界"]
    assert text.cut_like("one two three", ["one", "two"]) is None
