"""Numbers come back a step later, complete and in order."""

from __future__ import annotations

import math

import pytest
import torch

from whisper_min.training.readback import Readback

CPU = torch.device("cpu")


def test_each_step_comes_back_with_the_next() -> None:
    """put gives the step before; take the last one; nothing is lost, nothing comes twice."""
    readback = Readback(CPU)
    assert readback.take() is None
    returned = [
        readback.put({"loss": torch.tensor(step / 4), "norm": torch.tensor(float(step))}, {"_step": step})
        for step in range(1, 5)
    ]
    returned.append(readback.take())
    assert returned[0] is None
    assert returned[1:] == [{"_step": step, "loss": step / 4, "norm": float(step)} for step in range(1, 5)]
    assert readback.take() is None


def test_what_happens_to_a_tensor_later_does_not_show() -> None:
    """The loop goes on with its tensors; the numbers are those of their step."""
    readback = Readback(CPU)
    loss = torch.tensor(1.0, requires_grad=True)
    running = loss * 2
    readback.put({"loss": running}, {})
    with torch.no_grad():
        running += 5
    assert readback.take() == {"loss": 2.0}


def test_non_finite_and_low_precision_numbers_pass() -> None:
    """They are what the log is for; bf16 and integers become floats."""
    readback = Readback(CPU)
    numbers = {
        "nan": torch.tensor(float("nan")),
        "inf": torch.tensor(float("inf")),
        "bf16": torch.tensor(1.5, dtype=torch.bfloat16),
        "count": torch.tensor(3),
    }
    readback.put(numbers, {"known": "as it is"})
    values = readback.take()
    assert values is not None
    assert math.isnan(values.pop("nan"))
    assert values == {"known": "as it is", "inf": math.inf, "bf16": 1.5, "count": 3.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_putting_does_not_wait() -> None:
    """The copy is asynchronous: put returns while the device still works, take waits for the number."""
    readback = Readback(torch.device("cuda"))
    x = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    for _ in range(20):
        y = x @ x
    busy = torch.cuda.Event()
    busy.record()
    readback.put({"one": (y.sum() * 0 + 1)}, {})
    assert not busy.query()
    assert readback.take() == {"one": 1.0}
    assert busy.query()
