"""The whole training, as the command line runs it: a random Whisper, a handful of clips, a few steps in fp32."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from quick_model import ending_whisper, one_thread, same_weights, write_set  # noqa: F401
from rich.console import Console
from rich.progress import TaskID
from small_run import (
    LR,
    SECONDS,
    STEPS,
    TEXTS,
    WARMUP,
    Workshop,
    assert_same_run,
    make_workshop,
    rows_of,
    samples_of,
    status,
    weights_of,
    without_clocks,
)
from torch import Tensor

import train
from whisper_min import audio, config, runs
from whisper_min.config import Config
from whisper_min.data import batches
from whisper_min.data.batches import Batch
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.model.forward import encode, sum_cross_entropy
from whisper_min.runs import RunFolder
from whisper_min.scoring import decode
from whisper_min.training import checkpoint, setup, steering
from whisper_min.training.optimizer import lr_at
from whisper_min.training.step_log import StepLog

FROZEN = ("--freeze_encoder", "--eval_every", "6")
LEAN = ("--lean", "--compile", "--checkpointing", "--eval_every", "6")
VARIED = ("--augment", "speed", "noise@0.7", "specaugment", "--eval_every", "6")


@pytest.fixture(scope="module")
def workshop(module_folder: Path, one_thread: None) -> Workshop:  # noqa: F811
    """Five clips to train on, two of the domain, two in general, one of them without text."""
    return make_workshop(module_folder)


@pytest.fixture(scope="module")
def finished(workshop: Workshop) -> Path:
    """A run that nobody interrupted: two epochs, evaluated at steps 0, 3 and 6."""
    return workshop.train("finished")


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder and its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def at_beat(monkeypatch: pytest.MonkeyPatch, state: str, step: int, act: Callable[[Path], None]) -> None:
    """Do something once, when the run says that it is in this state after this step."""
    beat, done = RunFolder.beat, []

    def beat_and_act(self: RunFolder, **changes: Any) -> None:
        beat(self, **changes)
        if not done and changes.get("state") == state and changes.get("step") == step:
            done.append(True)
            act(self.path)

    monkeypatch.setattr(RunFolder, "beat", beat_and_act)
    monkeypatch.setattr(steering, "CONTROL_POLL_SECONDS", 0.0)


def command(word: str) -> Callable[[Path], None]:
    """Write a command into the run's `control`."""
    return lambda run: runs.send_command(run, word)


# ---- What a run leaves behind.


def test_the_folder_is_as_the_contract_says(finished: Path) -> None:
    """Files, links and what status.json ends with."""
    assert {path.name for path in finished.iterdir()} == {
        "config.json", "metrics.jsonl", "samples.jsonl", "system.jsonl", "status.json", "train.log", "checkpoints",
        runs.LOCK_FILE,
    }  # fmt: skip
    assert rows_of(finished, "system.jsonl")[-1]["_step"] == STEPS
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["3", "6", "best", "last"]
    for step in ("3", "6"):
        files = {path.name for path in (finished / "checkpoints" / step).iterdir()}
        assert files == {"model.safetensors", "trainer.pt", "config.json", "README.md"}
    last = runs.last_checkpoint(finished)
    assert last is not None
    assert last.name == "6"
    final = status(finished)
    assert (final["state"], final["step"], final["max_steps"]) == ("finished", STEPS, STEPS)
    assert {"pid", "host", "heartbeat", "exit_reason", "last_command"} <= final.keys()
    assert [path.name for path in finished.glob(".*")] == [runs.LOCK_FILE]


def test_config_holds_every_option_and_what_the_run_stood_on(finished: Path, workshop: Workshop) -> None:
    """As used, defaults filled in; read back it is the same Config."""
    record = json.loads((finished / "config.json").read_text())
    cfg = config.from_record(record, "config.json")
    assert (cfg.lr, cfg.warmup_steps, cfg.max_steps, cfg.eval_every) == (LR, WARMUP, STEPS, 3)
    assert cfg.model == str(workshop.model)
    assert record["weights_fingerprint"] == weights.load(str(workshop.model))[1].fingerprint
    assert record["environment"]["precision"] == "fp32"
    assert record["environment"]["versions"]["torch"]


def test_metrics_begin_with_the_original_at_step_0(finished: Path) -> None:
    """Flat rows; evaluations at 0, 3 and 6 with every set's keys; the schedule's rates; tokens and seconds add up."""
    rows = rows_of(finished)
    assert rows[0]["_step"] == 0
    assert "eval/domain/wer" in rows[0]
    assert all({"_step", "_timestamp", "_runtime", "_attempt"} <= row.keys() for row in rows)
    assert all(not isinstance(value, dict) for row in rows for value in row.values())
    assert {row["_attempt"] for row in rows} == {1}
    steps = runs.merge_steps(rows)
    assert list(steps) == list(range(STEPS + 1))
    assert [step for step, row in steps.items() if "eval/domain/wer" in row] == [0, 3, 6]
    for step in (0, 3, 6):
        for name in ("domain", "general"):
            keys = {f"eval/{name}/{key}" for key in ("wer", "cer", "loss", "raw_wer", "insertions", "loops", "no_end")}
            assert keys <= steps[step].keys()
        assert "eval/silent/drift" in steps[step]
        assert "eval/silent/wer" not in steps[step]
        assert "eval/non_speech/words_per_minute" in steps[step]
    assert steps[0]["eval/silent/drift"] == 0.0
    training = {
        "train/loss", "train/ce", "train/lr", "train/grad_norm", "train/tokens", "train/audio_seconds",
        "perf/samples_per_second", "perf/audio_hours_per_hour", "perf/data_wait",
    }  # fmt: skip
    for step in range(1, STEPS + 1):
        assert training <= steps[step].keys()
        assert steps[step]["train/lr"] == lr_at(step, LR, WARMUP, STEPS)
        assert math.isfinite(steps[step]["train/loss"])
        assert steps[step]["train/grad_norm"] > 0
    tokens = Tokens(ending_whisper().dims)
    labelled = sum(len(tokens.encode(text)) - len(tokens.prefix) for text in TEXTS)
    assert steps[STEPS]["train/tokens"] == 2 * labelled  # three batches of five clips are an epoch
    assert steps[STEPS]["train/audio_seconds"] == pytest.approx(2 * sum(SECONDS), abs=0.02)


def test_samples_show_every_utterance_beside_the_original(finished: Path, workshop: Workshop) -> None:
    """The contract's keys; `original` is what step 0 wrote; counts agree with the rates in metrics.jsonl."""
    samples = samples_of(finished)
    assert {(step, name) for step, name, _ in samples} == {
        (step, name) for step in (0, 3, 6) for name in ("domain", "general", "silent")
    }
    keys = {
        "_step", "set", "id", "audio_filepath", "reference", "hypothesis", "original", "reference_normalized",
        "hypothesis_normalized", "original_normalized", "wer", "substitutions", "deletions", "insertions", "flags",
    }  # fmt: skip
    for (step, name, utterance), row in samples.items():
        assert keys <= row.keys()
        assert row["original"] == samples[0, name, utterance]["hypothesis"]
        assert step > 0 or row["hypothesis"] == row["original"]
        assert Path(row["audio_filepath"]).is_file()
    steps = runs.merge_steps(rows_of(finished))
    for step in (0, 3, 6):
        domain = [row for (its, name, _), row in samples.items() if (its, name) == (step, "domain")]
        errors = sum(row["substitutions"] + row["deletions"] + row["insertions"] for row in domain)
        words = sum(len(row["reference_normalized"].split()) for row in domain)
        assert steps[step]["eval/domain/wer"] == errors / words
    assert samples[0, "domain", "0.wav"]["reference"] == "A grey fox."


def test_the_best_checkpoint_has_the_lowest_domain_rate(finished: Path) -> None:
    """The first of the lowest; its card says so, and its numbers are those of its step."""
    steps = runs.merge_steps(rows_of(finished))
    lowest = min((3, 6), key=lambda step: steps[step]["eval/domain/wer"])
    best = runs.best_checkpoint(finished)
    assert best is not None
    assert int(best.name) == lowest
    card = (best / "README.md").read_text()
    rate, original = (100 * steps[step]["eval/domain/wer"] for step in (lowest, 0))
    assert f"| domain | {original:.1f} % | {rate:.1f} % |" in card
    assert f"step {lowest}" in card


def test_training_moves_the_weights_down_the_loss(finished: Path, workshop: Workshop) -> None:
    """Everything trains, and the loss of the training clips falls."""
    before, after = weights.load(str(workshop.model))[0].state_dict(), weights_of(finished, STEPS).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name != "encoder.positional_embedding")
    assert torch.equal(before["encoder.positional_embedding"], after["encoder.positional_embedding"])
    steps = runs.merge_steps(rows_of(finished))
    assert steps[6]["train/loss"] < steps[1]["train/loss"]
    assert steps[6]["eval/domain/loss"] < steps[0]["eval/domain/loss"]


def test_the_log_and_the_ending_say_what_to_type_next(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Data on stdout: the table and the next commands; the log holds what was printed."""
    run = workshop.train("talking", "--max_steps", "1", retain=False)
    captured = capsys.readouterr()
    assert "of the best checkpoint, step 1" in captured.out
    assert f"python evaluate.py {run}" in captured.out
    assert f"python -m whisper_min.export {run} --to openai" in captured.out
    log = (run / "train.log").read_text()
    assert "step 0: domain" in log
    assert "step 1: domain" in log
    assert str(run) in captured.err


# ---- The step.


def test_accumulation_equals_one_big_batch(workshop: Workshop, tmp_path: Path) -> None:
    """Four clips in one batch, or one after another: the same loss, gradient and weights (texts differ in length)."""
    four = write_set(tmp_path / "four", TEXTS[:4], SECONDS[:4])
    # all of them take the same context, so that each step holds all four
    options = ("--data", f"four={four}", "--max_steps", "3", "--eval_every", "3")
    steps, trained = {}, {}
    for batch_size, accumulate in ((4, 1), (1, 4)):
        name = f"accumulated-{batch_size}"
        argv = [*workshop.argv(name, retain=False), "--batch_size", str(batch_size), "--accumulate", str(accumulate)]
        position = argv.index("--data")
        del argv[position : position + 2]
        assert train.main([*argv, *options]) == 0
        steps[batch_size] = runs.merge_steps(rows_of(workshop.runs / name))
        trained[batch_size] = weights_of(workshop.runs / name, 3).state_dict()
    first, second = (its[1] for its in steps.values())
    assert first["train/loss"] == pytest.approx(second["train/loss"], rel=1e-6)
    assert first["train/grad_norm"] == pytest.approx(second["train/grad_norm"], rel=1e-5)
    for step in (1, 2, 3):
        assert steps[4][step]["train/tokens"] == steps[1][step]["train/tokens"]
        assert steps[4][step]["train/loss"] == pytest.approx(steps[1][step]["train/loss"], rel=1e-4)
    original = weights.load(str(workshop.model))[0].state_dict()
    for name in trained[4]:
        moved = (trained[4][name] - original[name]).norm()
        assert (trained[4][name] - trained[1][name]).norm() <= 0.01 * moved + 1e-7, name


def test_the_logged_loss_is_the_mean_over_the_steps_tokens(workshop: Workshop, finished: Path) -> None:
    """The first step's loss and gradient norm, computed here by hand from the same batch."""
    cfg = config.resolve(config.parse(workshop.argv("by-hand")))
    prepared = setup.prepare(cfg, Console(stderr=True))
    batch = batches.collate(prepared.schedule.epoch(0)[0], prepared.tokens, prepared.dims.n_mels, prepared.cfg)
    model, _ = prepared.load()
    logits = model.decoder(batch.targets.inputs, encode(model, batch.on(prepared.device).mel))
    loss = sum_cross_entropy(logits, batch.targets.targets) / batch.targets.count
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    logged = runs.merge_steps(rows_of(finished))[1]
    assert logged["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert logged["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_one_clip_can_be_learnt_by_heart(workshop: Workshop, tmp_path: Path) -> None:
    """Forty steps on one clip: the loss vanishes, and decoding the clip writes its text."""
    one = write_set(tmp_path / "one", ["A red fox ran."], [2.0])
    argv = workshop.argv("by-heart", "--max_steps", "40", "--eval_every", "40", "--lr", "0.01", retain=False)
    position = argv.index("--data")
    argv[position + 1] = f"one={one}"
    assert train.main(argv) == 0
    run = workshop.runs / "by-heart"
    losses = [row["train/loss"] for row in rows_of(run) if "train/loss" in row]
    assert losses[0] > 5
    assert losses[-1] < 0.1
    model = weights_of(run, 40)
    tokens = Tokens(model.dims)
    mel = audio.log_mel(audio.pad([audio.read(tmp_path / "one" / "0.wav")]), 80)
    with torch.inference_mode():
        (written,) = decode.greedy(model, decode.encode_windows(model, mel), tokens)
    assert written.text == "A red fox ran."
    assert written.ended


def test_a_frozen_encoder_stays_as_it_is(workshop: Workshop) -> None:
    """To the bit, under packed windows; the decoder trains."""
    run = workshop.train("frozen-pack", "--freeze_encoder", "--audio_context", "pack", "--max_steps", "2", retain=False)
    before, after = weights.load(str(workshop.model))[0], weights_of(run, 2)
    assert same_weights_of(before.encoder, after.encoder)
    assert not same_weights_of(before.decoder, after.decoder)


def test_what_a_frozen_encoder_remembers_is_not_made_again(
    workshop: Workshop, frozen_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch of two hands on no audio."""
    samples: list[int] = []

    def collate(*args: Any, **options: Any) -> Batch:
        batch = batches_collate(*args, **options)
        samples.append(batch.waveforms.shape[1])
        return batch

    batches_collate = batches.collate
    monkeypatch.setattr(batches, "collate", collate)
    run = workshop.train("remembering", *FROZEN)
    assert [count > 0 for count in samples] == [True] * 3 + [False] * 3
    assert_same_run(run, frozen_finished)


def same_weights_of(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two parts hold the same numbers."""
    return all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_non_finite_gradient_is_logged_and_skipped(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's loss is made infinite: said in the log, null in the metrics, and the run goes on without it."""
    calls = []

    def infinite_once(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return sum_cross_entropy(logits, targets) * (math.inf if len(calls) == 1 else 1.0)

    monkeypatch.setattr(train, "sum_cross_entropy", infinite_once)
    run = workshop.train("non-finite", "--max_steps", "2", "--save_every", "1", "--eval_every", "2", retain=False)
    steps = runs.merge_steps(rows_of(run))
    assert steps[1]["train/grad_norm"] is None
    assert {"train/loss", "train/grad_norm"} <= set(steps[1]["nonfinite"])
    assert math.isfinite(steps[2]["train/grad_norm"])
    assert "step 1: the gradient is not finite; the update was skipped" in (run / "train.log").read_text()
    original = weights.load(str(workshop.model))[0]
    assert same_weights(weights_of(run, 1), original)
    assert not same_weights(weights_of(run, 2), original)
    state = checkpoint.load_trainer(run / "checkpoints" / "2")["optimizer"]["state"]
    assert {int(each["step"]) for each in state.values()} == {1}


def test_a_run_without_finite_gradients_ends_with_its_clips_written_down(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From step 3 on no loss is finite: after two such steps exit code 1; the checkpoint of step 2 goes on."""
    calls = []

    def infinite_later(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return sum_cross_entropy(logits, targets) * (math.inf if len(calls) > 2 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(train, "sum_cross_entropy", infinite_later)
        options = ("--max_nonfinite", "2", "--save_every", "2", "--eval_every", "6")
        assert train.main(workshop.argv("diverged", *options, retain=False)) == 1
    run = workshop.runs / "diverged"
    told = capsys.readouterr().err
    assert f"no finite gradient in steps 3 to 4, whose clips are in {run / 'spikes.jsonl'}; go on from step 2" in told
    assert f"--resume {run} --lr" in told
    assert status(run)["state"] == "failed"
    rows = rows_of(run, "spikes.jsonl")
    assert [row["_step"] for row in rows] == [3, 4] == [row["_step"] for row in rows_of(run) if "nonfinite" in row]
    cfg = config.resolve(config.load(run))
    schedule = setup.prepare(cfg, Console(stderr=True)).schedule
    expected = [[example.id for window in batch for example in window.examples] for batch in schedule.epoch(0)]
    assert rows[0]["clips"] == expected[2]
    assert train.main(["--resume", str(run), "--lr", "1e-4"]) == 0
    assert runs.merge_steps(rows_of(run))[3]["train/lr"] == lr_at(3, 1e-4, WARMUP, STEPS)


def test_out_of_memory_halves_the_micro_batches_and_changes_nothing_else(
    workshop: Workshop, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 2 on two clips are too many, first after half of a step: the losses and weights of a run without."""
    calls = []

    def fits_one(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("injected")
        return sum_cross_entropy(logits, targets)

    monkeypatch.setattr(train, "sum_cross_entropy", fits_one)
    four = ("--accumulate", "2", "--max_steps", "3", "--eval_every", "3")
    halved = workshop.train("halved", *four, retain=False)
    monkeypatch.undo()
    whole = workshop.train("whole", *four, retain=False)
    one, other = (runs.merge_steps(rows_of(run)) for run in (halved, whole))
    assert [one[step]["perf/micro_batch_splits"] for step in (1, 2, 3)] == [1, 1, 1]
    assert "perf/micro_batch_splits" not in other[3]
    for step in (1, 2, 3):
        for key in ("train/tokens", "train/audio_seconds", "train/lr"):
            assert one[step][key] == other[step][key]
        assert one[step]["train/loss"] == pytest.approx(other[step]["train/loss"], rel=1e-5)
    assert one[1]["train/loss"] == pytest.approx(other[1]["train/loss"], abs=1e-6)
    assert one[1]["train/grad_norm"] == pytest.approx(other[1]["train/grad_norm"], rel=1e-5)
    original = weights.load(str(workshop.model))[0].state_dict()
    trained = [weights_of(run, 3).state_dict() for run in (halved, whole)]
    for name, start in original.items():
        moved = (trained[1][name] - start).norm()
        assert (trained[0][name] - trained[1][name]).norm() <= 0.01 * moved + 1e-7, name
    assert "out of memory with 2 clips at a time" in (halved / "train.log").read_text()


def test_a_clip_that_does_not_fit_ends_the_run_with_what_would(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, said in the status, too."""

    def never(logits: Tensor, targets: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(train, "sum_cross_entropy", never)
    assert train.main(workshop.argv("too-large", "--max_steps", "1", retain=False)) == 1
    assert "failed: out of memory with one clip at a time; what would fit: --checkpointing" in capsys.readouterr().err
    assert status(workshop.runs / "too-large")["state"] == "failed"


def test_auto_is_resolved_once_and_written_down(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """The number chosen is said and in config.json, so that a resume keeps it; checkpointing trains all the same."""
    run = workshop.train("auto", "--batch_size", "auto", "--checkpointing", "--max_steps", "1", retain=False)
    assert "--batch_size auto: 8" in capsys.readouterr().err
    record = json.loads((run / "config.json").read_text())
    assert (record["batch_size"], record["checkpointing"]) == (8, True)
    assert config.load(run).batch_size == 8


def test_waiting_for_the_device_belongs_to_a_steps_time(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is behind the host, which meets it where the step before is read: rates must not leave that out."""
    write = StepLog.write

    def slow_device(self: StepLog, bar: TaskID | None = None) -> None:
        time.sleep(0.5)
        write(self, bar)

    monkeypatch.setattr(StepLog, "write", slow_device)
    run = workshop.train("behind", "--max_steps", "2", "--eval_every", "2", retain=False)
    rates = [row["perf/samples_per_second"] for row in rows_of(run) if "perf/samples_per_second" in row]
    assert len(rates) == 2
    assert max(rates) <= 2 / 0.5


def test_times_prompts_and_non_speech_are_trained_on(workshop: Workshop, tmp_path: Path) -> None:
    """What the loss counts is closed: text and end, two times a segment, and for non-speech its token and the end."""
    manifest = write_set(tmp_path / "varied", ["So he said.", "<|nospeech|>"], [2.0, 1.0])
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0] |= {"prompt": "Before.", "segments": [
        {"start": 0.0, "end": 1.0, "text": "So he"}, {"start": 1.0, "end": 2.0, "text": "said."}]}  # fmt: skip
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = workshop.argv("varied", "--timestamps", "1", "--prompts", "1", "--max_steps", "1")
    argv[argv.index("--data") + 1] = f"varied={manifest}"
    assert train.main(argv) == 0
    tokens = Tokens(weights.load(str(workshop.model))[0].dims)
    expected = len(tokens.words("So he")) + len(tokens.words("said.")) + 2 * 2 + 1 + 2
    counted = [row["train/tokens"] for row in rows_of(workshop.runs / "varied") if "train/tokens" in row]
    assert counted == [expected]
    told = (workshop.runs / "varied" / "train.log").read_text()
    assert "in 1 of 2 clips nobody speaks" in told
    assert "1 of 2 clips have a prompt" in told
    assert "1 of 2 clips have segments" in told


def test_another_seed_is_another_order(workshop: Workshop) -> None:
    """The seed alone decides the order of the data."""
    orders = []
    for seed in ("0", "0", "1"):
        cfg = config.resolve(config.parse(workshop.argv("seeded", "--seed", seed)))
        schedule = setup.prepare(cfg, Console(stderr=True)).schedule
        orders.append([[window.text for window in batch] for epoch in (0, 1) for batch in schedule.epoch(epoch)])
    assert orders[0] == orders[1] != orders[2]


def test_labels_are_written_in_the_announced_style(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upper-case references reach the batch in sentence case, and as they are where that is asked for."""
    shouted = write_set(tmp_path / "shouted", ["SO HE SAID I AM HERE", "AND ON"], [2.0, 1.0])
    argv = workshop.argv("styled")
    argv[argv.index("--data") + 1] = f"shouted={shouted}"
    for style, expected in (
        ("auto", {"So he said I am here.", "And on."}),
        ("keep", {"SO HE SAID I AM HERE", "AND ON"}),
    ):
        prepared = setup.prepare(config.resolve(config.parse([*argv, "--label_style", style])), Console(stderr=True))
        batch = batches.collate(prepared.schedule.epoch(0)[0], prepared.tokens, prepared.dims.n_mels, prepared.cfg)
        labels = {
            prepared.tokens.decode([token for token in row if token >= 0]) for row in batch.targets.targets.tolist()
        }
        assert labels == expected
    assert train.main([*argv, "--check"]) == 0
    shown = capsys.readouterr().out
    assert "sentence" in shown
    assert "' So'" in shown
    assert "' SO'" not in shown


# ---- Stopping and going on.


@pytest.fixture(scope="module")
def frozen_finished(workshop: Workshop) -> Path:
    """The uninterrupted run with a frozen encoder, whose outputs are remembered from the first epoch on."""
    return workshop.train("frozen-finished", *FROZEN)


@pytest.fixture(scope="module")
def varied_finished(workshop: Workshop) -> Path:
    """The uninterrupted run whose clips are augmented."""
    return workshop.train("varied-finished", *VARIED)


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """What would be compiled runs as it is written: compiling takes minutes, and has its own tests."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def lean_finished(workshop: Workshop) -> Path:
    """The uninterrupted run in bf16."""
    with torch.compiler.set_stance("force_eager"):
        return workshop.train("lean-finished", *LEAN)


@pytest.mark.slow
def test_a_lean_checkpoint_is_bf16_and_learnt(lean_finished: Path, finished: Path) -> None:
    """Half the bytes, opened in fp32 as every other; the first losses are fp32's but for bf16's rounding."""
    path = runs.last_checkpoint(lean_finished) / checkpoint.MODEL_FILE
    stored, _ = weights.read_safetensors(path)
    assert stored["decoder.token_embedding.weight"].dtype == torch.bfloat16
    model = weights_of(lean_finished, STEPS)
    assert torch.equal(model.decoder.token_embedding.weight, stored["decoder.token_embedding.weight"].float())
    lean, whole = (without_clocks(run)[1]["train/loss"] for run in (lean_finished, finished))
    assert lean == pytest.approx(whole, rel=0.01)
    curve = [its["train/loss"] for step, its in without_clocks(lean_finished).items() if step]
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("change", ["text", "order", "recording", "nothing"])
def test_a_run_is_not_resumed_on_other_data(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """Exactly where it stopped: the manifest's texts and order, and the recordings, are those of the start."""
    manifest = write_set(tmp_path / "mine", TEXTS[:4], [1.0, 1.0, 1.0, 1.0])
    argv = workshop.argv(f"changed-{change}", "--max_steps", "1")
    argv[argv.index("--data") + 1] = f"mine={manifest}"
    assert train.main(argv) == 0
    lines = manifest.read_text().splitlines(keepends=True)
    if change == "text":
        manifest.write_text("".join([lines[0].replace("fox", "cat"), *lines[1:]]))
    elif change == "order":
        manifest.write_text("".join(reversed(lines)))
    elif change == "recording":
        shutil.copy(manifest.parent / "1.wav", manifest.parent / "0.wav")
    capsys.readouterr()
    code = train.main(["--resume", str(workshop.runs / f"changed-{change}"), "--max_steps", "2"])
    said = capsys.readouterr().err
    assert code == (0 if change == "nothing" else 2)
    assert ("the training data is not what the run was started with" in said) == (change != "nothing")


@pytest.mark.parametrize(
    ("state", "step", "options"),
    [
        ("training", 4, ()),
        ("evaluating", 0, ()),
        ("evaluating", 3, ()),
        ("training", 4, FROZEN),
        ("training", 4, VARIED),
        pytest.param("training", 4, LEAN, marks=pytest.mark.slow),
    ],
    ids=["second epoch", "first evaluation", "an evaluation", "frozen encoder", "augmented", "lean"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    workshop: Workshop, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, state: str, step: int,
    options: Sequence[str],
) -> None:  # fmt: skip
    """`stop` in `control`, then --resume: all that the run leaves is what an uninterrupted one leaves, to the bit.

    So the same command gives the same losses, too: the part before the stop is a run of its own.
    """
    name = f"stopped-{state}-{step}-{len(options)}"
    with monkeypatch.context() as patch:
        at_beat(patch, state, step, command("stop"))
        run = workshop.train(name, *options)
    stopped = status(run)
    assert (stopped["state"], stopped["step"], stopped["last_command"]) == ("stopped", step, "stop")
    last = runs.last_checkpoint(run)
    assert (last is None) if step == 0 else (last is not None and last.name == str(step))
    torch.manual_seed(0)  # as in `Workshop.train`; a checkpoint brings its own state
    assert train.main(["--resume", str(run)]) == 0
    assert status(run)["state"] == "finished"
    assert {row["_attempt"] for row in rows_of(run)} == ({2} if step == 0 else {1, 2})
    uninterrupted = request.getfixturevalue(
        {(): "finished", FROZEN: "frozen_finished", VARIED: "varied_finished", LEAN: "lean_finished"}[tuple(options)]
    )
    assert_same_run(run, uninterrupted)
    best, expected = runs.best_checkpoint(run), runs.best_checkpoint(uninterrupted)
    assert best is not None
    assert expected is not None
    assert best.name == expected.name


ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(argv: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A training in a process of its own, with one thread."""
    return subprocess.Popen(
        [sys.executable, "train.py", *argv],
        cwd=REPOSITORY,
        env={**os.environ, **ONE_THREAD, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_signals_end_a_run_with_their_code_and_it_can_be_resumed(workshop: Workshop) -> None:
    """SIGTERM and Ctrl-C between two steps of a process of its own: 143 and 130, saved, and resumed to the bit."""
    options = ("--max_steps", "40", "--eval_every", "40")
    numbers = (signal.SIGTERM, signal.SIGINT)
    processes = {number: start(workshop.argv(number.name, *options, retain=False)) for number in numbers}
    try:
        waiting = dict(processes)
        deadline = time.monotonic() + 300
        while waiting and time.monotonic() < deadline:
            for number, process in list(waiting.items()):
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                if any(row["_step"] >= 4 for row in runs.read_jsonl(workshop.runs / number.name / "metrics.jsonl")):
                    process.send_signal(number)
                    del waiting[number]
            time.sleep(0.01)
        codes = {number: process.wait(timeout=120) for number, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    assert codes == {signal.SIGTERM: 143, signal.SIGINT: 130}
    for number, reason in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        run = workshop.runs / number.name
        stopped = status(run)
        assert (stopped["state"], stopped["exit_reason"]) == ("stopped", reason)
        last = runs.last_checkpoint(run)
        assert last is not None
        assert 4 <= int(last.name) == stopped["step"] < 40
        assert checkpoint.load_trainer(last)["step"] == stopped["step"]
        assert f"--resume {run}" in (run / "train.log").read_text()
    assert train.main(["--resume", str(workshop.runs / "SIGTERM")]) == 0
    uninterrupted = workshop.train("not-signalled", *options, retain=False)
    assert_same_run(workshop.runs / "SIGTERM", uninterrupted, 40, but=("rng",))  # another process, another state


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_in_an_evaluation_saves(
    workshop: Workshop, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step is saved, the evaluation made again after the resume."""
    name = f"evaluating-{number.name}"
    with monkeypatch.context() as patch:
        at_beat(patch, "evaluating", 3, lambda run: os.kill(os.getpid(), number))
        assert train.main(workshop.argv(name, "--max_steps", "4", retain=False)) == 143
    run = workshop.runs / name
    assert (status(run)["state"], status(run)["exit_reason"]) == ("stopped", number.name)
    last = runs.last_checkpoint(run)
    assert last is not None
    assert last.name == "3"
    assert train.main(["--resume", str(run)]) == 0
    evaluated = [step for step, row in runs.merge_steps(rows_of(run)).items() if "eval/domain/wer" in row]
    assert evaluated == [0, 3, 4]


@pytest.mark.slow
def test_a_signal_in_the_fisher_pass_ends_it(workshop: Workshop, tmp_path: Path) -> None:
    """Before anything was trained there is nothing to save: 143, no traceback, no run."""
    many = write_set(tmp_path / "many", ["On and on."] * 100, [1.0] * 100)
    argv = workshop.argv("fisher", "--ewc", "1", "--replay", f"{many}@0", "--method", "full")
    with start(argv) as process:
        assert process.stderr
        while "Fisher information 1/" not in (line := process.stderr.readline()):
            assert line, "ended before the Fisher pass"
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
    assert process.returncode == 143, told
    assert "SIGTERM: ends before anything was trained" in told
    assert "Traceback" not in told
    assert not (workshop.runs / "fisher").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_download_ends_it(workshop: Workshop, number: signal.Signals, code: int) -> None:
    """From a hub that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        argv = workshop.argv(f"download-{code}")
        argv[argv.index("--data") + 1] = "hub:nobody/nothing:train"
        with start(argv, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}") as process:
            assert process.stderr
            silent.settimeout(120)
            connection, _ = silent.accept()
            with connection:
                time.sleep(0.5)
                process.send_signal(number)
                told = process.stderr.read()
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert ("interrupted" if number == signal.SIGINT else f"{number.name}: ends before anything was trained") in told


@pytest.mark.slow
def test_max_time_stops_and_saves_in_time(workshop: Workshop) -> None:
    """Of a training without end: the time is kept, start and save included, and what was trained is there."""
    seconds = 20.0
    started = time.monotonic()
    argv = workshop.argv("timed", "--max_time", str(seconds / 3600), "--max_steps", "10000", retain=False)
    assert train.main([*argv, "--eval_every", "10000"]) == 0
    assert time.monotonic() - started < seconds
    run = workshop.runs / "timed"
    assert (status(run)["state"], status(run)["exit_reason"]) == ("stopped", "--max_time is over")
    last = runs.last_checkpoint(run)
    assert (int(last.name) if last else 0) == status(run)["step"]


def test_a_run_killed_before_its_first_file_starts_again(workshop: Workshop) -> None:
    """The folder is there and has its lock, but no config.json: the same command line takes it up."""
    folder = workshop.runs / "barely"
    RunFolder.create(folder).release()
    workshop.train("barely", "--max_steps", "1", retain=False)
    assert status(folder)["state"] == "finished"
    assert {row["_attempt"] for row in rows_of(folder)} == {1}


@pytest.mark.slow
def test_a_second_training_on_a_run_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first trains, with who that is; exit code 2, and the first goes on."""
    refused: list[subprocess.CompletedProcess[str]] = []
    resume = [sys.executable, "train.py", "--resume"]
    at_beat(monkeypatch, "training", 1, lambda run: refused.append(run_script([*resume, str(run)])))
    run = workshop.train("held", "--max_steps", "2", "--eval_every", "2", retain=False)
    assert refused[0].returncode == 2
    assert f"process {os.getpid()} on {socket.gethostname()} writes it since" in refused[0].stderr
    assert status(run)["state"] == "finished"


def test_a_clock_that_is_set_back_in_a_run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day back after the first step: every step is there, in order, and durations are what they were."""
    now = time.time
    at_beat(monkeypatch, "training", 1, lambda run: monkeypatch.setattr(time, "time", lambda: now() - 86400))
    run = workshop.train("clock", "--max_steps", "3", retain=False)
    rows = rows_of(run)
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 3]
    assert rows[-1]["_timestamp"] < rows[0]["_timestamp"] - 80_000
    runtimes = [row["_runtime"] for row in rows]
    assert runtimes == sorted(runtimes)
    assert all(row["perf/samples_per_second"] > 0 for row in rows if "train/loss" in row)


def test_a_finished_run_resumed_is_left_as_it_is(finished: Path, tmp_path: Path) -> None:
    """Nothing to do: exit code 0, the same weights and rows."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)
    assert train.main(["--resume", str(copy)]) == 0
    assert listing(copy / "checkpoints") == listing(finished / "checkpoints")
    assert rows_of(copy) == rows_of(finished)
    assert rows_of(copy, "samples.jsonl") == rows_of(finished, "samples.jsonl")


def test_a_damaged_checkpoint_is_not_resumed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainer or weights cut short: exit code 2, the file named, the run left as it is."""
    for name in ("trainer.pt", "model.safetensors"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(finished, copy, symlinks=True)
        path = copy / "checkpoints" / "6" / name
        path.write_bytes(path.read_bytes()[:1000])
        before = listing(copy)
        assert train.main(["--resume", str(copy)]) == 2
        assert f"{path}: cannot be read" in capsys.readouterr().err.replace(str(path.resolve()), str(path))
        assert listing(copy) == before


def test_early_stopping(workshop: Workshop) -> None:
    """--patience 1 at a rate that changes nothing: the second evaluation is no better, and the run ends, saved."""
    run = workshop.train(
        "patient", "--patience", "1", "--eval_every", "1", "--lr", "1e-9", "--max_steps", "9", retain=False
    )
    final = status(run)
    assert (final["state"], final["step"]) == ("finished", 2)
    assert "stopped early" in final["exit_reason"]
    assert max(runs.merge_steps(rows_of(run))) == 2
    best, last = runs.best_checkpoint(run), runs.last_checkpoint(run)
    assert best is not None
    assert last is not None
    assert (best.name, last.name) == ("1", "2")


def test_save_and_eval_on_request_and_a_set_held_out(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is obeyed after the step that is under way; without --eval_data a tenth is held out and listed."""
    argv = workshop.argv("asked", "--max_steps", "3", "--eval_every", "3", retain=False)
    position = argv.index("--eval_data")
    del argv[position : position + 2]
    at_beat(monkeypatch, "training", 0, command("save"))
    at_beat(monkeypatch, "training", 1, command("eval"))
    assert train.main(argv) == 0
    run = workshop.runs / "asked"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "2", "3", "best", "last"}
    evaluated = [step for step, row in runs.merge_steps(rows_of(run)).items() if "eval/held-out/wer" in row]
    assert evaluated == [0, 2, 3]
    (held,) = rows_of(run, "held_out.jsonl")
    assert held["id"] in {f"{index}.wav" for index in range(5)}
    cfg = config.resolve(config.load(run))
    prepared = setup.prepare(cfg, Console(stderr=True))
    trained = {example.id for each in prepared.report.role("data") for example in each.speech.examples}
    assert trained == {f"{index}.wav" for index in range(5)} - {held["id"]}


# ---- What is refused, and what fails.


def test_a_run_is_never_written_over(finished: Path, workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, two ways on, and not a byte changed."""
    before = listing(finished)
    assert train.main(workshop.argv("finished")) == 2
    message = capsys.readouterr().err
    assert "--run finished" in message
    assert f"--resume {finished}" in message
    assert listing(finished) == before


def test_check_writes_no_run(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; the sets, a batch token by token, the steps; no folder."""
    assert train.main(workshop.argv("checked", "--check")) == 0
    shown = capsys.readouterr().out
    assert "Preflight" in shown
    assert "<|startoftranscript|>" in shown
    assert "<|endoftext|>" in shown
    assert "6 steps of 2 × 1" in shown
    assert not (workshop.runs / "checked").exists()


def test_faults_are_said_at_once_and_nothing_is_written(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing recording, an empty text, a clip of 40 s, an impossible option: all in one go, also under --check."""
    manifest = write_set(tmp_path / "faulty", ["Fine.", "Gone.", "", "Long."], [1.0, 1.0, 1.0, 40.0])
    (tmp_path / "faulty" / "1.wav").unlink()
    argv = workshop.argv("faulty", "--accumulate", "0")
    argv[argv.index("--data") + 1] = f"faulty={manifest}"
    for more in ((), ("--check",)):
        assert train.main([*argv, *more]) == 2
        message = capsys.readouterr().err
        assert "--accumulate 0: must be at least 1" in message
        assert f"{manifest}, line 2" in message
        assert "1.wav: does not exist" in message
        assert "2.wav: has an empty text" in message
        assert "3.wav: 40.0 s, but Whisper hears 30 s; split it" in message
        assert "4 faults; nothing was written" in message
        assert not (workshop.runs / "faulty").exists()


def test_unknown_sets_and_models_are_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """Both in one message."""
    argv = workshop.argv("unknown")
    argv[argv.index("--data") + 1] = "nowhere.jsonl"
    argv[argv.index("--model") + 1] = "tinny"
    assert train.main(argv) == 2
    message = capsys.readouterr().err
    assert "--model tinny" in message
    assert "nowhere.jsonl" in message


def test_a_full_disk_ends_the_run_with_1(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason, what is whole, and how to go on; then it goes on."""

    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        at_beat(patch, "training", 1, lambda run: patch.setattr(checkpoint, "save_file", no_space))
        argv = workshop.argv("full", *SAVING, "--room_minutes", "0", retain=False)
        assert train.main(argv) == 1
    run = workshop.runs / "full"
    message = capsys.readouterr().err
    assert "step 2 could not be saved" in message
    assert "the disk is full; the checkpoint of step 1 is whole" in message
    assert f"--resume {run}" in message
    assert status(run)["state"] == "failed"
    assert "disk is full" in status(run)["exit_reason"]
    assert train.main(["--resume", str(run)]) == 0
    assert status(run)["state"] == "finished"


def run_script(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own, with one thread."""
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)


def assert_failed_with_step_1_whole(run: Path, done: subprocess.CompletedProcess[str], reason: str) -> None:
    """Exit code 1, a message for people, nothing half in the folder; and with room again the run ends well."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("failed: step 2 could not be saved to ")
    assert re.search(
        f": {reason}; the checkpoint of step 1 is whole. Make room and run python train.py --resume ", told
    )
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "last"}
    last = runs.last_checkpoint(run)
    assert last is not None
    assert checkpoint.load_trainer(last)["step"] == 1
    weights.load(str(last))
    assert train.main(["--resume", str(run)]) == 0
    assert status(run)["state"] == "finished"
    assert checkpoint.load_trainer(run / "checkpoints" / "2")["step"] == 2


SAVING = ("--max_steps", "2", "--save_every", "1", "--eval_every", "2")


NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def mount_of(folder: Path, options: str) -> list[str]:
    """The command that puts a file system in memory there; skips where nobody may mount one of their own."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options if options == "ro" else f"size={options}"]
    mount += ["tmpfs", str(folder)]
    if shutil.which("unshare") is None or run_script([*NAMESPACE, *mount]).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare --user --mount)")
    return mount


def run_mounted(mount: list[str], kept: Path, copy: Path, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run something beside that file system, and copy out of it what ends with the process."""
    script = f'{shlex.join(mount)} && "$@"; code=$?; {shlex.join(["cp", "-a", str(kept), str(copy)])}; exit $code'
    return run_script([*NAMESPACE, "sh", "-c", script, "sh", *argv])


@pytest.mark.slow
def test_a_disk_without_room_for_a_second_checkpoint(workshop: Workshop, tmp_path: Path) -> None:
    """A file system of 100 MB in memory, of which someone takes 30: nothing of the failure is injected."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    mount = mount_of(disk, "100m")
    code = (
        "import pathlib, sys, threading, time, train\n"
        "from whisper_min import runs\n"
        f"disk = pathlib.Path({str(disk)!r})\n"
        "def fill():\n"
        "    while not (disk / 'full' / 'metrics.jsonl').exists(): time.sleep(0.01)\n"
        "    (disk / 'filler').write_bytes(bytes(30_000_000))\n"
        "threading.Thread(target=fill, daemon=True).start()\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    argv = workshop.argv("full", *SAVING, "--runs_dir", str(disk), "--room_minutes", "0", retain=False)
    done = run_mounted(mount, disk / "full", copy, [sys.executable, "-c", code, *argv])
    assert status(copy)["state"] == "failed"
    assert_failed_with_step_1_whole(copy, done, r"the disk is full \(\d+ MB are needed, \d+ MB free\)")


@pytest.mark.slow
def test_a_disk_that_fills_up_is_waited_for(workshop: Workshop, tmp_path: Path) -> None:
    """Someone else fills it after the first checkpoint and leaves a second later: the run pauses, and goes on."""
    disk, filler = tmp_path / "disk", tmp_path / "disk" / "filler"
    mount = mount_of(disk, "150m")
    code = (
        "import pathlib, sys, threading, time, train\n"
        "from whisper_min import runs\n"
        "runs.ROOM_POLL_SECONDS = 0.2\n"
        f"run, filler = pathlib.Path({str(disk / 'filled')!r}), pathlib.Path({str(filler)!r})\n"
        "def fill():\n"
        "    while runs.last_checkpoint(run) is None: time.sleep(0.01)\n"
        "    with open(filler, 'wb', 0) as file:\n"
        "        try:\n"
        "            while file.write(bytes(1 << 20)): pass\n"
        "        except OSError: pass\n"
        "    time.sleep(3)\n"
        "    filler.unlink()\n"
        "threading.Thread(target=fill, daemon=True).start()\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    argv = workshop.argv("filled", "--max_steps", "30", "--save_every", "1", "--keep", "1", "--eval_every", "30")
    copy = tmp_path / "copy"
    done = run_mounted(mount, disk / "filled", copy, [sys.executable, "-c", code, *argv, "--runs_dir", str(disk)])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("waiting for room, at most 60 minutes") >= 1
    assert status(copy)["state"] == "finished"
    steps = [row["_step"] for row in rows_of(copy) if "train/loss" in row]
    assert steps == list(range(1, 31))
    weights_of(copy, 30)


@pytest.mark.slow
def test_a_disk_too_small_is_told_before_the_start(workshop: Workshop, tmp_path: Path) -> None:
    """Two checkpoints of 42 MB do not fit into 64: exit code 2, nothing written; a folder that is read-only, alike."""
    disk = tmp_path / "disk"
    for options, told in (
        ("64m", "checkpoints need 0.084 GB, and 0.067 GB are free"),
        ("ro", "cannot be written"),
    ):
        mount = mount_of(disk, options)
        argv = workshop.argv("small", "--runs_dir", str(disk), retain=False)
        done = run_mounted(mount, disk, tmp_path / options, [sys.executable, "train.py", *argv])
        assert done.returncode == 2, done.stderr
        assert f"--runs_dir {disk}" in done.stderr
        assert told in done.stderr
        assert list((tmp_path / options).iterdir()) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota met in the middle of the trainer's file (28 MB), on any Linux: the kernel refuses, nobody injects."""
    pytest.importorskip("resource")
    with monkeypatch.context() as patch:
        at_beat(patch, "training", 1, command("stop"))
        run = workshop.train("quota", *SAVING, retain=False)
    assert status(run)["state"] == "stopped"
    code = (
        "import resource, sys, train\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, resource.RLIM_INFINITY))\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    done = run_script([sys.executable, "-c", code, "--resume", str(run)])
    assert status(run)["state"] == "failed"
    assert_failed_with_step_1_whole(run, done, "File too large")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_recording_that_disappears_in_training(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    skip_bad: bool,
) -> None:  # fmt: skip
    """Named, exit code 1; under --skip_bad left out, counted and said."""
    name = f"disappearing-{skip_bad}"
    manifest = write_set(tmp_path / name, TEXTS[:2], SECONDS[:2])
    argv = workshop.argv(name, "--max_steps", "1", "--eval_every", "1", retain=False)
    argv[argv.index("--data") + 1] = f"set={manifest}"
    at_beat(monkeypatch, "training", 0, lambda run: (tmp_path / name / "0.wav").unlink())
    assert train.main([*argv, *(["--skip_bad"] if skip_bad else [])]) == (0 if skip_bad else 1)
    run = workshop.runs / name
    assert "line 1" in capsys.readouterr().err
    assert "line 1" in (run / "train.log").read_text()
    if skip_bad:
        assert runs.merge_steps(rows_of(run))[1]["data/bad"] == 1
    else:
        assert status(run)["state"] == "failed"


def test_the_defaults_of_a_run_are_filled_in(workshop: Workshop) -> None:
    """Steps from epochs: two passes over three batches; a tenth of them warm-up is none."""
    cfg = Config(
        model=str(workshop.model),
        data=(f"small={workshop.data}",),
        eval_data=(f"domain={workshop.domain}",),
        retain=(f"general={workshop.general}",),
        batch_size=2,
        data_dir=workshop.root / "cache",
        runs_dir=workshop.runs,
        run="defaults",
    )
    prepare = partial(setup.prepare, console=Console(stderr=True))
    assert prepare(cfg).cfg.max_steps == 6
    assert prepare(replace(cfg, accumulate=2)).cfg.max_steps == 4
    assert prepare(replace(cfg, epochs=1.0)).cfg.max_steps == 3
