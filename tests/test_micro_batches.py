"""A step's micro-batches: their totals; out of memory, the same step in smaller parts, or an end at single clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import random_whisper
from quick_model import one_thread  # noqa: F401

from whisper_min.config import Config
from whisper_min.data.augment import Masks
from whisper_min.data.batches import Batch, Schedule, Window
from whisper_min.data.checked import Report
from whisper_min.data.examples import Example
from whisper_min.data.tokens import IGNORED, Targets, Tokens
from whisper_min.retain.original import Original
from whisper_min.training.micro_batches import MicroBatches, Totals
from whisper_min.training.ranks import ALONE
from whisper_min.training.reporter import Reporter
from whisper_min.training.setup import Prepared

DIMS = random_whisper().dims


def batch(clips: int, first: int = 0, role: str = "domain") -> Batch:
    """Clips that can be told apart by every number in them."""
    windows = tuple(
        Window((Example(f"{row}", Path("clip.wav"), "text", "set"),), ("text",), 80_000, role)
        for row in range(first, first + clips)
    )
    waveforms = torch.arange(first, first + clips).float().view(-1, 1).expand(clips, 80_000)
    masks = tuple(Masks(row, ()) for row in range(first, first + clips))
    rows = torch.arange(first, first + clips).view(-1, 1).repeat(1, 3)
    targets = rows.clone()
    targets[::2, 2] = IGNORED
    return Batch(windows, waveforms, Targets(rows, targets), float(clips), [], 80, masks)


def micro_batches() -> MicroBatches:
    """As a run on a CPU has it, with one weight in its optimizer."""
    tokens, cfg = Tokens(DIMS), Config(model="small", method="full")
    schedule = Schedule([], [], [], "trim", 8, tokens, 0)
    prepared = Prepared(
        *(cfg, DIMS, tokens, Report(), "", schedule, torch.device("cpu"), "fp32"), load=lambda: pytest.fail()
    )
    weight = torch.nn.Parameter(torch.zeros(()))
    return MicroBatches(prepared, torch.optim.SGD([weight]), Reporter())


@pytest.mark.parametrize(("clips", "parts", "sizes"), [(7, 1, [7]), (7, 2, [4, 3]), (6, 4, [2, 2, 2]), (2, 8, [1, 1])])
def test_parts_hold_every_clip_once_in_order(clips: int, parts: int, sizes: list[int]) -> None:
    """Audio, text and names of a clip stay together; sums over the parts are those of the whole."""
    whole = batch(clips)
    made = whole.split(parts)
    assert [len(part.windows) for part in made] == sizes
    assert [name for part in made for name in part.ids] == whole.ids
    for part in made:
        first = torch.tensor([float(name) for name in part.ids])
        assert torch.equal(part.waveforms[:, 0], first)
        assert [mask.frames for mask in part.masks] == first.tolist()
        assert torch.equal(part.targets.inputs[:, 0].float(), first)
    assert torch.equal(torch.cat([part.targets.targets for part in made]), whole.targets.targets)
    assert sum(part.targets.count for part in made) == whole.targets.count
    assert sum(part.audio_seconds for part in made) == pytest.approx(whole.audio_seconds)


def test_a_step_is_halved_until_it_fits_and_stays_so(capsys: pytest.CaptureFixture[str]) -> None:
    """What a failed attempt added to the gradients is dropped; each halving is said once and counted."""
    parts = micro_batches()
    weight = parts.optimizer.param_groups[0]["params"][0]
    attempts: list[list[int]] = []

    def step(batches: Sequence[Batch]) -> float:
        attempts.append([len(each.windows) for each in batches])
        for each in batches:
            if len(each.windows) > 2:
                raise torch.OutOfMemoryError("injected")
            weight.grad = (weight.grad if weight.grad is not None else 0) + torch.tensor(float(len(each.windows)))
        return float(weight.grad)

    assert parts.numbers() == {}
    assert parts.run(step, [batch(2), batch(7)]) == 9
    assert attempts == [[2, 7], [1, 1, 4, 3], [1, 1, 2, 2, 1, 2]]
    assert parts.numbers() == {"perf/micro_batch_splits": 2}
    said = capsys.readouterr().err
    assert "out of memory with 7 clips at a time: micro-batches are halved from here on, to 4" in said
    assert "out of memory with 4 clips at a time: micro-batches are halved from here on, to 2" in said
    weight.grad, attempts[:] = None, []
    assert parts.run(step, [batch(8)]) == 8
    assert attempts == [[2, 2, 2, 2]]
    assert capsys.readouterr().err == ""


def test_one_clip_too_much_is_the_end_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that need less than there is."""

    def step(batches: Sequence[Batch]) -> None:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(MemoryError, match=r"one clip at a time; what would fit: --checkpointing or --freeze_encoder"):
        micro_batches().run(step, [batch(3)])


def test_other_errors_are_no_reason_to_try_again() -> None:
    """A step that fails for another reason fails."""
    calls = []

    def step(batches: Sequence[Batch]) -> None:
        calls.append(1)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        micro_batches().run(step, [batch(2)])
    assert len(calls) == 1


@pytest.mark.parametrize(("kl_on", "kl_tokens"), [("replay", 5), ("domain", 7 + 3), ("both", 15), (None, 0)])
def test_totals_are_of_all_micro_batches(kl_on: str | None, kl_tokens: int) -> None:
    """Three tokens a clip, two of every other one; those of the KL term are of the batches that it is taken on."""
    batches = [batch(3), batch(2, first=3, role="replay"), replace(batch(1), bad=["one.wav", "two.wav"])]
    batches[2].targets.targets[:] = 1  # all three count
    original = Original(random_whisper(), Config(kl=1.0, kl_on=kl_on)) if kl_on else None  # type: ignore[arg-type]
    totals = Totals.of(batches, original, ALONE)
    assert totals == Totals(
        7 + 5 + 3, kl_tokens, clips=list("012340"), audio_seconds=6.0, largest_share=3, bad=["one.wav", "two.wav"]
    )


def test_rates_are_of_the_whole_step() -> None:
    """Clips and audio by its time, and the share of it that was waited for data."""
    totals = Totals(tokens=100, kl_tokens=0, clips=list("abcdef"), audio_seconds=36.0, largest_share=1, bad=["one.wav"])
    assert totals.rates(seconds=4.0, waited=1.0) == {
        "perf/samples_per_second": 1.5,
        "perf/audio_hours_per_hour": 9.0,
        "perf/data_wait": 0.25,
        "data/bad": 1,
    }
