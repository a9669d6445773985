"""`--batch_size auto`: the ledger proposes, a trial on the device disposes."""

from __future__ import annotations

import pytest
import torch
from conftest import random_whisper
from quick_model import one_thread  # noqa: F401
from rich.console import Console
from whisper import ModelDimensions

from whisper_min.config import Config
from whisper_min.training import batch_size, memory

DIMS = random_whisper().dims
CONTEXT = 16_000


def choose(monkeypatch: pytest.MonkeyPatch, device: str, survives: int) -> tuple[int, list[int]]:
    """The size chosen where trials beyond `survives` clips run out of memory, and the sizes tried."""
    tried: list[int] = []

    def try_step(dims: ModelDimensions, cfg: Config, *arguments: object) -> None:
        assert isinstance(cfg.batch_size, int)
        tried.append(cfg.batch_size)
        if cfg.batch_size > survives:
            raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(batch_size, "try_step", try_step)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**12)
    cfg = Config(method="full", batch_size="auto")
    return batch_size.choose(DIMS, cfg, "fp32", torch.device(device), CONTEXT, Console(stderr=True)), tried


@pytest.mark.slow
def test_trials_halve_what_the_ledger_proposes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On CUDA down to what survives; one clip is not tried, for there is nothing below it."""
    assert choose(monkeypatch, "cuda", survives=20) == (16, [64, 32, 16])
    assert choose(monkeypatch, "cuda", survives=100) == (64, [64])
    assert choose(monkeypatch, "cuda", survives=0) == (1, [64, 32, 16, 8, 4, 2])
    assert "--batch_size auto: 16" in capsys.readouterr().err


def test_a_cpu_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say that it has run out: the ledger alone decides."""
    assert choose(monkeypatch, "cpu", survives=0) == (8, [])


@pytest.mark.parametrize(
    "cfg",
    [
        Config(method="full", batch_size=2, kl=1.0, checkpointing=True),
        Config(method="full", batch_size=2, freeze_encoder=True),
        Config(method="lora", batch_size=2),
    ],
)
def test_a_trial_is_a_real_step_and_leaves_nothing(cfg: Config) -> None:
    """Every method runs through, and the random numbers of the run are what they would have been."""
    before = torch.get_rng_state()
    batch_size.try_step(DIMS, cfg, "fp32", torch.device("cpu"), CONTEXT)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_batch_that_cannot_fit_is_halved_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is made to lie: the trial finds the truth, and the memory is given back."""
    dims = memory.official_dimensions("large-v3")
    assert dims is not None
    device, cfg = torch.device("cuda"), Config(method="full", batch_size="auto")
    monkeypatch.setattr(memory, "largest_batch_size", lambda *arguments: 1024)
    chosen = batch_size.choose(dims, cfg, "bf16", device, 480_000, Console(stderr=True))
    assert 1 <= chosen < 1024
    assert torch.cuda.memory_allocated() < 1e9
