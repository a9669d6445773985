"""Scales and ticks: round, inside the range, told apart; and how numbers are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whisper_min.ui.axes import Scale, format_time, format_value, nice_step

FINITE = st.floats(allow_nan=False, allow_infinity=False)
KINDS = st.sampled_from(["number", "count", "percent", "signed", "time"])


@given(FINITE, FINITE, st.booleans(), st.integers(1, 12), KINDS)
def test_ticks_lie_inside_the_range_ascending_and_are_not_too_many(
    low: float, high: float, log: bool, most: int, kind: str
) -> None:
    scale = Scale.around(min(low, high), max(low, high), log=log)
    ticks = scale.ticks(most, kind)  # type: ignore[arg-type]
    assert len(ticks) <= most
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
def test_there_are_ticks(low: float, span: float, most: int) -> None:
    assume(span > abs(low) * 1e-9)
    ticks = Scale(low, low + span).ticks(most)
    assert len(ticks) >= max(1, most // 3)


@given(FINITE, FINITE, st.integers(2, 300), st.floats(0, 1))
def test_a_value_lands_between_its_ends_and_comes_back(low: float, high: float, dots: int, share: float) -> None:
    scale = Scale.around(min(low, high), max(low, high))
    value = float(scale.value(share * (dots - 1), dots))
    dot = float(scale.at(value, dots))
    assert -0.01 <= dot <= dots - 0.99
    assert dot == pytest.approx(share * (dots - 1), abs=0.01)
    assert float(scale.at(scale.low, dots)) == pytest.approx(0, abs=1e-6)
    assert float(scale.at(scale.high, dots)) == pytest.approx(dots - 1, abs=1e-6)


def test_a_logarithmic_scale_has_no_place_for_zero() -> None:
    scale = Scale.around(0, 100, log=True)
    assert scale.low == 0.1 and scale.log
    assert not np.isfinite(scale.at(np.array([0.0, -1.0, math.nan]), 10)).any()
    assert float(scale.at(1.0, 4)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("low", "high", "most", "kind", "expected"),
    [
        (0, 1, 5, "number", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2000, 4, "count", [0, 500, 1000, 1500, 2000]),
        (0, 3, 10, "count", [0, 1, 2, 3]),
        (0, 7200, 4, "time", [0, 1800, 3600, 5400, 7200]),
        (0, 5 * 86400, 3, "time", [0, 172800, 345600]),
    ],
)
def test_linear_ticks(low: float, high: float, most: int, kind: str, expected: list[float]) -> None:
    assert Scale(low, high).ticks(most + 1, kind) == pytest.approx(expected)  # type: ignore[arg-type]


def test_logarithmic_ticks() -> None:
    assert Scale(1e-4, 1, log=True).ticks(5) == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1])
    assert Scale(1, 100, log=True).ticks(8) == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    # less than one power of ten: powers would leave the axis bare
    assert Scale(2, 6, log=True).ticks(4) == pytest.approx(
        [2, 3, 4, 5, 6][:: 2 if len(Scale(2, 6).ticks(4)) == 3 else 1]
    )


@given(st.floats(1e-9, 1e9), st.integers(1, 20))
def test_a_nice_step_is_round_and_large_enough(span: float, most: int) -> None:
    step = nice_step(span, most)
    assert step * most >= span * (1 - 1e-6)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 2.5, 5, 10)


@pytest.mark.parametrize(
    ("value", "kind", "step", "expected"),
    [
        (0.2345, "percent", 0, "23.4%"),
        (0.2, "percent", 0.05, "20%"),
        (0.125, "percent", 0.025, "12.5%"),
        (0.05, "signed", 0, "+5.0%"),
        (-0.05, "signed", 0, "-5.0%"),
        (0.0, "signed", 0.5, "0%"),
        (1e-5, "number", 0, "1e-5"),
        (2.5e-6, "number", 2.5e-6, "2.5e-6"),
        (1.23456, "number", 0, "1.235"),
        (1500.0, "count", 500, "1500"),
        (20000.0, "count", 20000, "20k"),
        (2500000.0, "number", 500000, "2.5M"),
        (0.0, "number", 20000, "0"),
        (math.nan, "number", 0, "–"),
        (math.inf, "percent", 0, "–"),
    ],
)
def test_numbers_as_they_are_written(value: float, kind: str, step: float, expected: str) -> None:
    assert format_value(value, kind, step) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "step", "expected"),
    [
        *((0, 0, "0"), (0.5, 0, "0.5s"), (45, 0, "45s"), (200, 0, "3m20"), (3900, 0, "1h05"), (183600, 0, "2d3h")),
        *((1800, 900, "30m"), (7200, 3600, "2h"), (172800, 86400, "2d"), (-90, 0, "-1m30"), (3599.7, 0, "1h00")),
    ],
)
def test_times_as_they_are_written(seconds: float, step: float, expected: str) -> None:
    assert format_time(seconds, step) == expected


@given(FINITE, KINDS, st.floats(0, 1e6))
def test_every_number_can_be_written(value: float, kind: str, step: float) -> None:
    assert 0 < len(format_value(value, kind, step)) < 330  # type: ignore[arg-type]


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(3, 8), KINDS)
def test_labels_of_ticks_are_told_apart(low: float, span: float, most: int, kind: str) -> None:
    assume(span > low * 1e-3)
    ticks = Scale(low, low + span).ticks(most, kind)  # type: ignore[arg-type]
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        labels = [format_value(tick, kind, step) for tick in ticks]  # type: ignore[arg-type]
        assert len(set(labels)) == len(labels), labels
