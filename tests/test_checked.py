"""What the preflight leaves: a report's faults as they are shown, and what tells the data from any other."""

from __future__ import annotations

import re

import pytest
from workbench import Workbench

from whisper_min.data.checked import Report


def test_a_long_list_of_faults_is_cut_and_counted(bench: Workbench) -> None:
    report = bench.check([bench.row(audio=f"gone-{number}.wav") for number in range(25)])
    shown = report.shown_faults()
    assert len(report.faults) == 25 and shown[:20] == report.faults[:20] and len(shown) == 21
    assert re.fullmatch(r"… and 5 more, such as 'does not exist'", shown[20])
    assert Report(faults=report.faults[:20]).shown_faults() == report.faults[:20]


@pytest.mark.parametrize("change", ["a text", "a recording", "the order", "an entry less"])
def test_the_fingerprint_is_that_of_the_data_trained_on(bench: Workbench, change: str) -> None:
    """Not that of evaluation sets, nor of the place in which the recordings lie."""
    names = [bench.record() for _ in range(3)]
    rows = [bench.row(audio=name) for name in names]
    before = bench.check(rows).fingerprint
    assert bench.check(rows).fingerprint == before
    assert bench.check(rows, "retain").fingerprint == bench.check(rows[:1], "retain").fingerprint
    match change:
        case "a text":
            rows[1]["text"] += " Twice."
        case "a recording":
            bench.record(names[1])
        case "the order":
            rows.reverse()
        case "an entry less":
            del rows[1]
    assert bench.check(rows).fingerprint != before
