"""The operations of a training step, and the share of the device's peak that they reach (`perf/mfu`)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from whisper import ModelDimensions, Whisper

from whisper_min.audio import SAMPLES_PER_POSITION
from whisper_min.config import Config
from whisper_min.data.batches import Batch
from whisper_min.training.precision import DTYPES

# Dense products a second in bf16 or fp16, summed in fp32, of NVIDIA's data sheets; the longer name first.
PEAK_FLOPS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Older than bf16: its products are not native there.
_WITHOUT_BF16 = {"T4"}
# Bytes a second between a GPU and its memory, of the same data sheets.
BANDWIDTHS = {
    "H200": 4.8e12,
    "H100 NVL": 3.9e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100-SXM4-80GB": 2.039e12,
    "A100 80GB PCIe": 1.935e12,
    "A100": 1.555e12,
    "A10": 0.6e12,
    "L40S": 0.864e12,
    "L4": 0.3e12,
    "T4": 0.32e12,
    "RTX 4090": 1.008e12,
    "RTX 3090": 0.936e12,
}
# Slower (or partitioned) devices that bear a faster one's name.
_OTHER_MODELS = {"Laptop", "Max-Q", "MIG", "Ti", "D"}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Operations a second that the device can do at its best; None where that is not known (CPUs, fp32, others)."""
    known = None if precision == "fp32" else _named(device_name, PEAK_FLOPS)
    return None if known is None or (precision == "bf16" and known in _WITHOUT_BF16) else PEAK_FLOPS[known]


def bandwidth(device_name: str) -> float | None:
    """Bytes a second between the device and its memory; None where that is not known."""
    known = _named(device_name, BANDWIDTHS)
    return None if known is None else BANDWIDTHS[known]


def _named(device_name: str, table: Mapping[str, float]) -> str | None:
    """The first name in a table that a device bears; None for those that only share it."""
    if _OTHER_MODELS & set(device_name.split()):
        return None
    return next((name for name in table if re.search(rf"\b{name}\b", device_name)), None)


def measured_flops(device: torch.device, precision: str) -> float:
    """Operations a second of a large product of matrices, the best of a few: what a device without data sheet can."""
    dtype, width = DTYPES[precision], 1024 if device.type == "cpu" else 8192
    matrix, seconds = torch.randn(width, width, device=device).to(dtype), []
    for _ in range(10):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * width**3 / min(seconds)


def mfu(model: Whisper, batches: Iterable[Batch], seconds: float, precision: str) -> dict[str, float]:
    """`perf/mfu` of a step that took so long (model FLOPs utilization, arXiv:2204.02311); nothing without a peak."""
    device = next(model.parameters()).device
    peak = peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
    return {} if peak is None else {"perf/mfu": round(step_flops(model, batches) / seconds / peak, 5)}


def step_flops(model: Whisper, batches: Iterable[Batch]) -> int:
    """Operations of a step's forward and backward passes; padding counts, for it is computed."""
    gradients = Gradients.of_model(model)
    return sum(
        batch_flops(
            model.dims,
            gradients,
            clips=len(batch.windows),
            positions=batch.windows[0].context // SAMPLES_PER_POSITION,
            tokens=batch.targets.inputs.shape[1],
            counted=batch.targets.count,
        )
        for batch in batches
    )


class Gradients(NamedTuple):
    """What the backward pass computes. Weights can be frozen where adapters train: the gradient passes through them."""

    into_encoder: bool
    encoder_weights: bool
    decoder_weights: bool

    @classmethod
    def of_model(cls, model: Whisper) -> Gradients:
        """As `choose_trainable` left the model."""
        into_encoder = any(parameter.requires_grad for parameter in model.encoder.parameters())
        return cls(
            into_encoder, *(part.blocks[0].mlp[0].weight.requires_grad for part in (model.encoder, model.decoder))
        )

    @classmethod
    def of_config(cls, cfg: Config) -> Gradients:
        """As `choose_trainable` will leave it."""
        if cfg.method == "lora":
            return cls(cfg.lora_targets != "decoder", False, False)
        return cls(not cfg.freeze_encoder, not cfg.freeze_encoder, True)


class Forward(NamedTuple):
    """Multiplications and additions of a forward pass; LayerNorm, GELU and adapters do not count.

    A product with weights takes 2 · weights operations a position, attention 4 · queries · keys · C; causal attention
    counts in full.
    """

    first_convolution: int
    encoder_products: int
    encoder_attention: int
    cross_projections: int
    """The decoder's keys and values of the encoder's output."""
    decoder_products: int
    """With the projection to the vocabulary."""
    decoder_attention: int

    @property
    def encoder(self) -> int:
        """What the encoder takes."""
        return self.first_convolution + self.encoder_products + self.encoder_attention

    @property
    def decoder(self) -> int:
        """What the decoder takes."""
        return self.cross_projections + self.decoder_products + self.decoder_attention


def forward_flops(dims: ModelDimensions, clips: int, positions: int, tokens: int, counted: int) -> Forward:
    """Operations of one batch's forward pass.

    Parameters
    ----------
    clips, positions, tokens : int
        B, A and T of the batch
    counted : int
        positions in (B, T) that are projected to the vocabulary
    """
    c, d, a, t = dims.n_audio_state, dims.n_text_state, clips * positions, clips * tokens
    return Forward(
        first_convolution=6 * dims.n_mels * c * 2 * a,
        # query, key, value and out take 8 C² a position, the two layers of the MLP 16 C²
        encoder_products=6 * c * c * a + dims.n_audio_layer * 24 * c * c * a,
        encoder_attention=dims.n_audio_layer * 4 * a * positions * c,
        cross_projections=dims.n_text_layer * 4 * d * d * a,
        # as the encoder's, and the cross-attention's query and out
        decoder_products=dims.n_text_layer * 28 * d * d * t + 2 * d * dims.n_vocab * counted,
        decoder_attention=dims.n_text_layer * 4 * t * (tokens + positions) * d,
    )


def batch_flops(
    dims: ModelDimensions, gradients: Gradients, clips: int, positions: int, tokens: int, counted: int
) -> int:
    """Operations of one batch, forward and backward; parameters as in `forward_flops`.

    A product with weights takes as much again for the gradient of its input and as much for that of the weights
    (arXiv:2001.08361, section 2.1: 6 · parameters · tokens), attention twice as much. What does not train has no
    gradient to compute. A frozen encoder counts nothing: its outputs are remembered. Nor does what checkpointing
    computes again.
    """
    forward = forward_flops(dims, clips, positions, tokens, counted)
    into_encoder, encoder_weights, decoder_weights = gradients
    encoder = (
        (1 + encoder_weights) * forward.first_convolution
        + (2 + encoder_weights) * forward.encoder_products
        + 3 * forward.encoder_attention
    )
    decoder = (
        (1 + into_encoder + decoder_weights) * forward.cross_projections
        + (2 + decoder_weights) * forward.decoder_products
        + 3 * forward.decoder_attention
    )
    return into_encoder * encoder + decoder
