"""What is prepared before a training: the steps, and labels that come later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from whisper_min import config
from whisper_min.config import Config
from whisper_min.data.checked import CheckedSet, Report
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.recordings import Facts
from whisper_min.training import flops, memory, setup
from whisper_min.training.setup import Prepared


def prepared(cfg: Config) -> Prepared:
    return setup.prepare(config.resolve(cfg), Console(stderr=True))


def test_labels_that_come_later_change_no_step(
    make_set: Callable[..., Path], random_model_file: Path, tmp_path: Path
) -> None:
    """The schedule holds the new labels in the same order; how long a run is, is a matter of the domain alone."""
    sets = {name: make_set(name, [f"{name} {n}".upper() for n in range(5)], 0.5) for name in ("mine", "dev", "calm")}
    cfg = Config(
        model=str(random_model_file),
        data=(str(sets["mine"]),),
        eval_data=(str(sets["dev"]),),
        replay=(f"{sets['calm']}@0.4",),
        label_style="original",
        batch_size=2,
        device="cpu",
        precision="fp32",
        data_dir=tmp_path,
        runs_dir=tmp_path,
    )
    before = prepared(cfg)
    assert before.cfg.max_steps == 6, "two epochs of three batches; replay adds clips, not steps"
    domain, *_, replayed = before.report.sets
    assert (domain.role, replayed.role, replayed.speech.share) == ("data", "replay", 0.4)
    written = [f"Mine, {n}." for n in range(4)]
    fewer = replace(
        domain,
        speech=replace(domain.speech, examples=domain.speech.examples[:4]),
        facts=domain.facts[:4],
        written=written,
    )
    after = before.relabelled(replace(before.report, sets=[fewer, *before.report.sets[1:]]))
    assert after.cfg == before.cfg
    assert after.report.role("data") == [fewer]
    labels = {window.examples[0].text: window.text for batch in after.schedule.epoch(0) for window in batch}
    assert labels == {f"MINE {n}": f"Mine, {n}." for n in range(4)}
    assert {window.text for batch in before.schedule.epoch(0) for window in batch} == {f"MINE {n}" for n in range(5)}


def test_memory_is_checked_for_the_longest_clip_that_is_trained_on(
    make_set: Callable[..., Path], random_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[int] = []

    def look(dims: object, cfg: Config, precision: str, device: object, context: int) -> list[str]:
        contexts.append(context)
        return []

    monkeypatch.setattr(setup.memory, "check_memory", look)
    mine, calm = make_set("mine", ["Hello."] * 3, 1.0), make_set("calm", ["Hello.", "Well."], [1.0, 12.0])
    cfg = Config(model=str(random_model_file), data=(str(mine),), data_dir=tmp_path, runs_dir=tmp_path, device="cpu")
    prepared(replace(cfg, eval_data=(str(calm),)))
    prepared(replace(cfg, replay=(str(calm),)))
    assert [samples / 16_000 for samples in contexts] == [5, 5, 5, 15]


def report_of(training: int, evaluated: int, seconds: float) -> Report:
    """Sets of so many clips, half of those evaluated the domain's."""

    def checked(role: str, clips: int) -> CheckedSet:
        speech = SpeechSet(role, role, [Example("a", Path("a.wav"), "A.", "a")] * clips)
        return CheckedSet(role, speech, [Facts(seconds=seconds)] * clips, "keep")

    half = evaluated // 2
    return Report([checked("data", training), checked("eval_data", half), checked("retain", evaluated - half)])


@pytest.mark.parametrize("model", ["tiny.en", "large-v3"])
@pytest.mark.parametrize("evaluated", [100, 300, 1000, 30_000])
def test_evaluations_of_a_long_run_take_a_tenth_of_its_operations_at_most(model: str, evaluated: int) -> None:
    dims, steps = memory.official_dimensions(model), 5_000
    assert dims is not None
    report = report_of(20, evaluated, seconds=29.0)
    every = setup.eval_every(dims, Config(method="full", batch_size=8), report, steps, world_size=1)
    evaluations = -(-steps // every)

    def cost(evaluations: int) -> float:
        """With the original's, by the rule that a backward pass takes twice its forward's."""
        one = flops.forward_flops(dims, 1, 1500, 64, 64)
        of_one = evaluated * (one.encoder + 2 * one.decoder)
        return (1 + evaluations) * of_one / (8 * steps * (3 * (one.encoder + one.decoder) - one.first_convolution))

    assert evaluations == 5 or cost(evaluations + 1) > 0.1
    assert evaluations == 1 or cost(evaluations) <= 0.1
    assert (evaluations == 5) == (report.notes == [])


def test_a_short_run_is_evaluated_five_times_and_a_step_is_what_all_ranks_make_of_it() -> None:
    dims, report = memory.official_dimensions("tiny.en"), report_of(20, 2000, seconds=3.0)
    assert dims is not None
    cfg = Config(method="full", batch_size=8)
    assert setup.eval_every(dims, cfg, report, 1_249, world_size=1) == 250 and not report.notes
    long = [setup.eval_every(dims, each, report, 2_500, size) for each, size in
            [(replace(cfg, batch_size=16), 1), (replace(cfg, accumulate=2), 1), (cfg, 2)]]  # fmt: skip
    assert long == [2_500] * 3 and len(report.notes) == 3


def test_steps_between_evaluations_that_were_given_stay(
    make_set: Callable[..., Path], random_model_file: Path, tmp_path: Path
) -> None:
    mine = make_set("mine", [f"Clip {n}." for n in range(6)], 0.5)
    cfg = Config(model=str(random_model_file), data=(str(mine),), data_dir=tmp_path, runs_dir=tmp_path, device="cpu")
    assert prepared(replace(cfg, max_steps=10_001)).cfg.eval_every == 2_001, "a few clips hold up nothing"
    assert prepared(replace(cfg, max_steps=10_001, eval_every=3)).cfg.eval_every == 3
