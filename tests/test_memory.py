"""What a training needs is told before it starts; parameters are counted exactly."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import whisper
from conftest import random_whisper
from quick_model import small_whisper
from whisper import ModelDimensions, Whisper
from whisper.audio import N_SAMPLES

from whisper_min.audio import context_samples
from whisper_min.config import Config
from whisper_min.model import lora
from whisper_min.training import memory

CPU = torch.device("cpu")
GB = 10**9


def counted(model: Whisper) -> tuple[int, int]:
    """Real parameters of encoder and decoder."""
    return tuple(sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["tiny", "tiny.en", "base"])
def test_parameters_are_the_real_counts(name: str) -> None:
    """The formula against the modules themselves."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    assert memory.parameters(dims) == counted(Whisper(dims))


def test_parameters_of_unlike_sides() -> None:
    """Encoder and decoder of different depth, width alike: no term stands in for another."""
    model = Whisper(ModelDimensions(128, 30, 128, 2, 3, 77, 9, 128, 2, 2))
    assert memory.parameters(model.dims) == counted(model)
    assert memory.parameters(small_whisper(layers=2).dims) == counted(small_whisper(layers=2))


# https://github.com/openai/whisper, README.md and the release notes of turbo
@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 39), ("base", 74), ("small", 244), ("medium", 769), ("large-v3", 1550), ("turbo", 809)],
)
def test_parameters_are_those_published(name: str, millions: int) -> None:
    """As OpenAI rounds them."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    assert sum(memory.parameters(dims)) / 1e6 == pytest.approx(millions, rel=0.05)


def test_every_official_name_has_dimensions() -> None:
    """Vocabulary by language, 128 bins for the newest; other names have none."""
    for name in whisper.available_models():
        dims = memory.official_dimensions(name)
        assert dims is not None
        assert (dims.n_vocab == 51864) == name.endswith(".en")
        assert (dims.n_mels == 128) == (name in ("large", "large-v3", "large-v3-turbo", "turbo"))
        assert (dims.n_vocab == 51866) == (dims.n_mels == 128)
    assert memory.official_dimensions("large") == memory.official_dimensions("large-v3")
    assert memory.official_dimensions("turbo") == memory.official_dimensions("large-v3-turbo")
    assert memory.official_dimensions("runs/mine") is None


def needed(name: str, context: int = N_SAMPLES, precision: str = "fp32", **options: object) -> int:
    """Bytes of a training."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    return memory.training_bytes(dims, replace(Config(), **options), precision, context)  # type: ignore[arg-type]


def test_memory_grows_with_what_costs_memory() -> None:
    """Batch, size, context and fp32 cost more; a frozen encoder less; never below weights and moments."""
    assert needed("tiny") < needed("base") < needed("small") < needed("medium") < needed("large-v3")
    assert needed("tiny", batch_size=4) < needed("tiny", batch_size=8)
    assert needed("tiny", context_samples(4 * 16_000)) < needed("tiny")
    assert needed("tiny", precision="bf16", batch_size=32) < needed("tiny", precision="fp32", batch_size=32)
    assert needed("tiny", freeze_encoder=True) < needed("tiny")
    dims = memory.official_dimensions("tiny")
    assert dims is not None
    assert needed("tiny") > 16 * sum(memory.parameters(dims))


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, free: int, cfg: Config) -> str:
    """The fault on a machine with so much free memory, '' where it fits."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    dims = memory.official_dimensions(name)
    assert dims is not None
    faults = memory.check_memory(dims, replace(cfg, model=name), "fp32", CPU, N_SAMPLES)
    assert len(faults) <= 1
    return faults[0] if faults else ""


def test_large_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GB: the option, what it needs, what is free, and a model whose training really fits."""
    free = 16 * GB
    fault = refusal(monkeypatch, "large-v3", free, Config(batch_size=8))
    assert fault.startswith("--model large-v3:")
    assert "--batch_size 8 in fp32" in fault
    assert f"{needed('large-v3') / 1e9:.0f} GB, and this machine has 16 GB free" in fault
    proposed = re.findall(r"--model (\S+)", fault)[-1]
    assert needed(proposed) <= free
    larger = {"tiny": "base", "base": "small", "small": "medium", "medium": "turbo"}[proposed]
    assert needed(larger) > free


def test_a_smaller_batch_is_proposed_with_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """--batch_size and --accumulate keep the number of clips in a step; the proposal fits, twice of it does not."""
    free = needed("base", batch_size=4) + 1
    fault = refusal(monkeypatch, "base", free, Config(batch_size=16, accumulate=2))
    size, accumulate = map(int, re.findall(r"--batch_size (\d+) --accumulate (\d+)", fault)[0])
    assert size * accumulate == 32
    assert needed("base", batch_size=size) <= free < needed("base", batch_size=2 * size)


def test_a_frozen_encoder_is_proposed_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batch size alone does not."""
    free = needed("small", batch_size=1, freeze_encoder=True) + 1
    fault = refusal(monkeypatch, "small", free, Config(batch_size=1))
    assert "--freeze_encoder" in fault
    assert "--batch_size 1 --accumulate" not in fault


def test_what_fits_is_not_refused_and_nothing_fits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary itself, and a machine without memory."""
    assert refusal(monkeypatch, "tiny", needed("tiny"), Config()) == ""
    assert refusal(monkeypatch, "tiny", needed("tiny") - 1, Config()) != ""
    assert "no Whisper would fit: free some memory" in refusal(monkeypatch, "tiny", GB // 100, Config())


def test_free_memory_is_this_machines() -> None:
    """Between nothing and all of it."""
    assert 0 < memory.available_bytes(CPU) < memory.psutil.virtual_memory().total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_free_memory_of_a_gpu() -> None:
    """What CUDA says."""
    free = memory.available_bytes(torch.device("cuda"))
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize("targets", ["all", "attention", "qv", "mlp", "encoder", "decoder"])
def test_adapters_are_counted_as_they_are(targets: str) -> None:
    """R (in + out) of every layer that gets one, against the adapters themselves."""
    model = random_whisper(layers=2)
    cfg = Config(method="lora", lora_rank=3, lora_targets=targets)  # type: ignore[arg-type]
    lora.attach(model, lora.of_config(cfg))
    assert memory.adapter_parameters(model.dims, cfg) == sum(its.numel() for its in lora.adapter_state(model).values())


def test_what_holds_on_to_the_original_is_counted() -> None:
    """A frozen copy for KL, in half where asked; the anchor's weights and Fisher; under LoRA the Fisher alone."""
    dims = memory.official_dimensions("tiny.en")
    assert dims is not None

    def megabytes(**options: object) -> float:
        cfg = Config(freeze_encoder=False, **options)  # type: ignore[arg-type]
        return memory.training_bytes(dims, cfg, "fp32", 80_000) / 1e6

    weights = 4 * sum(memory.parameters(dims)) / 1e6
    assert megabytes(kl=1.0) - megabytes() == pytest.approx(weights)
    assert megabytes(kl=1.0, kl_storage="bf16") - megabytes() == pytest.approx(weights / 2)
    assert megabytes(ewc=1.0) - megabytes() == pytest.approx(2 * weights)
    assert megabytes(l2sp=1.0) - megabytes() == pytest.approx(weights)
    assert megabytes(method="lora", kl=1.0) == megabytes(method="lora") < megabytes()
    assert megabytes(method="lora", ewc=1.0) - megabytes(method="lora") == pytest.approx(weights)
