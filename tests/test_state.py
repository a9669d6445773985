"""Where a run stands: counted step by step, and given back by a checkpoint as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quick_model import same_weights, small_whisper
from torch import Tensor
from whisper import Whisper

from whisper_min.model import weights
from whisper_min.training import checkpoint
from whisper_min.training.micro_batches import Totals
from whisper_min.training.state import State

ORIGIN = weights.Origin("tiny.en", "somewhere", "0" * 64, None)
BEST = {"step": 5, "wer": 0.25, "rank": [False, 0.25]}
STATE = State(
    7, position=(1, 2, 3), evaluated=5, best=BEST, stale=1, tokens=900, audio_seconds=61.5, runtime=12.5, saved=5
)


def trainer(model: Whisper, scale: float = 64.0) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler]:
    """AdamW, and a scaler that scales."""
    return torch.optim.AdamW(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu", init_scale=scale)


def save(run: Path, rng: list[Tensor]) -> tuple[Path, Whisper, torch.optim.Optimizer]:
    """A checkpoint of `STATE` after an optimizer step; its folder, and what it was made of."""
    model = small_whisper()
    optimizer, scaler = trainer(model, scale=16.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    trained = checkpoint.what_trained(model, ORIGIN)
    return checkpoint.save(run, 7, trained, STATE.record(optimizer, scaler, rng), {}, "card"), model, optimizer


def test_without_a_checkpoint_it_is_the_start() -> None:
    """And nothing is changed."""
    model = small_whisper()
    optimizer, scaler = trainer(model)
    before = torch.get_rng_state()
    assert State.of(None, checkpoint.load(None, model), optimizer, scaler, rank=0) == State()
    assert same_weights(model, small_whisper())
    assert optimizer.state_dict()["state"] == {}
    assert scaler.get_scale() == 64.0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_gives_everything_back(tmp_path: Path) -> None:
    """Weights, moments, loss scale, random state and counts; the latest checkpoint is the one that was read."""
    place, model, optimizer = save(tmp_path, [torch.Generator().manual_seed(7).get_state()])
    resumed = small_whisper(seed=1)
    its_optimizer, scaler = trainer(resumed)
    torch.manual_seed(99)
    state = State.of(place, checkpoint.load(place, resumed), its_optimizer, scaler, rank=0)
    assert state == replace(STATE, saved=7)
    assert same_weights(resumed, model)
    moments, its_moments = optimizer.state_dict()["state"], its_optimizer.state_dict()["state"]
    assert moments.keys() == its_moments.keys() and len(moments) > 0
    for index, each in moments.items():
        assert all(torch.equal(its_moments[index][name], each[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert scaler.get_scale() == 16.0
    assert torch.equal(torch.rand(5), torch.rand(5, generator=torch.Generator().manual_seed(7)))
    # and what it was compared with counts on
    state.evaluation_done(0.3, over_budget=False)
    assert (state.best, state.stale) == (BEST, 2)


@pytest.mark.parametrize(("rank", "seed"), [(0, 10), (1, 11), (2, 10), (3, 11)])
def test_each_rank_goes_on_with_its_own_random_state(tmp_path: Path, rank: int, seed: int) -> None:
    """Of two that saved; additional ranks share theirs, and one alone has the first."""
    place, _, _ = save(tmp_path, [torch.Generator().manual_seed(each).get_state() for each in (10, 11)])
    model = small_whisper()
    State.of(place, checkpoint.load(place, model), *trainer(model), rank=rank)
    assert torch.equal(torch.rand(5), torch.rand(5, generator=torch.Generator().manual_seed(seed)))


def test_a_step_is_counted() -> None:
    """One more, with what the cross-entropy counted on all ranks; the rest stays."""
    state = replace(STATE)
    state.step_done(
        Totals(tokens=100, kl_tokens=60, clips=list("abcdefgh"), audio_seconds=30.25, largest_share=1, bad=["a clip"])
    )
    assert state == replace(STATE, step=8, tokens=1000, audio_seconds=91.75)


def test_the_original_is_none_of_the_runs_evaluations() -> None:
    """However good it is: the first one of the run's own is its best so far."""
    state = State()
    state.evaluation_done(0.1, over_budget=False)
    assert state == State(evaluated=0)
    state.step = 5
    state.evaluation_done(0.9, over_budget=False)
    assert (state.evaluated, state.stale) == (5, 0)
    assert state.best == {"step": 5, "wer": 0.9, "rank": [False, 0.9]}


def test_the_best_evaluation_is_within_the_budget_and_then_of_lowest_error() -> None:
    """Whatever is over the budget comes behind all that is not; equal is not better; what is not better is stale."""
    state, found = State(), []
    for wer, over in [(0.3, True), (0.2, True), (0.25, True), (0.5, False), (0.1, True), (0.5, False), (0.4, False)]:
        state.step += 1
        state.evaluation_done(wer, over)
        assert state.evaluated == state.step
        assert state.best is not None
        found.append((state.best["step"], state.best["wer"], state.stale))
    assert found == [
        *((1, 0.3, 0), (2, 0.2, 0), (2, 0.2, 1)),
        *((4, 0.5, 0), (4, 0.5, 1), (4, 0.5, 2), (7, 0.4, 0)),
    ]
