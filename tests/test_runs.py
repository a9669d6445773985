"""The run folder: what a reader sees of files that are being written, cut, spoilt or torn."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_min import runs
from whisper_min.runs import RunFolder, UnwrittenRun

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder whose files each hypothesis example writes anew."""
    return RunFolder(tmp_path_factory.mktemp("run"))


def read(run: RunFolder, name: str) -> list[dict[str, Any]]:
    return list(runs.read_jsonl(run.path / name))


@settings(deadline=None)
@given(RECORDS, RECORDS, st.data())
def test_a_cut_file_loses_its_half_line_alone(
    scratch: RunFolder, before: list[dict[str, Any]], after: list[dict[str, Any]], data: st.DataObject
) -> None:
    path = scratch.path / "rows.jsonl"
    path.unlink(missing_ok=True)
    scratch.append("rows.jsonl", before)
    assert read(scratch, "rows.jsonl") == before
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert read(scratch, "rows.jsonl") == before[:kept]

    # what is appended after the torn line is whole; a line cut just before its newline is a record again
    scratch.append("rows.jsonl", after)
    torn_at_newline = whole[cut : cut + 1] == b"\n"
    if after:
        assert read(scratch, "rows.jsonl") == before[: kept + torn_at_newline] + after


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.just(b'{"a": 1}'), st.just(b"[1]"), st.just(b"5"))))
def test_foreign_lines_are_passed_over(scratch: RunFolder, lines: list[bytes]) -> None:
    path = scratch.path / "foreign.jsonl"
    path.write_bytes(b"\n".join([*lines, b'{"whole": true}', b'{"half": tr']))
    assert read(scratch, "foreign.jsonl")[-1] == {"whole": True}
    assert read(scratch, "foreign.jsonl").count({"a": 1}) == lines.count(b'{"a": 1}')


def test_a_line_of_brackets_does_not_end_the_reader(scratch: RunFolder) -> None:
    (scratch.path / "deep.jsonl").write_bytes(b'{"a":' * 100_000 + b'\n{"whole": true}\n')
    assert read(scratch, "deep.jsonl") == [{"whole": True}]


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert list(runs.read_jsonl(tmp_path / "metrics.jsonl")) == []
    assert list(runs.read_jsonl(tmp_path)) == []


def test_a_number_that_is_not_finite_is_null_and_listed() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = {"loss": math.nan, "norm": math.inf, "low": -math.inf, "lr": 1e-5, "step": 3, "text": "nan"}
    line = runs.to_json_line(record)
    assert line.endswith("}\n") and line.count("\n") == 1
    assert json.loads(line, parse_constant=refuse) == {
        **{"loss": None, "norm": None, "low": None, "lr": 1e-5, "step": 3, "text": "nan"},
        "nonfinite": ["loss", "norm", "low"],
    }
    assert "nonfinite" not in json.loads(runs.to_json_line({"loss": 1.0}))


def test_text_that_utf_8_cannot_write_is_kept(scratch: RunFolder) -> None:
    # a file name in Latin-1 and half an emoji from a manifest both reach samples.jsonl
    record = {"audio_filepath": os.fsdecode(b"caf\xe9.wav"), "reference": "\ud83d", "hypothesis": "ça va 👍"}
    scratch.append("odd.jsonl", [record])
    assert read(scratch, "odd.jsonl") == [record]
    runs.write_atomic(scratch.path / "odd.txt", record["audio_filepath"])
    assert "caf" in (scratch.path / "odd.txt").read_text(encoding="utf-8")


def test_rows_of_a_step_are_merged_and_the_last_value_counts() -> None:
    rows = [
        {"_step": 2, "train/loss": 3.0, "_attempt": 1},
        {"_step": 0, "eval/x/wer": 0.5},
        {"_step": 2, "eval/x/wer": 0.4},
        {"_step": "2", "train/loss": 9.0},
        {"train/loss": 8.0},
        {"_step": 2, "train/loss": 2.5, "_attempt": 2},
    ]
    merged = runs.merge_steps(rows)
    assert list(merged) == [0, 2]
    assert merged[2] == {"_step": 2, "train/loss": 2.5, "_attempt": 2, "eval/x/wer": 0.4}
    assert rows[0]["train/loss"] == 3.0, "the rows are left as they were"


def test_attempts_count_on_and_runtime_adds_up(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "runs" / "new")
    first.log_metrics(1, {"train/loss": 2.0})
    first.release()
    second = RunFolder.create(first.path, runtime_before=100.0)
    second.log_metrics(2, {"train/loss": 1.0})
    rows = read(second, "metrics.jsonl")
    assert [(row["_step"], row["_attempt"], row["train/loss"]) for row in rows] == [(1, 1, 2.0), (2, 2, 1.0)]
    assert 0 <= rows[0]["_runtime"] < 100 <= rows[1]["_runtime"]
    assert abs(rows[1]["_timestamp"] - time.time()) < 600
    second.release()
    assert RunFolder.create(first.path).attempt == 3


def test_config_is_written_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    run.write_config({"model": "tiny.en", "data": ["ü.jsonl"]})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {
        "model": "tiny.en",
        "data": ["ü.jsonl"],
    }
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", runs.LOCK_FILE}


def test_a_write_that_fails_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with pytest.raises(OSError):
        runs.write_atomic(tmp_path / "status.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_status_is_whole_at_any_moment(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    run.beat(state="training", step=0, max_steps=200)
    seen: list[dict[str, Any]] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            seen.append(json.loads((tmp_path / "status.json").read_text(encoding="utf-8")))

    reader = threading.Thread(target=poll)
    reader.start()
    for step in range(1, 201):
        run.beat(force=True, step=step, exit_reason="x" * (step * 37 % 5000))
    done.set()
    reader.join(timeout=60)
    assert not reader.is_alive() and len(seen) > 1
    steps = [status["step"] for status in seen]
    assert steps == sorted(steps)
    assert all(len(status["exit_reason"] or "") == status["step"] * 37 % 5000 for status in seen)
    keys = {"state", "step", "max_steps", "pid", "host", "heartbeat", "exit_reason", "last_command"}
    assert set(seen[-1]) >= keys and seen[-1]["pid"] == os.getpid()


def test_a_beat_writes_at_once_what_changed_and_steps_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path)

    def on_disk() -> tuple[str, int]:
        status = json.loads((tmp_path / "status.json").read_text())
        return status["state"], status["step"]

    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 1e9)
    run.beat(state="training", step=1)
    assert on_disk() == ("training", 1)
    run.beat(state="training", step=2)
    assert on_disk() == ("training", 1), "within a heartbeat a step alone is not written"
    run.beat(state="evaluating", step=3)
    assert on_disk() == ("evaluating", 3)
    run.beat(state="evaluating", step=4, force=True)
    assert on_disk() == ("evaluating", 4)
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.0)
    run.beat(step=5)
    assert on_disk() == ("evaluating", 5)


def test_commands_are_consumed_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path)
    assert run.read_commands() == []
    for command in runs.COMMANDS:
        runs.send_command(tmp_path, command)
    assert run.read_commands() == list(runs.COMMANDS)
    assert run.read_commands() == [] and [path.name for path in tmp_path.iterdir()] == [runs.LOCK_FILE]
    assert capsys.readouterr().err == ""


def test_unknown_commands_are_said_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path)
    (tmp_path / "control").write_bytes(b"save\nexplode\n\xff\xfe\n\n stop \r\n" + b"x" * 500)
    assert run.read_commands() == ["save", "stop"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all("known are stop, save, eval, pause, resume" in line for line in told)
    assert any("'explode'" in line for line in told) and max(map(len, told)) < 200
    with pytest.raises(ValueError, match="'explode'; known are stop, save"):
        runs.send_command(tmp_path, "explode")
    assert not (tmp_path / "control").exists()


@pytest.mark.parametrize(("name", "find"), [("last", runs.last_checkpoint), ("best", runs.best_checkpoint)])
def test_a_checkpoint_is_named_by_a_link_or_a_text_file(tmp_path: Path, name: str, find: Any) -> None:
    folder = tmp_path / "checkpoints"
    assert find(tmp_path) is None
    (folder / "20").mkdir(parents=True)
    assert find(tmp_path) is None
    (folder / name).write_text("20\n")
    assert find(tmp_path) == folder / "20"
    (folder / name).unlink()
    (folder / name).symlink_to("20")
    assert find(tmp_path) == (folder / "20").resolve()


@pytest.mark.parametrize("link", [True, False])
def test_a_checkpoint_set_aside_is_found_until_another_takes_its_place(tmp_path: Path, link: bool) -> None:
    folder = tmp_path / "checkpoints"
    (folder / ".20.old").mkdir(parents=True)
    pointer = folder / "last"
    pointer.symlink_to("20") if link else pointer.write_text("20\n")
    assert runs.last_checkpoint(tmp_path) == folder / ".20.old" == runs.set_aside(folder / "20")
    (folder / "20").mkdir()
    assert runs.last_checkpoint(tmp_path) == folder / "20"


@pytest.mark.parametrize("pointer", ["40\n", "", "\n", ".", "..", "/", "../..", "20/../.."])
def test_a_pointer_to_nothing_names_no_checkpoint(tmp_path: Path, pointer: str) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "20").mkdir(parents=True)
    (folder / "last").write_text(pointer)
    assert runs.last_checkpoint(tmp_path) is None
    (folder / "last").unlink()
    (folder / "last").symlink_to("40")
    assert runs.last_checkpoint(tmp_path) is None


def test_an_unwritten_run_leaves_all_to_the_main_rank(tmp_path: Path) -> None:
    """Nothing is written, no command taken; what was said of its status is remembered."""
    runs.send_command(tmp_path, "stop")
    run = UnwrittenRun(tmp_path)
    run.write_config({"model": "tiny.en"})
    run.log_metrics(1, {"train/loss": 1.0})
    run.beat(state="training", step=1)
    assert run.read_commands() == []
    assert [path.name for path in tmp_path.iterdir()] == ["control"]
    assert (run.status["state"], run.status["step"]) == ("training", 1)


# ---- One process writes.


def test_a_second_writer_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """In this process or another one, until the first releases it; a reader is not held up."""
    first = RunFolder.create(tmp_path)
    first.log_metrics(1, {"train/loss": 2.0})
    with pytest.raises(BlockingIOError, match=rf"process {os.getpid()} on \S+ writes it since 20\d\d-.*echo stop >"):
        RunFolder.create(tmp_path)
    assert [row["_step"] for row in read(first, "metrics.jsonl")] == [1]
    told = runs.holder(tmp_path)
    assert told and str(os.getpid()) in told
    first.release()
    assert runs.holder(tmp_path) is None
    RunFolder.create(tmp_path).release()


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    """The lock dies with its process; what it had written of itself stays, and counts no more."""
    code = (
        "import pathlib, sys, time\nfrom whisper_min.runs import RunFolder\n"
        "run = RunFolder.create(pathlib.Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"process {process.pid} "):
            RunFolder.create(tmp_path)
        process.send_signal(signal.SIGKILL)
    RunFolder.create(tmp_path).release()


def test_without_locks_a_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network file system that refuses them."""

    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(runs.fcntl, "flock", refuse)
    assert RunFolder.create(tmp_path).attempt == 1
    assert "cannot be locked (No locks available); let no second process write it" in capsys.readouterr().err
    assert runs.holder(tmp_path) is None


def test_a_clock_that_is_set_back_changes_no_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back between two rows: runtime goes on, rows keep their order, the heartbeat goes on."""
    run = RunFolder.create(tmp_path)
    run.log_metrics(1, {})
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.0)
    run.log_metrics(2, {})
    run.beat(step=2)
    first, second = read(run, "metrics.jsonl")
    assert second["_timestamp"] < first["_timestamp"]
    assert 0 <= second["_runtime"] - first["_runtime"] < 600
    assert list(runs.merge_steps([first, second])) == [1, 2]
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 2


# ---- The disk.


def full_until(monkeypatch: pytest.MonkeyPatch, attempts: int) -> list[float]:
    """A disk that refuses so many times to take rows; when it was asked."""
    asked: list[float] = []
    append = runs.append_jsonl

    def refuse(path: Path, records: Any) -> None:
        asked.append(time.monotonic())
        if len(asked) <= attempts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, records)

    monkeypatch.setattr(runs, "append_jsonl", refuse)
    monkeypatch.setattr(runs, "ROOM_POLL_SECONDS", 0.05)
    return asked


def test_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once, shown as a pause meanwhile; then the row is there, once, and the state is what it was."""
    run = RunFolder.create(tmp_path)
    run.beat(state="training")
    asked = full_until(monkeypatch, 3)
    states: list[str] = []
    beat = RunFolder.beat
    monkeypatch.setattr(
        RunFolder, "beat", lambda self, **changes: (states.append(changes["state"]), beat(self, **changes))[1]
    )
    run.log_metrics(1, {"train/loss": 2.0})
    assert [row["_step"] for row in read(run, "metrics.jsonl")] == [1]
    assert len(asked) == 4 and asked[3] - asked[0] >= 0.15
    assert states == ["paused", "paused", "paused", "training"]
    assert capsys.readouterr().err.count("waiting for room, at most 60 minutes") == 1


@pytest.mark.parametrize("reason", ["time", "asked to end"])
def test_a_full_disk_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    run = RunFolder.create(tmp_path, room_minutes=0.1 / 60 if reason == "time" else 60)
    run.is_ending = lambda: reason == "asked to end"
    asked = full_until(monkeypatch, 1000)
    with pytest.raises(
        OSError, match=f"No space left on device; there is no earlier checkpoint. Make room and run .*{tmp_path}"
    ):
        run.log_metrics(1, {})
    assert len(asked) == 1 if reason == "asked to end" else 2 <= len(asked) <= 4


def test_rows_that_do_not_fit_leave_nothing_half(tmp_path: Path) -> None:
    """The kernel refuses in the middle of them; what stood there before is as it was, and the next rows follow it."""
    resource = pytest.importorskip("resource")
    run = RunFolder.create(tmp_path)
    run.append("samples.jsonl", [{"a": 1}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"samples.jsonl could not be written: File too large"):
            run.append("samples.jsonl", [{"text": "x" * 1000}] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "samples.jsonl").read_bytes() == b'{"a": 1}\n'
    run.append("samples.jsonl", [{"a": 2}])
    assert read(run, "samples.jsonl") == [{"a": 1}, {"a": 2}]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    """Unmounted or removed in the middle of a run: a heartbeat passes over it, the next row tells."""
    run = RunFolder.create(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    run.beat(state="training")
    with pytest.raises(
        OSError, match=rf"{run.path} is not there any more: bring it back and run python train.py --resume"
    ):
        run.log_metrics(1, {})
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    run.log_metrics(1, {})
    assert [row["_step"] for row in read(run, "metrics.jsonl")] == [1]
