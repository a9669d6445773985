"""Where runs stand between the domain and everything else: a point an evaluation, and a point of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whisper_min.ui.model import RunView


@dataclass(frozen=True)
class Point:
    """A model: a checkpoint, or one between it and the original (`alpha` of the way). Rates are fractions."""

    run: str
    step: int
    alpha: float | None
    """None for the checkpoint itself, as it was evaluated in training."""
    domain: float
    """Mean WER of the domain's sets."""
    general: float
    """WER of the general sets, their errors added up."""
    loss: float = math.nan
    """What was lost in general: relative to the original."""
    chosen: bool = False

    @property
    def is_original(self) -> bool:
        """Whether this is the untouched model."""
        return self.step == 0 if self.alpha is None else self.alpha == 0

    @property
    def label(self) -> str:
        """What it is called."""
        if self.is_original:
            return "original"
        return f"step {self.step}" if self.alpha is None else f"α {self.alpha:.3g}"


@dataclass(frozen=True)
class Track:
    """A run's way: its evaluations by step, and its sweeps, each by alpha."""

    run: str
    evaluations: list[Point]
    sweeps: list[list[Point]]
    budget: float | None
    """The largest relative loss that the run was allowed."""

    @property
    def original(self) -> Point | None:
        """The untouched model, as far as it was measured."""
        return next((point for point in self.points if point.is_original), None)

    @property
    def points(self) -> list[Point]:
        """All points."""
        return [*self.evaluations, *(point for sweep in self.sweeps for point in sweep)]


def track_of(run: RunView) -> Track:
    """What a run's folder says about it."""
    evaluations = evaluations_of(run)
    sweeps = sweeps_of(run.name, run.sweep, run.general_sets)
    origin = next((point.general for line in (evaluations, *sweeps) for point in line if point.is_original), math.nan)

    def with_loss(points: Iterable[Point]) -> list[Point]:
        return [replace(point, loss=point.general / origin - 1 if origin > 0 else math.nan) for point in points]

    budget = run.config.get("max_forgetting")
    is_set = isinstance(budget, (int, float)) and not isinstance(budget, bool) and math.isfinite(budget)
    return Track(run.name, with_loss(evaluations), [with_loss(each) for each in sweeps], budget if is_set else None)


def evaluations_of(run: RunView) -> list[Point]:
    """A point for each step at which all sets were evaluated."""

    def by_step(key: str) -> dict[int, float]:
        series = run.metrics.get(key)
        return dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) if series is not None else {}

    rates = {name: by_step(f"eval/{name}/wer") for name in [*run.domain_sets, *run.general_sets]}
    rates = {name: its for name, its in rates.items() if its}  # sets without text have a drift and no WER
    domain, general = ([name for name in names if name in rates] for names in (run.domain_sets, run.general_sets))
    if not domain or not general:
        return []
    words = {name: by_step(f"eval/{name}/words") for name in general}
    points = []
    for step in sorted(set.intersection(*(set(rates[name]) for name in rates))):
        pooled = pool([(rates[name][step], words[name].get(step, 1.0)) for name in general])
        points.append(Point(run.name, step, None, mean([rates[name][step] for name in domain]), pooled))
    return [point for point in points if math.isfinite(point.domain + point.general)]


def sweeps_of(run: str, rows: Sequence[Mapping[str, Any]], general_sets: Sequence[str] = ()) -> list[list[Point]]:
    """The sweeps in a run's `sweep.jsonl`, a line of points a checkpoint; rows that are not understood are left out.

    A row says which role its set has; where it does not, the run's own general sets are known.
    """

    def role(row: Mapping[str, Any]) -> Any:
        return row.get("role", "general" if row.get("set") in general_sets else "domain")

    found: dict[tuple[int, str], dict[float, dict[str, Mapping[str, Any]]]] = {}
    chosen: tuple[object, ...] = ()
    for row in rows:
        if "chosen" in row:
            # the newest choice counts, also where it is that nothing passes
            chosen = (row.get("_step"), repr(row.get("lines")), row.get("alpha")) if row["chosen"] is True else ()
        elif type(row.get("_step")) is int and is_number(row.get("alpha")) and is_number(row.get("wer")):
            line = found.setdefault((row["_step"], repr(row.get("lines"))), {})
            line.setdefault(float(row["alpha"]), {})[str(row.get("set"))] = row
    sweeps = []
    for (step, lines), alphas in found.items():
        points = []
        for alpha, sets in sorted(alphas.items()):
            domain = [row["wer"] for row in sets.values() if role(row) == "domain"]
            general = [(row["wer"], row.get("words", 1)) for row in sets.values() if role(row) == "general"]
            if domain and general:
                is_chosen = chosen == (step, lines, alpha)
                points.append(Point(run, step, alpha, mean(domain), pool(general), chosen=is_chosen))
        if points:
            sweeps.append(points)
    return sweeps


def is_number(value: object) -> bool:
    """Whether a foreign value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def mean(rates: Sequence[float]) -> float:
    """The mean of some rates."""
    return math.fsum(rates) / len(rates)


def pool(rates: Sequence[tuple[float, Any]]) -> float:
    """Rates by the number of words they were measured on; a set of unknown size counts as one word."""
    sized = [(rate, float(words) if is_number(words) and words > 0 else 1.0) for rate, words in rates]
    return math.fsum(rate * words for rate, words in sized) / math.fsum(words for _, words in sized)
