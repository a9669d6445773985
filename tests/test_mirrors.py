"""Mirrors hold what the run folder holds, by the real packages; one that fails or hangs stops nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from quick_model import ending_whisper, one_thread, save_openai, write_set  # noqa: F401

import train
from whisper_min import config, runs
from whisper_min.config import Config, InputError
from whisper_min.runs import RunFolder
from whisper_min.training import mirrors
from whisper_min.training.mirrors import Mirrors, Numbers, Rows

INSTALLED = [name for name in config.MIRRORS if importlib.util.find_spec(name) is not None]
# step -> key -> value
Metrics = dict[int, dict[str, float]]


def needs(name: str) -> None:
    """Skip where a mirror is not installed."""
    if name not in INSTALLED:
        pytest.skip(f"{name} is not here: pip install -e '.[{name}]' brings it")


def argv(root: Path, run: str, *options: str) -> list[str]:
    """A training of four steps on a random Whisper, evaluated at 0, 2 and 4; options given later win."""
    if not (root / "small.pt").exists():
        save_openai(ending_whisper(), root / "small.pt")
        write_set(root / "small", ["A red fox.", "It goes on.", "Leaves fall."], [1.0, 1.5, 2.0])
        write_set(root / "domain", ["A grey | fox.", "Leaves fell."], [1.2, 1.7])
        write_set(root / "silent", [""], [1.3])
    return [
        *("--model", str(root / "small.pt"), "--data", str(root / "small" / "manifest.jsonl")),
        *("--eval_data", f"domain={root / 'domain' / 'manifest.jsonl'}"),
        *("--retain", f"silent={root / 'silent' / 'manifest.jsonl'}", "--run", run, "--runs_dir", str(root / "runs")),
        *("--data_dir", str(root / "cache"), "--device", "cpu", "--precision", "fp32", "--batch_size", "2"),
        *("--max_steps", "4", "--eval_every", "2", *options),
    ]


@dataclass(frozen=True)
class Mirrored:
    """A run with every mirror that is installed: two steps, then resumed for two more, each in its own process."""

    root: Path
    run: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def mirrored(module_folder: Path, one_thread: None) -> Mirrored:  # noqa: F811
    """wandb writes offline, as its environment variable says; trackio into a folder of the test's."""
    root = module_folder
    places = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(root / "trackio"), "HOME": str(root)}
    told = subprocess.CompletedProcess("", 0, "", "")
    command = argv(root, "mine", "--max_steps", "2", "--report_to", ",".join(INSTALLED))
    for words in (command, ["--resume", str(root / "runs" / "mine"), "--max_steps", "4"]):
        told = subprocess.run(
            [sys.executable, str(REPOSITORY / "train.py"), *words],
            env={**os.environ, **places},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert "--report_to" not in told.stderr, told.stderr
    return Mirrored(root, root / "runs" / "mine", told.stdout, told.stderr)


def metrics_of(run: Path) -> Metrics:
    """metrics.jsonl by step, without heads and nulls."""
    merged = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl"))
    return {
        step: {key: its[key] for key in its if key[0] != "_" and key != "nonfinite" and its[key] is not None}
        for step, its in merged.items()
    }


@pytest.mark.slow
def test_tensorboard_holds_the_metrics_and_samples(mirrored: Mirrored) -> None:
    """Read back from the event files by TensorBoard itself; its numbers are fp32."""
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(mirrored.run), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    found: Metrics = {}
    for key in read.Tags()["scalars"]:
        for event in read.Scalars(key):
            found.setdefault(event.step, {})[key] = event.value
    expected = metrics_of(mirrored.run)
    assert sorted(found) == sorted(expected) == [0, 1, 2, 3, 4]
    for step in expected:
        assert found[step] == pytest.approx(expected[step], rel=1e-6), step
    tables = read.Tensors("samples/domain/text_summary")
    assert [event.step for event in tables] == [0, 2, 4]
    text = tables[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| id | reference | hypothesis | original | wer |"
    assert r"A grey \| fox." in text and len(text.splitlines()) == 2 + 2


def test_what_a_killed_attempt_wrote_is_not_shown_twice(tmp_path: Path) -> None:
    """Resumed at step 1, steps from 2 on are written again; TensorBoard forgets the first ones."""
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_at, steps in [(None, (0, 1, 2, 3)), (1, (2, 3))]:
        writer = mirrors.TensorBoard(tmp_path, resumed_at)
        for step in steps:
            writer.log(step, {"train/loss": 1.0})
        writer.finish()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [0, 1, 2, 3]


@pytest.mark.slow
def test_trackio_holds_the_metrics_and_samples(mirrored: Mirrored) -> None:
    """To the digit, as one run, from its database; what it says is no data."""
    needs("trackio")
    database = sqlite3.connect(mirrored.root / "trackio" / f"{mirrors.PROJECT}.db")
    found: Metrics = {}
    tables = {}
    assert database.execute("SELECT DISTINCT run_name FROM metrics").fetchall() == [("mine",)]
    assert len(database.execute("SELECT DISTINCT run_id FROM metrics").fetchall()) == 1
    for step, text in database.execute("SELECT step, metrics FROM metrics"):
        for key, value in json.loads(text).items():
            if key.startswith("samples/"):
                tables[step, key] = value["_value"]
            else:
                found.setdefault(step, {})[key] = value
    assert found == metrics_of(mirrored.run)
    assert {step for step, key in tables if key == "samples/domain"} == {0, 2, 4}
    assert [row["reference"] for row in tables[4, "samples/domain"]] == ["A grey | fox.", "Leaves fell."]
    assert "rackio" not in mirrored.stdout


@pytest.mark.slow
def test_wandb_holds_the_metrics_and_samples_offline(mirrored: Mirrored) -> None:
    """Read from what `wandb sync` would send: two attempts of one id."""
    needs("wandb")
    datastore = pytest.importorskip("wandb.sdk.internal.datastore", reason="this wandb keeps its files otherwise")
    from wandb.proto import wandb_internal_pb2

    found: Metrics = {}
    tables: dict[int, str] = {}
    files = sorted(mirrored.run.glob("wandb/offline-run-*/run-mine.wandb"))
    assert len(files) == 2
    for path in files:
        store = datastore.DataStore()
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                key = list(item.nested_key)
                if key == ["samples/domain", "path"]:
                    tables[record.history.step.num] = json.loads(item.value_json)
                elif key[0][0] != "_" and not key[0].startswith("samples/"):
                    found.setdefault(record.history.step.num, {})[key[0]] = json.loads(item.value_json)
    assert found == metrics_of(mirrored.run)
    assert sorted(tables) == [0, 2, 4]
    (table,) = mirrored.run.glob(f"wandb/offline-run-*/files/{tables[4]}")
    assert [row[1] for row in json.loads(table.read_text())["data"]] == ["A grey | fox.", "Leaves fell."]


class Broken:
    """A tracker that raises at what it is told to."""

    def __init__(self, at: str, folder: Path, resumed_at: int | None) -> None:
        self.at = at
        self.fail("start")

    def fail(self, where: str) -> None:
        """Raise if this is the place."""
        if where == self.at:
            raise ConnectionError(f"no network at {where}\nand a second line")

    def log(self, step: int, numbers: Numbers) -> None:
        """Metrics."""
        self.fail("log")

    def table(self, step: int, key: str, rows: Rows) -> None:
        """Samples."""
        self.fail("table")

    def finish(self) -> None:
        """The end."""
        self.fail("finish")


def test_mirrors_that_fail_are_said_once_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever they fail, each by itself; the run has all its rows and ends as always."""
    places = {"json": "start", "csv": "log", "wave": "table", "glob": "finish"}  # named like packages that are there
    monkeypatch.setattr(config, "MIRRORS", tuple(places))
    monkeypatch.setattr(mirrors, "TRACKERS", {name: partial(Broken, at) for name, at in places.items()})
    assert train.main(argv(tmp_path, "brave", "--report_to", *places, "--max_steps", "2")) == 0
    printed, log = capsys.readouterr().err, (tmp_path / "runs" / "brave" / "train.log").read_text()
    for name, at in places.items():
        said = f"--report_to {name}: failed and is off (no network at {at}); the run goes on"
        assert printed.count(said) == log.count(said) == 1
    assert sorted(metrics_of(tmp_path / "runs" / "brave")) == [0, 1, 2]
    assert json.loads((tmp_path / "runs" / "brave" / "status.json").read_text())["state"] == "finished"


def recorder(wait: threading.Event | None = None) -> tuple[list[Any], Callable[[Path, int | None], Any]]:
    """What a tracker was told, and the tracker; it waits before each row where asked to."""
    told: list[Any] = []

    class Recorder:
        def __init__(self, folder: Path, resumed_at: int | None) -> None:
            told.append(resumed_at)

        def log(self, step: int, numbers: Numbers) -> None:
            if wait is not None:
                wait.wait()
            told.append((step, dict(numbers)))

        def table(self, step: int, key: str, rows: Rows) -> None:
            told.append((step, key, len(rows)))

        def finish(self) -> None:
            told.append("finished")

    return told, Recorder


def test_what_is_not_finite_or_no_metric_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror gets numbers by their keys, in order; system.jsonl is not mirrored; a long set is cut, said once."""
    told, tracker = recorder()
    monkeypatch.setitem(mirrors.TRACKERS, "wandb", tracker)
    said: list[str] = []
    run = RunFolder(tmp_path)
    followed = Mirrors(["wandb"], run, said.append)
    run.log_metrics(7, {"train/loss": 0.5, "train/kl": float("nan"), "perf/mfu": None, "eval/a/wer": float("inf")})
    row = {"_step": 7, "set": "a", "id": "x", "reference": "r", "hypothesis": "h", "original": None, "wer": 1.0}
    run.append("samples.jsonl", (row for _ in range(mirrors.TABLE_ROWS + 1)))
    run.append("samples.jsonl", [row] * (mirrors.TABLE_ROWS + 1))
    run.log("system.jsonl", 7, {"cpu/use": 0.5})
    followed.finish()
    table = (7, "samples/a", mirrors.TABLE_ROWS)
    assert told == [None, (7, {"train/loss": 0.5}), table, table, "finished"]
    assert said == [
        f"a: mirrors show the first {mirrors.TABLE_ROWS} of {mirrors.TABLE_ROWS + 1} clips; samples.jsonl has all"
    ]


def test_a_mirror_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into its queue is dropped and counted; the end of the run waits a while, and says so."""
    monkeypatch.setattr(mirrors, "QUEUE_LENGTH", 3)
    monkeypatch.setattr(mirrors, "FINISH_SECONDS", 0.1)
    released = threading.Event()
    _, tracker = recorder(wait=released)
    monkeypatch.setitem(mirrors.TRACKERS, "trackio", tracker)
    said: list[str] = []
    run = RunFolder(tmp_path)
    followed = Mirrors(["trackio"], run, said.append)
    rows = 20
    for step in range(rows):
        run.log_metrics(step, {"train/loss": 0.5})
    followed.finish()
    released.set()
    assert len(metrics_of(tmp_path)) == rows
    assert "has not finished in 0 s and is left behind" in said[0]
    dropped = followed.mirrors[0].dropped
    assert rows - 4 <= dropped <= rows - 3  # three wait, and one may have been taken
    assert said[1:] == [f"--report_to trackio: too slow for the run; {dropped} rows are missing there"]


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the mirror goes on in its own run; a new run never goes on in another of its name."""
    told, tracker = recorder()
    monkeypatch.setitem(mirrors.TRACKERS, "wandb", tracker)
    run = RunFolder(tmp_path, attempt=2)
    run.beat(state="starting", step=40)
    Mirrors(["wandb"], run, print).finish()
    assert told == [40, "finished"]
    assert [mirrors.resume_mode(told[0]), mirrors.resume_mode(None)] == ["allow", "never"]


def test_names_are_read_and_checked_before_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas or spaces, each once; unknown ones and missing packages are faults together."""
    assert set(mirrors.TRACKERS) == set(config.MIRRORS)
    cfg = config.resolve(config.parse(["--report_to", "wandb,trackio", "tensorboard", "wandb"]))
    assert cfg.report_to == ("wandb", "trackio", "tensorboard")
    assert config.resolve(Config()).report_to == ()
    assert config.from_record(config.to_record(cfg), "config.json") == cfg
    with pytest.raises(InputError, match="'report_to' cannot be 'wandb'"):
        config.from_record({"report_to": "wandb"}, "config.json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert config.check(Config(report_to=("mlflow", "wandb"))) == [
        "--report_to mlflow: unknown; known are tensorboard, trackio, wandb",
        "--report_to wandb: is not installed; pip install 'whisper-min[wandb]'",
    ]
