"""Out of memory is no reason to stop: a step is tried again with smaller micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch

from whisper_min.data.batches import Batch
from whisper_min.retain.original import Original
from whisper_min.training import memory
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.reporter import Reporter
from whisper_min.training.setup import Prepared

Done = TypeVar("Done")


class Totals(NamedTuple):
    """What a step's micro-batches hold, on all ranks."""

    tokens: int
    """That the cross-entropy is divided by."""
    kl_tokens: int
    """That the KL divergence is divided by."""
    clips: list[str]
    """Their ids."""
    audio_seconds: float
    largest_share: int
    """Micro-batches of the rank that has most of them."""
    bad: list[str]
    """Windows left out because a file could not be decoded."""

    @classmethod
    def of(cls, batches: Sequence[Batch], original: Original | None, ranks: Ranks) -> Totals:
        """Add up this rank's micro-batches and the others'."""
        tokens, kl_tokens, clips, audio_seconds, shares, bad = ranks.add_up(
            sum(batch.targets.count for batch in batches),
            sum(batch.targets.count for batch in batches if original and original.applies_to(batch)),
            [name for batch in batches for name in batch.ids],
            sum(batch.audio_seconds for batch in batches),
            [len(batches)],
            [bad for batch in batches for bad in batch.bad],
        )
        return cls(tokens, kl_tokens, clips, audio_seconds, max(shares), bad)

    def rates(self, seconds: float, waited: float) -> dict[str, float]:
        """Metrics of a step that took so long, and waited for its data for a part of that."""
        return {
            "perf/samples_per_second": round(len(self.clips) / seconds, 3),
            "perf/audio_hours_per_hour": round(self.audio_seconds / seconds, 2),
            "perf/data_wait": round(waited / seconds, 4),
            "data/bad": len(self.bad),
        }


class MicroBatches:
    """Goes on where memory runs out in a step: the same step again, with each of its micro-batches in smaller parts.

    Losses are sums divided by the tokens of the whole step, so the parts give the gradient of the whole.

    Parameters
    ----------
    prepared : Prepared
        what would fit, where single clips do not, is told by its options
    optimizer : Optimizer
        knows the gradients that a failed step leaves behind
    ranks : Ranks
        hear of what fails on one of them; under `--shard` that one ends at once, for the others wait amid the step
    """

    def __init__(
        self, prepared: Prepared, optimizer: torch.optim.Optimizer, reporter: Reporter, ranks: Ranks = ALONE
    ) -> None:
        self.prepared, self.optimizer, self.reporter, self.ranks = prepared, optimizer, reporter, ranks
        self.halvings = 0

    def run(self, step: Callable[[Sequence[Batch]], Done], batches: Sequence[Batch]) -> Done:
        """`step(batches)`, as often in halves as memory asks for; MemoryError where single clips do not fit."""
        if self.prepared.cfg.shard:
            return self._run(step, batches)
        return self.ranks.together(self._run, step, batches)

    def _run(self, step: Callable[[Sequence[Batch]], Done], batches: Sequence[Batch]) -> Done:
        while True:
            parts = [part for batch in batches for part in batch.split(2**self.halvings)]
            with suppress(torch.OutOfMemoryError):
                return step(parts)
            # only here, after the exception and the tensors in its frames have gone
            self.optimizer.zero_grad(set_to_none=True)
            if self.prepared.device.type == "cuda":
                torch.cuda.empty_cache()
            largest = max(len(part.windows) for part in parts)
            if largest == 1 or self.prepared.cfg.shard:
                clips = "one clip" if largest == 1 else f"{largest} clips"
                raise MemoryError(f"out of memory with {clips} at a time; {self._what_would_fit()}")
            self.halvings += 1
            self.reporter.warn(
                f"out of memory with {largest} clips at a time: micro-batches are halved from here on, to "
                f"{-(-largest // 2)}; a step's clips, loss and gradient stay the same"
            )

    def numbers(self) -> dict[str, int]:
        """`perf/micro_batch_splits`, how often they were halved; nothing where they were not."""
        return {"perf/micro_batch_splits": self.halvings} if self.halvings else {}

    def _what_would_fit(self) -> str:
        dims, cfg, device = self.prepared.dims, replace(self.prepared.cfg, batch_size=1), self.prepared.device
        held = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
        free = memory.available_bytes(device) + held
        return memory.what_would_fit(dims, cfg, self.prepared.precision, device, free)
