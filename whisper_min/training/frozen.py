"""A frozen encoder runs once per clip: its output is kept in memory, up to a limit."""

from __future__ import annotations

import torch
from torch import Tensor
from whisper import Whisper

from whisper_min.config import Config
from whisper_min.data import augment
from whisper_min.data.batches import Batch
from whisper_min.model.forward import encode
from whisper_min.training import memory

# Share of the free memory that may hold encoder outputs; beyond it clips are encoded again each epoch.
MEMORY_SHARE = 0.25


class FrozenEncoder:
    """Encodes batches without gradients and remembers each window's features (A, C).

    What is augmented differs every time, and is encoded every time.
    """

    def __init__(self, model: Whisper, cfg: Config) -> None:
        self.model, self.cfg = model, cfg
        self.budget = int(MEMORY_SHARE * memory.available_bytes(torch.device("cpu")))
        self.kept: dict[tuple[str, ...], Tensor] = {}
        self.bytes = 0

    def __call__(self, batch: Batch, mel: Tensor) -> Tensor:
        """Features (B, A, C) of a batch, from memory where every window of it is there."""
        keys = [window.key for window in batch.windows]
        augmented = bool(augment.of_role(self.cfg, batch.role).effects)
        if not augmented and all(key in self.kept for key in keys):
            return torch.stack([self.kept[key] for key in keys]).to(mel.device, non_blocking=True)
        with torch.no_grad():
            features = encode(self.model, mel)
        if augmented:
            return features
        for key, row in zip(keys, features, strict=True):
            if key not in self.kept and self.bytes + row.nbytes <= self.budget:
                self.kept[key] = row.to("cpu", copy=True)
                self.bytes += row.nbytes
        return features
