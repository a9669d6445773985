"""What evaluate.py writes of several systems: intervals, comparisons, rows and the table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import random_whisper
from quick_model import checked_set
from rich.console import Console
from rich.table import Table

from whisper_min.data.tokens import Tokens
from whisper_min.scoring import report
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.evaluation import Scorer, SetResult

TEXTS = {"general": ["the cat sat down", "birds sing"], "domain": ["leaves fall", "dogs chase cats"]}
WRITTEN = {
    "base": {"general": ["the cat sat down", "birds sing"], "domain": ["leaves", "dogs"], "silent": ["a b", "c d"]},
    "tuned": {"general": ["the cat sat", "birds"], "domain": TEXTS["domain"], "silent": ["a b", "c x"]},
}


@pytest.fixture
def results(make_set: Callable[..., Path], tmp_path: Path) -> dict[str, dict[str, SetResult]]:
    """Two systems on two sets with text and one without."""
    tokens = Tokens(random_whisper().dims)
    scorer = Scorer(tokens, "en")
    texts = {**TEXTS, "silent": ["", ""]}
    sets = {name: checked_set(make_set(name, its), tokens, tmp_path / "cache") for name, its in texts.items()}
    original = WRITTEN["base"]["silent"]
    return {
        system: {
            name: scorer.score(
                sets[name],
                [Hypothesis([], text, True) for text in its],
                None,
                1.0,
                original=original if name == "silent" else None,
            )
            for name, its in by_set.items()
        }
        for system, by_set in WRITTEN.items()
    }


def described(results: dict[str, dict[str, SetResult]]) -> list[dict[str, Any]]:
    """The systems as evaluate.py describes them before intervals are added."""
    return [
        {
            "name": name,
            "sets": {set_name: result.summary() for set_name, result in its.items()},
            "non_speech": {"seconds": 60.0, "words_per_minute": 1.5},
        }
        for name, its in results.items()
    ]


def shown(table: Table, width: int = 200) -> str:
    """As a terminal shows it."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_intervals_and_comparisons(results: dict[str, dict[str, SetResult]]) -> None:
    """Every set has an interval; every set with text a comparison with the first system, and all of them one pooled."""
    systems = described(results)
    comparisons = report.add_intervals(["base", "tuned"], results, systems)
    for its in systems:
        for name in TEXTS:
            low, high = its["sets"][name]["wer_ci"]
            assert low <= its["sets"][name]["wer"] <= high
            assert its["sets"][name]["resampled"] == "utterance"
        assert "wer_ci" not in its["sets"]["silent"]
        low, high = its["sets"]["silent"]["drift_ci"]
        assert low <= its["sets"]["silent"]["drift"] <= high
    assert [(each["set"], each["baseline"], each["system"]) for each in comparisons] == [
        (name, "base", "tuned") for name in ("general", "domain", "pooled")
    ]
    keys = {"baseline", "system", "set", "delta_wer", "delta_ci", "relative", "relative_upper_95", "p_value"}
    keys |= {"delta_raw_wer", "recognition", "format"}
    assert all(each.keys() == keys for each in comparisons)
    general, domain, pooled = comparisons
    assert general["delta_wer"] == pytest.approx(2 / 6)
    assert math.isnan(general["relative"])
    assert domain["delta_wer"] == pytest.approx(-3 / 5)
    assert domain["relative"] == pytest.approx(-1.0)
    assert pooled["delta_wer"] == pytest.approx((2 - 3) / 11)
    assert pooled["relative"] == pytest.approx(-1 / 3)


def test_a_gain_is_split_into_format_and_recognition(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Of six words four were right but for case and full stops, one is recognised newly, one stays wrong."""
    tokens = Tokens(random_whisper().dims)
    scorer = Scorer(tokens, "en")
    checked = checked_set(make_set("style", ["A red fox.", "It was gone."]), tokens, tmp_path / "cache")
    written = {
        "base": ["A RED BOX", "IT WAS DONE"],
        "tuned": ["A red fox.", "It was done."],
        "loud": ["A RED FOX", "IT WAS GONE"],
    }
    results = {
        system: {"style": scorer.score(checked, [Hypothesis([], text, True) for text in texts], None, 1.0)}
        for system, texts in written.items()
    }
    tuned, loud = report.add_intervals(list(written), results, described(results))
    # raw: "A" alone was right; normalised: four of six
    assert tuned["delta_raw_wer"] == pytest.approx(1 / 6 - 5 / 6)
    assert tuned["recognition"] == tuned["delta_wer"] == pytest.approx(1 / 6 - 2 / 6)
    assert tuned["format"] == pytest.approx(-3 / 6)
    # words recognised, and nothing of it seen without the normaliser
    assert loud["recognition"] == pytest.approx(-2 / 6)
    assert loud["format"] == pytest.approx(2 / 6)
    for its in (tuned, loud):
        assert its["recognition"] + its["format"] == pytest.approx(its["delta_raw_wer"])


def test_one_set_is_not_pooled_and_one_system_not_compared(results: dict[str, dict[str, SetResult]]) -> None:
    """Pooling one set would say it twice."""
    single = {name: {"general": its["general"]} for name, its in results.items()}
    assert [each["set"] for each in report.add_intervals(["base", "tuned"], single, described(single))] == ["general"]
    alone = {"base": results["base"]}
    assert report.add_intervals(["base"], alone, described(alone)) == []


def test_rows_hold_each_utterance(results: dict[str, dict[str, SetResult]]) -> None:
    """As --hypotheses writes them: their counts add up to the set's."""
    rows = report.rows_of("tuned", results["tuned"]["general"])
    assert [(row["system"], row["set"]) for row in rows] == [("tuned", "general")] * 2
    assert [row["reference"] for row in rows] == TEXTS["general"]
    assert [row["hypothesis"] for row in rows] == WRITTEN["tuned"]["general"]
    assert [row["deletions"] for row in rows] == [1, 1]
    assert [row["wer"] for row in rows] == [1 / 4, 1 / 2]
    assert all(Path(row["audio_filepath"]).is_file() for row in rows)
    assert len({row["id"] for row in rows}) == 2


def test_numbers_that_json_does_not_know_become_null() -> None:
    """Anywhere inside; everything else stays as it is."""
    value = {"a": [1, float("nan"), (float("inf"), "x")], "b": {"c": -float("inf"), "d": True, "e": None}, "f": 0.5}
    assert report.finite(value) == {"a": [1, None, [None, "x"]], "b": {"c": None, "d": True, "e": None}, "f": 0.5}
    json.dumps(report.finite(value), allow_nan=False)


def test_the_table_shows_every_system_and_set(results: dict[str, dict[str, SetResult]]) -> None:
    """The baseline first; per cent; signs on changes; drift called drift."""
    systems = described(results)
    comparisons = report.add_intervals(["base", "tuned"], results, systems)
    text = shown(report.table("whisper-english-x", systems, comparisons))
    lines = [line.strip() for line in text.splitlines()]
    general = [line for line in lines if line.startswith("general")]
    assert ["base" in line for line in general] == [True, False]
    assert "0.0" in general[0]
    assert "33.3" in general[1]
    assert "+33.3" in general[1]
    domain = [line for line in lines if line.startswith("domain")]
    assert "60.0" in domain[0]
    assert "-60.0" in domain[1]
    assert sum("silent (drift)" in line for line in lines) == 2
    assert any("all, pooled" in line and "-9.1" in line for line in lines)
    assert "format: what the change of raw WER adds" in text
    assert "format" not in shown(report.table("whisper-english-x", systems, comparisons, wide=False), 80)
    assert sum("1.5 words/min" in line for line in lines) == 2
    assert "whisper-english-x" in text


def test_names_in_brackets_are_no_markup(results: dict[str, dict[str, SetResult]]) -> None:
    """A run such as runs/[bold]x is shown by its name, whole."""
    name = "runs/[bold]x"
    renamed = {name: results["base"]}
    systems = described(renamed)
    report.add_intervals([name], renamed, systems)
    assert "[bold]x" in shown(report.table("n", systems, []))


def test_long_names_wrap_and_numbers_stay_whole(results: dict[str, dict[str, SetResult]]) -> None:
    """In 80 columns nothing is cut and no column is lost."""
    name = "runs/a-run-with-a-rather-long-name@0.25"
    renamed = {name: {f"a-set-with-a-rather-long-name-{key}": its for key, its in results["base"].items()}}
    systems = described(renamed)
    report.add_intervals([name], renamed, systems)
    text = shown(report.table("n", systems, [], wide=False), 80)
    assert "…" not in text.replace(" … ", "")
    assert max(map(len, text.splitlines())) <= 80
    for numbers in renamed[name].values():
        assert f"{100 * numbers.words.rate:.1f} (" in text
    cells = [line.split() for line in text.splitlines()]
    folded = "".join(word for words in cells for word in words[1:2])
    assert "a-run-with-a-rather-long-name@0.25" in folded


def test_what_got_worse_is_said_and_what_was_not_examined_once() -> None:
    described = [
        {"name": "tiny.en", "flags": [], "left_out": ["other languages: nothing to hear them from"]},
        {"name": "runs/a", "flags": ["loops twice"], "left_out": ["other languages: nothing to hear them from"]},
    ]
    assert report.remarks(described) == [
        "runs/a: loops twice",
        "not examined: other languages: nothing to hear them from",
    ]
