"""A step's row of metrics.jsonl, written when the next step has been launched: the device never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor

from whisper_min.runs import RunFolder
from whisper_min.training.reporter import Reporter
from whisper_min.training.spikes import Spikes


class StepLog:
    """Holds the numbers of the latest step, and writes them a step later.

    On CUDA they are copied into pinned memory, and an event tells when they are there; elsewhere they are at once.
    `step` and `max_nonfinite` are for the `Spikes` that look at every row.
    """

    def __init__(
        self,
        run: RunFolder,
        reporter: Reporter,
        error_rates: Callable[[], str],
        device: torch.device,
        step: int,
        max_nonfinite: int,
    ) -> None:
        self.run, self.reporter, self.error_rates = run, reporter, error_rates
        self.spikes = Spikes(run, reporter, step, max_nonfinite)
        self.cuda = device.type == "cuda"
        self._held: tuple[Tensor, torch.cuda.Event | None, list[str], dict[str, Any]] | None = None

    def put(self, numbers: dict[str, Tensor], known: dict[str, Any]) -> None:
        """Hold a step's scalars, still on the device, and what is known of it already, `clips` among it: their ids."""
        stacked = torch.stack([number.detach().float() for number in numbers.values()])
        event = None
        if self.cuda:
            pinned = torch.empty(stacked.shape, pin_memory=True)
            stacked = pinned.copy_(stacked, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._held = (stacked, event, list(numbers), known)

    def write(self, bar: TaskID | None = None) -> None:
        """Write the row that is held, and move the progress line; FloatingPointError where training makes no sense."""
        if self._held is None:
            return
        values, event, names, known = self._held
        self._held = None
        if event is not None:
            event.synchronize()
        row = {**known, **dict(zip(names, values.tolist(), strict=True))}
        step, clips = row.pop("_step"), row.pop("clips")
        self.run.log_metrics(step, row | self.spikes.look(step, row, clips))
        self.spikes.stop_where_none_is_finite(step)
        if bar is not None:
            rate = f"{row['perf/samples_per_second']:.1f} clips/s"
            self.reporter.advance(bar, step, f"loss {row['train/loss']:.3f}  {self.error_rates()}  {rate}")
