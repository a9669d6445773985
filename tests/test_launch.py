"""Launches that start again: the same words mean the run that the launch has begun, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_min.config import Config, to_record
from whisper_min.training import launch


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one of them begun by the launch `job-7`, which this process belongs to."""
    for name, begun_by, lr in [("mine", "job-7", 0.5), ("other", "job-6", 0.25)]:
        (tmp_path / name).mkdir()
        record = to_record(Config(run=name, lr=lr)) | {"environment": {"launch": begun_by}}
        (tmp_path / name / "config.json").write_text(json.dumps(record))
    for name, text in [("damaged", "{"), ("old", "{}"), ("strange", "[]")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    return tmp_path


@pytest.mark.parametrize("words", [(), ("--run", "mine")])
def test_a_restart_goes_on_with_the_run_of_its_launch(runs_dir: Path, words: tuple[str, ...]) -> None:
    """Named or not; options that the run decided come from it, those of the command line win."""
    cfg = launch.options(["--runs_dir", str(runs_dir), "--keep", "3", *words])
    assert (cfg.resume, cfg.run, cfg.runs_dir) == (runs_dir / "mine", "mine", runs_dir)
    assert (cfg.lr, cfg.keep) == (0.5, 3)


@pytest.mark.parametrize("name", ["other", "damaged", "old", "strange", "new"])
def test_runs_of_others_are_not_touched(runs_dir: Path, name: str) -> None:
    """A name that another launch has taken stays taken, however often torchrun tries."""
    cfg = launch.options(["--runs_dir", str(runs_dir), "--run", name])
    assert (cfg.resume, cfg.run) == (None, name)


@pytest.mark.parametrize("launch_id", ["none", "job-8"])
def test_another_launch_begins_its_own(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, launch_id: str) -> None:
    """As does one without a name: torchrun calls it `none`."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch_id)
    assert launch.options(["--runs_dir", str(runs_dir), "--run", "mine"]).resume is None


def test_a_first_start_goes_on_with_a_named_run_alone(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that a scheduler starts again has its id, and torchrun counts from 0."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert launch.options(["--runs_dir", str(runs_dir), "--run", "mine"]).resume == runs_dir / "mine"
    assert launch.options(["--runs_dir", str(runs_dir)]).resume is None


def test_without_torchrun_there_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch.launch_id() is None
