"""From runs to curves: the x that is asked for, smoothing, the original's level. Known again while nothing changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_min.ui.looks import Look
from whisper_min.ui.metric_names import is_evaluation, is_noisy
from whisper_min.ui.plot import Curve
from whisper_min.ui.smoothing import Smoother
from whisper_min.ui.table import Series
from whisper_min.ui.view import Axis

Floats = NDArray[np.floating[Any]]
AUDIO = "train/audio_seconds"


class Metrics(Protocol):
    """What is needed of `table.Table`."""

    def get(self, key: str) -> Series | None:
        """The series of a metric."""


class Run(Protocol):
    """What is needed of `model.RunView`."""

    name: str

    @property
    def metrics(self) -> Metrics:
        """All series by name."""


@dataclass
class _Known:
    """A curve and what it was made of."""

    made_of: tuple[object, ...]
    curve: Curve
    smoother: Smoother


class CurveStore:
    """Makes curves and keeps those in sight."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}
        self._x: dict[tuple[str, Axis], list[tuple[Series, Series | None, Floats]]] = {}

    def keep(self, names: Sequence[str], keys: Sequence[str]) -> None:
        """Forget all curves but those of these runs and metrics."""
        self._known = {pair: known for pair, known in self._known.items() if pair[0] in names and pair[1] in keys}
        in_use = [known.made_of[0] for known in self._known.values()]
        for place, several in list(self._x.items()):
            self._x[place] = [each for each in several if any(each[0] is series for series in in_use)]

    def curve(self, run: Run, key: str, axis: Axis, weight: float, look: Look) -> Curve | None:
        """The curve of a run's metric; None where it has none. The same object as before while nothing changed."""
        series = run.metrics.get(key)
        if series is None or not len(series):
            return None
        weight = weight if is_noisy(key) else 0.0
        audio = run.metrics.get(AUDIO) if axis == "audio" else None
        made_of = (series, audio, axis, weight, look)
        known = self._known.get((run.name, key))
        if known is not None and all(
            now is before if isinstance(now, Series) else now == before
            for now, before in zip(made_of, known.made_of, strict=True)
        ):
            return known.curve
        smoother = known.smoother if known is not None and known.smoother.weight == weight else Smoother(weight)
        smoothed = smoother(series.values) if weight else None
        x = self._x_of(run, series, axis, audio)
        curve = Curve(x, series.values, look, smoothed, original_of(series, key))
        self._known[run.name, key] = _Known(made_of, curve, smoother)
        return curve

    def _x_of(self, run: Run, series: Series, axis: Axis, audio: Series | None) -> Floats:
        """Where the values lie; one array for all metrics that were written at the same steps."""
        several = self._x.setdefault((run.name, axis), [])
        for other, its_audio, x in several:
            if its_audio is audio and len(other) == len(series) and np.array_equal(other.steps, series.steps):
                return x
        several[:] = [each for each in several[-7:] if each[0] is not series]
        several.append((series, audio, x_values(run, series, axis, audio)))
        return several[-1][2]


def x_values(run: Run, series: Series, axis: Axis, audio: Series | None) -> Floats:
    """Steps, steps since the run's first, seconds of training, or hours of audio heard. Never falls."""
    x: Floats = series.steps.astype(np.float64)
    if axis == "relative":
        loss = run.metrics.get("train/loss")
        x -= min([float(each.steps[0]) for each in (series, loss) if each is not None and len(each)])
    elif axis == "time":
        x = series.runtimes.astype(np.float64)
    elif axis == "audio":
        heard = audio.values.astype(np.float64) if audio is not None else np.empty(0)
        known = np.isfinite(heard)
        if audio is None or not known.any():
            return np.full(len(x), -np.inf)
        # an evaluation hears what was heard at its step; before the first step that is nothing
        x = np.interp(x, audio.steps[known].astype(np.float64), heard[known], left=0.0) / 3600
    return np.asarray(np.fmax.accumulate(np.where(np.isnan(x), -np.inf, x)))


def original_of(series: Series, key: str) -> float:
    """The value at step 0 of an evaluation, which is the untouched model's; NaN where there is none."""
    is_original = is_evaluation(key) and len(series) > 0 and int(series.steps[0]) == 0
    return float(series.values[0]) if is_original else math.nan
