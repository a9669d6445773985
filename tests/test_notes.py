"""What is noted about a set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import soundfile
from conftest import babble
from workbench import TEXT, Workbench

from whisper_min.data.checked import Report
from whisper_min.data.normalizer import normalizer


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
