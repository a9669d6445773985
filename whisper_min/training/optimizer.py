"""What trains, with which rate, and the update that skips non-finite gradients without waiting for the device."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from whisper import Whisper

from whisper_min.config import LEARNING_RATES, LORA_LEARNING_RATE, Config, InputError
from whisper_min.model import lora
from whisper_min.model.bf16 import to_bf16
from whisper_min.model.forward import check_compiler
from whisper_min.training.sharding import whole


def choose_trainable(model: Whisper, cfg: Config) -> list[nn.Parameter]:
    """Set `requires_grad`: every parameter, the decoder's alone, or adapters that are attached here; returns these.

    Under --lean the weights are bf16 from here on.
    """
    if cfg.lean:
        to_bf16(model)
    if cfg.method == "lora":
        torch.manual_seed(cfg.seed)
        lora.attach(model, lora.of_config(cfg), cfg.lora_dropout)
    else:
        model.requires_grad_(True)
        model.encoder.requires_grad_(not cfg.freeze_encoder)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def default_lr(model: Whisper, cfg: Config) -> float:
    """Peak learning rate: LoRA's, or by the model's width."""
    if cfg.method == "lora":
        return LORA_LEARNING_RATE
    width = min(LEARNING_RATES, key=lambda known: abs(known - model.dims.n_audio_state))
    return LEARNING_RATES[width]


def rounds_weights(cfg: Config) -> bool:
    """Whether the weights that train are bf16, which --lean makes of all but adapters."""
    return cfg.lean and cfg.method != "lora"


def check_lean(cfg: Config, precision: str, device: torch.device) -> list[str]:
    """Faults of --lean on this machine."""
    if not rounds_weights(cfg):
        return []
    faults = []
    if precision == "fp16":
        faults.append("--lean: bf16 gradients cannot be scaled for fp16; give --precision fp32, or leave --lean out")
    if importlib.util.find_spec("torchao") is None:
        return [*faults, "--lean: torchao is not installed; pip install 'whisper-min[lean]', or add --method lora"]
    try:
        check_compiler(device, "--lean")
    except InputError as error:
        faults += error.faults
    return faults


def build_optimizer(model: Whisper, cfg: Config) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101) over all that trains; weight decay on matrices only, never on biases and LayerNorm."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    assert cfg.lr is not None, "the learning rate was not resolved"
    # Whisper's own betas and epsilon (arXiv:2212.04356, table 17).
    shared: dict[str, Any] = {"lr": cfg.lr, "betas": (0.9, 0.98), "eps": 1e-6}
    if rounds_weights(cfg):
        from torchao.optim import AdamW8bit

        # moments in blocks of 256 with a scale each (arXiv:2110.02861); round-to-nearest would lose most updates
        return AdamW8bit(groups, **shared, bf16_stochastic_round=True)
    # The fused kernel takes `found_inf`, see below.
    return torch.optim.AdamW(groups, **shared, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its rate; torchao reads it from a tensor that it made."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def lr_at(step: int, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Rate of step 1 … max_steps: linear up to the peak at `warmup_steps`, then linear down, zero after the last."""
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (max_steps - step + 1) / (max_steps - warmup_steps + 1)


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    grad_clip: float,
    step: int = 0,
) -> Tensor:
    """Clip, update, and forget the gradients; an update with a non-finite norm is skipped on the device.

    Returns the gradient norm before clipping (scalar tensor on the device): whoever logs it a step later learns of a
    skipped step without ever having made the device wait. (Under --lean it waits.) `step` seeds stochastic rounding:
    all ranks round alike, and so does a resumed run.
    """
    scaler.unscale_(optimizer)  # nothing unless fp16
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    if not scaler.is_enabled():
        # what GradScaler hands to fused optimizers: 1.0 leaves weights, moments and step counts as they are
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    if optimizer.defaults.get("fused"):
        scaler.step(optimizer)
    elif norm.isfinite():
        with torch.random.fork_rng([norm.device] if norm.is_cuda else []):
            torch.manual_seed(step)
            optimizer.step()
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm
