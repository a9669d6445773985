"""The README's section "Scale" says what its script counts; the simulated loader, on a small index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

from whisper_min.data import survey


@pytest.fixture
def scale(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("scale")


@pytest.mark.slow
def test_the_readme_has_the_tables_that_the_script_counts(scale: ModuleType) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for table in (scale.counted_table(), scale.storage_table()):
        assert scale.markdown(*table) in readme, "python tests/bench/scale.py --counted prints what it should be"


def test_a_gpu_hour_is_what_limits_says(scale: ModuleType) -> None:
    """8.12 TFLOP for 30 s of large-v3 in whisper_min.limits: 989 TFLOP/s hear 3,655 s a second."""
    whole = scale.trainings()[0]
    assert whole.hours_per_hour == pytest.approx(989 / 8.12 * 30, rel=1e-3)


@pytest.mark.slow
def test_the_simulated_loader(scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 200 h: it asserts by itself that a resumed order is what was left, and that each clip is one rank's."""
    for name in ("DECODED_SAMPLE", "SAMPLED_SHARDS"):
        monkeypatch.setattr(survey, name, 3)
    rows = scale.simulate(200, tmp_path)
    memory = [float(row[-1]) for row in rows if "order" in row[0] or "resume" in row[0]]
    assert len(memory) == 6 and max(memory) - min(memory) < 60
