"""The original's results are decoded once for its weights, sets and way to decode, and never taken for others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quick_model import checked_set, ending_whisper, one_thread, save_openai, write_set  # noqa: F401

import train
from whisper_min import runs
from whisper_min.config import Config
from whisper_min.data.checked import CheckedSet
from whisper_min.data.tokens import Tokens
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.evaluation import Scorer
from whisper_min.scoring.originals import KeptResults

WRITTEN = [Hypothesis([], "A red fox.", True), Hypothesis([], "Leaves", False)]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[KeptResults, CheckedSet]:
    """A set of two clips whose results are kept."""
    tokens = Tokens(ending_whisper().dims)
    manifest = write_set(tmp_path / "fox", ["A red fox.", "Leaves fall."], [1.0, 1.5])
    checked = checked_set(manifest, tokens, tmp_path / "cache", "eval_data")
    made = KeptResults(Config(data_dir=tmp_path / "cache"), tokens, "abc", "fp32")
    assert made.read(checked) is None
    made.write(checked, WRITTEN, 0.25, 1.5)
    return made, checked


def test_what_is_kept_comes_back(kept: tuple[KeptResults, CheckedSet]) -> None:
    its, checked = kept
    assert its.read(checked) == (WRITTEN, 0.25, 1.5)


def other_text(checked: CheckedSet) -> CheckedSet:
    """The same recordings, one reference corrected."""
    first, *rest = checked.speech.examples
    return replace(checked, speech=replace(checked.speech, examples=[replace(first, text="A fed rox."), *rest]))


def other_recording(checked: CheckedSet) -> CheckedSet:
    """The same texts, one recorded again."""
    first, *rest = checked.facts
    return replace(checked, facts=[replace(first, digest="other"), *rest])


@pytest.mark.parametrize(
    ("changes", "change_set"),
    [
        ({"fingerprint": "abd"}, None),
        ({"precision": "bf16"}, None),
        ({"cfg.normalize": True}, None),
        ({}, other_text),
        ({}, other_recording),
    ],
)
def test_nothing_else_finds_it(
    kept: tuple[KeptResults, CheckedSet],
    changes: dict[str, Any],
    change_set: Callable[[CheckedSet], CheckedSet] | None,
) -> None:
    """Neither other weights, nor another way to decode, nor other recordings or texts."""
    its, checked = kept
    if changes.pop("cfg.normalize", False):
        changes["cfg"] = replace(its.cfg, normalize=True)
    assert replace(its, **changes).read(change_set(checked) if change_set else checked) is None


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"hypotheses": 3}', '{"hypotheses": [], "loss": 1}'])
def test_a_damaged_file_is_not_believed(kept: tuple[KeptResults, CheckedSet], spoilt: str) -> None:
    its, checked = kept
    its.path(checked).write_text(spoilt)
    assert its.read(checked) is None


def test_a_shortened_file_is_not_believed(kept: tuple[KeptResults, CheckedSet]) -> None:
    """One hypothesis for two clips."""
    its, checked = kept
    its.write(checked, WRITTEN[:1], None, 1.0)
    assert its.read(checked) is None


def test_a_second_training_does_not_decode_the_original_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows of step 0 are the first one's, and it says where they come from."""
    model = save_openai(ending_whisper(), tmp_path / "small.pt")
    sets = {name: write_set(tmp_path / name, ["A red fox."], [1.0]) for name in ("learn", "domain", "general")}
    decoded: list[str] = []
    decode_set = Scorer.decode_set
    monkeypatch.setattr(Scorer, "decode_set", lambda *args: decoded.append(args[2].speech.name) or decode_set(*args))

    def rows(run: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        decoded.clear()
        argv = ["--model", model, "--data", sets["learn"], "--eval_data", f"domain={sets['domain']}"]
        argv += ["--retain", f"general={sets['general']}"]
        argv += ["--run", run, "--runs_dir", tmp_path / "runs", "--data_dir", tmp_path / "cache", "--device", "cpu"]
        argv += ["--precision", "fp32", "--batch_size", "1", "--max_steps", "1", "--eval_every", "1"]
        assert train.main(list(map(str, argv))) == 0
        samples = [row for row in runs.read_jsonl(tmp_path / "runs" / run / "samples.jsonl") if row["_step"] == 0]
        metrics = runs.merge_steps(runs.read_jsonl(tmp_path / "runs" / run / "metrics.jsonl"))[0]
        return samples, {key: value for key, value in metrics.items() if key.startswith("eval/")}

    first = rows("first")
    assert decoded == ["domain", "general"] * 2
    assert "are known" not in capsys.readouterr().err
    assert rows("second") == first
    assert decoded == ["domain", "general"]
    assert capsys.readouterr().err.count("the original's results are known") == 2
