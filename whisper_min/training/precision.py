"""Mixed precision: which dtype the forward runs in, and the loss scale that fp16 needs. Weights keep their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from whisper_min.config import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """The device of `--device`; `auto` takes CUDA, then Apple's GPU, then the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {wanted}: no CUDA device is available to this torch ({torch.__version__}); use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: Apple's GPU is not available to this torch; use cpu")
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` asks what the processor reports and never times anything, so that a resume is exact.

    CUDA: bf16 from compute capability 8.0 on, where it is native, else fp16. CPU: bf16 where the processor has
    AVX512-BF16, AMX or Arm's BF16, else fp32. Apple's GPU: fp32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16"
    return "fp32"


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively."""
    report = getattr(torch.cpu, "get_capabilities", None)  # from torch 2.10 on
    if report is not None:
        capabilities = report()
        return any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to the precision; nothing at all for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss so that fp16 gradients do not underflow; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
