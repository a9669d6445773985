"""The operations of a step, beside what torch counts, and the peaks that they are divided by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quick_model import one_thread  # noqa: F401
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from whisper import ModelDimensions, Whisper

from whisper_min.config import Config
from whisper_min.data.batches import Batch, Window
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Targets
from whisper_min.model.forward import decode, encode, project, sum_cross_entropy
from whisper_min.training import flops
from whisper_min.training.flops import Gradients
from whisper_min.training.optimizer import choose_trainable


@pytest.fixture(scope="module")
def model() -> Whisper:
    """Every dimension another number, so that none can stand for another."""
    torch.manual_seed(0)
    whisper = Whisper(ModelDimensions(80, 1500, 128, 2, 3, 1000, 448, 128, 2, 2))
    torch.nn.init.normal_(whisper.decoder.positional_embedding, std=0.1)
    return whisper


def everything(model: Whisper) -> None:
    choose_trainable(model, Config(method="full"))


def decoder_alone(model: Whisper) -> None:
    choose_trainable(model, Config(method="full", freeze_encoder=True))


def adapters(model: Whisper) -> None:
    """Gradients pass through everything and no matrix has one, as under LoRA: the biases stand for adapters."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


def counted_by_torch(model: Whisper, clips: int, positions: int, tokens: int, chosen: Tensor) -> int:
    """Operations of one forward and backward pass on random numbers."""
    mel, rows = torch.randn(clips, model.dims.n_mels, 2 * positions), torch.randint(1000, (clips, tokens))
    encoder_trains = any(parameter.requires_grad for parameter in model.encoder.parameters())
    with torch.no_grad():
        remembered = encode(model, mel)
    # plain products: torch counts no fused attention on a CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        features = encode(model, mel) if encoder_trains else remembered
        logits = project(model, decode(model, rows, features), chosen)
        sum_cross_entropy(logits, torch.zeros(len(chosen), dtype=torch.long)).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@pytest.mark.parametrize("choose", [everything, decoder_alone, adapters])
@pytest.mark.parametrize(("clips", "positions", "tokens"), [(2, 250, 20), (1, 1500, 5), (3, 100, 90)])
def test_operations_are_what_torch_counts(
    model: Whisper, choose: Callable[[Whisper], None], clips: int, positions: int, tokens: int
) -> None:
    """Audio, text and vocabulary each dominate once; whatever trains."""
    choose(model)
    chosen = torch.arange(2, clips * tokens, 3)
    expected, gradients = counted_by_torch(model, clips, positions, tokens, chosen), Gradients.of_model(model)
    assert flops.batch_flops(model.dims, gradients, clips, positions, tokens, len(chosen)) == expected


@pytest.mark.parametrize("targets", ["all", "qv", "encoder", "decoder"])
def test_operations_under_lora(model: Whisper, targets: str) -> None:
    """Adapters of rank 1 cost next to nothing, and below the first of them no gradient passes: a few per cent."""
    adapted = copy.deepcopy(model)
    choose_trainable(adapted, Config(method="lora", lora_rank=1, lora_targets=targets))
    expected, gradients = counted_by_torch(adapted, 2, 250, 20, torch.arange(2, 40, 3)), Gradients.of_model(adapted)
    assert flops.batch_flops(adapted.dims, gradients, 2, 250, 20, 13) == pytest.approx(expected, rel=0.08)


def test_the_forward_pass_is_what_torch_counts(model: Whisper) -> None:
    """Encoder and decoder apart."""
    mel, rows, chosen = torch.randn(2, 80, 500), torch.randint(1000, (2, 20)), torch.arange(13)
    counted = []
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            features = encode(model, mel)
        counted.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            project(model, decode(model, rows, features), chosen)
        counted.append(counter.get_total_flops())
    forward = flops.forward_flops(model.dims, 2, 250, 20, 13)
    assert [forward.encoder, forward.decoder] == counted


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("targets", ["all", "qv", "encoder", "decoder"])
@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_options_tell_the_gradients_of_the_model(
    model: Whisper, method: str, targets: str, freeze_encoder: bool
) -> None:
    """Before a model is there, as after it was made ready."""
    cfg = Config(method=method, lora_targets=targets, freeze_encoder=freeze_encoder)  # type: ignore[arg-type]
    ready = copy.deepcopy(model)
    choose_trainable(ready, cfg)
    assert Gradients.of_config(cfg) == Gradients.of_model(ready)


def batch(clips: int, context: int, targets: list[list[int]]) -> Batch:
    """A batch of windows of so many samples; what stands in it does not count."""
    example = Example("id", Path("clip.wav"), "text", "set, line 1")
    rows = torch.tensor(targets)
    windows = (Window((example,), ("text",), context),) * clips
    return Batch(windows, torch.empty(0), Targets(rows, rows), 1.0, [], 80, ())


def test_a_step_is_the_sum_of_its_batches(model: Whisper) -> None:
    """B from the windows, A from their context, T and N from the targets."""
    everything(model)
    short, long = batch(2, 80_000, [[-100, 5, 6], [-100, 7, -100]]), batch(1, 480_000, [[-100, 5]])
    shapes = [(2, 250, 3, 3), (1, 1500, 2, 1)]
    expected = [flops.batch_flops(model.dims, Gradients.of_model(model), *shape) for shape in shapes]
    assert [flops.step_flops(model, [each]) for each in (short, long)] == expected
    assert flops.step_flops(model, [short, long]) == sum(expected)


def test_utilization_is_a_share_of_the_peak(model: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the peak for two seconds; a CPU has none, so that the key is left out."""
    everything(model)
    step = batch(2, 80_000, [[-100, 5, 6], [-100, 7, -100]])
    assert flops.mfu(model, [step], 2.0, "bf16") == {}
    counted = flops.step_flops(model, [step])
    on_a_gpu = type("OnAGpu", (), {"device": torch.device("cuda")})
    monkeypatch.setattr(Whisper, "parameters", lambda self: iter([on_a_gpu]))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(flops, "step_flops", lambda model, batches: counted)
    monkeypatch.setattr(flops, "PEAK_FLOPS", {"H200": float(counted)})
    assert flops.mfu(model, [step], 2.0, "bf16") == {"perf/mfu": 0.5}
    assert flops.mfu(model, [step], 2.0, "fp32") == {}


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("AMD EPYC 7B13", None),
        ("", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    """As `torch.cuda.get_device_name` spells them; a slower device of a similar name has no peak rather than that."""
    assert flops.peak_flops(name, "bf16") == flops.peak_flops(name, "fp16") == peak
    assert flops.peak_flops(name, "fp32") is None


def test_what_the_data_sheets_say_of_memory_and_of_older_devices() -> None:
    """A bandwidth for every peak; the longer name first; no bf16 where it is not native."""
    assert all(flops.bandwidth(f"NVIDIA {name}") for name in flops.PEAK_FLOPS)
    names = ["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-40GB", "AMD EPYC 7B13"]
    assert [flops.bandwidth(name) for name in names] == [2.039e12, 1.935e12, 1.555e12, None]
    assert flops.peak_flops("Tesla T4", "fp16") == 65e12
    assert flops.peak_flops("Tesla T4", "bf16") is None


def test_a_peak_is_measured_where_none_is_known() -> None:
    """More than an abacus, less than any processor there is."""
    assert 1e8 < flops.measured_flops(torch.device("cpu"), "fp32") < 1e15
