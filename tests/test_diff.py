"""Word alignments, their counts, and rows of words that are read without colour."""

from __future__ import annotations

import io

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len
from rich.console import Console

from whisper_min.ui.diff import MOST_WORDS, Counts, align, compare, count, plain, render

LABELS = ["reference", "model", "original"]
WORDS = some.lists(some.sampled_from("abcd"), max_size=9)


def lines(reference: str, *others: str, width: int = 60) -> list[str]:
    """What is drawn, without its styles."""
    return [line.plain for line in render(compare(reference, others)[0], LABELS[: len(others) + 1], width)]


@given(WORDS, WORDS)
def test_counts_are_those_of_jiwer(reference: list[str], hypothesis: list[str]) -> None:
    counts = count(align(reference, hypothesis))
    if not reference:
        assert counts == Counts(insertions=len(hypothesis))
        return
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    assert counts == (theirs.substitutions, theirs.deletions, theirs.insertions)


@given(WORDS, WORDS)
def test_an_alignment_tells_both_texts(reference: list[str], hypothesis: list[str]) -> None:
    edits = align(reference, hypothesis)
    assert [edit.reference for edit in edits if edit.reference is not None] == list(range(len(reference)))
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == list(range(len(hypothesis)))
    for kind, here, there in edits:
        if kind in ("equal", "substituted"):
            assert here is not None and there is not None
            assert (reference[here] == hypothesis[there]) == (kind == "equal")


def test_words_stand_below_each_other() -> None:
    assert lines("no i do not own them", "no do not all them well", "no i do not own") == [
        "reference  no i   do not own them",
        "model      no [i] do not all them   +well",
        "original   no i   do not own [them]",
    ]


def test_words_added_at_one_place_share_columns() -> None:
    assert lines("a b", "a x b", "a y z b") == ["reference  a       b", "model      a +x    b", "original   a +y +z b"]


def test_long_texts_go_on_in_blocks() -> None:
    drawn = lines("one two three four", "one two tree four", width=24)
    assert drawn == [
        "reference  one two three",
        "model      one two tree",
        "",
        "reference  four",
        "model      four",
    ]


def test_marks_are_seen_without_colour() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, color_system="truecolor", width=80)
    for line in render(compare("own it now", ["all it then more"])[0], LABELS[:2], 60):
        console.print(line)
    assert "\x1b[1mall" in out.getvalue()  # bold
    assert "\x1b[1;4m+then" in out.getvalue()  # bold, underlined and behind a plus
    out.truncate(0)
    for line in render(compare("own it", ["it"])[0], LABELS[:2], 60):
        console.print(line)
    assert "\x1b[9m[own]" in out.getvalue()  # struck out and in brackets


def test_a_loop_is_shortened() -> None:
    drawn = lines("we go", "we " + "the city of " * 70 + "go")
    assert len(drawn) < 10
    assert "(190 more)" in "\n".join(drawn)


def test_nothing_said_or_nothing_written() -> None:
    assert lines("", "") == []
    assert lines("", "you") == ["reference", "model      +you"]
    assert lines("you there", "") == ["reference  you   there", "model      [you] [there]"]
    assert compare("", ["you", ""])[1] == [Counts(insertions=1), Counts()]


@given(some.text(max_size=60), some.text(max_size=60), some.sampled_from([12, 20, 40, 80]))
def test_no_line_is_wider_than_the_terminal(reference: str, hypothesis: str, width: int) -> None:
    for line in lines(reference, hypothesis, width=width):
        assert cell_len(line) <= max(width, 13)  # one word of two cells has to go somewhere


def test_a_word_wider_than_the_terminal_goes_on() -> None:
    drawn = lines("語" * 40, "語" * 40, width=40)
    assert max(map(cell_len, drawn)) <= 40
    assert "".join(line[11:] for line in drawn if line.startswith("model")) == "語" * 40


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a[31mb"),
        ("a\nb\tc", "a b c"),
        ("safe\u202eevil", "safeevil"),
        ("\x9b2J", "2J"),
        ("half \ud83d", "half "),
        ("naïve 語 ا", "naïve 語 ا"),
        (None, "None"),
    ],
)
def test_nothing_reaches_the_terminal_but_text(text: object, shown: str) -> None:
    assert plain(text) == shown


def test_very_long_texts_are_compared_as_far_as_they_can_be() -> None:
    columns, counts = compare("a " * (MOST_WORDS + 50), ["b " * (MOST_WORDS + 50)])
    assert len(columns) == MOST_WORDS
    assert counts == [Counts(substitutions=MOST_WORDS)]
