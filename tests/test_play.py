"""Playing: a player of ours that only sleeps, so that nothing is heard and everything is seen."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import soundfile
from conftest import babble

from whisper_min.ui import play
from whisper_min.ui.play import Player, PlayError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the player is a shell script")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a player `aplay` alone on PATH; it writes down what it was given and waits."""
    script = tmp_path / "aplay"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/given\nexec /bin/sleep 30\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def given(bench: Path) -> list[str]:
    """What the player was called with, a line a call."""
    for _ in range(100):
        if (bench / "given").exists():
            return (bench / "given").read_text().splitlines()
        time.sleep(0.05)
    return []


def test_a_clip_is_played_and_stopped(bench: Path) -> None:
    player = Player()
    assert player.start(babble(1)) == "aplay"
    assert player.playing
    [call] = given(bench)
    arguments, _, path = call.rpartition(" ")
    assert arguments == "-q"
    assert soundfile.info(path).duration == 1.0
    player.stop()
    assert not player.playing
    assert not list(bench.glob("*.wav"))
    player.stop()  # once more does no harm


def test_a_new_clip_ends_the_one_before(bench: Path) -> None:
    player = Player()
    player.start(babble(1))
    first = player._process
    player.start(babble(2))
    assert first is not None and first.poll() is not None
    assert player.playing
    assert len(list(bench.glob("*.wav"))) == 1
    player.stop()


def test_no_player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlayError, match=r"No player is installed; one of ffplay, .* would do\."):
        Player().start(babble(1))


def test_a_player_that_does_not_start(bench: Path) -> None:
    (bench / "aplay").write_bytes(b"\x00 no program")
    player = Player()
    with pytest.raises(PlayError, match="aplay does not start"):
        player.start(babble(1))
    assert not list(bench.glob("*.wav"))


def test_the_first_player_is_taken(bench: Path) -> None:
    (bench / "ffplay").write_bytes((bench / "aplay").read_bytes())
    (bench / "ffplay").chmod(0o755)
    command = play.find_player()
    assert command is not None
    assert command[0] == str(bench / "ffplay")
    assert "-nodisp" in command


def test_over_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert not play.over_ssh()
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    assert play.over_ssh()
