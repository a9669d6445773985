"""A step's row is written with the next step: complete, in order, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from whisper_min import runs
from whisper_min.runs import RunFolder
from whisper_min.training.reporter import Reporter
from whisper_min.training.step_log import StepLog


def step_log(folder: Path, device: str = "cpu") -> StepLog:
    """The log of a run in this folder."""
    run, reporter = RunFolder.create(folder), Reporter()
    return StepLog(run, reporter, lambda: "domain 9.0 %", torch.device(device), step=0, max_nonfinite=3)


def put(log: StepLog, step: int, **numbers: float | Tensor) -> None:
    """Give the log a step, with the rates and numbers that every step has."""
    numbers = {"loss": 0.5, "grad_norm": 1.0} | numbers
    known = {"_step": step, "clips": [f"{step}.wav"], "train/lr": 1e-5, "perf/samples_per_second": 4.0}
    log.put({f"train/{name}": torch.as_tensor(value) for name, value in numbers.items()}, known)


def rows(log: StepLog) -> list[dict[str, Any]]:
    """What is on disk."""
    return list(runs.read_jsonl(log.run.path / "metrics.jsonl"))


def test_each_step_is_written_with_the_next(tmp_path: Path) -> None:
    """Nothing before, the last one at the end; nothing is lost, nothing comes twice, what was known is in its row."""
    log = step_log(tmp_path / "run")
    log.write()
    assert rows(log) == []
    for step in range(1, 5):
        log.write()
        assert [row["_step"] for row in rows(log)] == list(range(1, step))
        put(log, step, loss=step / 4, grad_norm=float(step))
        assert len(rows(log)) == step - 1
    log.write()
    log.write()
    written = rows(log)
    assert [row["_step"] for row in written] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in written] == [0.25, 0.5, 0.75, 1.0]
    assert [row["train/grad_norm"] for row in written] == [1.0, 2.0, 3.0, 4.0]
    assert all((row["train/lr"], row["perf/samples_per_second"]) == (1e-5, 4.0) for row in written)


def test_what_happens_to_a_tensor_later_does_not_show(tmp_path: Path) -> None:
    """The loop goes on with its tensors; the numbers are those of their step."""
    log = step_log(tmp_path / "run")
    loss = torch.tensor(1.0, requires_grad=True)
    running = loss * 2
    put(log, 1, loss=running)
    with torch.no_grad():
        running += 5
    log.write()
    assert rows(log)[0]["train/loss"] == 2.0


def test_non_finite_and_low_precision_numbers_pass(tmp_path: Path) -> None:
    """They are what the log is for: null and named, as metrics.jsonl has them; bf16 and integers become floats."""
    log = step_log(tmp_path / "run")
    bf16 = torch.tensor(1.5, dtype=torch.bfloat16)
    put(log, 1, loss=float("nan"), grad_norm=float("inf"), ce=bf16, count=torch.tensor(3))
    log.write()
    (row,) = rows(log)
    assert row["nonfinite"] == ["train/loss", "train/grad_norm"]
    assert row["train/loss"] is row["train/grad_norm"] is None
    assert (row["train/ce"], row["train/count"]) == (1.5, 3.0)
    assert isinstance(row["train/count"], float)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], norm: float) -> None:
    """Of the step that had it, and of no other."""
    log = step_log(tmp_path / "run")
    for step, its in [(6, 1.0), (7, norm), (8, 2.0)]:
        put(log, step, grad_norm=its)
        log.write()
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("step 7: the gradient is not finite; the update was skipped (its clips are in ")
    assert [row["clips"] for row in runs.read_jsonl(log.run.path / "spikes.jsonl")] == [["7.wav"]]
    assert all("clips" not in row for row in rows(log))


def test_the_progress_line_shows_the_step_that_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its loss, its rate and the newest error rates; without a line nothing is shown."""
    log = step_log(tmp_path / "run")
    with log.reporter.bar("training", 10) as bar:
        put(log, 3, loss=0.25)
        log.write(bar)
        (task,) = log.reporter.bars.tasks
        assert task.completed == 3
    assert "training 3/10  loss 0.250  domain 9.0 %  4.0 clips/s" in capsys.readouterr().err
    put(log, 4)
    log.write()
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_putting_does_not_wait(tmp_path: Path) -> None:
    """The copy is asynchronous: put returns while the device still works, write waits for the number."""
    log = step_log(tmp_path / "run", "cuda")
    x = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    for _ in range(20):
        y = x @ x
    busy = torch.cuda.Event()
    busy.record()
    put(log, 1, loss=y.sum() * 0 + 1, grad_norm=torch.ones((), device="cuda"))
    assert not busy.query()
    log.write()
    assert rows(log)[0]["train/loss"] == 1.0
    assert busy.query()
