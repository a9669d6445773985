"""The forward pass that training and decoding share: OpenAI's modules, with an audio context of any length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from whisper import Whisper


def encode(model: Whisper, mel: Tensor) -> Tensor:
    """Run the encoder on a log-mel of any length up to 30 s.

    Whisper's own `AudioEncoder.forward` asserts 1500 positions; sinusoidal positions do not depend on the length, so a
    shorter context takes the first of them. On 30 s it is whisper's forward to the bit.

    Parameters
    ----------
    mel : Tensor, shape = (B, M, F)

    Returns
    -------
    Tensor, shape = (B, A, C)
        with A = F / 2
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)  # (B, A, C)
    x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
    for block in encoder.blocks:
        x = block(x)
    features: Tensor = encoder.ln_post(x)
    return features


def sum_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the tokens that count; the loop divides once, by the tokens of the whole step.

    Parameters
    ----------
    logits : Tensor, shape = (B, T, V)
    targets : Tensor, shape = (B, T)
        `tokens.IGNORED` where no token is predicted
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
