"""The benchmarks on random weights: that each arm runs, and that what is counted beside it grows as it should."""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from quick_model import one_thread  # noqa: F401
from whisper import ModelDimensions

from whisper_min.training import memory

SMALL = ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1)


@pytest.fixture
def costs(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("costs")


@pytest.fixture
def gpu(bench_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script for GPUs, with a model that a CPU computes in no time."""
    monkeypatch.setattr(memory, "official_dimensions", lambda name: SMALL)
    return bench_script("gpu")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "arm", ["full", "full-checkpointing", "lora", "lora-checkpointing", "hf-tuned", "hf-blog", "decoding"]
)
def test_each_arm_runs_and_is_reported(gpu: ModuleType, arm: str) -> None:
    if arm.startswith("hf"):
        pytest.importorskip("transformers")
    sizes = {"batch": 2, "steps": 1, "warmup": 0, "count": 3}
    args = argparse.Namespace(arm=arm, arms=[arm], model="tiny.en", device="cpu", **sizes)
    found = gpu.run_arm(args)
    assert found["step"] > 0 and found["peak"] > 0
    _, columns, [row], notes = gpu.tabulate(args, {arm: [found]})
    assert len(row) == len(columns) and row[0] == arm
    assert (len(notes) == 2) == (arm == "decoding")


def test_without_a_gpu_it_is_said_what_is_needed(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_counted_costs_grow_in_proportion_to_the_batch_and_more_with_the_text(costs: ModuleType) -> None:
    assert costs.counted("batch=64") == 64 * costs.counted("batch=1")
    assert costs.counted("text=32") == costs.counted("batch=8") == costs.counted("model=tiny.en")
    first, second, third = (costs.counted(f"text={tokens}") for tokens in (100, 200, 300))
    assert third - second > second - first > 0, "attention grows with the square of the text"


def test_the_picture_has_a_curve_for_what_was_measured_and_one_for_what_was_counted(costs: ModuleType) -> None:
    results = {f"{kind}={value}": [{"step": 0.1 * place}] for kind in ("batch", "text", "model")
               for place, value in enumerate(costs.GROWING[kind], start=1)}  # fmt: skip
    picture = ElementTree.fromstring(costs.draw(results))
    drawn = [each.attrib["points"].split() for each in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in drawn] == [7, 7, 4, 4, 3, 5], "large-v3 is counted alone"
