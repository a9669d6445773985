"""Signals and the control file, as a person or a dashboard sends them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from whisper_min import runs
from whisper_min.runs import RunFolder
from whisper_min.training import steering as module
from whisper_min.training.steering import Steering, Stop


@pytest.fixture
def steering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steering:
    """A run's steering that looks at `control` each time it is asked."""
    monkeypatch.setattr(module, "CONTROL_POLL_SECONDS", 0.0)
    monkeypatch.setattr(module, "PAUSE_POLL_SECONDS", 0.01)
    return Steering(RunFolder.create(tmp_path))


def status(steering: Steering) -> dict[str, object]:
    """status.json as a reader sees it."""
    return json.loads((steering.run.path / "status.json").read_text())


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143), (signal.SIGUSR1, "SIGUSR1", 143)],
)
def test_a_signal_asks_for_a_stop(steering: Steering, number: signal.Signals, reason: str, code: int) -> None:
    """The step goes on; the reason and the exit code are kept."""
    os.kill(os.getpid(), number)
    time.sleep(0)  # handlers run between bytecodes
    assert (steering.stop_reason, steering.exit_code) == (reason, code)
    for raises in (steering.inside_evaluation, steering.between_steps):
        with pytest.raises(Stop) as stop:
            raises()
        assert (stop.value.reason, stop.value.exit_code) == (reason, code)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(steering: Steering, first: signal.Signals) -> None:
    """Whatever asked first."""
    os.kill(os.getpid(), first)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_second_sigterm_is_patient(steering: Steering) -> None:
    """Schedulers send it again; the run is saving already."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert steering.exit_code == 143


def test_commands_do_what_they_say(steering: Steering) -> None:
    """save, eval, pause, resume, stop: each once, consumed, and named in status.json."""
    steering.poll()
    assert not (steering.save_wanted or steering.evaluation_wanted or steering.paused)
    runs.send_command(steering.run.path, "save")
    steering.poll()
    assert steering.save_wanted
    assert not steering.evaluation_wanted
    assert status(steering)["last_command"] == "save"
    assert not (steering.run.path / "control").exists()
    runs.send_command(steering.run.path, "eval")
    runs.send_command(steering.run.path, "pause")
    steering.poll()
    assert steering.evaluation_wanted
    assert steering.paused
    runs.send_command(steering.run.path, "resume")
    steering.poll()
    assert not steering.paused
    assert steering.stop_reason is None
    runs.send_command(steering.run.path, "stop")
    steering.poll()
    assert (steering.stop_reason, steering.exit_code) == ("asked to stop", 0)


def test_an_unknown_command_is_said_and_stops_nothing(steering: Steering, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in `control`."""
    (steering.run.path / "control").write_text("stopp\nsave\n")
    steering.poll()
    assert steering.save_wanted
    assert steering.stop_reason is None
    assert "'stopp'" in capsys.readouterr().err


def test_control_is_looked_at_twice_a_second_at_most(steering: Steering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps can be a millisecond; the disk is not asked after each."""
    monkeypatch.setattr(module, "CONTROL_POLL_SECONDS", 0.2)
    steering.poll()
    runs.send_command(steering.run.path, "save")
    steering.poll()
    assert not steering.save_wanted
    time.sleep(0.25)
    steering.poll()
    assert steering.save_wanted


def test_an_evaluation_is_left_only_to_stop(steering: Steering) -> None:
    """save and pause wait for its end."""
    for command in ("save", "pause"):
        runs.send_command(steering.run.path, command)
        steering.inside_evaluation()
    runs.send_command(steering.run.path, "stop")
    with pytest.raises(Stop):
        steering.inside_evaluation()


@pytest.mark.parametrize("ends_with", ["resume", "stop"])
def test_a_pause_lasts_until_it_is_ended(steering: Steering, ends_with: str) -> None:
    """Seen in status.json meanwhile; the state from before comes back; a stop ends it too."""
    seen: list[object] = []

    def watch() -> None:
        for _ in range(500):
            if status(steering)["state"] == "paused":
                seen.append(status(steering)["state"])
                break
            time.sleep(0.01)
        runs.send_command(steering.run.path, ends_with)

    steering.run.beat(state="training")
    runs.send_command(steering.run.path, "pause")
    watcher = threading.Thread(target=watch)
    watcher.start()
    steering.wait_while_paused()
    watcher.join()
    assert seen == ["paused"]
    assert status(steering)["state"] == "training"
    assert (steering.stop_reason == "asked to stop") == (ends_with == "stop")
    assert status(steering)["last_command"] == ends_with


def test_a_signal_ends_a_pause(steering: Steering) -> None:
    """Ctrl-C while paused."""
    runs.send_command(steering.run.path, "pause")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    steering.wait_while_paused()
    assert steering.exit_code == 130


def test_without_a_pause_nothing_waits(steering: Steering) -> None:
    """The usual step."""
    started = time.monotonic()
    for _ in range(20):
        steering.wait_while_paused()
    assert time.monotonic() - started < 1


# ---- Time.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as seconds that a test moves; the wall clock is of no use meanwhile."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: float("nan"))
    return now


@pytest.mark.parametrize("save", [0, 20])
def test_a_run_stops_while_there_is_time_to_save(tmp_path: Path, clock: list[float], save: float) -> None:
    """Steps of a second and one save: what is left must hold twice the longest time between two looks."""
    steering = Steering(RunFolder.create(tmp_path), deadline=1060)
    clock[0] += save
    with pytest.raises(Stop) as stop:
        while True:
            steering.between_steps()
            clock[0] += 1
    assert (stop.value.reason, stop.value.exit_code) == ("--max_time is over", 0)
    longest = max(1, save)
    assert clock[0] - 1000 == pytest.approx(60 - 2 * longest, abs=1.01)
    assert clock[0] + longest <= 1060


def test_an_evaluation_is_left_in_time(tmp_path: Path, clock: list[float]) -> None:
    """Between its batches; and a wait for room on a full disk ends, too."""
    steering = Steering(RunFolder.create(tmp_path), deadline=1060)
    for _ in range(5):
        clock[0] += 10
        if clock[0] < 1040:
            steering.inside_evaluation()
    with pytest.raises(Stop, match="--max_time is over"):
        steering.inside_evaluation()
    assert steering.run.is_ending()


def test_without_a_deadline_time_has_no_end(tmp_path: Path, clock: list[float]) -> None:
    """A year between two looks."""
    steering = Steering(RunFolder.create(tmp_path))
    clock[0] += 3e7
    steering.between_steps()
