"""The operations of a training step, and the share of the device's peak that they reach (`perf/mfu`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from whisper import Whisper

from whisper_min.audio import SAMPLES_PER_POSITION
from whisper_min.data.batches import Batch

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
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Slower (or partitioned) devices that bear a faster one's name.
_OTHER_MODELS = {"Laptop", "Max-Q", "MIG", "Ti", "D"}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Operations a second that the device can do at its best; None where that is not known (CPUs, fp32, others)."""
    if precision == "fp32" or _OTHER_MODELS & set(device_name.split()):
        return None
    return next((peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


def mfu(model: Whisper, batches: Iterable[Batch], seconds: float, precision: str) -> dict[str, float]:
    """`perf/mfu` of a step that took so long (model FLOPs utilization, arXiv:2204.02311); nothing without a peak."""
    device = next(model.parameters()).device
    peak = peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
    return {} if peak is None else {"perf/mfu": round(step_flops(model, batches) / seconds / peak, 5)}


def step_flops(model: Whisper, batches: Iterable[Batch]) -> int:
    """Operations of a step's forward and backward passes; padding counts, for it is computed."""
    return sum(
        batch_flops(
            model,
            clips=len(batch.windows),
            positions=batch.windows[0].context // SAMPLES_PER_POSITION,
            tokens=batch.targets.inputs.shape[1],
            counted=batch.targets.count,
        )
        for batch in batches
    )


def batch_flops(model: Whisper, clips: int, positions: int, tokens: int, counted: int) -> int:
    """Multiplications and additions of one batch, forward and backward.

    A product with weights takes 2 · weights operations a position forward, as many again for the gradient of its input
    and as many for that of the weights (arXiv:2001.08361, section 2.1: 6 · parameters · tokens), attention 4 · queries
    · keys · C forward and twice that backward; causal attention counts in full, LayerNorm, GELU and adapters do not.
    What does not train has no gradient to compute. A frozen encoder counts nothing: its outputs are remembered.

    Parameters
    ----------
    clips, positions, tokens : int
        B, A and T of the batch
    counted : int
        positions in (B, T) that are projected to the vocabulary
    """
    dims = model.dims
    c, d, a, t = dims.n_audio_state, dims.n_text_state, positions, tokens
    # 1 or 0: what has a gradient. Weights can be frozen where adapters train, and the gradient passes through them.
    into_encoder = int(any(parameter.requires_grad for parameter in model.encoder.parameters()))
    encoder_trains, decoder_trains = (
        int(part.blocks[0].mlp[0].weight.requires_grad) for part in (model.encoder, model.decoder)
    )
    through_encoder, through_decoder = 2 + encoder_trains, 2 + decoder_trains

    convolutions = (1 + encoder_trains) * 6 * dims.n_mels * c * 2 * a + through_encoder * 6 * c * c * a
    # query, key, value and out take 8 C² a position, the two layers of the MLP 16 C²
    encoder_layer = through_encoder * 24 * c * c * a + 3 * 4 * a * a * c
    encoder = into_encoder * (convolutions + dims.n_audio_layer * encoder_layer)

    # as above, and the cross-attention's query and out; its key and value read the encoder's output
    decoder_layer = (
        through_decoder * 28 * d * d * t
        + (1 + into_encoder + decoder_trains) * 4 * d * d * a
        + 3 * 4 * (t * t + t * a) * d
    )
    projection = through_decoder * 2 * d * dims.n_vocab * counted
    return clips * (encoder + dims.n_text_layer * decoder_layer) + projection
