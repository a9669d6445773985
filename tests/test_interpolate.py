"""Points between two models: both ends to the bit, the line in closed form, depth scaling as the paper writes it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_model import same_weights, small_whisper
from torch import Tensor
from whisper import Whisper

from whisper_min.model.interpolate import coefficient, interpolate

ORIGINAL, TUNED = small_whisper(seed=1, layers=3), small_whisper(seed=2, layers=3)
ALPHAS = st.floats(0, 1)


def point(alpha: float, lines: float | None = None) -> Whisper:
    """A model between the two, written over one that was neither."""
    model = small_whisper(seed=3, layers=3)
    interpolate(model, ORIGINAL.state_dict(), TUNED.state_dict(), alpha, lines)
    return model


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers, to which -0.0 and 0.0 differ and NaN equals itself."""
    return tensor.contiguous().view(torch.int32)


NUMBERS = st.lists(st.floats(width=32), min_size=64, max_size=64)


@settings(deadline=None, max_examples=40)
@given(NUMBERS, NUMBERS)
def test_the_ends_are_the_two_models_bit_for_bit(first: list[float], second: list[float]) -> None:
    """Whatever the weights hold: signed zeros, subnormal and huge numbers, infinities."""
    name = "encoder.ln_post.weight"
    original, tuned = dict(ORIGINAL.state_dict()), dict(TUNED.state_dict())
    original[name], tuned[name] = torch.tensor(first), torch.tensor(second)
    model = small_whisper(seed=3, layers=3)
    for alpha, end in [(0, original), (1, tuned)]:
        interpolate(model, original, tuned, alpha)
        for key, tensor in model.state_dict().items():
            assert torch.equal(bits(tensor), bits(end[key])), key


@settings(deadline=None, max_examples=20)
@given(ALPHAS)
def test_every_weight_lies_on_the_line(alpha: float) -> None:
    """θ⁰ + a (θ - θ⁰), to rounding; and the two given models are left as they were."""
    before = copy.deepcopy(ORIGINAL), copy.deepcopy(TUNED)
    state = point(alpha).state_dict()
    for name, tensor in ORIGINAL.state_dict().items():
        expected = tensor.double() + alpha * (TUNED.state_dict()[name].double() - tensor.double())
        assert torch.allclose(state[name].double(), expected, rtol=0, atol=1e-6), name
    assert same_weights(before[0], ORIGINAL)
    assert same_weights(before[1], TUNED)


@settings(deadline=None, max_examples=20)
@given(ALPHAS)
def test_between_a_model_and_itself_there_is_nothing_else(alpha: float) -> None:
    """No rounding moves a weight that both share."""
    model = small_whisper(seed=3, layers=3)
    interpolate(model, TUNED.state_dict(), TUNED.state_dict(), alpha)
    assert same_weights(model, TUNED)


def test_it_is_scaling_the_adapters_under_lora() -> None:
    """lerp(W, W + sBA, a) = W + a·sBA."""
    generator = torch.Generator().manual_seed(0)
    name, scale = "decoder.blocks.1.attn.query.weight", 2.0
    weight = ORIGINAL.state_dict()[name]
    up, down = torch.randn(64, 4, generator=generator), torch.randn(4, 64, generator=generator)
    merged = {**ORIGINAL.state_dict(), name: weight + scale * up @ down}
    model = small_whisper(seed=3, layers=3)
    interpolate(model, ORIGINAL.state_dict(), merged, 0.3)
    assert torch.allclose(model.state_dict()[name], weight + 0.3 * scale * up @ down, atol=1e-5)


def test_depth_scaling_in_closed_form() -> None:
    """Layer l of L gets a + b (l - 1) / (L - 1) with a = lines · alpha and a + b = alpha, on each side by itself."""
    alpha, lines, layers = 0.8, 0.25, 3
    first, rise = lines * alpha, (1 - lines) * alpha
    for side, last in [("encoder", "ln_post"), ("decoder", "ln")]:
        for block in range(layers):
            name = f"{side}.blocks.{block}.mlp.0.weight"
            assert coefficient(name, ORIGINAL.dims, alpha, lines) == pytest.approx(first + rise * block / (layers - 1))
        assert coefficient(f"{side}.{last}.bias", ORIGINAL.dims, alpha, lines) == pytest.approx(alpha)
    for name in ("encoder.conv2.bias", "decoder.token_embedding.weight", "decoder.positional_embedding"):
        assert coefficient(name, ORIGINAL.dims, alpha, lines) == pytest.approx(first)


def test_depth_scaling_reaches_the_weights() -> None:
    """Lines 0 leaves the first layer the original's, and the last one goes all the way at alpha 1."""
    state = point(1.0, lines=0.0).state_dict()
    for name, tensor in state.items():
        if name.startswith(("encoder.conv", "encoder.blocks.0.", "decoder.blocks.0.", "decoder.token_embedding")):
            assert torch.equal(tensor, ORIGINAL.state_dict()[name]), name
        if name.startswith(("encoder.blocks.2.", "decoder.blocks.2.", "decoder.ln.", "encoder.ln_post.")):
            assert torch.equal(tensor, TUNED.state_dict()[name]), name
    assert not same_weights(point(1.0, lines=0.0), point(1.0))


@settings(deadline=None, max_examples=10)
@given(ALPHAS)
def test_a_first_layer_of_full_share_is_no_depth_scaling(alpha: float) -> None:
    """lines 1 is WiSE-FT, and alpha 0 the original under any lines."""
    for name in ("encoder.conv1.weight", "decoder.blocks.1.attn.out.bias", "decoder.ln.weight"):
        assert coefficient(name, ORIGINAL.dims, alpha, 1.0) == pytest.approx(alpha)
        assert coefficient(name, ORIGINAL.dims, 0.0, alpha) == 0.0


def test_a_single_block_is_the_last() -> None:
    """(l - 1) / (L - 1) has no value there."""
    dims = small_whisper(layers=1).dims
    assert coefficient("encoder.blocks.0.attn.key.weight", dims, 0.6, 0.1) == pytest.approx(0.6)


@pytest.mark.parametrize(("alpha", "lines"), [(-0.1, None), (1.1, None), (float("nan"), None), (0.5, 1.5)])
def test_what_lies_outside_is_refused(alpha: float, lines: float | None) -> None:
    with pytest.raises(ValueError, match="outside 0 … 1"):
        point(alpha, lines)


def test_other_tensors_are_refused() -> None:
    """Adapters that were not merged, or a model of another depth."""
    with pytest.raises(ValueError, match=r"merge adapters first"):
        interpolate(small_whisper(layers=2), ORIGINAL.state_dict(), TUNED.state_dict(), 0.5)
