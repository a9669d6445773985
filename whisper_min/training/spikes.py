"""Steps that went wrong, and the clips that they were made of: numbers that are not finite, or far above the usual."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from whisper_min import runs
from whisper_min.runs import RunFolder
from whisper_min.training.reporter import Reporter

WATCHED = {"train/loss": "loss", "train/grad_norm": "gradient norm"}
# A number is judged against the median of so many steps before it, once so many are known.
WINDOW, LEAST = 50, 20
# It is a spike above so many times that median, if the logarithm, too, lies so many times the usual distance above:
# gradient norms vary by factors from step to step.
TIMES, DISTANCES = 2.0, 8.0


class Spikes:
    """Writes `spikes.jsonl`: a row for each step that stands out, with its loss, gradient norm and clips.

    Parameters
    ----------
    step : int
        that the run goes on from; what was usual before is read from its metrics, so that a resume judges alike
    max_nonfinite : int
        steps in a row without a finite gradient that end the run
    """

    def __init__(self, run: RunFolder, reporter: Reporter, step: int, max_nonfinite: int) -> None:
        self.run, self.reporter, self.max_nonfinite = run, reporter, max_nonfinite
        self.nonfinite_steps = 0
        self.usual: dict[str, deque[float]] = {key: deque(maxlen=WINDOW) for key in WATCHED}
        """Logarithms."""
        for before, row in runs.merge_steps(runs.read_jsonl(run.path / "metrics.jsonl")).items():
            if before <= step:
                self._remember(row)

    def look(self, step: int, row: dict[str, Any], clips: list[str]) -> dict[str, float]:
        """Judge a step's row of metrics; `train/spike`, how many times the usual it is, where it stands out."""
        numbers = {key: float(row[key]) for key in WATCHED}
        finite = math.isfinite(numbers["train/grad_norm"])
        self.nonfinite_steps = 0 if finite else self.nonfinite_steps + 1
        found = {key: times for key in WATCHED if (times := self._times_the_usual(key, numbers[key])) is not None}
        self._remember(numbers)
        if finite and not found:
            return {}
        self.run.log("spikes.jsonl", step, {**numbers, "clips": clips})
        what = ", ".join(f"the {WATCHED[key]} is {times:.1f} times the usual" for key, times in found.items())
        what = what if finite else "the gradient is not finite; the update was skipped"
        self.reporter.print(f"step {step}: {what} (its clips are in {self.run.path / 'spikes.jsonl'})")
        return {"train/spike": max(found.values())} if found else {}

    def stop_where_none_is_finite(self, step: int) -> None:
        """FloatingPointError where too many steps in a row, the last of them this, had no finite gradient.

        Their updates were skipped: the weights are what they were before, and will not get better by themselves.
        """
        if self.nonfinite_steps < self.max_nonfinite:
            return
        last = runs.last_checkpoint(self.run.path)
        way_on = (
            f"go on from step {last.name} with a lower rate: python train.py --resume {self.run.path} --lr …"
            if last
            else "there is no checkpoint yet: look at the clips, or start with a lower --lr"
        )
        steps = f"steps {step - self.nonfinite_steps + 1} to {step}"
        clips = self.run.path / "spikes.jsonl"
        raise FloatingPointError(f"no finite gradient in {steps}, whose clips are in {clips}; {way_on}")

    def _remember(self, row: dict[str, Any]) -> None:
        for key, values in self.usual.items():
            if 0 < (row.get(key) or 0.0) < math.inf:
                values.append(math.log(row[key]))

    def _times_the_usual(self, key: str, value: float) -> float | None:
        values = self.usual[key]
        if len(values) < LEAST or not 0 < value < math.inf:
            return None
        middle = median(values)
        distance = median(abs(each - middle) for each in values)
        above = math.log(value) - middle
        return math.exp(above) if above > max(math.log(TIMES), DISTANCES * distance) else None
