"""The short forms of two long trials in `tests/bench`: a training killed time and again, and one that goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY


def run_trial(*command: str) -> str:
    """What a trial prints; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ten_kills_change_nothing() -> None:
    """At moments of a start, a step, an evaluation, a save and its renames, with a reader beside."""
    assert "10 kills in 70 steps" in run_trial("tests/bench/kills.py", "--kills", "10")


@pytest.mark.slow
def test_a_long_run_grows_nothing() -> None:
    """300 steps with evaluations and saves."""
    assert "300 steps" in run_trial("tests/bench/soak.py", "--steps", "300")
