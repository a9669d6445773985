"""The schedule in closed form, the groups, and an update that leaves no trace of a bad gradient."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from quick_model import small_whisper
from torch import nn
from whisper import ModelDimensions, Whisper

from whisper_min.config import LEARNING_RATES, Config
from whisper_min.training.memory import official_dimensions
from whisper_min.training.optimizer import build_optimizer, choose_trainable, clip_and_step, default_lr, lr_at
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
