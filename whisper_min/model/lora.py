"""Low-rank adapters (LoRA, arXiv:2106.09685) beside whisper's own linear layers.

W x becomes W x + s B A x, with A (R, in) drawn as Kaiming does, B (out, R) zero and s = alpha / R. Each layer is
replaced in place by one that holds the same weight and bias under the same names, so that the model's state dict, its
fingerprint, whisper's key-value cache and its `decode` and `transcribe` know nothing of it. With the adapters off, or
before the first step, the model is the original to the bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper import Whisper
from whisper.model import Linear

from whisper_min.config import Config, InputError

# Names the layout of a file of adapters in its metadata.
LAYOUT = "whisper-min-lora"
# Which layers each choice of `--lora_targets` adapts, by the end of their names.
_ATTENTION = ("query", "key", "value", "out")
_MLP = ("mlp.0", "mlp.2")
_LAYERS = {"attention": _ATTENTION, "qv": ("query", "value"), "mlp": _MLP}


@dataclass(frozen=True)
class Adapters:
    """What adapters are, beside their numbers."""

    rank: int
    alpha: float
    targets: str
    rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / R, or alpha / sqrt(R) under rsLoRA (arXiv:2312.03732), which keeps large ranks learning."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def of_config(cfg: Config) -> Adapters:
    """The adapters that the options ask for."""
    return Adapters(cfg.lora_rank, cfg.lora_alpha or 2.0 * cfg.lora_rank, cfg.lora_targets, cfg.rslora)


class LoRALinear(Linear):  # type: ignore[misc]  # whisper has no types
    """One of whisper's linear layers with an adapter beside it.

    Parameters
    ----------
    layer : Linear
        gives its weight (out, in) and bias, which stay the same tensors under the same names
    adapters : Adapters
    dropout : float
        on what the adapter reads, in training mode
    """

    def __init__(self, layer: Linear, adapters: Adapters, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        # fp32, also beside weights in bf16
        self.lora_A = nn.Parameter(layer.weight.new_empty(adapters.rank, layer.in_features, dtype=torch.float32))
        self.lora_B = nn.Parameter(layer.weight.new_zeros(layer.out_features, adapters.rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.adapters, self.dropout, self.enabled = adapters, dropout, True

    @property
    def scale(self) -> float:
        """s"""
        return self.adapters.scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)"""
        return self.adapt(x, super().forward(x))

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """What the layer itself makes of x, `y`, with the adapter's share added."""
        if not self.enabled:
            return y
        x = F.dropout(x, self.dropout, self.training)
        down = F.linear(x, self.lora_A.to(x.dtype))  # (…, R)
        return y + F.linear(down, (self.scale * self.lora_B).to(x.dtype))

    def delta(self) -> Tensor:
        """s B A, what the adapter adds to the weight: (out, in)."""
        return self.scale * (self.lora_B @ self.lora_A)

    # The state dict is whisper's own; `adapter_state` holds the rest.
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("lora_A", "lora_B"):
            destination.pop(prefix + name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {prefix + name: getattr(self, name) for name in ("lora_A", "lora_B")}
        super()._load_from_state_dict({**state_dict, **own}, prefix, *args)


def target_names(model: Whisper, targets: str) -> list[str]:
    """Names of the linear layers that a choice of `--lora_targets` adapts, in the model's order."""
    side = targets if targets in ("encoder", "decoder") else ""
    ends = _LAYERS.get(targets, _ATTENTION + _MLP)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.startswith(side) and name.endswith(ends)
    ]


def attach(model: Whisper, adapters: Adapters, dropout: float = 0.0) -> None:
    """Put adapters beside the model's layers in place, and freeze everything else."""
    model.requires_grad_(False)
    for name in target_names(model, adapters.targets):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoRALinear(model.get_submodule(name), adapters, dropout))


def adapted_layers(model: Whisper) -> dict[str, LoRALinear]:
    """Every layer with an adapter by its name; empty for a model without."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@contextmanager
def adapters_off(model: Whisper) -> Iterator[None]:
    """The original model, for as long as the context lasts."""
    layers = adapted_layers(model).values()
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


@contextmanager
def merged(model: Whisper) -> Iterator[None]:
    """W + s B A in place of W, for as long as the context lasts: decoding then costs what the original's does.

    W comes back from a stored copy: adding and subtracting drifts (by 2e-3 in bf16).
    """
    layers = adapted_layers(model).values()
    stored = [layer.weight.detach().clone() for layer in layers]
    with torch.no_grad(), adapters_off(model):
        try:
            for layer in layers:
                layer.weight += layer.delta()
            yield
        finally:
            for layer, weight in zip(layers, stored, strict=True):
                layer.weight.copy_(weight)


def merge(model: Whisper) -> None:
    """Turn the adapted layers into plain ones that hold W + s B A."""
    for name, layer in adapted_layers(model).items():
        plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight, plain.bias = layer.weight, layer.bias
        with torch.no_grad():
            plain.weight += layer.delta()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)


def adapter_state(model: Whisper) -> dict[str, Tensor]:
    """The adapters alone, a few MB: `<layer>.lora_A` (R, in) and `<layer>.lora_B` (out, R)."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in adapted_layers(model).items()
        for part in ("lora_A", "lora_B")
    }


def adapter_metadata(model: Whisper, base: str, base_fingerprint: str) -> dict[str, str]:
    """What `load_adapters` needs beside the tensors; safetensors holds strings."""
    layer = next(iter(adapted_layers(model).values()))
    return {
        "format": "pt",
        "layout": LAYOUT,
        "adapters": json.dumps(asdict(layer.adapters)),
        "base": base,
        "base_fingerprint": base_fingerprint,
    }


def load_adapters(
    model: Whisper, fingerprint: str, state: Mapping[str, Tensor], metadata: Mapping[str, str], found: str
) -> None:
    """Attach saved adapters to a copy of the weights that they were trained on.

    Parameters
    ----------
    model : Whisper
    fingerprint : str
        of the model's weights
    state, metadata
        as `adapter_state` and `adapter_metadata` made them
    found : str
        the file, for messages

    Raises
    ------
    InputError
        where the weights are others, or the tensors do not fit the layers
    """
    if fingerprint != metadata.get("base_fingerprint"):
        raise InputError(
            f"{found}: these adapters were trained on {metadata.get('base')} "
            f"({str(metadata.get('base_fingerprint'))[:12]}…), not on these weights ({fingerprint[:12]}…); "
            "give the weights that they were trained on"
        )
    try:
        adapters = Adapters(**json.loads(metadata["adapters"]))
        ranks = {len(tensor) for name, tensor in state.items() if name.endswith("lora_A")}
        if ranks != {adapters.rank} or not math.isfinite(adapters.scale):
            raise ValueError(f"rank {adapters.rank}, alpha {adapters.alpha}")
    except (KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{found}: does not say what its adapters are ({error}); the file is damaged") from None
    attach(model, adapters)
    copy_adapters(model, state, found)


def copy_adapters(model: Whisper, state: Mapping[str, Tensor], found: str) -> None:
    """Give the attached adapters the numbers of saved ones; InputError where they do not fit."""
    own = adapter_state(model)
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in state.items()}:
        raise InputError(
            f"{found}: its adapters do not fit this model's layers; the file is damaged, or of other options"
        )
    for key, value in state.items():
        own[key].copy_(value)
