"""The short form of `tests/bench/soak.py`: a training that goes on and on."""

from __future__ import annotations

import pytest
from conftest import run_script


@pytest.mark.slow
def test_a_long_run_grows_nothing() -> None:
    """300 steps with evaluations and saves."""
    assert "300 steps" in run_script("tests/bench/soak.py", "--steps", "300")
