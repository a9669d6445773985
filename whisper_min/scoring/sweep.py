"""Sweeps: the models between a run's original and its checkpoint, scored one after another, and the point chosen.

A sweep leaves its numbers in the run's `sweep.jsonl`, a line per point and set; under a budget a last line says what
was chosen, and from then on the run's weights are those of that point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from whisper import Whisper

from whisper_min import config, runs
from whisper_min.config import InputError
from whisper_min.model import weights
from whisper_min.model.interpolate import interpolate
from whisper_min.runs import RunFolder
from whisper_min.scoring import budget
from whisper_min.scoring.budget import Candidate, Choice, Results
from whisper_min.scoring.tracking import Evaluation

# Where a training under a budget looks between the original and each of its checkpoints.
POINTS = (0.25, 0.5, 0.75, 1.0)
# More points than anybody means: a step mistyped.
MOST_POINTS = 1001


def parse_points(words: str) -> list[float]:
    """The points of `0:1:0.1` (first, last, step), of a list `0,0.3,1` or of one number; each once, in order."""
    try:
        if ":" in words:
            first, last, step = map(float, words.split(":"))
            count = math.floor((last - first) / step + 1e-9) + 1
            # rounded: a tenth ten times is 1, not 0.9999999999999999
            points = [round(first + index * step, 9) for index in range(max(0, min(count, MOST_POINTS + 1)))]
        else:
            points = [float(word) for word in words.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        points = []
    if not points or len(points) > MOST_POINTS or not all(0 <= point <= 1 for point in points):
        raise InputError(
            f"--interpolate {words}: give points from 0, the original, to 1, the run: 0:1:0.1, or 0.3,0.5,1, or 0.7"
        )
    return sorted(set(points))


@dataclass(frozen=True)
class Line:
    """The points between a run's original and one of its checkpoints."""

    run: Path
    checkpoint: Path
    alphas: Sequence[float]
    lines: float | None = None
    """The first layers' share of alpha, as `interpolate` takes it."""

    @classmethod
    def of(cls, systems: Sequence[str], words: str | None, lines: float | None) -> Line | None:
        """What `--interpolate` and `--lines` ask of one run; InputError with all that is wrong with it."""
        if words is None:
            if lines is not None:
                raise InputError(
                    "--lines: scales the points of --interpolate; give that too, as in --interpolate 0:1:0.1"
                )
            return None
        faults, alphas = [], []
        try:
            alphas = parse_points(words)
        except InputError as error:
            faults += error.faults
        if lines is not None and not 0 <= lines <= 1:
            faults.append(f"--lines {lines}: must lie between 0 and 1, the first layers' share of a point")
        run = Path(systems[0]) if len(systems) == 1 else Path()
        checkpoint = runs.best_checkpoint(run) or runs.last_checkpoint(run)
        if len(systems) != 1 or not runs.is_run(run):
            named = " ".join(systems) or "none"
            faults.append(f"--interpolate: takes one run folder alone (it knows its original), not {named}")
        elif checkpoint is None:
            faults.append(f"--interpolate: {run} has no checkpoint yet")
        if faults or checkpoint is None:
            raise InputError(faults)
        return cls(run, checkpoint, alphas, lines)

    @property
    def names(self) -> list[str]:
        """The original's name, then the points', such as `runs/x@0.3`."""
        return [config.load(self.run).model, *(f"{self.run}@{alpha:.9g}" for alpha in self.alphas)]

    def models(self) -> Iterator[tuple[Whisper, weights.Origin]]:
        """The original, then every point, all in one model that is written anew for each; take it to any device.

        Beside it two state dicts are held, and no point is ever written to disk.
        """
        model, origin = weights.load_original(self.run)
        original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        yield model, origin
        tuned, found = weights.load(str(self.checkpoint))
        for alpha in self.alphas:
            interpolate(model, original, tuned.state_dict(), alpha, self.lines)
            between = f"{found.found}, interpolated to {alpha:g} from {origin.found}"
            yield model, replace(found, found=between, fingerprint=weights.fingerprint(model.state_dict()))

    def write(self, results: Sequence[Results], general: Sequence[str], choice: Choice | None = None) -> None:
        """Append every point's numbers to sweep.jsonl, a line a set, and where there is one the choice among them."""
        run, rows = RunFolder(self.run), []
        for alpha, its in zip(self.alphas, results, strict=True):
            for name, result in its.items():
                role = "general" if name in general else "domain"
                rows.append({**self.point(alpha), "set": name, "role": role, **result.summary()})
        run.append("sweep.jsonl", rows)
        if choice is not None:
            write_choice(run, choice, dict(zip(self.names[1:], map(self.point, self.alphas), strict=True)))

    def point(self, alpha: float) -> dict[str, Any]:
        """What names a point in sweep.jsonl."""
        name = self.checkpoint.resolve().name
        return {"_step": int(name), "alpha": alpha, "lines": self.lines, "checkpoint": f"checkpoints/{name}"}


def write_choice(run: RunFolder, choice: Choice, points: Mapping[str, dict[str, Any]]) -> None:
    """Append to sweep.jsonl what was chosen, or that nothing was; `points` are those of the candidates by name."""
    nothing = {"_step": None, "alpha": None, "lines": None, "checkpoint": None}
    point = points[choice.candidate.name] if choice.candidate else nothing
    chosen = choice.candidate is not None
    run.append("sweep.jsonl", [{"chosen": chosen, **point, "answer": choice.answer, "reason": choice.reason}])


def choose_for_run(evaluation: Evaluation, device: torch.device, out: Console) -> Choice | None:
    """At the end of a training under a budget: of its best and last checkpoint and `POINTS`, what gains most within it.

    Decodes the training's own evaluation sets in its own precision; what it has decoded already, the checkpoints
    themselves, is not decoded again. Prints the table and the choice and writes both to sweep.jsonl. Returns None where
    there is no budget, and takes back what was chosen before the training went on; raises Stop where the run is asked
    to stop.
    """
    run, limits = evaluation.run, evaluation.budget
    named = (runs.best_checkpoint(run.path), runs.last_checkpoint(run.path))
    checkpoints = list(dict.fromkeys(path for path in named if path is not None))
    if not limits.is_set or not checkpoints:
        if runs.last_choice(run.path) is not None:
            run.append("sweep.jsonl", [{"chosen": None, "reason": "the training went on without a budget"}])
        return None
    candidates: list[Candidate] = []
    points: dict[str, dict[str, Any]] = {}
    for checkpoint in checkpoints:
        line = Line(run.path, checkpoint, POINTS)
        step = line.point(1)["_step"]
        known = evaluation.read_results(step)
        found: list[Results] = []
        models = line.models()
        next(models)  # the original's results are known
        for alpha, (model, _) in zip(POINTS, models, strict=True):
            name = f"step {step}@{alpha:g}"
            decoded = alpha == 1 and known.keys() == evaluation.original.keys()
            found.append(known if decoded else evaluation.score(model.to(device), name))
            candidates.append(evaluation.measure(name, found[-1]))
            points[name] = line.point(alpha)
        line.write(found, evaluation.general_names)
    judged = budget.Judgement(candidates, limits, budget.choose(candidates, limits))
    assert judged.choice is not None
    write_choice(run, judged.choice, points)
    judged.show(out)
    return judged.choice
