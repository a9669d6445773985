"""What is prepared before a training: the steps, and labels that come later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from whisper_min import config
from whisper_min.config import Config
from whisper_min.training import setup
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
