"""What is wrong with a run: told once for each kind and step, worst first."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_min.ui import words
from whisper_min.ui.model import CRASHED, STALLED, RunView

# The loss, smoothed over a hundredth of the run, may grow this much above its lowest before that is called divergence.
DIVERGED = 1.5
# Least steps of a run whose loss is judged.
JUDGED_STEPS = 50
# Without a budget of its own a run is told of when general speech loses this much, relatively.
TOLD_FORGETTING = 0.1
# Disk: less than this much left, in bytes and as a share.
DISK_BYTES, DISK_SHARE = 5e9, 0.02


@dataclass(frozen=True)
class Alert:
    """One thing to know. `key` stays the same while it lasts."""

    run: str
    kind: str
    severe: bool
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return (self.run, self.kind)


def of_run(run: RunView) -> list[Alert]:
    """Everything that is wrong with a run, worst first."""
    found = [*_state(run), *_nonfinite(run), *_spikes(run), *_divergence(run), *_forgetting(run), *_loops(run)]
    return sorted(found, key=lambda alert: not alert.severe)


def of_disk(folder: Path) -> list[Alert]:
    """Whether the disk that the runs are on is nearly full."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return []
    if disk.free < DISK_BYTES and disk.free < DISK_SHARE * disk.total:
        return [Alert("", "disk", True, f"disk nearly full: {words.size(disk.free)} left; checkpoints need room")]
    return []


def _state(run: RunView) -> Iterator[Alert]:
    state, age = run.state, words.age(run.heartbeat_age)
    if state == CRASHED:
        resume = f"continue with: python train.py --resume {run.path}"
        yield Alert(run.name, "crash", True, f"crashed: its process is gone, last heard of {age} ago; {resume}")
    elif state == STALLED:
        yield Alert(run.name, "stall", False, f"stalled: alive, but not heard of for {age}")
    elif state == "failed":
        yield Alert(run.name, "failure", True, f"failed: {words.printable(str(run.status.get('exit_reason')))}")


def _nonfinite(run: RunView) -> Iterator[Alert]:
    for key, steps in run.metrics.nonfinite.items():
        if key in ("train/loss", "train/ce", "train/kl", "train/ewc", "train/grad_norm"):
            # a loss scaler tries a gradient that overflows now and then: that is its way to work
            severe = key != "train/grad_norm"
            more = f" and {len(steps) - 1} times before" if len(steps) > 1 else ""
            yield Alert(run.name, f"nonfinite {key}", severe, f"{key} was not finite at step {steps[-1]}{more}")


def _spikes(run: RunView) -> Iterator[Alert]:
    series = run.metrics.get("train/spike")
    if series is not None and len(series):
        last = f"the latest at step {series.steps[-1]}, {series.values[-1]:.1f} times the usual"
        yield Alert(run.name, "spikes", False, f"spikes of loss or gradient: {len(series)}, {last}; see spikes.jsonl")


def _divergence(run: RunView) -> Iterator[Alert]:
    series = run.metrics.get("train/loss")
    if series is None or len(series) < JUDGED_STEPS:
        return
    values = series.values[np.isfinite(series.values)].astype(np.float64)
    window = max(10, len(values) // 100)
    means = values[len(values) % window :].reshape(-1, window).mean(axis=1)
    if len(means) > 1 and means[-1] > DIVERGED * means.min() and means[-1] > values[:window].mean():
        text = f"diverges: the loss is {words.number(means[-1])} after {words.number(means.min())} at best"
        yield Alert(run.name, "divergence", True, text)


def _forgetting(run: RunView) -> Iterator[Alert]:
    first, now = run.general_wer
    if not (math.isfinite(first) and math.isfinite(now)) or first <= 0:
        return
    budget = run.config.get("max_forgetting")
    limit = float(budget) if isinstance(budget, (int, float)) else TOLD_FORGETTING
    loss = now / first - 1
    if loss > limit:
        past = f"the budget of {100 * limit:.0f} %" if budget is not None else f"{100 * limit:.0f} %"
        text = f"forgets: general WER {words.change(first, now)} %, {100 * loss:+.0f} %, past {past}"
        yield Alert(run.name, "forgetting", budget is not None, text)


def _loops(run: RunView) -> Iterator[Alert]:
    for name in run.eval_sets:
        first, now = run.oldest(f"eval/{name}/loops"), run.newest(f"eval/{name}/loops")
        if now > first:
            text = f"loops on {words.printable(name)}: {first:.0f} at the start, {now:.0f} now"
            yield Alert(run.name, f"loops {name}", False, text)


class Watch:
    """The alerts of all runs; a run is judged anew when it changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alerts: list[Alert] = []
        self._judged: dict[str, tuple[tuple[int, str], list[Alert]]] = {}
        self._known: set[tuple[str, str]] | None = None

    def look(self, runs: Sequence[RunView]) -> list[Alert]:
        """Judge the runs; returns what is new since the last look (nothing at the first one)."""
        judged = {}
        for run in runs:
            state = (run.version, run.state)
            known = self._judged.get(run.name)
            judged[run.name] = known if known is not None and known[0] == state else (state, of_run(run))
        self._judged = judged
        self.alerts = of_disk(self.folder) + [alert for _, alerts in judged.values() for alert in alerts]
        self.alerts.sort(key=lambda alert: not alert.severe)
        keys = {alert.key for alert in self.alerts}
        fresh = [alert for alert in self.alerts if self._known is not None and alert.key not in self._known]
        self._known = keys
        return fresh
