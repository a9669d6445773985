"""Between the original and what was fine-tuned from it: θ(a) = lerp(θ⁰, θ, a), a model at every point, no training.

WiSE-FT (arXiv:2109.01903) takes one coefficient for all weights. LiNeS (arXiv:2410.17146) lets it grow with depth, as
early layers hold what is general: layer l of L gets a + b (l - 1) / (L - 1), here for encoder and decoder each.
A LoRA run arrives merged, where lerp(W, W + sBA, a) is W + a·sBA: the same as scaling its adapters.

It lives beside `weights.py`, which loads a run's chosen point.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from whisper import ModelDimensions, Whisper


def coefficient(name: str, dims: ModelDimensions, alpha: float, lines: float | None = None) -> float:
    """How far one tensor goes from the original (0) to the tuned (1).

    Parameters
    ----------
    name : str
        in OpenAI's state dict
    alpha : float
        of every layer; with `lines`, of the last one
    lines : float, optional
        the first layer's share of `alpha` (LiNeS, in whose letters a = lines · alpha and a + b = alpha). Convolutions
        and embeddings, the decoder's output matrix among them, count as the first layer, final norms as the last; where
        there is one block alone it is the last, and so is everything beside it.
    """
    if lines is None:
        return alpha
    side, _, rest = name.partition(".")
    last = (dims.n_audio_layer if side == "encoder" else dims.n_text_layer) - 1
    kind = rest.split(".")
    layer = int(kind[1]) if kind[0] == "blocks" else last if kind[0] in ("ln", "ln_post") else 0
    depth = layer / last if last else 1.0
    return alpha * (lines + (1 - lines) * depth)


@torch.no_grad()
def interpolate(
    model: Whisper,
    original: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    alpha: float,
    lines: float | None = None,
) -> None:
    """Write a point of the line between two state dicts into a plain Whisper, in place.

    Bit for bit the original at 0 and the tuned at 1. It is computed where the state dicts lie, one tensor at a time, so
    that what was scored on a GPU is to the bit what a CPU exports, and nothing but the two dicts and the model is held.

    Raises
    ------
    ValueError
        where alpha or lines lies outside 0 … 1, or the three do not hold the same names
    """
    for what, value in [("alpha", alpha), ("lines", lines)]:
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{what} {value} lies outside 0 … 1")
    state = model.state_dict()
    if not state.keys() == original.keys() == tuned.keys():
        strange = sorted(state.keys() ^ original.keys() | state.keys() ^ tuned.keys())
        raise ValueError(f"the models hold different tensors, such as {strange[0]}: merge adapters first")
    for name, tensor in state.items():
        share = coefficient(name, model.dims, alpha, lines)
        # the ends are copied: lerp itself makes 0.0 of -0.0
        ends = {0.0: original[name], 1.0: tuned[name]}
        tensor.copy_(ends[share] if share in ends else torch.lerp(original[name], tuned[name], share))
