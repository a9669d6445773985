"""The forgetting budget: how much general speech a model may lose for what it gains on its domain.

General sets with text count by their word errors, pooled as one count and set by set, each compared with the original
on the same utterances by the paired bootstrap. Sets without text have no word errors: their drift from the original's
own transcripts has a limit of its own and never enters the budget, as a change for the better is drift, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from whisper_min.config import Config
from whisper_min.data.checked import CheckedSet
from whisper_min.scoring import report, significance, wer
from whisper_min.scoring.evaluation import SetResult

# Of the bound where none is asked for.
CONFIDENCE = 0.95
# A set is significantly worse where chance alone would make it so less often than this: one-sided, and each set by
# itself, so that of twenty sets that lost nothing one is refused for nothing.
SIGNIFICANT = 0.05

Results = Mapping[str, SetResult]


@dataclass(frozen=True)
class Loss:
    """What a model lost against the original on one set, or on several pooled; below 0 it gained."""

    relative: float
    """Change of the word errors by the original's; 0.05 is 5 % more. Infinite where the original made none."""
    upper: float
    """One-sided bound of it: the percentile of the paired bootstrap at the confidence asked for."""
    upper_95: float
    """The bound at 95 %."""
    smallest_shown: float
    """The smallest loss whose own one-sided bound would have excluded 0: the normal quantile of the confidence times
    the bootstrap's standard error of the paired difference, by the original's rate. At least one word error."""
    p_value: float
    """One-sided: how often such a loss comes of chance alone."""


@dataclass(frozen=True)
class Candidate:
    """A model's gain and losses; every number is a fraction."""

    name: str
    domain_wer: float
    """Mean over the domain's sets."""
    gain: float
    """The original's domain WER minus this one."""
    relative_gain: float
    pooled: Loss | None
    """Over the general sets with text, errors added up; None without any."""
    sets: dict[str, Loss]
    drift: dict[str, float]
    """Of the general sets without text."""

    @property
    def mean_loss(self) -> float:
        """Mean of the general sets' relative losses; not a number without any."""
        return sum(each.relative for each in self.sets.values()) / len(self.sets) if self.sets else float("nan")

    @property
    def worst_loss(self) -> float:
        """Relative loss of the general set that lost most; not a number without any."""
        return max((each.relative for each in self.sets.values()), default=float("nan"))

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "mean_loss": self.mean_loss, "worst_loss": self.worst_loss}


@dataclass(frozen=True)
class Budget:
    """What may be lost."""

    max_forgetting: float | None = None
    """Largest relative loss on the general sets, pooled."""
    max_drift: float | None = None
    """Largest drift on every general set without text."""
    confidence: float | None = None
    """Ask it of the one-sided bound of this confidence, not only of the number measured."""

    @classmethod
    def of(cls, cfg: Config) -> Budget:
        """The options `--max_forgetting`, `--max_drift` and `--confidence`."""
        return cls(cfg.max_forgetting, cfg.max_drift, cfg.confidence)

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return self.max_forgetting is not None or self.max_drift is not None

    def check(self, general: Sequence[CheckedSet]) -> list[str]:
        """What the `--retain` sets lack for it, each with its fix."""
        faults = []
        if self.max_forgetting is not None and not any(each.speech.has_text for each in general):
            faults.append("--max_forgetting: no --retain set has text; add one that has, or give --max_drift instead")
        if self.max_drift is not None and all(each.speech.has_text for each in general):
            faults.append("--max_drift: every --retain set has text; add one without, or give --max_forgetting instead")
        return faults

    def faults(self, candidate: Candidate) -> list[str]:
        """How a candidate breaks the budget; empty where it keeps it."""
        found = []
        if self.max_forgetting is not None:
            limit, pooled = self.max_forgetting, candidate.pooled
            if pooled is None:
                found.append("no general set has text to measure forgetting on")
            elif pooled.relative > limit:
                found.append(f"general loss {percent(pooled.relative, '+')}, above {percent(limit)}")
            elif self.confidence is not None and pooled.upper > limit:
                bound = f"the {100 * self.confidence:g} % bound of its general loss"
                found.append(f"{bound} {percent(pooled.upper, '+')}, above {percent(limit)}")
            for name, loss in candidate.sets.items():
                if is_significant(loss):
                    found.append(
                        f"{name} significantly worse, {percent(loss.relative, '+')} with p = {loss.p_value:.2g}"
                    )
        if self.max_drift is not None:
            limit = self.max_drift
            for name, its in candidate.drift.items():
                if its > limit:
                    found.append(f"{name} drifted {percent(its)}, above {percent(limit)}")
            if not candidate.drift:
                found.append("no general set without text to measure drift on")
        return found


def is_significant(loss: Loss) -> bool:
    """Whether a set is worse than chance explains."""
    return loss.relative > 0 and loss.p_value < SIGNIFICANT


def measure(
    name: str,
    original: Results,
    results: Results,
    domain: Sequence[str],
    general: Sequence[str],
    confidence: float | None = None,
) -> Candidate:
    """Compare a model with the original, set by set.

    Parameters
    ----------
    original, results : mapping
        set name -> result, of the same utterances
    domain, general : sequence of str
        names of the domain's sets, which have text, and of all others
    confidence : float, optional
        of `Loss.upper`; 0.95 without it
    """
    before, after = (sum(each[name].words.rate for name in domain) / len(domain) for each in (original, results))
    texts = [name for name in general if not results[name].is_drift]
    asked = confidence or CONFIDENCE
    return Candidate(
        name=name,
        domain_wer=after,
        gain=before - after,
        relative_gain=(before - after) / before if before else 0.0,
        pooled=relative_loss([(original[each], results[each]) for each in texts], asked) if texts else None,
        sets={each: relative_loss([(original[each], results[each])], asked) for each in texts},
        drift={each: results[each].words.rate for each in general if results[each].is_drift},
    )


def relative_loss(pairs: Sequence[tuple[SetResult, SetResult]], confidence: float = CONFIDENCE) -> Loss:
    """What the second of each pair lost against the first, pooled; each set is resampled by itself."""
    before, after = (wer.add_up(result.words for result in side) for side in zip(*pairs, strict=True))
    rates = significance.resample([first.units([second]) for first, second in pairs])
    difference = rates[1] - rates[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        # resamples in which the original makes no error: nothing lost is no loss, anything else a boundless one
        changes = np.where(difference == 0, 0.0, difference / rates[0])
    error = float(difference.std()) / before.rate if before.total else float("inf")
    return Loss(
        relative=_by(after.total - before.total, before.total),
        upper=_percentile(changes, confidence),
        upper_95=_percentile(changes, 0.95),
        smallest_shown=max(_by(1, before.total), NormalDist().inv_cdf(confidence) * error),
        # +1: the observed sample counts as one, so that no p-value is 0
        p_value=float(((difference <= 0).sum() + 1) / (len(difference) + 1)),
    )


def _by(errors: int, originals: int) -> float:
    return errors / originals if originals else float("inf") if errors else 0.0


def _percentile(changes: significance.Array, share: float) -> float:
    """The order statistic at or above the share: it needs no mean of two, of which one may be infinite."""
    return float(np.quantile(changes, share, method="higher"))


@dataclass(frozen=True)
class Choice:
    """What the budget leaves."""

    answer: Literal["chosen", "none passes", "too small"]
    candidate: Candidate | None
    reason: str
    """For people, in one sentence."""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"answer": self.answer, "system": self.candidate and self.candidate.name, "reason": self.reason}


def choose(candidates: Iterable[Candidate], budget: Budget) -> Choice:
    """Of the candidates that keep the budget and gain on the domain, the one of the largest gain.

    Among equals it is the one that lost least, then the first. Where none is left, that is the answer; and where it is
    for want of data alone, as a number measured keeps the budget but no loss as small could have been shown, that is.
    """
    gaining = [candidate for candidate in candidates if candidate.gain > 0]
    passing = [candidate for candidate in gaining if not budget.faults(candidate)]
    if passing:
        best = max(passing, key=lambda candidate: (candidate.gain, -_pooled(candidate)))
        return Choice("chosen", best, f"{best.name}: {describe(best, budget)}")
    if not gaining:
        return Choice("none passes", None, "none passes: none is better than the original on the domain")
    unproven = [
        candidate
        for candidate in gaining
        if not replace(budget, confidence=None).faults(candidate)
        and candidate.pooled is not None
        and candidate.pooled.smallest_shown > (budget.max_forgetting or 0)
    ]
    if unproven:
        best = max(unproven, key=lambda candidate: candidate.gain)
        assert best.pooled is not None
        return Choice(
            "too small",
            None,
            f"these sets are too small to prove it: {best.name} keeps the budget as measured "
            f"({describe(best, budget)}), but the smallest loss that they could have shown is "
            f"{percent(best.pooled.smallest_shown)}; give more general speech, or ask for less --confidence",
        )
    nearest = min(gaining, key=lambda candidate: (len(budget.faults(candidate)), _pooled(candidate)))
    faults = "; ".join(budget.faults(nearest))
    return Choice("none passes", None, f"none passes; the nearest is {nearest.name}: {faults}")


def _pooled(candidate: Candidate) -> float:
    return candidate.pooled.relative if candidate.pooled is not None else max(candidate.drift.values(), default=0.0)


def describe(candidate: Candidate, budget: Budget) -> str:
    """Gain, loss and bound of one candidate in words."""
    said = f"domain WER {percent(candidate.domain_wer)}, {percent(candidate.relative_gain)} less than the original's"
    if candidate.pooled is not None:
        bound = f"{100 * (budget.confidence or CONFIDENCE):g} % bound {percent(candidate.pooled.upper, '+')}"
        said += f"; general loss {percent(candidate.pooled.relative, '+')} ({bound})"
    return said + "".join(f"; {name} drifted {percent(its)}" for name, its in candidate.drift.items())


def percent(fraction: float, sign: str = "") -> str:
    """A fraction as people read it, `4.5 %`."""
    return f"{100 * fraction:{sign}.1f} %"


def table(candidates: Sequence[Candidate], budget: Budget, choice: Choice | None = None, wide: bool = True) -> Table:
    """Every candidate's gain and losses in per cent; `wide` adds what does not fit into 80 columns."""
    title = "Gain and forgetting against the original, in %"
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    bound = f"{100 * (budget.confidence or CONFIDENCE):g} %\nbound"
    columns = ["system", "domain\nWER", "gain", "loss", bound, "worst\nset", "drift"]
    columns += ["mean\nset", "shown\nfrom"] * wide + ["keeps"] * budget.is_set
    for column in columns:
        made.add_column(column, justify="left" if column == "system" else "right", no_wrap=column != "system")
    for its in candidates:
        pooled = its.pooled
        row = [report.short_name(its.name), f"{100 * its.domain_wer:.1f}", f"{100 * its.relative_gain:+.1f}"]
        row += [f"{100 * pooled.relative:+.1f}", f"{100 * pooled.upper:+.1f}"] if pooled else ["", ""]
        worse = "*" if any(map(is_significant, its.sets.values())) else ""
        row += [f"{100 * its.worst_loss:+.1f}{worse}" if its.sets else ""]
        row += [f"{100 * max(its.drift.values()):.1f}" if its.drift else ""]
        if wide:
            row += [f"{100 * its.mean_loss:+.1f}", f"{100 * pooled.smallest_shown:.1f}"] if pooled else ["", ""]
        if budget.is_set:
            row += ["no" if budget.faults(its) else "yes"]
        chosen = choice is not None and choice.candidate is its
        made.add_row(*row, style="bold" if chosen else "")
    made.caption = "loss: relative, of the general sets pooled; *: a set significantly worse (p < 0.05, one-sided)"
    return made


def closing(candidates: Sequence[Candidate], choice: Choice | None = None) -> list[str]:
    """What is said below the table: the smallest loss that could have been shown, and the choice."""
    # near the original little differs, and so little could: without a choice, what the least sure one could show
    meant = [choice.candidate] if choice is not None and choice.candidate is not None else candidates
    shown = [each.pooled.smallest_shown for each in meant if each.pooled is not None]
    lines = [f"The smallest general loss that these sets could have shown is {percent(max(shown))}."] if shown else []
    if choice is not None:
        lines.append(
            f"Chosen: {choice.reason}." if choice.candidate else f"{choice.reason[0].upper()}{choice.reason[1:]}."
        )
    return lines


@dataclass(frozen=True)
class Judgement:
    """All candidates of an evaluation under one budget."""

    candidates: Sequence[Candidate]
    budget: Budget
    choice: Choice | None
    """None where nothing is limited."""

    def record(self) -> dict[str, Any]:
        """For `evaluate.py --json`."""
        limits = {**asdict(self.budget), "bound_confidence": self.budget.confidence or CONFIDENCE}
        judged = [{**its.record(), "faults": self.budget.faults(its)} for its in self.candidates]
        return {**limits, "systems": judged, "choice": self.choice and self.choice.record()}

    def show(self, out: Console) -> None:
        """Print the table, and below it the choice."""
        out.print(table(self.candidates, self.budget, self.choice, wide=out.width >= report.WIDE))
        for line in closing(self.candidates, self.choice):
            out.print(line, markup=False, highlight=False, soft_wrap=True)


def judge(
    systems: Sequence[str],
    results: Mapping[str, Results],
    domain: Sequence[str],
    general: Sequence[str],
    budget: Budget,
) -> Judgement | None:
    """Every system against the first; None where there is nothing to compare, or no set of one of both kinds."""
    if len(systems) < 2 or not domain or not general:
        return None
    first, *others = systems
    candidates = [measure(each, results[first], results[each], domain, general, budget.confidence) for each in others]
    return Judgement(candidates, budget, choose(candidates, budget) if budget.is_set else None)
