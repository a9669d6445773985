"""Where a run stands: what a checkpoint keeps beside the weights, and what a resume goes on from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whisper_min.data.batches import Position
from whisper_min.training import checkpoint, sharding
from whisper_min.training.micro_batches import Totals


@dataclass
class State:
    """Counts of a run, and which of its evaluations was the best."""

    step: int = 0
    """Optimizer steps that are done."""
    position: Position = (0, 0, 0)
    """In the data: what the next step begins with."""
    evaluated: int = -1
    """The step of the latest evaluation."""
    best: dict[str, Any] | None = None
    """`step` and `wer` of the best evaluation, and its `rank`: one that is over the budget comes behind all others."""
    stale: int = 0
    """Evaluations since then."""
    tokens: int = 0
    """Tokens that the loss has counted."""
    audio_seconds: float = 0.0
    runtime: float = 0.0
    """Seconds, of all attempts."""
    saved: int = 0
    """The step of the latest checkpoint."""

    @classmethod
    def of(
        cls,
        place: Path | None,
        saved: dict[str, Any] | None,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        rank: int,
    ) -> State:
        """What a checkpoint's trainer.pt holds, to which optimizer, scaler and random state are set; else the start."""
        if place is None or saved is None:
            return cls()
        counts = asdict(cls())
        del counts["saved"]
        with checkpoint.of_this_run(place):
            for name, value in counts.items():
                if value is not None and type(saved[name]) is not type(value):
                    raise TypeError(f"{name} is {type(saved[name]).__name__}")
            sharding.load_optimizer_state(optimizer, saved["optimizer"])
            scaler.load_state_dict(saved["scaler"])
            torch.set_rng_state(saved["rng"][rank % len(saved["rng"])])
        return cls(**{name: saved[name] for name in counts}, saved=saved["step"])

    def record(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rng: list[Tensor]
    ) -> dict[str, Any]:
        """What `trainer.pt` holds, whatever the number of ranks; `rng` has the random state of each rank."""
        own = {name: value for name, value in asdict(self).items() if name != "saved"}
        return {**own, "optimizer": sharding.optimizer_state(optimizer), "scaler": scaler.state_dict(), "rng": rng}

    def step_done(self, totals: Totals) -> None:
        """Count a step."""
        self.step += 1
        self.tokens += totals.tokens
        self.audio_seconds += totals.audio_seconds

    def evaluation_done(self, domain_wer: float, over_budget: bool) -> None:
        """Compare an evaluation with the best one; the original's, at step 0, is none of the run's."""
        self.evaluated = self.step
        rank = [over_budget, domain_wer]
        if self.step > 0 and (self.best is None or rank < self.best["rank"]):
            self.best, self.stale = {"step": self.step, "wer": domain_wer, "rank": rank}, 0
        elif self.step > 0:
            self.stale += 1
