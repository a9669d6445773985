"""Device and precision are decided by what is there, never by timing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from whisper_min.config import InputError
from whisper_min.training.precision import autocast, choose_device, choose_precision, cpu_has_bf16, loss_scaler

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_cpu_is_always_there() -> None:
    """Asked for by name."""
    assert choose_device("cpu") == CPU


@without_cuda
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_without_cuda_says_what_to_use(wanted: str) -> None:
    """The option, the version of torch that knows no CUDA, the way out."""
    with pytest.raises(InputError, match=rf"--device {wanted}: .*{torch.__version__.split('+')[0]}.*use cpu"):
        choose_device(wanted)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has Apple's GPU")
def test_mps_without_mps_says_what_to_use() -> None:
    """Apple's GPU elsewhere."""
    with pytest.raises(InputError, match=r"--device mps: .*use cpu"):
        choose_device("mps")


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
def test_auto_falls_back_to_the_cpu() -> None:
    """No GPU at all."""
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_a_precision_asked_for_is_taken(wanted: str) -> None:
    """Whatever the processor."""
    assert choose_precision(wanted, CPU) == wanted


def test_auto_follows_the_processor() -> None:
    """bf16 where it is native, else fp32, and the same each time."""
    assert choose_precision("auto", CPU) == ("bf16" if cpu_has_bf16() else "fp32")
    assert choose_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or sys.platform != "linux", reason="needs /proc/cpuinfo")
def test_bf16_is_what_the_kernel_reports() -> None:
    """This very processor's flags; x86 alone, where they have these names."""
    text = Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("flags")), None)
    if line is None:
        pytest.skip("not an x86 processor")
    assert cpu_has_bf16() == bool({"avx512_bf16", "amx_bf16"} & set(line.split()))


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch before 2.10 reports no capabilities")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, False), ({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True),
     ({"bf16": True, "neon": True}, True), ({"amx_bf16": False}, False)],
)  # fmt: skip
def test_bf16_of_other_processors(monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], expected: bool) -> None:
    """Intel's, AMD's and Arm's names, as torch reports them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert cpu_has_bf16() == expected
    assert choose_precision("auto", CPU) == ("bf16" if expected else "fp32")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_casts_products_and_leaves_weights(precision: str, dtype: torch.dtype) -> None:
    """The forward runs in the precision; weights and gradients stay fp32."""
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, precision):
        product = layer(torch.ones(1, 4))
    assert product.dtype == dtype
    product.float().sum().backward()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("precision", "scales"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_only_fp16_scales_the_loss(precision: str, scales: bool) -> None:
    """bf16 has fp32's range."""
    scaler = loss_scaler(CPU, precision)
    assert scaler.is_enabled() == scales
    assert (scaler.scale(torch.tensor(1.0)).item() > 1) == scales


@pytest.mark.gpu
@with_cuda
def test_cuda_precision_follows_the_capability() -> None:
    """bf16 from 8.0 on."""
    device = choose_device("auto")
    assert device.type == "cuda"
    assert choose_precision("auto", device) == ("bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16")


@pytest.mark.gpu
@with_cuda
def test_a_cuda_device_too_many() -> None:
    """cuda:99 says how many there are."""
    with pytest.raises(InputError, match=rf"--device cuda:99: this machine has {torch.cuda.device_count()} CUDA"):
        choose_device("cuda:99")
