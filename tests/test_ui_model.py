"""Runs as the app reads them: files that grow, are torn, cut, replaced and deleted while somebody looks."""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_run import config, evaluation_row, make_run, set_status, train_row

from whisper_min.runs import RunFolder, merge_steps, read_jsonl
from whisper_min.ui import once
from whisper_min.ui.model import Deadline, RunView, Workspace, set_name
from whisper_min.ui.table import Table
from whisper_min.ui.tail import LONGEST_LINE, Document, Tail, parse_records

DEAD_PID = 2**22 + 1  # above Linux's highest


def read_all(tail: Tail) -> list[dict[str, object]]:
    """Everything that is there."""
    found = []
    while True:
        before = tail.offset
        found += tail.read_records(64)
        if tail.offset == before:
            return found


def test_a_half_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert read_all(tail) == [{"a": 1}]
    assert read_all(tail) == []
    with open(path, "ab") as file:
        file.write(b'2}\n[3]\nnot json\n{"a": 4}\n')
    assert read_all(tail) == [{"a": 2}, {"a": 4}]
    assert tail.restarts == 0
    assert tail.behind == 0


def test_only_new_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 1000)
    tail = Tail(path)
    assert len(read_all(tail)) == 1000
    opened = []
    real = open
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a) or real(*a, **k))
    assert tail.read() == []
    assert opened == [], "an unchanged file is not opened"


@pytest.mark.parametrize("how", ["cut", "replaced", "deleted", "rewritten longer in place"])
def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    tail = Tail(path)
    read_all(tail)
    if how == "cut":
        path.write_bytes(b'{"b": 1}\n')
    elif how == "replaced":
        beside = tmp_path / "beside"
        beside.write_bytes(b'{"b": 1}\n{"b": 2}\n{"b": 3}\n')
        os.replace(beside, path)
    elif how == "deleted":
        path.unlink()
        assert tail.read() == []
        assert tail.restarts == 1
        path.write_bytes(b'{"b": 1}\n')
    else:
        path.write_bytes(b'{"b": 1}\n{"b": 2}\n{"b": 3}\n')
    found = read_all(tail)
    assert found[0] == {"b": 1}
    assert all("b" in row for row in found)
    assert tail.restarts == 1


def test_a_line_without_an_end_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\0" * (2 * LONGEST_LINE) + b'\n{"a": 1}\n')
    tail = Tail(path)
    found = []
    for _ in range(50):
        found += tail.read_records()
    assert found == [{"a": 1}]


def test_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"".join(b"line %d\n" % index for index in range(1000)))
    lines = Tail(path, last_bytes=100).read()
    assert 5 < len(lines) < 20
    assert lines[-1] == b"line 999"
    assert all(line.startswith(b"line ") for line in lines)


def test_lines_are_joined_to_be_parsed_but_told_apart() -> None:
    assert parse_records([b'{"a": 1}, {"a": 2}', b'{"a": 3}']) == [{"a": 3}]
    assert parse_records([b'{"a": 1', b'"b": 2}']) == []
    assert parse_records([b"[" * 100_000, b'{"a": 1}']) == [{"a": 1}]


def test_a_document_keeps_the_last_good_value(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    document = Document(path)
    assert not document.refresh()
    path.write_text('{"a": 1}')
    assert document.refresh()
    path.write_text('{"a": ')
    assert not document.refresh()
    path.write_text("[]")
    assert not document.refresh()
    assert document.value == {"a": 1}


def test_a_table_merges_steps_as_the_run_folder_says() -> None:
    generator = random.Random(0)
    rows = []
    for number in range(500):
        step = generator.randrange(60)
        keys = generator.choice([("a", "b"), ("b", "a"), ("a",), ("c", "a", "b")])
        rows.append({"_step": step, "_timestamp": float(number), **{key: generator.random() for key in keys}})
    table = Table()
    for start in range(0, 500, 37):
        table.extend(rows[start : start + 37])
    merged = merge_steps(rows)
    for key in "abc":
        expected = {step: row[key] for step, row in merged.items() if key in row}
        series = table[key]
        assert series.steps.tolist() == list(expected)
        assert np.allclose(series.values, list(expected.values()))


def test_what_is_no_number_is_a_gap(tmp_path: Path) -> None:
    table = Table()
    values = [1, None, "text", float("nan"), float("inf"), [1], {}, 10**400, 1e300, True, -2.5]
    for step, value in enumerate(values):
        table.extend([{"_step": step, "a": value}])
    table.extend([{"a": 1.0}, {"_step": "5", "a": 1.0}, {"_step": None, "a": 1.0}, {"_step": 2**80, "a": 1.0}])
    nan = math.nan
    assert np.array_equal(table["a"].values, [1, nan, nan, nan, nan, nan, nan, nan, nan, 1, -2.5], equal_nan=True)
    run = RunFolder.create(tmp_path)
    run.log_metrics(7, {"train/loss": nan, "train/lr": 1.0})
    table.extend(list(read_jsonl(tmp_path / "metrics.jsonl")))
    assert table.nonfinite == {"train/loss": [7]}
    assert "nonfinite" not in list(table)


def test_a_file_of_ever_new_keys_does_not_eat_the_memory() -> None:
    table = Table()
    table.extend([{"_step": step, f"key{step}": 1.0} for step in range(5000)])
    assert len(table) < 1000


def test_a_count_of_400_digits_is_none(tmp_path: Path) -> None:
    """Found by tests/bench/fuzz.py: it fits into no float."""
    run = make_run(tmp_path, "one", 60, state="training")
    many = int("9" * 400)
    for status in ({"step": many, "max_steps": 60}, {"step": 5, "max_steps": many, "heartbeat": many, "pid": many}):
        (run.path / "status.json").write_text(json.dumps(status))
        view = RunView(run.path, "one")
        view.refresh()
        assert many not in (view.step, view.max_steps) and (view.eta or 0) < math.inf
        once.table([view])


def test_a_run_says_what_it_is_doing(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 60, state="training")
    workspace = Workspace(tmp_path)
    workspace.read_all()
    run = workspace.runs["one"]
    assert (run.state, run.step, run.max_steps) == ("training", 60, 100)
    assert run.alive
    assert run.domain_sets == ["accents"]
    assert run.general_sets == ["general-dev"]
    assert run.domain_wer == pytest.approx((0.4, 0.28))
    assert run.general_wer == pytest.approx((0.05, 0.0524))
    assert len(run.metrics["train/loss"]) == 60
    assert len(run.samples) == 12
    assert [row["_step"] for row in run.samples["accents", "accents-1"]] == [0, 20, 40, 60]
    assert run.log[-1].startswith("step 60")
    assert len(run.sweep) == 4
    assert run.eta is not None
    assert run.eta >= 2 * 2 * 2, "two evaluations of two sets are to come"


@pytest.mark.parametrize(
    ("changes", "after", "state"),
    [
        ({"state": "training"}, 0, "training"),
        ({"state": "training"}, 300, "stalled"),
        ({"state": "starting"}, 300, "starting"),
        ({"state": "training", "pid": DEAD_PID}, 0, "crashed"),
        ({"state": "finished", "pid": DEAD_PID}, 9999, "finished"),
        ({"state": "training", "pid": DEAD_PID, "host": "elsewhere"}, 0, "training"),
        ({"state": "training", "pid": DEAD_PID, "host": "elsewhere"}, 300, "stalled"),
        ({"state": "training", "pid": DEAD_PID, "host": "elsewhere"}, 3000, "crashed"),
        ({"state": 5}, 0, "unknown"),
    ],
)
def test_a_silent_run_is_told_from_a_slow_one(
    tmp_path: Path, changes: dict[str, object], after: float, state: str
) -> None:
    run = make_run(tmp_path, "one", 10)
    set_status(run, **changes)
    view = RunView(run.path, "one", clock=lambda: time.time() + after)
    view.refresh()
    assert view.state == state


def test_a_clock_that_goes_wrong_elsewhere_does_not_matter(tmp_path: Path) -> None:
    """The host's clock is an hour behind; its heartbeats still come."""
    run = make_run(tmp_path, "one", 10, state="training")
    set_status(run, host="elsewhere", heartbeat=time.time() - 3600)
    view = RunView(run.path, "one")
    view.refresh()
    assert view.state == "crashed"
    set_status(run, heartbeat=time.time() - 3599)
    view.refresh()
    assert view.state == "training"


def test_a_slow_run_has_more_patience(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 0, state="training")
    for step in range(1, 5):
        run._started -= 100  # each step takes a hundred seconds
        run.log_metrics(step, train_row(step))
    workspace = Workspace(tmp_path, clock=lambda: time.time() + 500)
    workspace.read_all()
    assert workspace.runs["one"].seconds_per_step == pytest.approx(100, rel=0.1)
    assert workspace.runs["one"].state == "training"


def test_runs_come_and_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "runs")
    workspace.LIST_SECONDS = 0.0
    workspace.tick()
    assert workspace.runs == {}
    make_run(tmp_path / "runs", "a", 5)
    make_run(tmp_path / "runs", "study/b", 5)
    (tmp_path / "runs" / "a" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "checkpoints" / "5" / "config.json").write_text("{}")
    (tmp_path / "runs" / "notes").mkdir()
    workspace.tick(1.0)
    assert list(workspace.runs) == ["a", "study/b"]
    first = workspace.runs["a"]
    make_run(tmp_path / "runs", "0-new", 5)
    workspace.tick(1.0)
    assert workspace.runs["a"] is first
    assert [workspace.runs[name].number for name in ("a", "study/b", "0-new")] == [0, 1, 2], "colours stay"
    os.rename(tmp_path / "runs" / "a", tmp_path / ".a")
    workspace.tick(1.0)
    assert sorted(workspace.runs) == ["0-new", "study/b"]


def test_one_run_is_a_workspace_too(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 5)
    workspace = Workspace(tmp_path / "one")
    workspace.tick()
    assert list(workspace.runs) == ["one"]


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    os.symlink(tmp_path, tmp_path / "loop")
    make_run(tmp_path, "one", 5)
    workspace = Workspace(tmp_path)
    workspace.tick()
    assert "one" in workspace.runs


def test_unwatched_runs_keep_no_samples(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 40)
    workspace = Workspace(tmp_path)
    workspace.read_all(["one"])
    run = workspace.runs["one"]
    assert run.samples
    assert run.log
    assert run.system.rows
    workspace.ENDED_SECONDS = 0.0
    workspace._next_look.clear()
    workspace.tick(1.0, [])
    assert not run.samples
    assert not run.log
    assert len(run.metrics["train/loss"]) == 40


def test_a_long_file_is_known_before_it_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 0, state="training")
    run.append("metrics.jsonl", ({"_step": step, "_runtime": step / 4, **train_row(step)} for step in range(1, 5000)))
    run.log_metrics(5000, evaluation_row(5000, 0.2, 0.06))
    run.append(
        "metrics.jsonl", ({"_step": step, "_runtime": step / 4, **train_row(step)} for step in range(5001, 6001))
    )
    view = RunView(run.path, "one")
    view.refresh()
    view.read(False, Deadline(0.0))
    assert view.loading
    assert view.domain_wer == pytest.approx((0.4, 0.2))
    assert view.general_wer == pytest.approx((0.05, 0.06))
    assert view.seconds_per_step == pytest.approx(0.25)
    while not view.read(False, Deadline(1.0)):
        pass
    assert not view.loading
    assert view.domain_wer == pytest.approx((0.4, 0.2))
    assert len(view.metrics["train/loss"]) == 5999


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "system.jsonl", "sweep.jsonl", "train.log"])
@pytest.mark.parametrize(
    "content", [b"\0\xff" * 5000, b"[1]\n5\nnull\n{}\n", b'{"_step": 1e999, "id": 5}\n', b"{" * 9999]
)
def test_foreign_files_do_no_harm(tmp_path: Path, name: str, content: bytes) -> None:
    run = make_run(tmp_path, "one", 20)
    (run.path / name).write_bytes(content)
    (run.path / "status.json").write_bytes(content)
    (run.path / "config.json").write_text(json.dumps({"retain": 5, "eval_data": [None, {}], "environment": []}))
    workspace = Workspace(tmp_path)
    workspace.read_all()
    view = workspace.runs["one"]
    _ = (view.state, view.eta, view.domain_wer, view.general_wer, view.step, view.max_steps, view.heartbeat_age)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("domain=my/dev.jsonl", "domain"),
        ("my/dev.jsonl", "dev"),
        ("a/b/manifest.jsonl", "b"),
        ("librispeech:dev-clean", "dev-clean"),
        ("demo", "demo"),
        ("folder/x=y.jsonl", "x-y"),
    ],
)
def test_names_of_sets(word: str, name: str) -> None:
    assert set_name(word) == name


def test_a_writer_that_misbehaves(tmp_path: Path) -> None:
    """Half lines, NaN, repeated steps, truncation, runs added and deleted, while the app's model reads on."""
    over = threading.Event()
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        make_run(tmp_path, folder.name, 0, state="training")

    def write() -> None:
        generator = random.Random(1)
        step = 0
        for turn in range(150):
            step = max(0, step - 30) if turn % 40 == 39 else step + 1  # resumed: steps come again
            row = json.dumps({"_step": step, "_runtime": float(turn), **train_row(step, float(turn))})
            if turn % 7 == 0:
                row = json.dumps({"_step": step, "train/loss": None, "nonfinite": ["train/loss"]})
            with open(folders[0] / "metrics.jsonl", "ab", buffering=0) as file:
                cut = generator.randrange(len(row))
                file.write(row[:cut].encode())
                time.sleep(0.001)
                file.write(row[cut:].encode() + b"\n" + (b"garbage\n" if turn % 11 == 0 else b""))
            if turn % 50 == 25:
                (folders[1] / "metrics.jsonl").write_bytes(b"")
            RunFolder(folders[1]).log_metrics(turn, train_row(turn))
            if turn % 30 == 0:
                make_run(tmp_path, f"new-{turn}", 1)
            if turn % 30 == 15:
                os.rename(tmp_path / f"new-{turn - 15}", tmp_path / f".gone-{turn}")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    workspace = Workspace(tmp_path)
    workspace.LIST_SECONDS = 0.01
    while not over.is_set():
        workspace.tick(0.005, ["a"])
        time.sleep(0.002)
    writer.join()
    workspace._next_list = 0.0
    workspace.read_all()
    assert sorted(workspace.runs) == ["a", "b"]
    for name in ("a", "b"):
        merged = merge_steps(read_jsonl(tmp_path / name / "metrics.jsonl"))
        rows = {step: row["train/loss"] for step, row in merged.items() if "train/loss" in row}
        series = workspace.runs[name].metrics["train/loss"]
        assert series.steps.tolist() == list(rows)
        expected = [math.nan if value is None else value for value in rows.values()]
        assert np.allclose(series.values, expected, equal_nan=True)


def test_config_is_what_train_writes() -> None:
    """The made-up configuration uses options that exist."""
    from dataclasses import fields

    from whisper_min.config import Config

    assert config("x").keys() - {"environment"} <= {field.name for field in fields(Config)}


def test_a_sample_without_what_an_earlier_one_left_out_is_read(tmp_path: Path) -> None:
    """A null where the row before has no such key."""
    run = make_run(tmp_path, "run")
    run.append("samples.jsonl", [{"_step": 1, "id": "a", "set": "s"}, {"_step": 2, "id": "a", "set": "s", "x": None}])
    view = RunView(run.path, "run")
    view.refresh()
    assert view.read(True, Deadline(60))
    assert [row["_step"] for row in view.samples["s", "a"]] == [1, 2]
