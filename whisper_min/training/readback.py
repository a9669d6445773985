"""Numbers of a step, read from the device one step later, so that logging never makes it wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Readback:
    """Holds the numbers of the latest step until the next one has been launched.

    On CUDA the copy goes into pinned memory and an event tells when it is there; elsewhere it is there at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._held: tuple[Tensor, torch.cuda.Event | None, list[str], dict[str, Any]] | None = None

    def put(self, numbers: dict[str, Tensor], known: dict[str, Any]) -> dict[str, Any] | None:
        """Hold scalar tensors and what is known already; returns the step before, complete, or None."""
        before = self.take()
        stacked = torch.stack([number.detach().float() for number in numbers.values()])
        event = None
        if self.cuda:
            pinned = torch.empty(stacked.shape, pin_memory=True)
            stacked = pinned.copy_(stacked, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._held = (stacked, event, list(numbers), known)
        return before

    def take(self) -> dict[str, Any] | None:
        """The step that is held, complete; None where none is."""
        if self._held is None:
            return None
        values, event, names, known = self._held
        self._held = None
        if event is not None:
            event.synchronize()
        return {**known, **dict(zip(names, values.tolist(), strict=True))}
