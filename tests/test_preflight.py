"""The preflight: sets against each other, what is left out, and what is shown."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from workbench import TEXT, TOKENS, Workbench, bad_rows, quiet

from whisper_min import runs
from whisper_min.data import preflight, sources


def test_training_and_evaluation_do_not_share_a_recording(bench: Workbench) -> None:
    shared = bench.record("shared.wav")
    copied = bench.folder / "copied.wav"
    copied.write_bytes((bench.folder / shared).read_bytes())
    mine = bench.load([bench.row(), bench.row(audio="shared.wav")])
    theirs = bench.load([bench.row(audio="copied.wav"), bench.row()], "theirs")
    for role in ("eval_data", "retain"):
        report = preflight.run([("data", mine), (role, theirs)], bench.cfg, TOKENS, quiet())
        assert report.faults == [
            f"{bench.folder / 'mine.jsonl'}, line 2: is in the training set and in the evaluation set theirs; "
            "remove one"
        ]
    both = preflight.run([("eval_data", mine), ("retain", theirs)], bench.cfg, TOKENS, quiet())
    assert both.faults == [], "two evaluation sets may share a recording"


def test_replay_is_checked_as_what_it_is_trained_on(bench: Workbench) -> None:
    rows = [bench.row(), bench.row(text=""), bench.row(audio=bench.record(seconds=30.5), text=TEXT * 15)]
    told = bench.check(rows, "replay").faults
    assert len(told) == 2
    assert "line 2" in told[0] and "has an empty text" in told[0]
    assert "line 3" in told[1] and "30.5 s, but Whisper hears 30 s" in told[1]

    # of texts that the original will write anew nothing is asked, of the audio everything
    rows[0]["text"] = "a " * 447
    report = bench.check(rows, "replay", self_label=True)
    [fault] = report.faults
    assert "30.5 s" in fault and report.sets[0].self_label
    assert not bench.check(rows[:1], "data", self_label=True).sets[0].self_label


def test_what_is_trained_on_needs_no_word_for_an_error_rate(bench: Workbench) -> None:
    for role in ("data", "replay"):
        assert bench.check([bench.row(text="Hmm.")], role).faults == []
    [fault] = bench.check([bench.row(text="Hmm.")], "retain").faults
    assert "the set has no word error rate" in fault


def test_replay_and_evaluation_do_not_share_a_recording(bench: Workbench) -> None:
    shared = bench.record()
    calm = bench.load([bench.row(), bench.row(audio=shared)], "calm")
    theirs = bench.load([bench.row(audio=shared)], "theirs")
    for role in ("eval_data", "retain"):
        report = preflight.run([(role, theirs), ("replay", calm)], bench.cfg, TOKENS, quiet())
        assert report.faults == [
            f"{bench.folder / 'calm.jsonl'}, line 2: is in the replay set and in the evaluation set theirs; remove one"
        ]
    both = preflight.run([("data", theirs), ("replay", calm)], bench.cfg, TOKENS, quiet())
    assert both.faults == [] and both.notes == ["replay calm: 1 of 2 recordings are in --data, too"]


def test_audio_that_is_only_lent_needs_no_labels(bench: Workbench) -> None:
    silent, loud = bench.load([bench.row(text="")], "silent"), bench.load([bench.row(text="A " * 500)], "loud")
    lent = [("replay", silent), ("replay", loud)]
    for options in ({}, {"ewc": 1.0}, {"fisher": "labels"}, {"self_label": True, "label_style": "original"}):
        report = preflight.run(lent, replace(bench.cfg, **options), TOKENS, quiet())
        assert report.faults == [] and not any(each.needs_original for each in report.sets)
    cfg = replace(bench.cfg, ewc=1.0, fisher="labels")
    report = preflight.run(lent, cfg, TOKENS, quiet())
    assert [each.needs_original for each in report.sets] == [True, False]
    [fault] = report.faults
    assert "tokens, but the decoder reads 448" in fault


# ---- What --skip_bad leaves out.


def test_skip_bad_leaves_out_lists_and_counts(bench: Workbench, tmp_path: Path) -> None:
    expected = bad_rows(bench)
    good = [bench.row(text="One good text."), bench.row(text="Another good text.")]
    report = bench.check([good[0], *(row for row, _ in expected), good[1]], skip_bad=True)
    assert report.faults == [] and len(report.skipped) == len(expected)
    [checked] = report.sets
    assert [example.text for example in checked.speech.examples] == ["One good text.", "Another good text."]
    assert checked.seconds == [2.0, 2.0] and checked.speech.skipped == report.skipped

    run = tmp_path / "run"
    run.mkdir()
    preflight.write_lists(run, report)
    assert (run / "skipped.txt").read_text(encoding="utf-8").splitlines() == report.skipped
    assert not (run / "held_out.jsonl").exists()


def test_skip_bad_does_not_leave_out_a_whole_set(bench: Workbench) -> None:
    report = bench.check([bench.row(audio="gone.wav"), bench.row(audio="away.wav")], skip_bad=True)
    assert len(report.faults) == 2 and report.skipped == []


def test_held_out_entries_are_listed(bench: Workbench, tmp_path: Path) -> None:
    speech = bench.load([bench.row() for _ in range(10)])
    training, held_out = sources.hold_out([speech], seed=0)
    report = preflight.run([("data", training[0]), ("eval_data", held_out)], bench.cfg, TOKENS, quiet())
    preflight.write_lists(tmp_path, report)
    [row] = runs.read_jsonl(tmp_path / "held_out.jsonl")
    assert row == {"id": held_out.examples[0].id, "where": held_out.examples[0].where}
    assert not (tmp_path / "skipped.txt").exists()


# ---- What is shown.


def render(table: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_table_has_a_row_for_each_set(bench: Workbench) -> None:
    mine = bench.load([bench.row(text="LOUD ONE", speaker="a"), bench.row(text="LOUD TWO", speaker="b")])
    theirs = bench.load([bench.row(), bench.row(text="Fine, too.")], "theirs")
    lines = render(preflight.table(preflight.run([("data", mine), ("retain", theirs)], bench.cfg, TOKENS, quiet())))
    [first] = [line for line in lines.splitlines() if "--data" in line]
    [second] = [line for line in lines.splitlines() if "--retain" in line]
    assert re.search(r"mine\W+2\W+0\.00\W+2\W+upper-case unpunctuated → sentence", first)
    assert re.search(r"theirs\W+2\W+0\.00\W.*\?.*cased", second)


def test_the_table_shows_the_shares_and_whose_labels(bench: Workbench) -> None:
    loud = bench.load([bench.row(text="LOUD ONE")], "loud")
    silent = bench.load([bench.row(text="")], "silent")
    sets = [("replay", replace(loud, share=0.125)), ("replay", replace(silent, share=0.2))]
    lines = render(preflight.table(preflight.run(sets, bench.cfg, TOKENS, quiet()))).splitlines()
    [first] = [line for line in lines if "loud" in line]
    [second] = [line for line in lines if "silent" in line]
    assert "--replay 12.5 %" in first and "upper-case unpunctuated → sentence" in first
    assert "--replay 20 %" in second and "no text → the original's" in second


def test_the_batch_table_says_what_the_loss_counts() -> None:
    targets = TOKENS.teacher_forcing(["Hello.", "Hi"])
    for row, counted in [(0, 3), (1, 2)]:
        shown = render(
            preflight.batch_table(targets.inputs[row].tolist(), targets.targets[row].tolist(), TOKENS, "clip")
        )
        assert len(re.findall(r"\byes\b", shown)) == counted
        assert len(re.findall(r"\bno\b", shown)) == targets.inputs.shape[1] - counted
    assert "50257 <|startoftranscript|>" in shown and "' Hi'" in shown and "<|endoftext|>" in shown


def test_ids_cannot_steer_the_batch_table() -> None:
    """Neither rich's markup nor the terminal's escapes."""
    shown = render(preflight.batch_table([50257, 1], [1, 2], TOKENS, "[/x] [red]a\x1b[2J"))
    assert "[/x] [red]a\\x1b[2J" in shown
