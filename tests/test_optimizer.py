"""The schedule in closed form, the groups, and an update that leaves no trace of a bad gradient."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quick_model import same_weights, small_whisper
from torch import nn
from whisper import ModelDimensions, Whisper

from whisper_min.config import LEARNING_RATES, Config
from whisper_min.model.forward import decode, project, sum_cross_entropy
from whisper_min.training import checkpoint
from whisper_min.training.memory import official_dimensions
from whisper_min.training.optimizer import (
    build_optimizer,
    check_lean,
    choose_trainable,
    clip_and_step,
    default_lr,
    lr_at,
    set_lr,
)
from whisper_min.training.precision import loss_scaler

CFG = Config(lr=0.1, weight_decay=0.01)
CPU = torch.device("cpu")


# ---- The schedule.


@pytest.mark.parametrize(("warmup", "steps"), [(10, 100), (1, 2), (3, 4), (0, 10), (100, 100)])
def test_schedule_is_two_straight_lines(warmup: int, steps: int) -> None:
    """Up to the peak at the end of the warm-up, then down; never above the peak, above zero at the last step."""
    rates = [lr_at(step, 2.0, warmup, steps) for step in range(1, steps + 1)]
    assert all(0 < rate <= 2.0 for rate in rates)
    if warmup:
        assert rates[warmup - 1] == 2.0
    for line in (rates[:warmup], rates[max(0, warmup - 1) :]):
        slopes = [after - before for before, after in itertools.pairwise(line)]
        assert slopes == pytest.approx([slopes[0]] * len(slopes) if slopes else [])
    assert lr_at(steps + 1, 2.0, warmup, steps) == pytest.approx(0.0)


def test_schedule_in_numbers() -> None:
    """Two steps of warm-up in six: worked out by hand."""
    rates = [lr_at(step, 1.0, 2, 6) for step in range(1, 8)]
    assert rates == pytest.approx([1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0])


# shared/contracts.md; the range that our own runs cover for tiny, one number for the others
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("tiny.en", 1e-5, 3.75e-5),
        ("base", 2.5e-5, 2.5e-5),
        ("small", 1.25e-5, 1.25e-5),
        ("medium.en", 6.25e-6, 6.25e-6),
        ("large-v3", 4.4e-6, 4.4e-6),
        ("turbo", 4.4e-6, 4.4e-6),
    ],
)
def test_default_rate_follows_the_size(name: str, low: float, high: float) -> None:
    """The contract's starting points; a width between two sizes takes the nearest."""

    class Sized(nn.Module):
        def __init__(self, dims: ModelDimensions) -> None:
            super().__init__()
            self.dims = dims

    dims = official_dimensions(name)
    assert dims is not None
    assert low <= default_lr(Sized(dims), Config()) <= high  # type: ignore[arg-type]
    assert default_lr(Sized(replace(dims, n_audio_state=64)), Config()) == LEARNING_RATES[384]  # type: ignore[arg-type]


# ---- The groups.


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_groups_hold_everything_that_trains_once(freeze_encoder: bool) -> None:
    """Matrices decay, vectors do not, frozen parameters are in no group."""
    model = small_whisper()
    choose_trainable(model, Config(freeze_encoder=freeze_encoder))
    matrices, vectors = build_optimizer(model, CFG).param_groups
    assert matrices["weight_decay"] == CFG.weight_decay
    assert vectors["weight_decay"] == 0.0
    assert all(parameter.ndim >= 2 for parameter in matrices["params"])
    assert all(parameter.ndim < 2 for parameter in vectors["params"])
    inside = [id(parameter) for parameter in [*matrices["params"], *vectors["params"]]]
    trained = model.decoder if freeze_encoder else model
    assert sorted(inside) == sorted(id(parameter) for parameter in trained.parameters())
    assert any(parameter.requires_grad for parameter in model.encoder.parameters()) != freeze_encoder
    choose_trainable(model, Config())
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---- The update.


def trained(seed: int = 0) -> tuple[Whisper, torch.optim.AdamW, list[nn.Parameter]]:
    """A small model, its optimizer and its parameters."""
    model = small_whisper(seed)
    choose_trainable(model, Config())
    return model, build_optimizer(model, CFG), list(model.parameters())


def give_gradients(parameters: list[nn.Parameter], seed: int, scale: float = 1.0) -> None:
    """Reproducible gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def test_update_is_adamw_after_clipping() -> None:
    """The same numbers as torch's own unfused AdamW on gradients scaled by hand."""
    _, optimizer, parameters = trained()
    other_model = small_whisper()
    other = list(other_model.parameters())
    groups = [
        {"params": [p for p in other if p.ndim >= 2], "weight_decay": CFG.weight_decay},
        {"params": [p for p in other if p.ndim < 2], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98), eps=1e-6, fused=False, foreach=False)
    for seed in range(3):
        give_gradients(parameters, seed)
        give_gradients(other, seed)
        norm = torch.cat([p.grad.flatten() for p in other if p.grad is not None]).norm()
        assert norm > 1
        for parameter in other:
            assert parameter.grad is not None
            parameter.grad /= norm
        plain.step()
        returned = clip_and_step(optimizer, loss_scaler(CPU, "fp32"), parameters, grad_clip=1.0)
        assert returned.item() == pytest.approx(norm.item(), rel=1e-5)
        assert all(parameter.grad is None for parameter in parameters)
    for ours, theirs in zip(parameters, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("grad_clip", "clips"), [(0.0, False), (1e9, False), (0.5, True)])
def test_clipping_keeps_the_direction_and_reports_the_norm_before(grad_clip: float, clips: bool) -> None:
    """With plain SGD in AdamW's place the step is the clipped gradient itself."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    norm = clip_and_step(optimizer, loss_scaler(CPU, "fp32"), [parameter], grad_clip)  # type: ignore[arg-type]
    assert norm.item() == 5.0
    expected = torch.tensor([3.0, 4.0]) * (grad_clip / 5 if clips else 1)
    torch.testing.assert_close(-parameter.detach(), expected, atol=1e-5, rtol=1e-5)


def everything(model: Whisper, optimizer: torch.optim.AdamW) -> list[torch.Tensor]:
    """Copies of all weights, moments and step counts."""
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    for state in optimizer.state.values():
        kept += [state[key].clone() for key in ("exp_avg", "exp_avg_sq", "step")]
    return kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_non_finite_gradient_leaves_no_trace(bad: float, grad_clip: float) -> None:
    """Weights, moments and step counts stay, and the next update is as if it had never been."""
    model, optimizer, parameters = trained()
    untouched_model, untouched, untouched_parameters = trained()
    scaler = loss_scaler(CPU, "fp32")
    for each, its in ((optimizer, parameters), (untouched, untouched_parameters)):
        give_gradients(its, seed=0)
        clip_and_step(each, scaler, its, grad_clip)
    before = everything(model, optimizer)
    assert len(before) == 4 * len(parameters)

    give_gradients(parameters, seed=1)
    assert parameters[3].grad is not None
    parameters[3].grad.view(-1)[0] = bad
    assert not clip_and_step(optimizer, scaler, parameters, grad_clip).isfinite()
    assert all(torch.equal(*pair) for pair in zip(before, everything(model, optimizer), strict=True))
    assert all(parameter.grad is None for parameter in parameters)

    for each, its in ((optimizer, parameters), (untouched, untouched_parameters)):
        give_gradients(its, seed=2)
        assert clip_and_step(each, scaler, its, grad_clip).isfinite()
    after = everything(model, optimizer)
    assert all(torch.equal(*pair) for pair in zip(after, everything(untouched_model, untouched), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_non_finite_first_gradient_leaves_the_original() -> None:
    """Before any moment exists."""
    model, optimizer, parameters = trained()
    original = copy.deepcopy(model.state_dict())
    give_gradients(parameters, seed=0, scale=float("inf"))
    clip_and_step(optimizer, loss_scaler(CPU, "fp32"), parameters, 1.0)
    assert all(torch.equal(original[name], tensor) for name, tensor in model.state_dict().items())


def test_fp16_overflow_is_skipped_and_recovered_from() -> None:
    """The scaler overflows, the update is skipped, the scale is halved, and the next step is the unscaled one."""
    _, optimizer, parameters = trained()
    scaler = loss_scaler(CPU, "fp16")
    _, reference, reference_parameters = trained()
    weight, reference_weight = parameters[0], reference_parameters[0]
    scaler.scale((weight * 1e36).sum()).backward()  # 65536 times this is beyond fp32
    before = [parameter.detach().clone() for parameter in parameters]
    scale = scaler.get_scale()
    assert not clip_and_step(optimizer, scaler, parameters, 1.0).isfinite()
    assert all(torch.equal(*pair) for pair in zip(before, parameters, strict=True))
    assert scaler.get_scale() == scale / 2

    scaler.scale((weight * 2).sum()).backward()
    norm = clip_and_step(optimizer, scaler, parameters, 1.0)
    (reference_weight * 2).sum().backward()
    expected = clip_and_step(reference, loss_scaler(CPU, "fp32"), reference_parameters, 1.0)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not torch.equal(before[0], weight)
    torch.testing.assert_close(weight, reference_weight, atol=1e-6, rtol=1e-6)
    assert optimizer.state[weight]["step"].item() == 1
    assert scaler.get_scale() == scale / 2


def test_the_learning_rate_is_needed() -> None:
    """The loop resolves it from the size; an optimizer without one is a bug, not a default."""
    with pytest.raises(AssertionError, match="learning rate"):
        build_optimizer(small_whisper(), Config(lr=None))


# ---- Lean: bf16 weights, 8-bit moments, stochastic rounding.

LEAN = Config(method="full", lean=True, lr=1e-3)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """torchao compiles its update, a minute for a few shapes; run as it is written it computes the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def lean() -> tuple[Whisper, torch.optim.Optimizer, list[nn.Parameter]]:
    """A small model in bf16, its optimizer and its parameters."""
    model = small_whisper()
    parameters = choose_trainable(model, LEAN)
    return model, build_optimizer(model, LEAN), parameters


def lean_step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], step: int) -> torch.Tensor:
    """One update with the gradients of that step."""
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return clip_and_step(optimizer, loss_scaler(CPU, "fp32"), parameters, 1.0, step)


@pytest.mark.parametrize("stance", ["force_eager", pytest.param("default", marks=pytest.mark.slow)])
def test_stochastic_rounding_is_unbiased(stance: str) -> None:
    """Updates of a quarter of bf16's step: of N ones p N move, by a whole step; the mean is right within its error."""
    count, step_of_bf16 = 1 << 16, 2.0**-8  # below 1
    weight = nn.Linear(256, count // 256, bias=False)
    optimizer = build_optimizer(weight.bfloat16(), LEAN)  # type: ignore[arg-type]
    nn.init.ones_(weight.weight)
    weight.weight.grad = torch.ones_like(weight.weight)
    with torch.compiler.set_stance(stance):
        clip_and_step(optimizer, loss_scaler(CPU, "fp32"), [weight.weight], 0.0)
    moved = 1 - weight.weight.detach().double()
    assert set(moved.unique().tolist()) == {0.0, step_of_bf16}
    expected = LEAN.lr / (1 + 1e-6)  # Adam's first step is the rate times the gradient's sign
    probability = expected / step_of_bf16
    standard_error = step_of_bf16 * (probability * (1 - probability) / count) ** 0.5
    assert abs(moved.mean().item() - expected) < 4 * standard_error
    assert torch.tensor(1 - expected).bfloat16() == 1  # where to the nearest, nothing would ever move


def test_weights_stay_bf16_and_moments_take_8_bits(uncompiled: None) -> None:
    """LayerNorm and positions stay fp32, and vectors keep whole moments."""
    from torchao.optim.subclass_8bit import OptimState8bit

    model, optimizer, parameters = lean()
    before = {name: (tensor.dtype, tensor.clone()) for name, tensor in model.state_dict().items()}
    lean_step(optimizer, parameters, 1)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name][0] == (torch.bfloat16 if _multiplied(name) else torch.float32), name
        trained = name != "encoder.positional_embedding"  # sinusoids
        assert torch.equal(tensor, before[name][1]) != trained, name
    for parameter, state in optimizer.state.items():
        assert isinstance(state["exp_avg"], OptimState8bit) == (parameter.numel() >= 4096)


def _multiplied(name: str) -> bool:
    return "ln" not in name and "positional" not in name


def test_lean_training_goes_on_to_the_bit_from_a_checkpoint(uncompiled: None, tmp_path: Path) -> None:
    """Weights, moments and rounding; the random state of the process plays no part, so that ranks round alike."""
    model, optimizer, parameters = lean()
    for step in (1, 2):
        lean_step(optimizer, parameters, step)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "trainer.pt")
    resumed, its_optimizer, its_parameters = lean()
    resumed.load_state_dict(state)
    its_optimizer.load_state_dict(checkpoint.load_trainer(tmp_path)["optimizer"])
    for each, its, seed in ((optimizer, parameters, 1), (its_optimizer, its_parameters, 2)):
        torch.manual_seed(seed)
        outside = torch.get_rng_state()
        for step in (3, 4):
            set_lr(each, 1e-3 * step)
            lean_step(each, its, step)
        assert torch.equal(outside, torch.get_rng_state())
    assert same_weights(model, resumed)
    assert not torch.equal(state["decoder.token_embedding.weight"], model.decoder.token_embedding.weight)


def test_lean_training_learns_as_fp32_does(uncompiled: None) -> None:
    """Random texts learnt by heart: the loss falls as far, within a tenth of the fall."""
    rows = torch.randint(100, (4, 8), generator=torch.Generator().manual_seed(0))
    features = torch.randn(4, 12, 64, generator=torch.Generator().manual_seed(1))
    losses = []
    for cfg in (replace(LEAN, lean=False), LEAN):
        model = small_whisper()
        parameters = choose_trainable(model, replace(cfg, freeze_encoder=True))
        optimizer, curve = build_optimizer(model, cfg), []
        for step in range(30):
            logits = project(model, decode(model, rows, features), torch.arange(rows.numel()))
            loss = sum_cross_entropy(logits, rows.roll(-1, 1).flatten()) / rows.numel()
            loss.backward()
            curve.append(loss.item())
            clip_and_step(optimizer, loss_scaler(CPU, "fp32"), parameters, 1.0, step)
        losses.append(curve)
    (first, *_, last), (lean_first, *_, lean_last) = losses
    assert last < first / 2
    assert lean_first == pytest.approx(first, rel=0.01)
    assert abs(lean_last - last) < 0.1 * (first - last)


def test_a_lean_update_clips_and_skips(uncompiled: None) -> None:
    """The norm is that of the gradients to bf16's rounding; a non-finite one changes nothing."""
    model, optimizer, parameters = lean()
    norm = lean_step(optimizer, parameters, 1)
    assert norm.item() == pytest.approx(sum(p.numel() for p in parameters) ** 0.5, rel=0.02)
    before = copy.deepcopy(model.state_dict())
    moment = optimizer.state[parameters[2]]["exp_avg"].dequantize()
    parameters[2].grad = torch.full_like(parameters[2], float("inf"))
    assert not clip_and_step(optimizer, loss_scaler(CPU, "fp32"), parameters, 1.0, 2).isfinite()
    assert parameters[2].grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    state = optimizer.state[parameters[2]]
    assert state["step"] == 1
    assert torch.equal(state["exp_avg"].dequantize(), moment)


def test_lean_says_what_it_lacks(uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra, a precision that goes; adapters need neither."""
    assert check_lean(LEAN, "bf16", CPU) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fp16, missing = check_lean(LEAN, "fp16", CPU)
    assert "--precision fp32" in fp16
    assert "pip install 'whisper-min[lean]'" in missing
    assert check_lean(replace(LEAN, method="lora"), "fp16", CPU) == check_lean(Config(), "fp16", CPU) == []
