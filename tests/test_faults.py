"""Every fault of an entry or a set, with its fix."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from workbench import TEXT, TOKENS, Workbench, bad_rows, quiet

from whisper_min.data import preflight
from whisper_min.data.normalizer import normalizer


def test_good_sets_have_no_fault_and_no_note(bench: Workbench) -> None:
    rows = [bench.row(duration=2.4), bench.row(offset=0.5, duration=1.0), bench.row(language="English")]
    report = bench.check(rows)
    assert (report.faults, report.notes, report.skipped) == ([], [], [])
    [checked] = report.sets
    assert checked.seconds == [2.0, 1.0, 2.0] and checked.labels == [TEXT] * 3
    assert report.role("data") == [checked] and report.role("retain") == []


def test_every_fault_is_told_with_file_line_and_fix(bench: Workbench) -> None:
    expected = bad_rows(bench)
    report = bench.check([bench.row(), *(row for row, _ in expected)])
    assert len(report.faults) == len(expected), report.faults
    for number, (fault, (row, told)) in enumerate(zip(report.faults, expected, strict=True), start=2):
        where = f"{bench.folder / 'mine.jsonl'}, line {number}: {bench.folder / row['audio']}: "
        assert re.match(re.escape(where) + told, fault), fault
    assert any("--skip_bad" in note for note in report.notes)


def test_an_entry_with_several_faults_has_them_all(bench: Workbench) -> None:
    report = bench.check([bench.row(), bench.row(audio=bench.record(seconds=31), text="", language="de", duration=20)])
    assert len(report.faults) == 4


@pytest.mark.parametrize("role", ["eval_data", "retain"])
def test_long_recordings_are_faults_in_training_alone(role: str, bench: Workbench) -> None:
    rows = [bench.row(audio=bench.record(seconds=30.5), text=TEXT * 15), bench.row()]
    assert bench.check(rows, role).faults == []
    assert bench.check([*rows[1:], bench.row(audio=bench.record(seconds=30.0), text=TEXT * 15)]).faults == []


def test_the_label_must_fit_as_it_is_trained_on(bench: Workbench) -> None:
    exact = " ".join(["a"] * 446)  # 448 tokens as it stands
    rows = [bench.row(text=exact, audio=bench.record(seconds=29.0))]
    assert bench.check(rows, label_style="keep").faults == []
    # in sentence case a full stop is added
    [fault] = bench.check(rows, label_style="sentence").faults
    assert "has 449 tokens, but the decoder reads 448" in fault
    loud = [bench.row(text="JUMPS " * 300, audio=bench.record(seconds=29.0))]
    assert not TOKENS.fits(loud[0]["text"]) and TOKENS.fits(loud[0]["text"].lower() + ".")
    assert bench.check(loud, label_style="sentence").faults == []


@pytest.mark.parametrize(("language", "faulty"), [("en", False), ("EN", False), ("English", False), ("xx", False),
                                                  ("fr", True), ("French", True)])  # fmt: skip
def test_one_language_at_a_time(language: str, faulty: bool, bench: Workbench) -> None:
    assert bool(bench.check([bench.row(language=language)]).faults) == faulty


def test_a_set_without_text_is_for_retain_and_replay_alone(bench: Workbench) -> None:
    rows = [bench.row(text=""), bench.row(text="")]
    for role in ("retain", "replay"):
        report = bench.check(rows, role)
        assert report.faults == [] and report.sets[0].self_label == (role == "replay")
    for role in ("data", "eval_data"):
        for skip_bad in (False, True):
            [fault] = bench.check(rows, role, skip_bad=skip_bad).faults
            assert fault == (
                f"--{role} {bench.folder / 'mine.jsonl'}: has no transcripts; only --retain and --replay take sets "
                "without"
            )


def test_a_held_out_entry_without_text_is_a_fault_of_its_own(bench: Workbench) -> None:
    speech = bench.load([bench.row(text="")])
    held_out = replace(speech, name="held-out", held_out=True)
    for skip_bad in (False, True):
        report = preflight.run([("eval_data", held_out)], replace(bench.cfg, skip_bad=skip_bad), TOKENS, quiet())
        [fault] = report.faults
        assert fault.startswith(f"{bench.folder / 'mine.jsonl'}, line 1: ") and "has an empty text; write" in fault


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("role", "fix"),
    [
        ("eval_data", "leave the set out"),
        ("retain", "remove the texts, to score drift"),
        ("evaluate", "remove the texts, to score drift"),
    ],
)
def test_a_set_whose_references_have_no_word_has_no_rate(role: str, fix: str, skip_bad: bool, bench: Workbench) -> None:
    """Whisper's normaliser takes away what stands in brackets, and `uh`: NaN would be the best checkpoint for ever."""
    rows = [bench.row(text="[inaudible, the whole of it]"), bench.row(text="Uh, mhm, uh, hmm.")]
    [fault] = bench.check(rows, role, skip_bad=skip_bad).faults
    assert fault == (
        f"{bench.folder / 'mine.jsonl'}, line 1: '[inaudible, the whole of it]' holds no word after "
        f"{normalizer('en')[0]}, nor does another reference of mine: the set has no word error rate; write what is "
        f"said, or {fix}"
    )
    assert bench.check(rows, "data").faults == [], "they can be trained on"
    assert bench.check(rows, role, language="de").faults == [], "there `uh` is a word"


def test_a_set_left_without_words_is_seen_after_skipping(bench: Workbench) -> None:
    rows = [bench.row(text="[a long and slow inaudible]"), bench.row(audio="gone.wav")]
    report = bench.check(rows, "eval_data", skip_bad=True)
    assert len(report.skipped) == 1
    [fault] = report.faults
    assert "line 1: '[a long and slow inaudible]' holds no word" in fault
