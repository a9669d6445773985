"""The original model beside the one that trains, and how far their predictions are apart (KL divergence).

Learning without forgetting (arXiv:1606.09282): λ · T² · Σ KL(p⁰ ‖ p) / N, with both distributions softened by T. The
gradient at the logits is T · (softmax(z / T) − softmax(z⁰ / T)): zero as long as the model predicts what it used to.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from whisper import Whisper

from whisper_min.config import Config
from whisper_min.data.batches import Batch, OnDevice
from whisper_min.model.bf16 import to_bf16
from whisper_min.model.forward import POSITIONS_AT_ONCE, decode, encode
from whisper_min.model.lora import adapted_layers, adapters_off


class Original:
    """The original's predictions for the batches on which the KL term is taken.

    Under LoRA it is the same weights with the adapters off. Else it is a frozen copy, in the model's own dtype or in
    half the memory. Its forward runs through the same kernels as the model's (nothing in it requires gradients, so none
    are kept), so that before the first step the two agree to the bit.
    """

    def __init__(self, model: Whisper, cfg: Config) -> None:
        self.cfg, self.model = cfg, model
        self.copy = None if adapted_layers(model) else frozen_copy(model, half=cfg.kl_storage == "bf16")
        trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        self.shares_encoder = "encoder" not in trained

    def applies_to(self, batch: Batch) -> bool:
        """Whether the KL term is taken on a batch: on replay, on the domain, or on both, as `--kl_on` says."""
        return self.cfg.kl_on in ("both", batch.role)

    def sum_kl(self, batch: Batch, on: OnDevice, features: Tensor, logits: Tensor) -> Tensor:
        """T² Σ KL(p⁰ ‖ p) over the tokens that count; the loop divides once, by all such tokens of the step.

        Parameters
        ----------
        batch : Batch
        on : OnDevice
            its tensors
        features : Tensor, shape = (B, A, C)
            the model's; the original's too where the encoder does not train
        logits : Tensor, shape = (N, V)
            the model's
        """
        original, off = self.copy or self.model, nullcontext() if self.copy else adapters_off(self.model)
        with off:
            features = features.detach() if self.shares_encoder else encode(original, on.mel)
            hidden = decode(original, on.inputs, features).flatten(0, 1)[on.counted]  # (N, C)
        embedding = original.decoder.token_embedding.weight.detach()  # (V, C)
        gated = self.cfg.kl_gate and batch.role == "domain"

        def sum_of_part(z: Tensor, h: Tensor, labels: Tensor) -> Tensor:
            """The original's logits exist only in here; the backward pass computes them again."""
            z0 = h @ embedding.to(h.dtype).T
            kl = token_kl(z, z0, self.cfg.kl_temperature)
            return (kl * (z0.argmax(-1) == labels) if gated else kl).sum()

        total = logits.new_zeros((), dtype=torch.float32)
        for part in zip(*(each.split(POSITIONS_AT_ONCE) for each in (logits, hidden, on.labels)), strict=True):
            total = total + checkpoint(sum_of_part, *part, use_reentrant=False)
        return total


def token_kl(logits: Tensor, original: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(p⁰ ‖ p) of every token: (…, V), (…, V) -> (…)."""
    p = (logits.float() / temperature).log_softmax(-1)
    p0 = (original.float() / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(p, p0, reduction="none", log_target=True).sum(-1)


def frozen_copy(model: Whisper, half: bool = False) -> Whisper:
    """A copy that never trains; `half` stores it in bf16."""
    made = copy.deepcopy(model).requires_grad_(False)
    if half:
        to_bf16(made)
    return made
