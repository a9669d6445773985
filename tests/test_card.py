"""The record and the card beside a checkpoint: machine-readable, whatever a set or a model is called."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from whisper_min import runs
from whisper_min.config import Config, from_record
from whisper_min.model.weights import Origin
from whisper_min.training import card

HOSTILE = ['"quoted"', "a: b", "--- \n---\nlicense: stolen", "[x](y)", "{}", "# no", "naïve-ü", "'", "\\", "!!python/x"]


def refuse(constant: str) -> None:
    """JSON has no NaN and no Infinity."""
    raise ValueError(constant)


def front_matter(text: str) -> dict[str, Any]:
    """The keys between the first two lines of dashes, each value read as strict JSON."""
    head, _, rest = text.removeprefix("---\n").partition("\n---\n")
    assert rest
    lines = [line.partition(": ") for line in head.split("\n")]
    return {key: json.loads(value, parse_constant=refuse) for key, _, value in lines}


def made(results: dict[str, dict[str, Any]], **options: Any) -> str:
    """A card."""
    return card.model_card(Config(run="my-run", **options), 120, results, 100, "whisper-english-x")


def test_front_matter_holds_base_language_and_rates() -> None:
    """What hubs read: per cent with two digits, one entry a set, the normaliser beside it."""
    results = {"throat": {"wer": 0.12345, "original_wer": 0.5}, "clean": {"wer": 0.0, "original_wer": 0.01}}
    front = front_matter(made(results, model="tiny.en", language="en"))
    assert front["base_model"] == "tiny.en"
    assert front["language"] == "en"
    (entry,) = front["model-index"]
    assert entry["name"] == "my-run"
    rates = {its["dataset"]["name"]: its["metrics"][0]["value"] for its in entry["results"]}
    assert rates == {"throat": 12.35, "clean": 0.0}
    assert all("whisper-english-x" in its["metrics"][0]["name"] for its in entry["results"])
    assert all(its["task"]["type"] == "automatic-speech-recognition" for its in entry["results"])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name: str) -> None:
    """Quotes, colons, dashes and line breaks in a set's or model's name end up inside a string."""
    front = front_matter(made({name: {"wer": 0.5, "original_wer": 0.5}}, model=name))
    assert list(front) == ["base_model", "language", "tags", "model-index"]
    assert front["base_model"] == name
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == name


@pytest.mark.parametrize("name", HOSTILE)
def test_the_front_matter_is_yaml(name: str) -> None:
    """The same values for a YAML reader, which is what hubs use."""
    yaml = pytest.importorskip("yaml")
    text = made({name: {"wer": 0.25, "original_wer": 0.5}}, model=name)
    head = text.removeprefix("---\n").partition("\n---\n")[0]
    assert yaml.safe_load(head) == front_matter(text)


def test_sets_without_a_rate_are_left_out() -> None:
    """Drift is no WER; a set without words has none; before the first evaluation there is nothing."""
    results = {"unlabelled": {"drift": 0.1}, "no words": {"wer": float("nan"), "original_wer": float("nan")}}
    text = made(results)
    assert front_matter(text)["model-index"][0]["results"] == []
    assert "unlabelled" not in text
    assert "nan" not in text.lower()
    assert front_matter(made({}))["model-index"][0]["results"] == []


def test_the_body_shows_original_and_model_and_the_steps() -> None:
    """For people: the table, the step of the weights and the step of the figures."""
    body = made({"throat": {"wer": 0.125, "original_wer": 0.5}}).rpartition("\n---\n")[2]
    assert "| throat | 50.0 % | 12.5 % |" in body
    assert "120 steps" in body
    assert "step 100" in body
    assert "whisper_min.export" in body
    assert "_ALIGNMENT_HEADS['tiny.en']" in body


def test_a_points_results_are_its_own(tmp_path: Path) -> None:
    """A checkpoint's are of its newest evaluation; a point's of a sweep at just this point, or there are none."""
    run = runs.RunFolder(tmp_path)
    for step, rate in [(0, 0.5), (2, 0.3), (4, 0.2), (6, 0.9)]:
        run.log_metrics(step, {"eval/domain/wer": rate, "eval/domain/raw_wer": 1.0, "eval/silent/drift": 0.1})
    point = {"checkpoint": "checkpoints/5", "alpha": 1.0, "lines": None}
    assert card.point_results(tmp_path, point) == ({"domain": {"wer": 0.2, "original_wer": 0.5}}, 4)
    half = {**point, "alpha": 0.5}
    assert card.point_results(tmp_path, half) == ({}, 5)
    rows = [
        {**point, "alpha": 0.0, "set": "test", "wer": 0.6},
        {**half, "set": "domain", "wer": 0.25},
        {**half, "set": "test", "wer": 0.35},
        {**half, "set": "silent", "drift": 0.2},
        {**half, "lines": 0.2, "set": "domain", "wer": 0.7},
        {**half, "checkpoint": "checkpoints/4", "set": "domain", "wer": 0.8},
        {"chosen": True, **half},
    ]
    run.append("sweep.jsonl", rows)
    expected = {"domain": {"wer": 0.25, "original_wer": 0.5}, "test": {"wer": 0.35, "original_wer": 0.6}}
    assert card.point_results(tmp_path, half) == (expected, 5)


def test_the_record_is_json_and_gives_the_options_back(tmp_path: Path) -> None:
    """config.json: every option survives the way to disk and back; versions and fingerprint stand beside."""
    cfg = Config(data=("a=x.jsonl", "y"), eval_data=("z",), lr=1e-5, run="r", runs_dir=tmp_path, max_steps=7)
    record = card.run_record(cfg, Origin("tiny.en", "found here", "f" * 64, None), torch.device("cpu"), "bf16")
    run = runs.RunFolder.create(tmp_path)
    run.write_config(record)
    read = json.loads((tmp_path / "config.json").read_text(), parse_constant=refuse)
    assert read == json.loads(json.dumps(record))
    assert from_record(read, "config.json") == cfg
    assert {field.name for field in dataclasses.fields(Config)} <= read.keys()
    assert read["weights_fingerprint"] == "f" * 64
    assert read["weights_found"] == "found here"
    environment = read["environment"]
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert environment["versions"]["openai-whisper"] == importlib.metadata.version("openai-whisper")
    assert (environment["device"], environment["precision"]) == ("cpu", "bf16")
    assert (environment["deterministic"], environment["switches"]) == ("bit for bit", {})
    compiled = card.run_record(
        dataclasses.replace(cfg, compile=True), Origin("x", "x", "0", None), torch.device("cpu"), "bf16"
    )
    assert compiled["environment"]["deterministic"] == "up to what is compiled for the first batches' sizes"


def test_the_commit_is_this_checkouts() -> None:
    """With a `+` where files differ from it."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    record = card.run_record(Config(), Origin("x", "x", "0", None), torch.device("cpu"), "fp32")
    commit = record["environment"]["git_commit"]
    if done.returncode != 0:
        assert commit is None
    else:
        assert commit.removesuffix("+") == done.stdout.strip()
