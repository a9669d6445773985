"""How much memory a training needs, told before it starts, with what would fit."""

from __future__ import annotations

from dataclasses import replace

import psutil
import torch
from whisper import ModelDimensions
from whisper.audio import N_SAMPLES

from whisper_min.audio import SAMPLES_PER_POSITION
from whisper_min.config import Config

# (audio and text channels, audio layers, text layers, mel bins, vocabulary) of the official sizes.
_SIZES = {
    "tiny": (384, 4, 4, 80),
    "base": (512, 6, 6, 80),
    "small": (768, 12, 12, 80),
    "medium": (1024, 24, 24, 80),
    "large-v1": (1280, 32, 32, 80),
    "large-v2": (1280, 32, 32, 80),
    "large-v3": (1280, 32, 32, 128),
    "turbo": (1280, 32, 4, 128),
}
_ALIASES = {"large": "large-v3", "large-v3-turbo": "turbo"}
# Tokens of a typical label, for the size of the logits.
_TYPICAL_TOKENS = 64


def official_dimensions(name: str) -> ModelDimensions | None:
    """Dimensions of an official model without loading it; None for other names."""
    size = _ALIASES.get(name, name).removesuffix(".en")
    if size not in _SIZES:
        return None
    channels, audio_layers, text_layers, mels = _SIZES[size]
    vocabulary = 51864 if name.endswith(".en") else 51866 if mels == 128 else 51865
    heads = channels // 64
    return ModelDimensions(mels, 1500, channels, heads, audio_layers, vocabulary, 448, channels, heads, text_layers)


def parameters(dims: ModelDimensions) -> tuple[int, int]:
    """(encoder, decoder) parameters of a Whisper of these dimensions."""
    c, d = dims.n_audio_state, dims.n_text_state
    encoder = dims.n_mels * c * 3 + c + c * c * 3 + c + dims.n_audio_layer * (12 * c * c + 12 * c) + 2 * c
    decoder = dims.n_vocab * d + dims.n_text_ctx * d + dims.n_text_layer * (16 * d * d + 17 * d) + 2 * d
    return encoder, decoder


def adapter_parameters(dims: ModelDimensions, cfg: Config) -> int:
    """Parameters of the adapters that the options ask for: R (in + out) for every layer that gets one."""
    c, d, targets = dims.n_audio_state, dims.n_text_state, cfg.lora_targets
    projections = {"qv": 2, "mlp": 0}.get(targets, 4)
    mlp = 0 if targets in ("attention", "qv") else 10  # two layers between one width and four
    encoder = 0 if targets == "decoder" else dims.n_audio_layer * c * (2 * projections + mlp)
    decoder = 0 if targets == "encoder" else dims.n_text_layer * d * (2 * 2 * projections + mlp)
    return cfg.lora_rank * (encoder + decoder)


def training_bytes(dims: ModelDimensions, cfg: Config, precision: str, context_samples: int) -> int:
    """Bytes that fine-tuning needs at its peak, without the framework itself.

    fp32 weights, gradients and AdamW's two moments, autocast's copies of the weights, and the activations kept for the
    backward pass: 37 bytes a position and channel in an encoder block and 6 in a decoder block under autocast, fitted
    to counts with saved-tensor hooks on all sizes; about twice that in fp32. What holds on to the original adds its
    copy of the weights, and their Fisher information.
    """
    encoder, decoder = parameters(dims)
    anchored = decoder + (0 if cfg.freeze_encoder else encoder)
    trained = adapter_parameters(dims, cfg) if cfg.method == "lora" else anchored
    cast = 0 if precision == "fp32" else 2
    fixed = (4 + cast) * (encoder + decoder) + 12 * trained
    if cfg.method != "lora":
        fixed += (2 if cfg.kl_storage == "bf16" else 4) * (encoder + decoder) * bool(cfg.kl)
        fixed += 4 * anchored * ((cfg.ewc > 0) + (cfg.l2sp > 0))
    fixed += 4 * anchored * (cfg.ewc > 0)
    positions = context_samples // SAMPLES_PER_POSITION
    encoder_activations = 0 if cfg.freeze_encoder else 37 * dims.n_audio_layer * positions * dims.n_audio_state
    activations = (
        encoder_activations
        + 6 * dims.n_text_layer * positions * dims.n_text_state
        + 10 * _TYPICAL_TOKENS * dims.n_vocab
    )
    return fixed + cfg.batch_size * activations * (2 if precision == "fp32" else 1)


def available_bytes(device: torch.device) -> int:
    """Free memory of the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(
    dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, context_samples: int
) -> list[str]:
    """A fault where the training would not fit into free memory, with what would."""
    free = available_bytes(device)
    needed = training_bytes(dims, cfg, precision, context_samples)
    if needed <= free:
        return []

    def fits(dims: ModelDimensions, **changes: object) -> bool:
        # what is advised should hold for clips of any length
        return training_bytes(dims, replace(cfg, **changes), precision, N_SAMPLES) <= free  # type: ignore[arg-type]

    fixes = []
    smaller = next((size for size in (4, 2, 1) if size < cfg.batch_size and fits(dims, batch_size=size)), None)
    if smaller is not None:
        fixes.append(f"--batch_size {smaller} --accumulate {cfg.batch_size * cfg.accumulate // smaller}")
    if cfg.method != "lora" and not cfg.freeze_encoder and fits(dims, freeze_encoder=True):
        fixes.append("--freeze_encoder")
    if cfg.method != "lora" and fits(dims, method="lora", freeze_encoder=False):
        fixes.append("--method lora")
    official = {size: official_dimensions(size) for size in ("large-v3", "turbo", "medium", "small", "base", "tiny")}
    fitting = [size for size, its in official.items() if its is not None and its != dims and fits(its)]
    if fitting:
        fixes.append(f"--model {fitting[0]}")
    where = f"{device}" if device.type == "cuda" else "this machine"
    return [
        f"--model {cfg.model}: training it with --batch_size {cfg.batch_size} in {precision} needs about "
        f"{needed / 1e9:.0f} GB, and {where} has {free / 1e9:.0f} GB free; "
        + (f"what would fit: {' or '.join(fixes)}" if fixes else "no Whisper would fit: free some memory")
    ]
