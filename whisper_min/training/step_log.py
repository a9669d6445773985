"""A step's row of metrics.jsonl, written when the next step has been launched: the device never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor

from whisper_min.runs import RunFolder
from whisper_min.training.readback import Readback
from whisper_min.training.reporter import Reporter


class StepLog:
    """Holds the numbers of the latest step, and writes them a step later."""

    def __init__(
        self, run: RunFolder, reporter: Reporter, error_rates: Callable[[], str], device: torch.device
    ) -> None:
        self.run, self.reporter, self.error_rates = run, reporter, error_rates
        self.readback = Readback(device)

    def put(self, numbers: dict[str, Tensor], known: dict[str, Any]) -> None:
        """Hold a step's scalars, still on the device, and what is known of it already."""
        self.readback.put(numbers, known)

    def write(self, bar: TaskID | None = None) -> None:
        """Write the row that is held, say so where its gradient was not finite, and move the progress line."""
        if (row := self.readback.take()) is None:
            return
        step = row.pop("_step")
        self.run.log_metrics(step, row)
        if not torch.tensor(row["train/grad_norm"]).isfinite():
            self.reporter.print(f"step {step}: the gradient is not finite; the update was skipped")
        if bar is not None:
            rate = f"{row['perf/samples_per_second']:.1f} clips/s"
            self.reporter.advance(bar, step, f"loss {row['train/loss']:.3f}  {self.error_rates()}  {rate}")
