"""`train.py --doctor`: what it says of this very machine, and of one that lacks things."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from rich.console import Console

from whisper_min.config import Config
from whisper_min.model import weights
from whisper_min.training import card, doctor


def told(cfg: Config, capsys: pytest.CaptureFixture[str]) -> str:
    assert doctor.show(cfg, Console(width=1000)) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_command_reports_this_machine_and_writes_nothing(tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    environment = {**kept, "HF_TOKEN": "hf_very_secret", "COLUMNS": "500"}
    command = [sys.executable, str(REPOSITORY / "train.py"), "--doctor", "--data_dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"torch {torch.__version__}" in done.stdout and sys.version.split()[0] in done.stdout
    free = shutil.disk_usage(tmp_path).free / 1e9
    told = re.search(rf"{re.escape(str(tmp_path / 'data'))}, ([\d.]+)", done.stdout)
    assert told and abs(float(told[1]) - free) < 2  # others write, too
    assert "HF_TOKEN" in done.stdout and "hf_very_secret" not in done.stdout
    assert "What to do:" in done.stdout or "Nothing to do:" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.setattr(weights, "DEMO_PACKAGE", "not_installed")
    monkeypatch.setenv("PATH", "")
    out = told(Config(device="cuda:99", runs_dir=tmp_path / "\x1b[2Jruns"), capsys)
    for advice in ("- ffmpeg: install it", "- --device cuda:99: ", "- weights here: the first training downloads them"):
        assert advice in out
    assert "\x1b" not in out and "\\x1b[2Jruns" in out


def test_weights_in_the_caches_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "base.en.pt").touch()
    assert f"base.en ({tmp_path / 'whisper' / 'base.en.pt'})" in told(Config(), capsys)


def test_what_decides_the_same_result_is_said() -> None:
    assert card.switches(torch.device("cpu")) == {}
    on_cuda = card.switches(torch.device("cuda"))
    assert on_cuda["cudnn_benchmark"] is torch.backends.cudnn.benchmark and len(on_cuda) == 6
    assert card.deterministic(Config(), torch.device("cuda")) == "up to CUDA kernels that add in any order"
