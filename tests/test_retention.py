"""Trainings that hold on to the original: KL, anchors, replay and adapters through the command line, to the bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import hash_of
from quick_model import ending_whisper, one_thread, same_weights, save_openai, write_set  # noqa: F401
from test_train import (  # noqa: F401
    STEPS,
    Workshop,
    assert_same_run,
    at_beat,
    command,
    finished,
    rows_of,
    weights_of,
    workshop,
)

import train
from whisper_min import config, runs
from whisper_min.model import lora, weights
from whisper_min.training import retention

KL_AND_ANCHORS = ("--kl", "2", "--kl_on", "both", "--ewc", "3", "--l2sp", "0.5", "--fisher_samples", "2")
# evaluated at the start and the end alone: most of such a run is its evaluations
QUICK = ("--eval_every", str(STEPS))
FULL = ("--method", "full")
LORA = ("--method", "lora", "--lora_rank", "2", "--lora_dropout", "0.1")


@pytest.fixture(scope="module")
def replay(workshop: Workshop) -> Path:  # noqa: F811
    """Three general clips of two context lengths."""
    return write_set(workshop.root / "replay", ["Rain fell.", "All was well.", "Snow."], [1.4, 6.0, 2.2])


def step_rows(run: Path) -> list[dict[str, float]]:
    """The rows of the steps."""
    return [row for row in rows_of(run) if "train/loss" in row]


def test_terms_of_weight_0_reproduce_the_plain_run(workshop: Workshop, finished: Path, replay: Path) -> None:  # noqa: F811
    """Replay of share 0, KL, EWC and L2-SP of weight 0: to the bit the run without them."""
    run = workshop.train("weight-0", "--replay", f"{replay}@0", "--kl", "0", "--ewc", "0", "--l2sp", "0")
    assert_same_run(run, finished)


def test_the_loss_is_the_sum_of_its_terms(workshop: Workshop, replay: Path) -> None:  # noqa: F811
    """Each is logged; KL and penalty are zero at the first step, where the model is the original, and then are not."""
    run = workshop.train("terms", "--replay", f"{replay}@0.4", *FULL, *KL_AND_ANCHORS, *QUICK)
    rows = step_rows(run)
    assert len(rows) == STEPS
    for row in rows:
        total = row["train/ce"] + 2 * row["train/kl"] + row["train/ewc"]
        assert row["train/loss"] == pytest.approx(total, rel=1e-5)
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["train/ewc"] == 0
    assert all(row["train/kl"] > 0 and row["train/ewc"] > 0 for row in rows[1:])


@pytest.mark.parametrize(("share", "accumulate"), [("0.25", "1"), ("0.4", "2"), ("0.1", "1")])
def test_the_replay_share_is_exact(
    workshop: Workshop, replay: Path, monkeypatch: pytest.MonkeyPatch, share: str, accumulate: str  # noqa: F811
) -> None:  # fmt: skip
    """After every step, to the clip, and a batch never mixes roles."""
    drawn: list[tuple[str, int]] = []
    collate = train.batches.collate

    def count(windows, **more):
        assert len({window.role for window in windows}) == 1
        assert len({window.context for window in windows}) == 1
        drawn.append((windows[0].role, len(windows)))
        return collate(windows, **more)

    monkeypatch.setattr(train.batches, "collate", count)
    workshop.train(f"share-{share}", "--replay", f"{replay}@{share}", "--accumulate", accumulate, *QUICK)
    domain = sum(number for role, number in drawn if role == "domain")
    general = sum(number for role, number in drawn if role == "replay")
    assert general == math.floor(domain * float(share) / (1 - float(share)) + 1e-9)
    assert general > 0


@pytest.mark.slow
def test_kl_and_anchors_hold_the_model_back(workshop: Workshop, finished: Path, replay: Path) -> None:  # noqa: F811
    """What each is for: with a term of great weight the weights, or the predictions, end nearer to the original's."""
    original = ending_whisper().state_dict()

    def way(run: Path) -> float:
        state = weights_of(run, STEPS).state_dict()
        return math.sqrt(sum(float((state[name] - original[name]).square().sum()) for name in original))

    held = workshop.train("held", "--replay", f"{replay}@0", "--l2sp", "1000", *QUICK)
    assert way(held) < 0.7 * way(finished)
    plain, close = (
        workshop.train(f"kl-{weight}", "--replay", f"{replay}@0.4", "--kl", weight, *FULL, *QUICK)
        for weight in ("1e-9", "300")
    )
    assert step_rows(close)[-1]["train/kl"] < 0.5 * step_rows(plain)[-1]["train/kl"]


@pytest.mark.parametrize(
    "options",
    [(*FULL, *KL_AND_ANCHORS), (*LORA, *KL_AND_ANCHORS), (*LORA, "--lora_targets", "decoder", "--kl", "1")],
    ids=["full", "lora", "lora on the decoder"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    workshop: Workshop, replay: Path, monkeypatch: pytest.MonkeyPatch, options: Sequence[str]  # noqa: F811
) -> None:  # fmt: skip
    """The anchor, the original and the replay's position are those of the start, not of the checkpoint."""
    name = f"resumed-{hash_of(options)}"
    options = ("--replay", f"{replay}@0.4", *options, *QUICK)
    whole = workshop.train(f"{name}-whole", *options)
    with monkeypatch.context() as patch:
        at_beat(patch, "training", 4, command("stop"))
        run = workshop.train(name, *options)
    assert train.main(["--resume", str(run)]) == 0
    assert_same_run(run, whole)


def test_adapters_alone_are_saved_and_come_back_merged(workshop: Workshop, replay: Path) -> None:  # noqa: F811
    run = workshop.train("adapters", *LORA, *QUICK)
    checkpoint = runs.best_checkpoint(run)
    assert checkpoint is not None
    state, metadata = weights.read_safetensors(checkpoint / "model.safetensors")
    assert all(name.endswith((".lora_A", ".lora_B")) for name in state)
    assert metadata["base"] == str(workshop.model)
    model, origin = weights.load(str(run))
    assert not lora.adapted_layers(model)
    assert str(workshop.model) in origin.found
    base = ending_whisper().state_dict()
    for name, value in model.state_dict().items():
        layer, _, part = name.rpartition(".")
        if part == "weight" and f"{layer}.lora_A" in state:
            delta = 2 * state[f"{layer}.lora_B"] @ state[f"{layer}.lora_A"]  # alpha is twice the rank
            torch.testing.assert_close(value, base[name] + delta)
            assert bool(delta.any()), f"{name} has learnt nothing"
        else:
            assert torch.equal(value, base[name]), f"{name} was not to train"


def test_other_base_weights_are_refused(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    """Adapters, and a run to resume, on weights that took the place of their own."""
    base = save_openai(ending_whisper(), tmp_path / "base.pt")
    run = workshop.train("on-other", *LORA, "--model", str(base), "--runs_dir", str(tmp_path), *QUICK)
    run = tmp_path / "on-other"
    save_openai(ending_whisper(seed=3), base)
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--max_steps", "9"]) == 2
    assert "put the weights back that it started from" in capsys.readouterr().err
    with pytest.raises(Exception, match="these adapters were trained on"):
        weights.load(str(run))
    base.unlink()
    with pytest.raises(Exception, match="these adapters need their base"):
        weights.load(str(run))


@pytest.mark.slow
def test_the_fisher_information_is_estimated_once(
    workshop: Workshop, replay: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """A second run reads it from disk, and is the same to the bit; one damaged on disk stops the run."""
    folder = workshop.root / "fisher-cache"
    options = ("--replay", f"{replay}@0", "--ewc", "5", "--data_dir", str(folder), *QUICK)
    first = workshop.train("fisher-1", *options)
    (kept,) = (folder / "fisher").iterdir()

    def fail(*_args: object) -> None:
        raise AssertionError("estimated again")

    with monkeypatch.context() as patch:
        patch.setattr(retention.fisher, "sum_squares", fail)
        second = workshop.train("fisher-2", *options)
    assert_same_run(first, second)
    kept.write_bytes(kept.read_bytes()[:100])
    assert train.main(workshop.argv("fisher-3", *options)) == 2


@pytest.mark.slow
def test_the_runs_terms_need_what_they_act_on(
    workshop: Workshop, replay: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    """Every fault at once, each with what to give instead; nothing is written."""
    bad = ["--kl", "1", "--ewc", "1", "--self_label", "--confidence", "0.9", "--lora_rank", "0", "--kl_gate", "--lean"]
    assert train.main(workshop.argv("bad", *bad)) == 2
    shown = capsys.readouterr().err
    for fix in ("give --replay SET, or --kl_on domain", "SET@0 to train on none", "--self_label: labels the --replay",
                "--confidence: acts on --max_forgetting", "--lora_rank 0", "--kl_gate: acts on domain",
                "--ewc: asks how far weights moved, finer than --lean stores them"):  # fmt: skip
        assert fix in shown
    assert not (workshop.runs / "bad").exists()
    overlap = workshop.argv("overlap", "--replay", str(workshop.general))
    assert train.main(overlap) == 2
    assert "evaluation set" in capsys.readouterr().err
    shutil.rmtree(workshop.root / "empty", ignore_errors=True)
    words = workshop.argv("budget", "--max_forgetting", "0.05", retain=False)
    start = words.index("--retain")
    assert train.main([*words[:start], *words[start + 2 :]]) == 2
    assert "--max_forgetting: needs --retain sets" in capsys.readouterr().err


@pytest.mark.slow
def test_dropout_is_none_by_default_and_acts_where_asked(workshop: Workshop) -> None:  # noqa: F811
    """With none, a training step and an evaluation run the same model."""
    plain = workshop.train("no-dropout", "--method", "lora", "--lora_rank", "2", *QUICK)
    again = workshop.train("no-dropout-again", "--method", "lora", "--lora_rank", "2", *QUICK)
    dropped = workshop.train("dropout", *LORA, *QUICK)
    assert same_weights(weights_of(plain, STEPS), weights_of(again, STEPS))
    assert not same_weights(weights_of(plain, STEPS), weights_of(dropped, STEPS))


@pytest.mark.parametrize(
    ("options", "method", "kl", "label_style"),
    [
        ((), "full", 0, "auto"),
        (("--replay", "x"), "lora", 4, "original"),
        (("--replay", "x@0"), "full", 0, "auto"),
        (("--replay", "x@0.1", "--method", "full", "--kl", "0", "--label_style", "keep"), "full", 0, "keep"),
        (("--replay", "x", "--freeze_encoder"), "full", 4, "original"),
    ],
)
def test_replay_brings_the_recipe_that_keeps_most(
    options: Sequence[str], method: str, kl: float, label_style: str
) -> None:
    """Adapters, KL and the original's style where general speech is trained on, unless the user says otherwise."""
    cfg = config.resolve(config.parse(options))
    assert (cfg.method, cfg.kl, cfg.label_style) == (method, kl, label_style)


def test_a_budget_chooses_between_the_original_and_the_checkpoints(workshop: Workshop, replay: Path) -> None:  # noqa: F811
    """The whole way of the README's command: replay, adapters, KL, and what the run's name stands for afterwards."""
    run = workshop.train("budget", "--replay", f"{replay}@0.4", "--max_forgetting", "9", *QUICK)
    rows = list(runs.read_jsonl(run / "sweep.jsonl"))
    points = {(row["_step"], row["alpha"]) for row in rows if "wer" in row}
    assert points == {(STEPS, alpha) for alpha in (0.25, 0.5, 0.75, 1.0)}
    choice = runs.last_choice(run)
    assert choice is not None
    assert choice["answer"] in ("chosen", "none passes")
    assert choice["chosen"] is (choice["answer"] == "chosen")
    model, origin = weights.load(str(run))
    if choice["chosen"]:
        expected, _ = weights.load_point(run, run / choice["checkpoint"], choice["alpha"])
    else:
        best = runs.best_checkpoint(run)
        assert best is not None
        expected = weights_of(run, int(best.name))
    assert same_weights(model, expected), origin.found
