"""Error counts in closed form, and jiwer's own rate over whole sets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import jiwer
import pytest

from whisper_min.scoring import wer
from whisper_min.scoring.wer import Errors


@pytest.mark.parametrize(
    ("count", "reference", "hypothesis", "expected"),
    [
        (wer.word_errors, "a b c d", "a b c d", Errors(0, 0, 0, 4)),
        (wer.word_errors, "a b c d", "a x c d", Errors(1, 0, 0, 4)),
        (wer.word_errors, "a b c d", "a c d", Errors(0, 1, 0, 4)),
        (wer.word_errors, "a b c d", "a b x c d", Errors(0, 0, 1, 4)),
        (wer.word_errors, "a b c d", "", Errors(0, 4, 0, 4)),
        (wer.word_errors, "a", "a a a", Errors(0, 0, 2, 1)),
        (wer.word_errors, "a b c", "x y z", Errors(3, 0, 0, 3)),
        (wer.word_errors, "a b c d e", "x b d e f", Errors(1, 1, 1, 5)),
        (wer.word_errors, "", "", Errors()),
        (wer.word_errors, "  ", "so it goes", Errors(0, 0, 3, 0)),
        (wer.word_errors, "  a   b ", "a b", Errors(0, 0, 0, 2)),
        (wer.word_errors, "a\tb\nc", "a b c", Errors(0, 0, 0, 3)),
        (wer.word_errors, "A", "a", Errors(1, 0, 0, 1)),
        (wer.character_errors, "cat", "cut", Errors(1, 0, 0, 3)),
        (wer.character_errors, "cat", "cats", Errors(0, 0, 1, 3)),
        (wer.character_errors, "a b", "ab", Errors(0, 1, 0, 3)),
        (wer.character_errors, " cat ", "cat", Errors(0, 0, 0, 3)),
        (wer.character_errors, "", "cat", Errors(0, 0, 3, 0)),
        (wer.character_errors, "naïve", "naive", Errors(1, 0, 0, 5)),
    ],
)
def test_counts_in_closed_form(
    count: Callable[..., list[Errors]], reference: str, hypothesis: str, expected: Errors
) -> None:
    """One pair at a time, worked out by hand.

    Words are what white space separates; of characters the space between words counts, the one around them does not.
    """
    assert count([reference], [hypothesis]) == [expected]


def edit_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein's distance, by the textbook."""
    row = list(range(len(hypothesis) + 1))
    for i, one in enumerate(reference, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (one != other))
    return row[-1]


def some_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Random sentences of a small vocabulary, so that many words agree; references are never empty."""
    generator = random.Random(seed)

    def sentence(least: int) -> str:
        return " ".join(generator.choice("abcde") for _ in range(generator.randint(least, 12)))

    return [sentence(1) for _ in range(count)], [sentence(0) for _ in range(count)]


def test_totals_are_edit_distances() -> None:
    """S + D + I is the least number of edits, and I − D the difference of the lengths."""
    references, hypotheses = some_pairs(200)
    for reference, hypothesis, errors in zip(
        references, hypotheses, wer.word_errors(references, hypotheses), strict=True
    ):
        words, others = reference.split(), hypothesis.split()
        assert errors.total == edit_distance(words, others)
        assert errors.insertions - errors.deletions == len(others) - len(words)
        assert errors.units == len(words)


@pytest.mark.parametrize(
    ("count", "rate"), [(wer.word_errors, jiwer.wer), (wer.character_errors, jiwer.cer)], ids=["words", "characters"]
)
def test_a_sets_rate_is_jiwers(count: Callable[..., list[Errors]], rate: Callable[..., float]) -> None:
    """Counts added up over a set give jiwer's rate of the whole set, not a mean of rates."""
    references, hypotheses = some_pairs(100, seed=1)
    counted = count(references, hypotheses)
    assert wer.add_up(counted).rate == rate(references, hypotheses)
    assert wer.add_up(counted).rate != pytest.approx(sum(each.rate for each in counted) / len(counted), rel=1e-3)


def test_micro_average() -> None:
    """A long utterance without errors and a short one that is wrong: 1 of 10, not the mean of 0 and 1."""
    counted = wer.word_errors(["a b c d e f g h i", "a"], ["a b c d e f g h i", "b"])
    assert wer.add_up(counted) == Errors(1, 0, 0, 10)
    assert wer.add_up(counted).rate == 0.1


def test_errors_against_an_empty_reference_count_in_the_set() -> None:
    """Words where nobody speaks make the set worse, though they have no rate of their own."""
    counted = wer.word_errors(["a b", ""], ["a b", "thank you"])
    assert math.isnan(counted[1].rate)
    assert wer.add_up(counted).rate == 1.0
    assert math.isnan(wer.add_up([]).rate)


def test_pairs_must_pair() -> None:
    """A hypothesis too few is a bug, not a shorter set."""
    with pytest.raises(ValueError, match=r"zip\(\)"):
        wer.word_errors(["a", "b"], ["a"])


def test_normalised_spellings_are_no_errors() -> None:
    """What the normaliser is for: case, punctuation, contractions, numbers, British spelling."""
    _, normalize = wer.normalizer("en")
    reference, hypothesis = "It's twenty five colours, Mr. Smith!", "it is 25 colors mister smith"
    assert wer.word_errors([normalize(reference)], [normalize(hypothesis)])[0].total == 0
    assert wer.word_errors([reference], [hypothesis])[0].total > 3
