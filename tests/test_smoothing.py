"""Smoothing and thinning: the average's closed form, gaps, growth, and that thinning shows what all points show."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from whisper_min.ui.smoothing import Smoother, smooth, thin

VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan))
SERIES = arrays(np.float64, st.integers(0, 300), elements=VALUES)
WEIGHTS = st.sampled_from([0.0, 0.3, 0.9, 0.99, 0.999])


def plain_average(values: np.ndarray, weight: float) -> list[float]:
    """As it is defined, one by one."""
    averages, total, weights = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            total, weights = weight * total + (1 - weight) * value, weight * weights + (1 - weight)
            averages.append(total / weights)
        else:
            averages.append(math.nan)
    return averages


@given(SERIES, WEIGHTS)
def test_the_average_is_what_its_definition_says(values: np.ndarray, weight: float) -> None:
    np.testing.assert_allclose(smooth(values, weight), plain_average(values, weight), rtol=1e-6, atol=1e-4)


@given(st.floats(-1e6, 1e6), WEIGHTS, st.integers(1, 500))
def test_the_average_of_a_constant_is_the_constant(value: float, weight: float, length: int) -> None:
    np.testing.assert_allclose(smooth(np.full(length, value), weight), value, rtol=1e-9, atol=1e-9)


def test_gaps_stay_gaps_and_what_is_behind_goes_on() -> None:
    values = np.array([1.0, math.nan, math.inf, 3.0])
    np.testing.assert_allclose(smooth(values, 0.5), [1.0, math.nan, math.nan, (0.25 * 1 + 0.5 * 3) / 0.75])


def test_a_weight_of_one_never_moves() -> None:
    with pytest.raises(ValueError, match="below 1"):
        smooth(np.zeros(3), 1.0)


@given(SERIES, WEIGHTS, st.lists(st.integers(0, 300), max_size=4))
def test_a_growing_series_is_smoothed_as_if_it_had_always_been_there(
    values: np.ndarray, weight: float, cuts: list[int]
) -> None:
    smoother = Smoother(weight)
    for cut in sorted(cuts):
        smoother(values[:cut])
    np.testing.assert_allclose(smoother(values), smooth(values, weight), rtol=1e-9, atol=1e-9)


def test_a_series_that_changed_is_smoothed_anew() -> None:
    smoother = Smoother(0.9)
    smoother(np.array([5.0, 6.0, 7.0]))
    for values in ([5.0, 1.0, 7.0, 8.0], [5.0, 1.0], [2.0]):
        np.testing.assert_allclose(smoother(np.array(values)), smooth(np.array(values), 0.9))


@given(arrays(np.float64, st.integers(1, 2000), elements=VALUES), st.integers(1, 30))
def test_thinning_keeps_the_ends_of_every_column(values: np.ndarray, columns: int) -> None:
    x = np.arange(len(values), dtype=float)
    edges = np.linspace(-0.5, len(values) - 0.5, columns + 1)
    thin_x, thin_y = thin(x, values, edges)
    assert (np.diff(thin_x) >= 0).all()
    assert len(thin_x) <= max(4 * columns, 4 * (columns + 1)) + 2
    for low, high in pairwise(edges):
        all_of_it, kept = values[(x >= low) & (x < high)], thin_y[(thin_x >= low) & (thin_x < high)]
        assert np.isfinite(all_of_it).any() == np.isfinite(kept).any()
        if np.isfinite(all_of_it).any():
            assert (np.nanmin(kept), np.nanmax(kept)) == (np.nanmin(all_of_it), np.nanmax(all_of_it))
            first, last = all_of_it[0], all_of_it[-1]
            assert kept[0] == first or math.isnan(first)
            assert kept[-1] == last or math.isnan(last)


def test_a_column_without_a_finite_value_is_a_gap() -> None:
    values = np.ones(1000)
    values[400:600] = math.nan
    x, y = thin(np.arange(1000.0), values, np.linspace(0, 1000, 11))
    assert np.isnan(y[(x >= 400) & (x < 600)]).all() and np.isfinite(y[(x < 400) | (x >= 600)]).all()


def test_lines_run_on_to_the_margin() -> None:
    x = np.arange(1000.0)
    for edges in (np.linspace(100.5, 900.5, 11), np.linspace(500.2, 500.4, 11)):
        thin_x, _ = thin(x, x, edges)
        assert thin_x[0] == math.floor(edges[0]) and thin_x[-1] == math.ceil(edges[-1])


def test_nothing_is_thinned_to_nothing() -> None:
    x, y = thin(np.empty(0), np.empty(0), np.linspace(0, 1, 5))
    assert len(x) == len(y) == 0
