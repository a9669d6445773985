"""The short form of `tests/bench/kills.py`: a training that is killed time and again."""

from __future__ import annotations

import pytest
from conftest import run_script


@pytest.mark.slow
def test_ten_kills_change_nothing() -> None:
    """At moments of a start, a step, an evaluation, a save and its renames, with a reader beside."""
    assert "10 kills in 70 steps" in run_script("tests/bench/kills.py", "--kills", "10")
