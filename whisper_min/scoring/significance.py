"""How sure a word error rate is: the paired bootstrap.

Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004). Utterances of
one speaker go together (arXiv:1912.09508): where a set has at least twenty speakers they are what is resampled. Pooled
sets are resampled each by itself. The same draws serve every system, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
LEAST_SPEAKERS = 20
_CHUNK = 500  # resamples drawn at a time, so that large sets need little memory

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """What is resampled in one set: for each unit the errors of every system and the reference words."""

    kind: str
    """`speaker` or `utterance`"""
    errors: Array
    """(systems, units)"""
    words: Array
    """(units,)"""


def units(errors: Sequence[Sequence[int]], words: Sequence[int], speakers: Sequence[str | None]) -> Units:
    """Group utterances by speaker where a set has twenty of them and knows them all; else each stands for itself."""
    counts = np.asarray(errors, float)  # (systems, utterances)
    lengths = np.asarray(words, float)
    names = sorted({speaker for speaker in speakers if speaker is not None})
    if None in speakers or len(names) < LEAST_SPEAKERS:
        return Units("utterance", counts, lengths)
    index = np.array([names.index(speaker) for speaker in speakers if speaker is not None])
    membership = np.zeros((len(index), len(names)))
    membership[np.arange(len(index)), index] = 1
    return Units("speaker", counts @ membership, lengths @ membership)


def resample(sets: Sequence[Units], seed: int = 0) -> Array:
    """Word error rates of every system in every resample, sets pooled: (systems, RESAMPLES)."""
    generator = np.random.default_rng(seed)
    errors = np.zeros((sets[0].errors.shape[0], RESAMPLES))
    words = np.zeros(RESAMPLES)
    for each in sets:
        count = len(each.words)
        for start in range(0, RESAMPLES, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            drawn = generator.integers(0, count, (_CHUNK, count))
            words[chunk] += each.words[drawn].sum(1)
            errors[:, chunk] += each.errors[:, drawn].sum(2)
    return errors / np.maximum(words, 1)


def interval(rates: Array) -> tuple[float, float]:
    """95 % percentile interval of one system's resampled rates."""
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """A system against a baseline on the same utterances."""

    delta_wer: float
    delta_ci: tuple[float, float]
    relative: float
    """delta by the baseline's rate"""
    relative_upper_95: float
    """One-sided 95 % bound of the relative change: it is worse by no more than this."""
    p_value: float
    """Two-sided, of no difference."""


def compare(baseline: Array, system: Array, baseline_rate: float, system_rate: float) -> Comparison:
    """Compare resampled rates that share their draws."""
    delta = system - baseline
    # +1: the observed sample counts as one, so that no p-value is 0
    tail = min((delta <= 0).sum(), (delta >= 0).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = delta / baseline
    usable = relative[np.isfinite(relative)]
    return Comparison(
        delta_wer=system_rate - baseline_rate,
        delta_ci=interval(delta),
        relative=(system_rate - baseline_rate) / baseline_rate if baseline_rate else float("nan"),
        relative_upper_95=float(np.percentile(usable, 95)) if len(usable) else float("nan"),
        p_value=float(min(1.0, 2 * (tail + 1) / (len(delta) + 1))),
    )
