"""Curves and samples as CSV, for a spreadsheet or pandas."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_min.ui.model import RunView

_COLUMNS = (
    "_step set id wer original_wer substitutions deletions insertions flags reference hypothesis original "
    "reference_normalized hypothesis_normalized original_normalized duration audio_filepath"
)
SAMPLE_COLUMNS = _COLUMNS.split()


def write(runs: Sequence[RunView], folder: Path) -> list[Path]:
    """`<run>.curves.csv` and, where there are samples, `<run>.samples.csv`; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for run in runs:
        # a run in a sub-folder is called `study/lora`
        stem = re.sub(r"[^\w.-]+", "_", run.name)
        for kind, header, rows in (
            ("curves", ["_step", "_timestamp", "_runtime", *run.metrics], curve_rows(run)),
            ("samples", SAMPLE_COLUMNS, sample_rows(run)),
        ):
            if kind == "samples" and not run.samples:
                continue
            path = folder / f"{stem}.{kind}.csv"
            with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                writer.writerows(rows)
            written.append(path)
    return written


def curve_rows(run: RunView) -> Iterator[list[Any]]:
    """A row a step, a column a metric; empty where a step has no value or it was not finite."""
    series = [run.metrics[key] for key in run.metrics]
    if not series:
        return
    steps = np.unique(np.concatenate([each.steps for each in series]))
    times = np.full((2, len(steps)), np.nan)
    columns = []
    for each in series:
        at = np.searchsorted(steps, each.steps)
        column = np.full(len(steps), np.nan, np.float32)
        column[at] = each.values
        columns.append(column)
        times[0, at], times[1, at] = each.timestamps, each.runtimes
    for row, step in enumerate(steps):
        exact = [number(float(value), 17) for value in times[:, row]]
        yield [int(step), *exact, *(number(float(column[row]), 7) for column in columns)]


def number(value: float, digits: int) -> str:
    """As many digits as are known."""
    return f"{value:.{digits}g}" if math.isfinite(value) else ""


def sample_rows(run: RunView) -> Iterator[list[Any]]:
    """A row an utterance and step."""
    for rows in run.samples.values():
        for row in rows:
            yield [flat(row.get(column)) for column in SAMPLE_COLUMNS]


def flat(value: Any) -> Any:
    """A cell; flags are joined."""
    return " ".join(map(str, value)) if isinstance(value, list) else value
