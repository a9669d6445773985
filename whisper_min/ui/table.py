"""Rows of JSON lines as columns: small, and ready to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP, TIME, RUNTIME = "_step", "_timestamp", "_runtime"
HEAD = (STEP, TIME, RUNTIME, "_attempt")
# Float32 for everything else: twenty runs of 100,000 rows and a dozen columns fit in 100 MB.
EXACT = {STEP: np.int64, TIME: np.float64, RUNTIME: np.float64}
# A foreign file that invents a key a row must not eat the memory.
MOST_SHAPES = 512


@dataclass(frozen=True)
class Series:
    """One metric along a run: a value a step, steps ascending. A value that was not finite is NaN."""

    steps: NDArray[np.int64]
    values: NDArray[np.float32]
    timestamps: NDArray[np.float64]
    """Unix time of each value; NaN where the row has none."""
    runtimes: NDArray[np.float64]
    """Seconds of training, over all attempts."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        """The newest value; NaN without one."""
        return float(self.values[-1]) if len(self.values) else math.nan

    @property
    def first(self) -> float:
        """The oldest value; NaN without one."""
        return float(self.values[0]) if len(self.values) else math.nan


class _Block:
    """Rows that have the same keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.count = 0
        self.columns: dict[str, NDArray[Any]] = {key: np.empty(16, EXACT.get(key, np.float32)) for key in keys}
        self.order = np.empty(16, np.int64)  # the row's number in the file: the last of a step counts
        self._index: tuple[int, slice | NDArray[np.intp]] = (0, slice(0, 0))

    def append(self, first: int, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows in; `first` is the number of the first."""
        end = self.count + len(rows)
        if end > len(self.order):
            size = max(end, 2 * len(self.order))
            self.order = np.concatenate([self.order[: self.count], np.empty(size - self.count, np.int64)])
            for key, column in self.columns.items():
                self.columns[key] = np.concatenate([column[: self.count], np.empty(size - self.count, column.dtype)])
        self.order[self.count : end] = np.arange(first, first + len(rows))
        for key, values in zip(rows[0], zip(*(row.values() for row in rows), strict=True), strict=True):
            self.columns[key][self.count : end] = to_numbers(values)
        self.count = end

    def in_order(self) -> slice | NDArray[np.intp]:
        """Which rows, by step, the last of each step alone; a slice where the file is in order already."""
        if self._index[0] != self.count:
            steps = self.columns[STEP][: self.count]
            index: slice | NDArray[np.intp] = slice(0, self.count)
            if not (steps[1:] > steps[:-1]).all():
                index = last_of_each(steps)
            self._index = (self.count, index)
        return self._index[1]


def last_of_each(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions that put steps in order, the last of equal ones alone."""
    index = np.argsort(steps, kind="stable")
    ordered = steps[index]
    return index[np.append(ordered[1:] != ordered[:-1], True)]


def to_numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Numbers as they are, everything else NaN, infinities too."""
    try:
        numbers = np.array(values, dtype=np.float64)
        if numbers.ndim != 1:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([_to_number(value) for value in values], dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers[np.abs(numbers) > 3e38] = np.nan  # beyond float32
    return numbers


def fits(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the steps of these rows are numbers that numpy holds."""
    return all(-(2**53) < step < 2**53 for step in map(itemgetter(STEP), rows))


def _to_number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return math.nan


class Table:
    """All metrics of a file. `one_a_step` merges the rows of a step, as a resumed run needs it."""

    def __init__(self, one_a_step: bool = True) -> None:
        self.rows = 0
        self.nonfinite: dict[str, list[int]] = {}
        """Metric -> the steps at which it was not finite."""
        self._one_a_step = one_a_step
        self._blocks: dict[tuple[str, ...], _Block] = {}
        self._series: dict[str, tuple[tuple[int, ...], Series]] = {}

    def extend(self, records: Sequence[dict[str, Any]]) -> None:
        """Take rows in, in the file's order; rows without a step are passed over."""
        for keys, group in groupby(records, key=tuple):
            rows = list(group)
            if STEP not in keys:
                continue
            if set(map(type, map(itemgetter(STEP), rows))) != {int} or not fits(rows):
                rows = [row for row in rows if type(row[STEP]) is int and fits([row])]
                if not rows:
                    continue
            block = self._blocks.get(keys)
            if block is None and len(self._blocks) < MOST_SHAPES:
                block = self._blocks[keys] = _Block(keys)
            if block is not None:
                block.append(self.rows, rows)
            if "nonfinite" in keys:
                self._note_nonfinite(rows)
            self.rows += len(rows)

    def _note_nonfinite(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            named = row["nonfinite"]
            for key in named if isinstance(named, list) else []:
                if isinstance(key, str):
                    self.nonfinite.setdefault(key, []).append(row[STEP])

    def __iter__(self) -> Iterator[str]:
        """Names of the metrics, sorted."""
        return iter(sorted({key for keys in self._blocks for key in keys} - {*HEAD, "nonfinite"}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return any(key in keys for keys in self._blocks)

    def __getitem__(self, key: str) -> Series:
        """The series of a metric; KeyError where there is none."""
        blocks = [block for keys, block in self._blocks.items() if key in keys]
        if not blocks:
            raise KeyError(key)
        state = tuple(block.count for block in blocks)
        known = self._series.get(key)
        if known is None or known[0] != state:
            known = self._series[key] = (state, self._gather(key, blocks))
        return known[1]

    def get(self, key: str) -> Series | None:
        """The series of a metric, if there is one."""
        try:
            return self[key]
        except KeyError:
            return None

    def last(self, key: str) -> float:
        """The newest value of a metric; NaN where there is none."""
        series = self.get(key)
        return series.last if series else math.nan

    def _gather(self, key: str, blocks: Sequence[_Block]) -> Series:
        """The metric's columns of all blocks as one series; views, not copies, where that can be."""
        names = (STEP, key, TIME, RUNTIME)
        parts: list[list[NDArray[Any]]] = []
        for block in blocks:
            index = block.in_order() if self._one_a_step and len(blocks) == 1 else slice(0, block.count)
            missing = np.full(block.count, np.nan)
            parts.append([block.columns.get(name, missing)[: block.count][index] for name in names])
        if len(blocks) == 1:
            return Series(*parts[0])
        in_file = np.argsort(np.concatenate([block.order[: block.count] for block in blocks]), kind="stable")
        steps, *others = (np.concatenate(columns)[in_file] for columns in zip(*parts, strict=True))
        if not self._one_a_step:
            return Series(steps, *others)
        index = last_of_each(steps)
        return Series(steps[index], *(column[index] for column in others))
