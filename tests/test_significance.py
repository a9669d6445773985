"""The paired bootstrap against what can be worked out without it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whisper_min.scoring import significance
from whisper_min.scoring.significance import RESAMPLES, compare, interval, resample, units


def utterances(errors: list[list[int]], words: list[int]) -> significance.Units:
    """Units without speakers."""
    return units(errors, words, [None] * len(words))


def random_set(count: int, seed: int, systems: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(errors of each system, words) of a set."""
    generator = np.random.default_rng(seed)
    words = generator.integers(3, 20, count)
    return generator.binomial(words, 0.2, (systems, count)), words


# ---- What is resampled.


def test_twenty_speakers_are_the_units() -> None:
    """Their utterances' errors and words add up, whatever the order."""
    speakers = [f"s{index % 20:02d}" for index in range(60)]
    errors, words = random_set(60, seed=0, systems=2)
    made = units(errors.tolist(), words.tolist(), speakers)
    assert made.kind == "speaker"
    assert made.errors.shape == (2, 20)
    for index in range(20):  # every twentieth utterance is the speaker's
        assert made.errors[:, index].tolist() == errors[:, index::20].sum(1).tolist()
        assert made.words[index] == words[index::20].sum()


@pytest.mark.parametrize("speakers", [[f"s{index % 19}" for index in range(60)], [None, *(str(i) for i in range(59))]])
def test_else_utterances_are(speakers: list[str | None]) -> None:
    """Nineteen speakers are too few, and one unknown spoils the grouping."""
    errors, words = random_set(60, seed=0)
    made = units(errors.tolist(), words.tolist(), speakers)
    assert made.kind == "utterance"
    assert made.errors.tolist() == errors.tolist()
    assert made.words.tolist() == words.tolist()


def test_speakers_of_like_utterances_widen_the_interval() -> None:
    """Twenty speakers who each say one sentence ten times know as much as twenty sentences."""
    generator = np.random.default_rng(0)
    errors = generator.integers(0, 5, 20)
    repeated, words = [np.repeat(errors, 10).tolist()], [10] * 200
    by_speaker = resample([units(repeated, words, [f"s{index // 10:02d}" for index in range(200)])])[0]
    by_utterance = resample([utterances(repeated, words)])[0]
    single = resample([utterances([errors.tolist()], [10] * 20)])[0]
    assert by_speaker.std() == pytest.approx(single.std(), rel=1e-6)
    assert by_speaker.std() == pytest.approx(math.sqrt(10) * by_utterance.std(), rel=0.05)


# ---- Intervals.


def test_constant_errors_leave_no_doubt() -> None:
    """One error in every four words of every utterance: the interval is a point."""
    rates = resample([utterances([[1] * 30], [4] * 30)])[0]
    assert rates.shape == (RESAMPLES,)
    assert interval(rates) == (0.25, 0.25)


def test_spread_is_that_of_a_mean() -> None:
    """Equal lengths: the bootstrap's standard deviation is σ/√n, its centre the rate itself."""
    generator = np.random.default_rng(3)
    errors = generator.integers(0, 6, 100)
    rates = resample([utterances([errors.tolist()], [10] * 100)])[0]
    assert rates.std() == pytest.approx(errors.std() / 10 / math.sqrt(100), rel=0.03)
    assert rates.mean() == pytest.approx(errors.mean() / 10, rel=0.01)
    low, high = interval(rates)
    assert high - low == pytest.approx(2 * 1.96 * rates.std(), rel=0.05)


def test_rates_are_ratios_of_sums() -> None:
    """Long utterances weigh by their words: the centre is the micro-average."""
    errors, words = random_set(200, seed=4)
    rates = resample([utterances(errors.tolist(), words.tolist())])[0]
    assert rates.mean() == pytest.approx(errors.sum() / words.sum(), rel=0.01)


def test_pooled_sets_are_resampled_each_by_itself() -> None:
    """Two sets of constant but different rates: pooled, nothing varies, as each keeps its size in every resample."""
    one, other = utterances([[1] * 10], [10] * 10), utterances([[5] * 90], [10] * 90)
    rates = resample([one, other])[0]
    assert interval(rates) == pytest.approx((0.46, 0.46))
    assert rates.std() < 1e-12
    mixed = resample([utterances([[1] * 10 + [5] * 90], [10] * 100)])[0]
    assert mixed.std() > 1e-3


def test_a_seed_is_an_interval() -> None:
    """The same evaluation twice gives the same numbers."""
    errors, words = random_set(50, seed=5)
    made = utterances(errors.tolist(), words.tolist())
    assert np.array_equal(resample([made]), resample([made]))
    assert not np.array_equal(resample([made]), resample([made], seed=1))


def test_sets_without_words_have_no_interval_but_no_crash() -> None:
    """Every reference empty."""
    assert interval(resample([utterances([[0, 0]], [0, 0])])[0]) == (0.0, 0.0)


# ---- Comparisons.


def test_identical_systems_do_not_differ() -> None:
    """p = 1, and the difference is exactly 0 in every resample, because the draws are shared."""
    errors, words = random_set(40, seed=6)
    rates = resample([utterances([errors[0].tolist()] * 2, words.tolist())])
    assert np.array_equal(rates[0], rates[1])
    compared = compare(rates[0], rates[1], 0.2, 0.2)
    assert compared.p_value == 1.0
    assert compared.delta_wer == 0.0
    assert compared.delta_ci == (0.0, 0.0)
    assert compared.relative == compared.relative_upper_95 == 0.0


def test_twice_the_errors_is_a_hundred_per_cent_worse() -> None:
    """In every resample: the bound is exact, p as small as the number of resamples allows."""
    errors, words = random_set(40, seed=7)
    first = errors[0].tolist()
    rates = resample([utterances([first, [2 * count for count in first]], words.tolist())])
    rate = errors.sum() / words.sum()
    compared = compare(rates[0], rates[1], rate, 2 * rate)
    assert compared.relative == pytest.approx(1.0)
    assert compared.relative_upper_95 == pytest.approx(1.0)
    assert compared.delta_wer == pytest.approx(rate)
    assert compared.delta_ci[0] <= rate <= compared.delta_ci[1]
    assert compared.p_value == 2 / (RESAMPLES + 1)


def test_comparing_backwards_changes_the_sign() -> None:
    """The difference and its interval; p stays."""
    errors, words = random_set(40, seed=8, systems=2)
    rates = resample([utterances(errors.tolist(), words.tolist())])
    one, other = (errors.sum(1) / words.sum()).tolist()
    forth, back = compare(rates[0], rates[1], one, other), compare(rates[1], rates[0], other, one)
    assert forth.delta_wer == -back.delta_wer
    assert forth.delta_ci == pytest.approx((-back.delta_ci[1], -back.delta_ci[0]))
    assert forth.p_value == back.p_value
    assert forth.delta_ci[0] <= forth.delta_wer <= forth.delta_ci[1]


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """One error more in nearly every utterance stands out though the utterances themselves differ widely."""
    generator = np.random.default_rng(9)
    first = generator.integers(0, 10, 100)
    second = first + (generator.random(100) < 0.9)
    rates = resample([utterances([first.tolist(), second.tolist()], [20] * 100)])
    compared = compare(rates[0], rates[1], first.mean() / 20, second.mean() / 20)
    assert compared.p_value < 0.001
    assert interval(rates[0])[1] > interval(rates[1])[0]  # the intervals of the two overlap


def test_chance_differences_are_rarely_significant() -> None:
    """Two systems of the same skill: about one in twenty comparisons falls below 0.05."""
    below = 0
    for seed in range(60):
        errors, words = random_set(50, seed=100 + seed, systems=2)
        rates = resample([utterances(errors.tolist(), words.tolist())])
        one, other = (errors.sum(1) / words.sum()).tolist()
        below += compare(rates[0], rates[1], one, other).p_value < 0.05
    assert below <= 9  # of a binomial with n = 60, p = 0.05 about one in a thousand lies above


def test_a_perfect_baseline_has_no_relative_change() -> None:
    """Division by nothing is not a number, quietly."""
    compared = compare(np.zeros(100), np.full(100, 0.1), 0.0, 0.1)
    assert math.isnan(compared.relative)
    assert math.isnan(compared.relative_upper_95)
    assert compared.delta_wer == 0.1
