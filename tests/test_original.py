"""KL to the original: zero at the start, its gradient in closed form, over the tokens that count and no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random_whisper
from quick_model import one_thread  # noqa: F401
from torch import Tensor
from whisper import Whisper

from whisper_min.config import Config
from whisper_min.data.augment import Masks
from whisper_min.data.batches import Batch, OnDevice, Window
from whisper_min.data.tokens import Tokens
from whisper_min.model import lora
from whisper_min.model.forward import decode, encode, project
from whisper_min.model.lora import Adapters
from whisper_min.retain import original as module
from whisper_min.retain.original import Original, frozen_copy, token_kl

TEXTS = ["One two three.", "Four, five, six, seven, eight and nine."]


def batch(model: Whisper, role: str = "replay", padding: int = 0) -> tuple[Batch, OnDevice]:
    """Two clips of noise in 5 s, and their tensors; `padding` adds so many columns of it."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 80_000, generator=generator)
    targets = Tokens(model.dims).teacher_forcing(TEXTS)
    if padding:
        targets = type(targets)(F.pad(targets.inputs, (0, padding)), F.pad(targets.targets, (0, padding), value=-100))

    made = Batch(
        (Window((), (), 80_000, role),), waveforms, targets, 10.0, [], model.dims.n_mels, (Masks(500, ()),) * 2
    )
    return made, made.on(torch.device("cpu"))


def predict(model: Whisper, on: OnDevice) -> tuple[Tensor, Tensor]:
    """(features, logits) as the loop makes them."""
    features = encode(model, on.mel)
    return features, project(model, decode(model, on.inputs, features), on.counted)


def moved(model: Whisper, seed: int = 1) -> Whisper:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def trained(method: str) -> Whisper:
    model = random_whisper()
    if method != "full":
        lora.attach(model, Adapters(4, 8.0, "decoder" if method == "lora on the decoder" else "all"))
    return model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gradient_at_the_logits_is_the_closed_form(temperature: float) -> None:
    """T (softmax(z / T) − softmax(z⁰ / T))"""
    torch.manual_seed(0)
    z, z0 = torch.randn(2, 6, 50, dtype=torch.float64).unbind()
    z = z.float().requires_grad_()
    token_kl(z, z0.float(), temperature).sum().backward()
    expected = temperature * ((z / temperature).softmax(-1) - (z0 / temperature).softmax(-1))
    torch.testing.assert_close(z.grad, expected.float(), rtol=1e-4, atol=1e-6)
    p, p0 = (
        torch.distributions.Categorical(logits=z / temperature),
        torch.distributions.Categorical(logits=z0 / temperature),
    )
    expected_kl = temperature**2 * torch.distributions.kl_divergence(p0, p)
    torch.testing.assert_close(token_kl(z, z0.float(), temperature), expected_kl.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "lora on the decoder"])
def test_zero_before_the_first_step_and_more_after(method: str) -> None:
    model = trained(method)
    original = Original(model, Config(kl=1.0))
    made, on = batch(model)
    features, logits = predict(model, on)
    divergence = original.sum_kl(made, on, features, logits)
    assert divergence.item() == 0
    divergence.backward()
    assert all(float(p.grad.abs().max()) < 1e-5 for p in model.parameters() if p.grad is not None)
    moved(model)
    assert original.sum_kl(made, on, *predict(model, on)).item() > 1e-3


@pytest.mark.parametrize("method", ["full", "lora", "lora on the decoder"])
def test_the_original_is_the_one_before_training(method: str) -> None:
    """Adapters off, or a copy: both give the divergence from the model as it was, with whisper's own forward."""
    model = trained(method)
    before = copy.deepcopy(model)
    original = Original(model, Config(kl=1.0))
    made, on = batch(model)
    moved(model)
    divergence = original.sum_kl(made, on, *predict(model, on))
    with torch.no_grad():
        z0 = predict(before, on)[1]
        expected = token_kl(predict(model, on)[1], z0).sum()
    torch.testing.assert_close(divergence.detach(), expected, rtol=1e-4, atol=1e-5)
    assert (original.copy is None) == (method != "full"), "under LoRA there is no second copy of the model"
    assert original.shares_encoder == (method == "lora on the decoder")


def test_gradient_flows_into_the_model_and_not_into_the_original() -> None:
    model = trained("lora")
    original = Original(model, Config(kl=1.0))
    made, on = batch(model)
    moved(model)
    original.sum_kl(made, on, *predict(model, on)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters() if p.requires_grad)
    full = trained("full")
    kept = Original(full, Config(kl=1.0))
    moved(full)
    kept.sum_kl(made, on, *predict(full, on)).backward()
    assert kept.copy is not None
    assert all(p.grad is None and not p.requires_grad for p in kept.copy.parameters())


def test_padding_changes_nothing() -> None:
    model = trained("full")
    original = Original(model, Config(kl=1.0))
    moved(model)
    plain, padded = (
        original.sum_kl(made, on, *predict(model, on)).item() for made, on in (batch(model), batch(model, padding=30))
    )
    assert padded == pytest.approx(plain, rel=1e-5)


def test_parts_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("full")
    original = Original(model, Config(kl=1.0, kl_temperature=2.0))
    moved(model)
    found = []
    for positions in (1_000, 7, 1):
        monkeypatch.setattr(module, "POSITIONS_AT_ONCE", positions)
        model.zero_grad()
        made, on = batch(model)
        divergence = original.sum_kl(made, on, *predict(model, on))
        divergence.backward()
        found.append((divergence.item(), model.encoder.conv1.weight.grad.clone()))
    for value, gradient in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)


def test_the_backward_pass_holds_no_second_set_of_logits() -> None:
    """What autograd keeps for the term: the model's own logits, and nothing else that wide."""
    model = trained("full")
    original = Original(model, Config(kl=1.0))
    made, on = batch(model)
    features, logits = predict(model, on)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        original.sum_kl(made, on, features, logits)
    wide = [each for each in kept if each.shape[-1:] == (model.dims.n_vocab,)]
    assert all(each.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr() for each in wide)


def test_gate_leaves_out_what_the_original_gets_wrong() -> None:
    model = trained("full")
    original = Original(model, Config(kl=1.0, kl_on="both", kl_gate=True))
    moved(model)
    made, on = batch(model, "domain")
    with torch.no_grad():
        features, logits = predict(model, on)
        assert original.copy is not None
        z0 = predict(original.copy, on)[1]
    right = z0.argmax(-1)
    labels = torch.where(torch.arange(len(right)) % 2 == 0, right, (right + 1) % 50_000)
    half = on._replace(labels=labels)
    expected = token_kl(logits, z0)[::2].sum()
    torch.testing.assert_close(original.sum_kl(made, half, features, logits), expected, rtol=1e-4, atol=1e-5)
    replay, _ = batch(model, "replay")
    whole = token_kl(logits, z0).sum()
    torch.testing.assert_close(original.sum_kl(replay, half, features, logits), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kl_on", "roles"), [("replay", {"replay"}), ("domain", {"domain"}), ("both", {"replay", "domain"})]
)
def test_taken_where_asked(kl_on: Any, roles: set[str]) -> None:
    model = random_whisper()
    original = Original(model, Config(kl=1.0, kl_on=kl_on))
    assert {role for role in ("replay", "domain") if original.applies_to(batch(model, role)[0])} == roles


def test_half_storage_halves_what_is_multiplied_and_stays_close() -> None:
    model = random_whisper()
    half = frozen_copy(model, half=True)
    assert half.decoder.token_embedding.weight.dtype == half.encoder.conv1.weight.dtype == torch.bfloat16
    assert half.encoder.ln_post.weight.dtype == torch.float32
    original = Original(model, Config(kl=1.0, kl_storage="bf16"))
    made, on = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = predict(model, on)
        divergence = original.sum_kl(made, on, features, logits)
    assert 0 <= divergence.item() / len(on.counted) < 1e-3
