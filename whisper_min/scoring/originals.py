"""What the original did on evaluation sets, kept on disk: many runs start from the same weights on the same sets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from whisper_min import runs
from whisper_min.config import Config
from whisper_min.data.checked import CheckedSet
from whisper_min.data.tokens import Tokens
from whisper_min.scoring.decode import Hypothesis

# Raise it where decoding changes what is written: results of before are then made again.
VERSION = 1


@dataclass(frozen=True)
class KeptResults:
    """Results in `data_dir/originals`, a file for each set; anything they depend on that changes makes another file."""

    cfg: Config
    tokens: Tokens
    fingerprint: str
    """Of the original's weights."""
    precision: str
    """Of the encoder."""

    def path(self, checked: CheckedSet) -> Path:
        """Where a set's results are kept: named after weights, versions, the way to decode, recordings and texts."""
        how = [VERSION, torch.__version__, self.tokens.prefix, self.precision, self.cfg.normalize]
        parts = [*how, self.fingerprint, checked.recordings, checked.labels]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.cfg.data_dir / "originals" / f"{key}.json"

    def read(self, checked: CheckedSet) -> tuple[list[Hypothesis], float | None, float] | None:
        """(hypotheses in the set's order, loss, seconds that decoding took), or None where they are not known."""
        try:
            kept = json.loads(self.path(checked).read_text(encoding="utf-8"))
            hypotheses = [Hypothesis([], str(text), bool(ended)) for text, ended in kept["hypotheses"]]
            found = hypotheses, kept["loss"], float(kept["decode_seconds"])
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not what this version writes: made again
            return None
        return found if len(hypotheses) == len(checked.speech.examples) else None

    def write(self, checked: CheckedSet, hypotheses: list[Hypothesis], loss: float | None, seconds: float) -> None:
        """Keep a set's results; OSError where they cannot be written."""
        path = self.path(checked)
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [(each.text, each.ended) for each in hypotheses]
        record = {"set": checked.speech.name, "hypotheses": texts, "loss": loss, "decode_seconds": seconds}
        runs.write_atomic(path, json.dumps(record) + "\n")
