"""The preflight: every fault with its entry and fix, every note, what is left out, and what is remembered."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import babble
from rich.console import Console
from whisper import ModelDimensions

from whisper_min import runs
from whisper_min.config import Config
from whisper_min.data import preflight, sources
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.normalizer import normalizer
from whisper_min.data.preflight import Facts, Report
from whisper_min.data.tokens import Tokens

TEXT = "The quick brown fox, it jumps."  # 30 characters for 2 s of audio
TOKENS = Tokens(ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


class Workbench:
    """A folder of recordings, and the preflight over sets that are written from rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cfg = Config(data_dir=folder / "cache")
        self.recordings = 0

    def record(self, name: str | None = None, seconds: float = 2.0, rate: int = 16_000, **options: Any) -> str:
        """Write a recording that no other one equals; its name."""
        self.recordings += 1
        name = name or f"{self.recordings}.wav"
        soundfile.write(self.folder / name, babble(seconds, rate, seed=self.recordings), rate, **options)
        return name

    def row(self, **changes: Any) -> dict[str, Any]:
        """A row of a manifest without a fault; its recording is made where none is named."""
        return {"audio": changes.get("audio") or self.record(), "text": TEXT, **changes}

    def load(self, rows: Sequence[dict[str, Any]], name: str = "mine") -> SpeechSet:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return SpeechSet(name, str(path), sources.read_manifest(path))

    def check(self, rows: Sequence[dict[str, Any]], role: str = "data", **options: Any) -> Report:
        """The preflight of one set."""
        speech = replace(self.load(rows), share=0.2 if role == "replay" else 0.0)
        return preflight.run([(role, speech)], replace(self.cfg, **options), TOKENS, quiet())


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


# ---- Faults.


def test_good_sets_have_no_fault_and_no_note(bench: Workbench) -> None:
    rows = [bench.row(duration=2.4), bench.row(offset=0.5, duration=1.0), bench.row(language="English")]
    report = bench.check(rows)
    assert (report.faults, report.notes, report.skipped) == ([], [], [])
    [checked] = report.sets
    assert checked.seconds == [2.0, 1.0, 2.0] and checked.labels == [TEXT] * 3
    assert report.role("data") == [checked] and report.role("retain") == []


def bad_rows(bench: Workbench) -> list[tuple[dict[str, Any], str]]:
    """A row with each fault, and what the preflight says about it after file, line and recording."""
    folder, record = bench.folder, bench.record
    (folder / "text.wav").write_text("this is no audio\n" * 20)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    cut = folder / record("cut.flac", 5.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    short = folder / record("short.wav", 2.0)
    short.write_bytes(short.read_bytes()[:32_044])
    spoilt = babble(2.0, seed=99)
    spoilt[100] = np.nan
    soundfile.write(folder / "nan.wav", spoilt, 16_000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 16_000)
    return [
        (bench.row(audio="gone.wav"), r"does not exist; correct the path \(it is relative to the manifest\) or remove"),
        (bench.row(audio="folder.wav"), r"does not exist; correct the path"),
        (bench.row(audio="text.wav"), r"(neither soundfile nor ffmpeg|soundfile cannot decode it)"),
        (bench.row(audio="empty.wav"), r"is empty \(0 bytes\)"),
        (bench.row(audio="cut.flac"), r"is cut short or damaged .*; copy or convert the file again"),
        (bench.row(audio="short.wav"), r"ends after 1\.00 s of 2\.00 s: the file is cut short"),
        (bench.row(audio="nan.wav"), r"holds numbers that are not finite \(NaN\); convert the file again"),
        (bench.row(audio="none.wav"), r"holds no samples; remove the entry"),
        (
            bench.row(audio=record(seconds=30.5)),
            r"30\.5 s, but Whisper hears 30 s; split it into segments \(offset and ",
        ),
        (bench.row(text=""), r"has an empty text; write what is said, or remove the entry"),
        (bench.row(text="a " * 447), r"its text has 449 tokens, but the decoder reads 448; split the clip"),
        (bench.row(language="de"), r"is in 'de', but --language is 'en'; train one language at a time"),
        (
            bench.row(duration=2.6),
            r"is 2\.00 s long, the manifest says 2\.60 s; correct the duration, or add an offset",
        ),
        (
            bench.row(segments=[{"start": 0, "end": 2.6, "text": TEXT}]),
            r"the last segment goes from 0\.00 to 2\.60 s, the clip ends at 2\.00 s; correct the segments' times",
        ),
        (
            bench.row(segments=[{"start": 2.1, "end": 2.4, "text": TEXT}]),
            r"the last segment goes from 2\.10 to 2\.40 s, the clip ends at 2\.00 s; correct the segments' times",
        ),
        (
            bench.row(text=f"{TEXT} <|nospeech|>"),
            r"has <\|nospeech\|> beside words; it is for clips in which nobody speaks at all: remove it",
        ),
        (bench.row(offset=2.0), r"offset 2 s lies beyond its end at 2\.00 s"),
        (bench.row(offset=1.0, duration=2.0), r"ends at 2\.00 s, the entry goes to 3\.00 s"),
    ]


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
    assert notes(both) == ["replay calm: 1 of 2 recordings are in --data, too"]


def test_a_long_list_of_faults_is_cut_and_counted(bench: Workbench) -> None:
    report = bench.check([bench.row(audio=f"gone-{number}.wav") for number in range(25)])
    shown = report.shown_faults()
    assert len(report.faults) == 25 and shown[:20] == report.faults[:20] and len(shown) == 21
    assert re.fullmatch(r"… and 5 more, such as 'does not exist'", shown[20])
    assert Report(faults=report.faults[:20]).shown_faults() == report.faults[:20]


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


# ---- Notes.


def notes(report: Report) -> list[str]:
    assert report.faults == []
    return report.notes


def test_other_rates_are_noted(bench: Workbench) -> None:
    rows = [bench.row(audio=bench.record(rate=rate)) for rate in (44_100, 8_000, 44_100, 16_000)]
    assert notes(bench.check(rows)) == [
        "data mine: 1 of 4 files are at 8000 Hz and are resampled to 16000 Hz",
        "data mine: 2 of 4 files are at 44100 Hz and are resampled to 16000 Hz",
    ]


def test_clipping_and_silence_are_noted(bench: Workbench) -> None:
    loud = np.clip(50 * babble(2.0, seed=1), -1, 1)
    quiet_one = 1e-4 * babble(2.0, seed=2)
    peak = babble(2.0, seed=3)
    peak[5] = 1.0  # one sample at full scale is no clipping
    for name, waveform in [("loud.wav", loud), ("quiet.wav", quiet_one), ("peak.wav", peak)]:
        soundfile.write(bench.folder / name, waveform, 16_000, subtype="FLOAT")
    rows = [bench.row(audio=name) for name in ("loud.wav", "quiet.wav", "peak.wav")]
    assert notes(bench.check(rows, "eval_data")) == [
        "eval_data mine: 1 clips are clipped, such as loud.wav",
        "eval_data mine: 1 clips are silent (below -60 dB), such as quiet.wav",
    ]


def test_facts_are_what_the_samples_are(bench: Workbench) -> None:
    time = np.arange(32_000) / 16_000
    sine = np.sin(2 * np.pi * 100 * time).astype(np.float32)
    square = np.sign(np.sin(2 * np.pi * 100 * time + 0.1)).astype(np.float32)
    for name, waveform in [("sine.wav", 0.1 * sine), ("square.wav", square), ("same.wav", 0.1 * sine)]:
        soundfile.write(bench.folder / name, waveform, 16_000, subtype="FLOAT")
    rows = [bench.row(audio=name) for name in ("sine.wav", "square.wav", "same.wav")]
    [checked] = bench.check(rows).sets
    sine_facts, square_facts, same_facts = checked.facts
    assert sine_facts.level_db == pytest.approx(20 * np.log10(0.1) - 10 * np.log10(2), abs=1e-3)
    assert (sine_facts.clipped, square_facts.clipped) == (0.0, 1.0)
    assert square_facts.level_db == pytest.approx(0.0, abs=1e-3)
    assert sine_facts == same_facts and sine_facts.digest != square_facts.digest
    assert (sine_facts.seconds, sine_facts.sample_rate, sine_facts.decoded, sine_facts.finite) == (
        2,
        16_000,
        True,
        True,
    )


def test_implausible_speed_is_noted(bench: Workbench) -> None:
    rows = [bench.row(), bench.row(text="Hm."), bench.row(text=TEXT * 3), bench.row(text="Fine."), bench.row(text=TEXT)]
    [note] = notes(bench.check(rows))
    assert note == (
        "data mine: 2 texts do not fit their audio (outside 2 to 30 characters per second), such as "
        f"{rows[1]['audio']} (1.5)"
    )


def test_single_references_without_words_are_noted(bench: Workbench) -> None:
    rows = [bench.row(), bench.row(text="(coughs quite a lot)"), bench.row(text="[noise, and nothing but]")]
    for role in ("eval_data", "retain", "evaluate"):
        assert notes(bench.check(rows, role)) == [
            f"{role} mine: 2 of 3 references hold no word after {normalizer('en')[0]}, such as '(coughs quite a lot)' "
            f"of {rows[1]['audio']}: whatever is heard there counts as insertions"
        ]
    assert notes(bench.check(rows)) == []


def test_repeated_recordings_are_noted(bench: Workbench) -> None:
    first = bench.record()
    assert notes(
        bench.check([bench.row(audio=first), bench.row(audio=first), bench.row(), bench.row(audio=first)])
    ) == ["data mine: 2 recordings are there more than once"]


def test_what_labels_carry_beside_text_is_noted(bench: Workbench) -> None:
    segments = [{"start": 0, "end": 1.5, "text": TEXT}]
    assert notes(bench.check([bench.row(prompt="Names: Anna"), bench.row(segments=segments)])) == [
        "data mine: 1 of 2 clips have a prompt; it is read in 50 %",
        "data mine: 1 of 2 clips have segments; their labels carry times in 50 %",
    ]


def test_label_style_is_noted_where_it_matters(bench: Workbench) -> None:
    rows = [bench.row(text="THE QUICK BROWN FOX"), bench.row(text="IT JUMPS I THINK")]
    [note] = notes(bench.check(rows))
    assert note.startswith(
        "data mine: references are upper-case unpunctuated; they are written in sentence case, because"
    )
    assert "(--label_style keep leaves them)" in note
    report = bench.check(rows)
    assert report.sets[0].labels == ["The quick brown fox.", "It jumps I think."]

    [note] = notes(bench.check(rows, label_style="keep"))
    assert note.startswith("data mine: references are upper-case unpunctuated: Whisper will write like that everywhere")
    assert note.endswith("--label_style sentence mends it")
    assert bench.check(rows, label_style="keep").sets[0].labels == ["THE QUICK BROWN FOX", "IT JUMPS I THINK"]
    assert notes(bench.check(rows, label_style="lower")) == []
    assert notes(bench.check(rows, "eval_data")) == []


def test_labels_that_wait_for_the_original_are_noted_and_stand_as_they_are(bench: Workbench) -> None:
    rows = [bench.row(text="THE QUICK BROWN FOX"), bench.row(text="IT JUMPS I THINK")]
    for role in ("data", "replay"):
        report = bench.check(rows, role, label_style="original")
        assert notes(report) == [
            f"{role} mine: references are upper-case unpunctuated; when the training starts, they get case and "
            "punctuation from what the original model hears"
        ]
        assert report.sets[0].needs_original and not report.sets[0].self_label
        assert report.sets[0].labels == ["THE QUICK BROWN FOX", "IT JUMPS I THINK"]
        assert replace(report.sets[0], written=["The quick…", "It"]).labels == ["The quick…", "It"]
    for role in ("eval_data", "retain"):
        report = bench.check(rows, role, label_style="original")
        assert notes(report) == [] and report.sets[0].style == "sentence", "their loss does not wait"
    cased = bench.check([bench.row()], label_style="original")
    assert notes(cased) == [] and not cased.sets[0].needs_original

    report = bench.check(rows, "replay", self_label=True)
    assert notes(report) == ["replay mine: the original model writes its labels when the training starts"]
    assert report.sets[0].needs_original and report.sets[0].self_label
    loud = [bench.row(text="JUMPS " * 300, audio=bench.record(seconds=29.0))]
    assert bench.check(loud, label_style="original").faults == [], "in capitals alone it is too long"


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


def test_above_fifty_hours_headers_are_read_and_a_sample_is_decoded(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "DECODE_ALL_HOURS", 0.001)
    monkeypatch.setattr(preflight, "DECODED_SAMPLE", 2)
    report = bench.check([bench.row() for _ in range(5)])
    assert [facts.decoded for facts in report.sets[0].facts].count(True) == 2
    assert report.sets[0].seconds == [2.0] * 5
    [note] = notes(report)
    assert note.startswith("0 h: read the headers of all 5 files and decoded 2; bad audio in the others is met")


# ---- The cache.


def cache_rows(bench: Workbench) -> list[dict[str, Any]]:
    return list(runs.read_jsonl(bench.folder / "cache" / "preflight.jsonl"))


def rewrite_cache(bench: Workbench, **changes: Any) -> None:
    """Change what the cache says, to see whether it is believed."""
    rows = [{**row, **changes} for row in cache_rows(bench)]
    (bench.folder / "cache" / "preflight.jsonl").write_text("".join(map(runs.to_json_line, rows)))


def test_the_cache_is_used_until_a_file_changes(bench: Workbench) -> None:
    rows = [bench.row(), bench.row(offset=0.5, duration=1.0)]
    first = bench.check(rows).sets[0].facts
    assert [Facts(**{key: value for key, value in row.items() if key != "key"}) for row in cache_rows(bench)] == first
    rewrite_cache(bench, seconds=2.1, clipped=0.5)
    believed = bench.check(rows).sets[0].facts
    assert believed == [replace(facts, seconds=2.1, clipped=0.5) for facts in first]
    assert len(cache_rows(bench)) == 2, "nothing is written twice"

    path = bench.folder / rows[0]["audio"]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert bench.check(rows).sets[0].facts == [first[0], believed[1]], "another time of change"

    bench.recordings += 1
    soundfile.write(path, babble(3.0, seed=50), 16_000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert bench.check(rows).sets[0].seconds == [3.0, 2.1], "another size"
    moved = [rows[0], {**rows[1], "offset": 0.6}]
    assert bench.check(moved).sets[0].facts[1].seconds == 1.0, "another part of the file"


def test_a_cache_of_another_version_or_half_written_is_passed_over(bench: Workbench) -> None:
    rows = [bench.row()]
    first = bench.check(rows).sets
    rewrite_cache(bench, from_the_future=1, seconds=9.0)
    assert bench.check(rows).sets == first
    path = bench.folder / "cache" / "preflight.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert bench.check(rows).sets == first


def test_faults_are_not_cached(bench: Workbench) -> None:
    rows = [bench.row(audio="later.wav")]
    assert len(bench.check(rows).faults) == 1
    bench.record("later.wav")
    assert bench.check(rows).faults == []
    written = cache_rows(bench)
    cut = bench.folder / bench.record("cut.flac")
    cut.write_bytes(cut.read_bytes()[:-500])
    assert len(bench.check([bench.row(audio="cut.flac")]).faults) == 1
    assert cache_rows(bench) == written, "what could not be decoded is tried again"


def test_a_cache_that_cannot_be_written_is_a_note(bench: Workbench) -> None:
    (bench.folder / "cache").write_text("a file")
    [note] = notes(bench.check([bench.row()]))
    assert f"could not be cached in {bench.folder / 'cache' / 'preflight.jsonl'} (" in note


# ---- What is shown.


def test_ctrl_c_does_not_wait_for_every_recording(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 recordings that take their time only those under way are still read."""
    started: list[Example] = []

    def slow(example: Example, header: Facts) -> Facts:
        started.append(example)
        time.sleep(0.05)
        return header

    monkeypatch.setattr(preflight, "inspect", slow)
    monkeypatch.setattr(preflight, "_header", lambda example, info: Facts(seconds=1.0))
    examples = [Example(str(row), Path(f"{row}.wav"), TEXT, "set") for row in range(400)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        preflight.inspect_all(examples, Config(data_dir=bench.folder), quiet(), Report())
    assert len(started) < 200


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


def test_facts_go_through_json() -> None:
    facts = Facts(None, 1.5, 16_000, True, 0.25, -20.0, True, "ab")
    assert Facts(**json.loads(runs.to_json_line(asdict(facts)))) == facts
