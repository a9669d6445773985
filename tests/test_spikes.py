"""Spikes of loss and gradient: what stands out, what does not, and when training makes no sense any more."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from whisper_min import runs
from whisper_min.runs import RunFolder
from whisper_min.training.reporter import Reporter
from whisper_min.training.spikes import LEAST, Spikes


def row(loss: float, norm: float = 3.0) -> dict[str, Any]:
    """A step's metrics."""
    return {"train/loss": loss, "train/grad_norm": norm, "train/lr": 1e-5}


def spikes_of(run: RunFolder, step: int = 0, max_nonfinite: int = 3) -> Spikes:
    """As a run has it that goes on from a step."""
    return Spikes(run, Reporter(), step, max_nonfinite)


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    """What was written down."""
    return list(runs.read_jsonl(run.path / "spikes.jsonl"))


def noisy(steps: int, seed: int = 0) -> list[dict[str, Any]]:
    """A loss that falls, and gradient norms whose logarithms are normal, as they are in training."""
    draw = random.Random(seed)
    norms = [math.exp(draw.gauss(1, 0.4)) for _ in range(steps)]
    return [row(1 + 3 * math.exp(-step / 30) + draw.gauss(0, 0.1), norm) for step, norm in enumerate(norms)]


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_run_has_no_spikes(tmp_path: Path, seed: int) -> None:
    """300 steps whose loss falls and whose gradients vary by half."""
    spikes = spikes_of(RunFolder.create(tmp_path))
    assert all(spikes.look(step, each, ["a"]) == {} for step, each in enumerate(noisy(300, seed), start=1))
    assert rows_of(spikes.run) == []


@pytest.mark.parametrize(("loss", "norm", "told"), [(8.0, 3.0, "the loss is"), (1.0, 90.0, "the gradient norm is")])
def test_a_spike_is_written_down_with_its_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float, norm: float, told: str
) -> None:
    """Once, with the step, the numbers and the clips; said, and in the metrics as times the usual."""
    spikes = spikes_of(RunFolder.create(tmp_path))
    for step in range(1, LEAST + 1):
        spikes.look(step, row(1.0 + 0.01 * (step % 3), 3.0 + 0.1 * (step % 3)), ["usual"])
    found = spikes.look(21, row(loss, norm), ["a.wav", "b.wav"])
    assert found["train/spike"] == pytest.approx(loss / 1.01 if loss > 1 else norm / 3.1)
    (written,) = rows_of(spikes.run)
    assert (written["_step"], written["clips"]) == (21, ["a.wav", "b.wav"])
    assert (written["train/loss"], written["train/grad_norm"]) == (loss, norm)
    assert f"step 21: {told} " in capsys.readouterr().err
    assert spikes.look(22, row(1.0), ["usual"]) == {}


def test_the_first_steps_are_not_judged(tmp_path: Path) -> None:
    """What is usual is not known yet."""
    spikes = spikes_of(RunFolder.create(tmp_path))
    assert [spikes.look(step, row(10.0**step), []) for step in range(1, LEAST + 1)] == [{}] * LEAST


def test_a_resumed_run_judges_as_if_it_had_gone_on(tmp_path: Path) -> None:
    """What was usual is read from the metrics, up to the step that the run goes on from."""
    run = RunFolder.create(tmp_path)
    whole, steps = spikes_of(run), [*noisy(60), row(90.0), *noisy(20, seed=1), row(60.0), *noisy(9, seed=2)]
    found = {}
    for step, each in enumerate(steps, start=1):
        found[step] = whole.look(step, each, [])
        run.log_metrics(step, each | found[step])
    assert 61 in (step for step, each in found.items() if each)
    resumed = spikes_of(run, step=40)
    assert {step: resumed.look(step, steps[step - 1], []) for step in range(41, len(steps) + 1)} == {
        step: each for step, each in found.items() if step > 40
    }


def test_steps_that_are_not_finite_are_counted_in_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two in a row are skipped and said, a finite one between them starts anew; the third in a row ends the run."""
    spikes = spikes_of(RunFolder.create(tmp_path), max_nonfinite=3)
    for step, norm in enumerate([math.nan, math.inf, 3.0, math.nan, math.inf], start=1):
        assert spikes.look(step, row(math.nan if step == 1 else 1.0, norm), [f"{step}.wav"]) == {}
        spikes.stop_where_none_is_finite(step)
    assert capsys.readouterr().err.count("the gradient is not finite; the update was skipped") == 4
    spikes.look(6, row(1.0, math.nan), ["6.wav"])
    with pytest.raises(FloatingPointError, match=r"steps 4 to 6, whose clips are in .*spikes\.jsonl; there is no "):
        spikes.stop_where_none_is_finite(6)
    assert [(each["_step"], each["clips"]) for each in rows_of(spikes.run)] == [
        (step, [f"{step}.wav"]) for step in (1, 2, 4, 5, 6)
    ]
    assert rows_of(spikes.run)[0]["nonfinite"] == ["train/loss", "train/grad_norm"]
