"""Weights that stay near the original's: elastic weight consolidation (EWC) and L2-SP.

(λ / 2) Σ F (θ − θ⁰)², with F the diagonal Fisher information of general speech (arXiv:1612.00796), or 1 everywhere
(L2-SP, arXiv:1802.01483). Under LoRA it acts in weight space, on s B A = θ − θ⁰: a penalty on A and B apart would
change when A grows and B shrinks by as much, and at B = 0 the Fisher information of A is zero.

The gradient is added in closed form, after the backward pass: nothing is kept for it and no second copy of the
gradients is made.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from whisper import Whisper

from whisper_min.model.lora import adapted_layers

# Weights handled at a time, so that what is computed between them stays in a processor's cache.
WEIGHTS_AT_ONCE = 1 << 18


def anchored_parameters(model: Whisper) -> dict[str, Tensor]:
    """What the penalty speaks of, by name: all that trains, or under LoRA the weights that have adapters."""
    layers = adapted_layers(model)
    if layers:
        return {f"{name}.weight": layer.weight for name, layer in layers.items()}
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Anchor:
    """One penalty of weight λ, held at the weights that the model has now: build it before anything is trained.

    Parameters
    ----------
    model : Whisper
    weight : float
        λ; acts on F of mean 1, whatever the number of weights
    fisher : mapping from parameter name to Tensor, or None
        as `fisher.estimate` returns it; None is L2-SP
    """

    def __init__(self, model: Whisper, weight: float, fisher: Mapping[str, Tensor] | None) -> None:
        self.weight, self.fisher = weight, fisher
        self.layers = adapted_layers(model)
        self.parameters = {} if self.layers else anchored_parameters(model)
        self.start = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def add_gradients(self, loss_scale: float = 1.0) -> Tensor:
        """Add λ F (θ − θ⁰) to the gradients, times the loss scale; returns (λ / 2) Σ F (θ − θ⁰)², a scalar tensor."""
        parts = self._add_to_adapters(loss_scale) if self.layers else self._add_to_weights(loss_scale)
        return 0.5 * self.weight * torch.stack(parts).sum()

    def _add_to_weights(self, loss_scale: float) -> list[Tensor]:
        parts = []
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None, f"{name} has no gradient to add to"
            importance = self.fisher[name].flatten().split(WEIGHTS_AT_ONCE) if self.fisher else None
            pieces = [each.flatten().split(WEIGHTS_AT_ONCE) for each in (parameter, self.start[name])]
            for index, (now, start) in enumerate(zip(*pieces, strict=True)):
                moved = now - start
                pull = moved * importance[index] if importance else moved
                parts.append(torch.dot(pull, moved))
                first = index * WEIGHTS_AT_ONCE
                gradient = parameter.grad.view(-1)[first : first + len(pull)]
                gradient.add_(pull, alpha=self.weight * loss_scale)
        return parts

    def _add_to_adapters(self, loss_scale: float) -> list[Tensor]:
        parts = []
        for name, layer in self.layers.items():
            moved = layer.delta()  # (out, in), θ − θ⁰
            pull = moved * self.fisher[f"{name}.weight"] if self.fisher else moved
            parts.append(torch.dot(pull.flatten(), moved.flatten()))
            strength = self.weight * loss_scale * layer.scale
            for parameter, gradient in [(layer.lora_B, pull @ layer.lora_A.T), (layer.lora_A, layer.lora_B.T @ pull)]:
                assert parameter.grad is not None, f"{name} has no gradient to add to"
                parameter.grad.add_(gradient, alpha=strength)
        return parts
