"""EWC and L2-SP: nothing at the anchor, more after a step, and under LoRA in weight space."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_whisper
from quick_model import one_thread  # noqa: F401
from torch import Tensor
from whisper import Whisper

from whisper_min.model import lora
from whisper_min.model.lora import Adapters
from whisper_min.retain import anchor
from whisper_min.retain.anchor import Anchor, anchored_parameters


def importance(model: Whisper, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers from 0 up for everything that is anchored."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(each.shape, generator=generator) for name, each in anchored_parameters(model).items()}


def zero_gradients(model: Whisper) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def move(model: Whisper, seed: int = 1) -> None:
    """Every trained number somewhere else."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)


@pytest.fixture(params=["full", "lora"])
def model(request: pytest.FixtureRequest) -> Whisper:
    made = random_whisper()
    if request.param == "lora":
        lora.attach(made, Adapters(4, 8.0, "all"))
    return made


@pytest.mark.parametrize("with_fisher", [True, False])
def test_nothing_at_the_anchor_and_something_after_a_step(model: Whisper, with_fisher: bool) -> None:
    penalty = Anchor(model, 3.0, importance(model) if with_fisher else None)
    zero_gradients(model)
    assert float(penalty.add_gradients()) == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)
    move(model)
    assert float(penalty.add_gradients()) > 0
    # every group of numbers is pulled back: an inert penalty is what the first experiment had
    assert all(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("with_fisher", [True, False])
def test_value_and_gradient_are_those_of_the_formula(model: Whisper, with_fisher: bool) -> None:
    """(λ / 2) Σ F (θ − θ⁰)², its gradient by autograd; a chunk is smaller than a tensor."""
    fisher = importance(model) if with_fisher else None
    start = {name: each.detach().clone() for name, each in anchored_parameters(model).items()}
    penalty = Anchor(model, 0.7, fisher)
    move(model)
    layers = lora.adapted_layers(model)
    if layers:
        moved = {f"{name}.weight": layer.delta() for name, layer in layers.items()}
    else:
        moved = {name: each - start[name] for name, each in anchored_parameters(model).items()}
    terms = [((fisher[name] if fisher else 1.0) * each**2).double().sum() for name, each in moved.items()]
    formula = 0.5 * 0.7 * torch.stack(terms).sum()
    formula.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    zero_gradients(model)
    value = penalty.add_gradients(loss_scale=2.0)
    torch.testing.assert_close(float(value), formula.item(), rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, 2 * expected[name], rtol=1e-4, atol=1e-7)


def test_gradients_add_up_with_those_that_are_there(model: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor, "WEIGHTS_AT_ONCE", 100)  # and pieces that do not divide a tensor change nothing
    penalty = Anchor(model, 1.0, None)
    move(model)
    zero_gradients(model)
    penalty.add_gradients()
    alone = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(1.0)
    penalty.add_gradients()
    for parameter, each in zip([p for p in model.parameters() if p.grad is not None], alone, strict=True):
        torch.testing.assert_close(parameter.grad, each + 1)


def test_gauge() -> None:
    """(A, B) -> (cA, B / c) leaves θ as it is, and so the penalty; one on A and B apart moves."""
    model = random_whisper()
    lora.attach(model, Adapters(4, 8.0, "all"))
    penalty = Anchor(model, 1.0, importance(model))
    move(model)
    zero_gradients(model)
    before = float(penalty.add_gradients())
    naive = sum(float(p.detach().square().sum()) for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        for layer in lora.adapted_layers(model).values():
            layer.lora_A *= 3
            layer.lora_B /= 3
    torch.testing.assert_close(float(penalty.add_gradients()), before, rtol=1e-5, atol=0)
    assert abs(sum(float(p.detach().square().sum()) for p in model.parameters() if p.requires_grad) / naive - 1) > 0.5


def test_holds_what_it_should_and_only_there() -> None:
    """Descending the penalty alone goes back; a weight of no importance stays where it went."""
    model = random_whisper()
    fisher = {name: torch.zeros_like(each) for name, each in anchored_parameters(model).items()}
    held = "decoder.blocks.0.mlp.0.weight"
    fisher[held] = torch.ones_like(fisher[held])
    start = copy.deepcopy(model.state_dict())
    penalty = Anchor(model, 1.0, fisher)
    move(model)
    away = copy.deepcopy(model.state_dict())
    for _ in range(40):
        zero_gradients(model)
        penalty.add_gradients()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    after = model.state_dict()
    torch.testing.assert_close(after[held], start[held], rtol=0, atol=1e-6)
    assert all(torch.equal(after[name], away[name]) for name in after if name != held)
