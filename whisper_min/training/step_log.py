"""A step's row of metrics.jsonl, written when the next step has been launched: the device never waits for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor

from whisper_min.runs import RunFolder
from whisper_min.training.reporter import Reporter


class StepLog:
    """Holds the numbers of the latest step, and writes them a step later.

    On CUDA they are copied into pinned memory, and an event tells when they are there; elsewhere they are at once.
    """

    def __init__(
        self, run: RunFolder, reporter: Reporter, error_rates: Callable[[], str], device: torch.device
    ) -> None:
        self.run, self.reporter, self.error_rates = run, reporter, error_rates
        self.cuda = device.type == "cuda"
        self._held: tuple[Tensor, torch.cuda.Event | None, list[str], dict[str, Any]] | None = None

    def put(self, numbers: dict[str, Tensor], known: dict[str, Any]) -> None:
        """Hold a step's scalars, still on the device, and what is known of it already."""
        stacked = torch.stack([number.detach().float() for number in numbers.values()])
        event = None
        if self.cuda:
            pinned = torch.empty(stacked.shape, pin_memory=True)
            stacked = pinned.copy_(stacked, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._held = (stacked, event, list(numbers), known)

    def write(self, bar: TaskID | None = None) -> None:
        """Write the row that is held, say so where its gradient was not finite, and move the progress line."""
        if self._held is None:
            return
        values, event, names, known = self._held
        self._held = None
        if event is not None:
            event.synchronize()
        row = {**known, **dict(zip(names, values.tolist(), strict=True))}
        step = row.pop("_step")
        self.run.log_metrics(step, row)
        if not math.isfinite(row["train/grad_norm"]):
            self.reporter.print(f"step {step}: the gradient is not finite; the update was skipped")
        if bar is not None:
            rate = f"{row['perf/samples_per_second']:.1f} clips/s"
            self.reporter.advance(bar, step, f"loss {row['train/loss']:.3f}  {self.error_rates()}  {rate}")
