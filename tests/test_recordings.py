"""What recordings are found to be, how many are decoded, and what is remembered of them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import babble
from workbench import TEXT, Workbench, quiet

from whisper_min import audio, runs
from whisper_min.config import Config
from whisper_min.data import recordings
from whisper_min.data.examples import Example
from whisper_min.data.recordings import Facts


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


def test_facts_go_through_json() -> None:
    facts = Facts(None, 1.5, 16_000, True, 0.25, -20.0, True, "ab")
    assert Facts(**json.loads(runs.to_json_line(asdict(facts)))) == facts


def test_above_fifty_hours_headers_are_read_and_a_sample_is_decoded(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "DECODE_ALL_HOURS", 0.001)
    monkeypatch.setattr(recordings, "DECODED_SAMPLE", 2)
    report = bench.check([bench.row() for _ in range(5)])
    assert [facts.decoded for facts in report.sets[0].facts].count(True) == 2
    assert report.sets[0].seconds == [2.0] * 5
    assert report.faults == []
    [note] = report.notes
    assert note.startswith(
        "0 h: the headers of all 5 files are read and 2 files decoded; bad audio in the others is met"
    )


def test_above_fifty_hours_another_start_finds_the_same(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers and sample come from the cache; what another run decoded makes no other data of it."""
    monkeypatch.setattr(recordings, "DECODE_ALL_HOURS", 0.001)
    monkeypatch.setattr(recordings, "DECODED_SAMPLE", 2)
    rows = [bench.row() for _ in range(5)]
    first = bench.check(rows)
    other = bench.check(rows, seed=1)
    decoded = [[facts.decoded for facts in report.sets[0].facts] for report in (first, other)]
    assert decoded[0] != decoded[1] and first.fingerprint == other.fingerprint
    monkeypatch.setattr(audio, "info", lambda path: pytest.fail("a header is read again"))
    monkeypatch.setattr(recordings, "inspect", lambda *rest: pytest.fail("a recording is decoded again"))
    again = bench.check(rows)
    assert again.sets[0].facts == other.sets[0].facts and again.fingerprint == first.fingerprint
    assert not first.all_decoded and bench.check(rows[:2]).all_decoded
    first.all_decoded = other.all_decoded = True
    assert first.fingerprint != other.fingerprint, "where all is decoded the recordings count"


def test_a_recording_that_cannot_be_read_is_tried_once_for_all_its_parts(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ffmpeg may be waited for a quarter of an hour."""
    asked: list[Path] = []

    def info(path: Path) -> audio.AudioInfo:
        asked.append(path)
        raise audio.AudioError("takes too long")

    monkeypatch.setattr(audio, "info", info)
    name = bench.record()
    report = bench.check([bench.row(audio=name, offset=part / 10, duration=0.1) for part in range(5)])
    assert len(report.faults) == 5 and len(asked) == 1


def test_ctrl_c_does_not_wait_for_every_recording(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 recordings that take their time only those under way are still read."""
    started: list[Example] = []

    def slow(example: Example, header: Facts) -> Facts:
        started.append(example)
        time.sleep(0.05)
        return header

    monkeypatch.setattr(recordings, "inspect", slow)
    monkeypatch.setattr(recordings, "_header", lambda example, info: Facts(seconds=1.0))
    examples = [Example(str(row), Path(f"{row}.wav"), TEXT, "set") for row in range(400)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        recordings.inspect_all(examples, Config(data_dir=bench.folder), quiet(), [])
    assert len(started) < 200


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
    report = bench.check([bench.row()])
    assert report.faults == []
    [note] = report.notes
    assert f"could not be cached in {bench.folder / 'cache' / 'preflight.jsonl'} (" in note
