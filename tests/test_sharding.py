"""Weights, gradients and optimizer split among two gloo ranks: the run of one rank that holds them all."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_ranks import (  # noqa: F401
    STEPS,
    Workshop,
    assert_like,
    end,
    one_thread,
    rows_of,
    start_two,
    wait_for_step,
    workshop,
)

import train
from whisper_min import runs
from whisper_min.config import Config, check
from whisper_min.training import checkpoint, sharding

# Norms of whole tensors and of halves are rounded differently.
NORMS_WITHIN = 2e-4
FULL = ("--ewc", "0", "--l2sp", "0")
DECODER = (*FULL, "--freeze_encoder", "--checkpointing")


def train_alone(workshop: Workshop, name: str, options: Sequence[str]) -> Path:  # noqa: F811
    """The run that a sharded one must equal."""
    assert train.main(workshop.argv(name, "--accumulate", "2", *options)) == 0
    return workshop.run(name)


@pytest.mark.slow
def test_a_sharded_run_goes_on_anywhere(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """All weights with KL and replay; stopped on two ranks, resumed on one that has everything, and the same."""
    alone = train_alone(workshop, "whole", FULL)
    processes = start_two("train.py", *workshop.argv("sharded", *FULL, "--shard"))
    run = workshop.run("sharded")
    wait_for_step(run, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, printed = end(processes)
    assert codes == [143, 143], printed
    last = runs.last_checkpoint(run)
    assert last is not None
    assert 3 <= int(last.name) < STEPS
    assert train.main(["--resume", str(run), "--accumulate", "2"]) == 2
    assert "--shard: needs several ranks; start them with torchrun, or give --no_shard" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--accumulate", "2", "--no_shard"]) == 0
    assert_like(run, alone, NORMS_WITHIN)


@pytest.mark.slow
def test_a_whole_run_goes_on_sharded(workshop: Workshop) -> None:  # noqa: F811
    """The decoder alone, recomputed activations; from the middle of a run of one rank on, with two."""
    alone = train_alone(workshop, "decoder", (*DECODER, "--save_every", "4", "--keep", "3"))
    run = shutil.copytree(alone, workshop.run("decoder-sharded"), symlinks=True)
    checkpoint.point(run, "last", 4)
    codes, printed = end(start_two("train.py", "--resume", str(run), "--accumulate", "1", "--shard"))
    assert codes == [0, 0], printed
    assert_like(run, alone, NORMS_WITHIN)
    again = [row["_step"] for row in rows_of(run) if row["_attempt"] == 2 and "train/loss" in row]
    assert again == list(range(5, STEPS + 1))


def test_what_a_rank_lacks_weighs_nothing() -> None:
    """Every rank comes to the same count, and its own items count once."""
    assert list(sharding.padded(["a", "b"], 4)) == [("a", 1.0), ("b", 1.0), ("b", 0.0), ("b", 0.0)]
    assert list(sharding.padded(["a", "b"], 0)) == [("a", 1.0), ("b", 1.0)]


def test_what_does_not_go_with_it_is_refused() -> None:
    """With what to give instead."""
    for changes, fault in [
        ({"ewc": 1.0, "replay": ("x",)}, "--shard: has no --ewc and --l2sp"),
        ({"l2sp": 1.0}, "--shard: has no --ewc and --l2sp"),
        ({"method": "lora"}, "--shard: adapters have next to nothing to split"),
        ({"lean": True}, "--lean: does not go with --shard"),
        ({"compile": True}, "--compile: does not go with --shard"),
        ({"batch_size": "auto"}, "--shard: --batch_size auto tries a whole model"),
    ]:
        assert any(each.startswith(fault) for each in check(Config(shard=True, **changes)))  # type: ignore[arg-type]
