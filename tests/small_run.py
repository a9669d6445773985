"""A training of seconds, as the command line runs it, and what makes two of them the same run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from quick_model import ending_whisper, same_weights, save_openai, write_set
from torch import Tensor
from whisper import Whisper

import train
from whisper_min import runs
from whisper_min.model import weights
from whisper_min.training import checkpoint

TEXTS = ["A red fox.", "It goes on and on.", "Leaves fall.", "Dogs chase cats, mostly.", "The end."]
SECONDS = [1.0, 2.5, 1.5, 3.0, 2.0]
STEPS, LR, WARMUP = 6, 1e-3, 2


@dataclass(frozen=True)
class Workshop:
    """A model and sets, and how to train with them."""

    root: Path
    model: Path
    data: Path
    domain: Path
    general: Path
    silent: Path

    @property
    def runs(self) -> Path:
        """Where runs go."""
        return self.root / "runs"

    def argv(self, run: str, *options: str, retain: bool = True) -> list[str]:
        """A command line; options given later win."""
        return [
            *("--model", str(self.model), "--data", f"small={self.data}", "--eval_data", f"domain={self.domain}"),
            *("--retain", f"general={self.general}", *([f"silent={self.silent}"] if retain else [])),
            *("--run", run, "--runs_dir", str(self.runs), "--data_dir", str(self.root / "cache")),
            *("--device", "cpu", "--precision", "fp32", "--batch_size", "2", "--keep", "9"),
            *("--max_steps", str(STEPS), "--lr", str(LR), "--warmup_steps", str(WARMUP), "--eval_every", "3"),
            *options,
        ]

    def train(self, run: str, *options: str, **more: Any) -> Path:
        """A run that must succeed; its folder."""
        torch.manual_seed(0)  # a process of its own begins with one state of torch's generator; here it is one of many
        assert train.main(self.argv(run, *options, **more)) == 0
        return self.runs / run


def make_workshop(root: Path) -> Workshop:
    """Five clips to train on, two of the domain, two in general, one of them without text."""
    return Workshop(
        root,
        save_openai(ending_whisper(), root / "small.pt"),
        write_set(root / "small", TEXTS, SECONDS),
        write_set(root / "domain", ["A grey fox.", "Leaves fell."], [1.2, 1.7]),
        write_set(root / "general", ["Birds sing."], [1.1]),
        write_set(root / "silent", [""], [1.3]),
    )


def rows_of(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Every record of a file."""
    return list(runs.read_jsonl(run / name))


def without_clocks(run: Path) -> dict[int, dict[str, Any]]:
    """The metrics by step, without what depends on the time of day."""

    def is_clock(key: str) -> bool:
        return (
            key in ("_timestamp", "_runtime", "_attempt")
            or key.startswith("perf/")
            or key.endswith(("/decode_seconds", "/rtfx"))
        )

    merged = runs.merge_steps(rows_of(run))
    return {step: {key: its[key] for key in sorted(its) if not is_clock(key)} for step, its in merged.items()}


def samples_of(run: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The newest record of each step, set and utterance."""
    return {(row["_step"], row["set"], row["id"]): row for row in rows_of(run, "samples.jsonl")}


def weights_of(run: Path, step: int) -> Whisper:
    """A checkpoint's model."""
    return weights.load(str(run / "checkpoints" / str(step)))[0]


def status(run: Path) -> dict[str, Any]:
    """status.json."""
    return json.loads((run / "status.json").read_text())


def equal_state(one: Any, other: Any) -> bool:
    """Deep equality of trainer states, tensors to the bit."""
    if hasattr(one, "codes"):  # torchao's moments of 8 bits do not compare themselves
        return torch.equal(one.codes, other.codes) and torch.equal(one.scale, other.scale)
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal_state, one, other))
    return bool(one == other)


def assert_same_run(one: Path, other: Path, step: int = STEPS, but: Sequence[str] = ()) -> None:
    """Weights, optimizer, position, metrics and transcripts are equal to the bit."""
    assert same_weights(weights_of(one, step), weights_of(other, step))
    first, second = (checkpoint.load_trainer(run / "checkpoints" / str(step)) for run in (one, other))
    assert first.pop("runtime") > 0
    assert second.pop("runtime") > 0
    assert first.keys() == second.keys()
    for key in first.keys() - set(but):
        assert equal_state(first[key], second[key]), key
    assert without_clocks(one) == without_clocks(other)
    assert samples_of(one) == samples_of(other)
