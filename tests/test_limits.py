"""The counts at the command line, beside a real model's and published figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_whisper

from whisper_min import limits
from whisper_min.config import Config
from whisper_min.limits import Options
from whisper_min.training import flops, memory

CPU = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "measured_flops", lambda device, precision: 1e12)


def counts(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What `--json` prints."""
    assert limits.main([*CPU, "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


# FlopCounterMode on meta tensors, a 30 s window with 64 tokens (GFLOP forward, TFLOP forward and backward)
@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "step"),
    [("tiny", 36.9, 8, 0.134), ("medium", 1138, 213, 4.05), ("large-v3", 2274, 433, 8.12), ("turbo", 2274, 62, 7.00)],
)
def test_operations_are_those_counted_elsewhere(
    capsys: pytest.CaptureFixture[str], name: str, encoder: float, decoder: float, step: float
) -> None:
    """A clip of the window's length by default."""
    counted = counts(capsys, "--model", name)
    assert (counted["context_seconds"], counted["tokens"]) == (30, 64)
    operations = counted["flops_per_sample"]
    assert operations["encoder_forward"] / 1e9 == pytest.approx(encoder, rel=0.01)
    assert operations["decoder_forward"] / 1e9 == pytest.approx(decoder, rel=0.05)
    assert operations["step"] / 1e12 == pytest.approx(step, rel=0.01)
    assert counted["limits"]["samples_per_second"] == pytest.approx(1e12 / operations["step"])


def test_a_file_of_weights_is_counted_as_it_is(random_model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters of the model itself; what trains by the method."""
    model = random_whisper()
    expected = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("encoder", "decoder")}
    full = counts(capsys, "--model", str(random_model_file))["parameters"]
    assert full == expected | {"trained": sum(expected.values())}
    frozen = counts(capsys, "--model", str(random_model_file), "--freeze_encoder")["parameters"]
    assert frozen["trained"] == expected["decoder"]
    lora = counts(capsys, "--model", str(random_model_file), "--method", "lora", "--lora_rank", "2")["parameters"]
    assert lora["trained"] == memory.adapter_parameters(model.dims, Config(lora_rank=2))


def test_what_is_printed_is_the_ledger_and_what_terms_add(capsys: pytest.CaptureFixture[str]) -> None:
    """Items add up; checkpointing costs a forward of the layers and saves most activations; KL costs a forward."""
    counted = counts(capsys, "--model", "base", "--seconds", "7", "--batch_size", "4", "--kl", "1", "--method", "lora")
    assert counted["context_seconds"] == 10
    plain, checkpointed = counted["memory"]["plain"], counted["memory"]["checkpointing"]
    for items in (plain, checkpointed):
        assert items["total"] == sum(value for name, value in items.items() if name != "total")
    assert checkpointed["encoder_activations"] < plain["encoder_activations"] / 3
    assert {name for name in plain if plain[name] != checkpointed[name]} == {
        "encoder_activations",
        "decoder_activations",
        "total",
    }
    operations, bounds = counted["flops_per_sample"], counted["limits"]
    forward = operations["encoder_forward"] + operations["decoder_forward"]
    assert operations["kl"] == forward
    assert 0.5 * forward < operations["checkpointing"] < forward
    both = operations["step"] + operations["kl"]
    assert bounds["samples_per_second"] == pytest.approx(1e12 / both)
    assert bounds["samples_per_second_checkpointing"] == pytest.approx(1e12 / (both + operations["checkpointing"]))


def test_a_gpu_is_bound_by_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic and memory, each alone: large-v3 in batches of 32 on an H200."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    cfg, dims = Options(model="large-v3", batch_size=32).config, memory.official_dimensions("large-v3")
    assert dims is not None
    ledger = memory.ledger(dims, cfg, "bf16", 480_000)
    operations = limits.count_operations(dims, cfg, 1500, 64)
    bounds = limits.limits(torch.device("cuda"), "bf16", operations, ledger, cfg)
    assert bounds["peak_source"] == "data sheet"
    assert bounds["samples_per_second"] == pytest.approx(989e12 / 8.12e12, rel=0.01)
    assert bounds["samples_per_second_memory"] > bounds["samples_per_second"]


def test_a_lean_update_moves_16_bytes_a_parameter_where_40_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by hand: norm and clipping 3 times the gradient, the update 2 weights, 1 gradient and 4 moments."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    dims, moved = memory.official_dimensions("large-v3"), []
    assert dims is not None
    for lean in (False, True):
        cfg = Options(model="large-v3", batch_size=1, lean=lean).config
        ledger = memory.ledger(dims, cfg, "bf16", 480_000)
        bounds = limits.limits(torch.device("cuda"), "bf16", limits.count_operations(dims, cfg, 1500, 64), ledger, cfg)
        activations = ledger.encoder_activations + ledger.decoder_activations + ledger.logits
        moved.append(bounds["bandwidth"] / bounds["samples_per_second_memory"] - 2 * activations)
    trained = sum(memory.parameters(dims))
    assert moved == [pytest.approx(40 * trained), pytest.approx(16 * trained, rel=0.01)]


def test_tables_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Every item that is not nothing, and both limits."""
    assert limits.main([*CPU, "--model", "tiny", "--l2sp", "1"]) == 0
    out = capsys.readouterr().out
    assert "7.6 M parameters in the encoder, 29.6 M in the decoder; 37.2 M train" in out
    for words in ("encoder, forward", "anchors", "encoder activations", "with --checkpointing", "total", "clips/s"):
        assert words in out
    assert "fisher" not in out
    assert "1 TFLOP/s (measured)" in out


def test_auto_takes_what_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger alone: nothing runs here."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**12)
    assert counts(capsys, "--model", "tiny", "--batch_size", "auto")["batch_size"] == 8


def test_faults_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what would be right; exit code 2 and nothing on stdout."""
    assert limits.main([*CPU, "--seconds", "31", "--tokens", "0", "--batch_size", "0", "--lora_rank", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"--{name}" in err for name in ("seconds 31", "tokens 0", "batch_size 0", "lora_rank 0"))
    assert limits.main([*CPU, "--model", "tiny", "--tokens", "449"]) == 2
    assert "--tokens 449: tiny reads 448 at most" in capsys.readouterr().err
