"""Streamed tars before a training: what they hold, every fault, and what a stream cannot do."""

from __future__ import annotations

import gc
import io
import re
import tempfile
from pathlib import Path

import pytest
from quick_model import ending_whisper, one_thread, same_weights, save_openai, write_set  # noqa: F401
from rich.console import Console
from tars import LENGTHS, TEXTS, hollow_tar, recording, served, write_shards, write_tar  # noqa: F401
from test_stream import epoch_of, ids
from workbench import TOKENS

from whisper_min import config
from whisper_min.config import Config, InputError
from whisper_min.data import batches, preflight, sources, survey
from whisper_min.data.checked import Report
from whisper_min.data.stream import Stream
from whisper_min.training import setup


def check(tmp_path: Path, word: str, **options: object) -> Report:
    cfg = Config(data=(word,), eval_data=("demo:dev",), data_dir=tmp_path / "cache", **options)
    return preflight.run(sources.of_training(cfg), cfg, TOKENS, Console(file=io.StringIO()))


@pytest.mark.parametrize("told", [True, False])
def test_the_report_counts_what_is_not_held(tmp_path: Path, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "DECODED_SAMPLE", 6)
    write_shards(tmp_path / "s", TEXTS, LENGTHS, 5, told)
    report = check(tmp_path, f"{tmp_path}/s/{{000..002}}.tar")
    assert not report.faults
    [checked] = report.role("data")
    assert checked.totals is not None
    assert (checked.entries, len(checked.speech.examples)) == (12, 6)
    assert checked.totals.seconds == pytest.approx(sum(LENGTHS), rel=1e-9 if told else 0.25)
    assert checked.longest == (2.1 if told else 30.0)
    assert any(note.startswith("data s: 12 entries in 3 tars, streamed; 6 were decoded") for note in report.notes)
    assert any("12 entries do not tell their duration" in note for note in report.notes) != told
    out = io.StringIO()
    Console(file=out, width=100).print(preflight.table(report))
    assert re.search(r"--data +│ s +│ +12 │ +" + ("" if told else "≈ ") + r"0\.01", out.getvalue())


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path / "s", TEXTS, LENGTHS, 4)
    word = f"{tmp_path}/s/{{000..002}}.tar"
    read: list[str] = []
    walk = survey.survey_shard
    monkeypatch.setattr(survey, "survey_shard", lambda name, *rest: (read.append(name), walk(name, *rest))[1])
    first = check(tmp_path, word)
    assert read == [str(path) for path in paths]
    again = check(tmp_path, word)
    assert len(read) == 3 and again.role("data")[0].totals == first.role("data")[0].totals
    write_shards(tmp_path / "s", TEXTS[:4], [2.0] * 4, 4)  # the first one anew
    assert check(tmp_path, word).role("data")[0].totals.seconds == pytest.approx(8.0 + sum(LENGTHS[4:]))
    assert read[3:] == [str(paths[0])]


def test_every_fault_of_every_shard_is_said_at_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [
        ("a.flac", recording(2.0, "a")), ("a.txt", b"This is fine, really."),
        ("b.flac", b"no flac"), ("b.txt", b"This is damaged, really."),
        ("c.flac", recording(1.0, "c")), ("c.txt", b""),
        ("d.txt", b"Nobody speaks."),
        ("e.flac", recording(1.0, "e")), ("e.json", b'{"text": "Far too long.", "duration": 31}'),
        ("f.flac", recording(1.0, "f")), ("f.json", b'{"text": "Guten Tag.", "language": "de"}'),
    ])  # fmt: skip
    whole = write_tar(tmp_path / "1.tar", [("a.flac", recording(2.0, "a2")), ("a.txt", b"This is fine, too.")])
    whole.write_bytes(whole.read_bytes()[:2000])
    faults = "\n".join(check(tmp_path, f"{tmp_path}/{{0..1}}.tar").faults)
    for told in [
        "1.tar: damaged after", "0.tar, key b: ", "0.tar, key c: ", "has an empty text", "0.tar, key d: has no audio",
        "0.tar, key e: ", "31.0 s, but Whisper hears 30 s", "is in 'de', but --language is 'en'",
    ]:  # fmt: skip
        assert told in faults, faults
    assert "key a: " not in faults
    report = check(tmp_path, f"{tmp_path}/{{0..1}}.tar", skip_bad=True)
    assert not report.faults and len(report.skipped) >= 5
    [checked] = report.role("data")
    assert any("damaged tars, read as far as that goes: 1 of 2" in note for note in report.notes)
    cfg = Config(skip_bad=True, batch_size=8)
    assert ids(epoch_of(Stream([checked], cfg, TOKENS), 0)) == ["0/a"]


def test_a_recording_that_is_evaluated_is_a_fault_and_left_out(tmp_path: Path) -> None:
    [dev] = sources.load_sets(["demo:dev"], "eval_data", tmp_path)
    same = dev.examples[0]
    path = write_tar(tmp_path / "a.tar", [
        (f"same{same.audio_filepath.suffix}", same.audio_filepath.read_bytes()), ("same.txt", same.text.encode()),
        ("other.flac", recording(2.0, "other")), ("other.txt", b"Another recording."),
    ])  # fmt: skip
    [fault] = check(tmp_path, str(path)).faults
    assert "key same: is in the training set and in the evaluation set dev" in fault
    [checked] = check(tmp_path, str(path), skip_bad=True).role("data")
    assert ids(epoch_of(Stream([checked], Config(skip_bad=True), TOKENS), 0)) == ["a/other"]


def test_tars_without_an_entry_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])
    assert any("holds no entries" in fault for fault in check(tmp_path, f"{tmp_path}/a.tar").faults)


def test_what_a_stream_cannot_do_is_refused_with_a_fix(tmp_path: Path) -> None:
    path = hollow_tar(tmp_path / "a.tar", 3)
    faults = "\n".join(config.check(Config(data=(str(path),), label_style="original")))
    assert "give --eval_data SET" in faults and "--label_style original" in faults
    cfg = config.resolve(Config(data=(str(path),), eval_data=("demo:dev",), replay=("demo:general",)))
    assert cfg.label_style == "auto" and config.check(cfg) == []
    with pytest.raises(InputError) as caught:
        setup.prepare(config.resolve(Config(data=(str(path),), data_dir=tmp_path)), Console(file=io.StringIO()))
    assert any("give --eval_data" in fault for fault in caught.value.faults)


def test_other_options_read_tars_whole(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "s", TEXTS, LENGTHS, 6)
    paths[1].write_bytes(paths[1].read_bytes()[:-11_000])
    [speech] = sources.load_sets([f"{tmp_path}/s/{{000..001}}.tar@0.5"], "replay", tmp_path)
    assert len(speech.examples) == 11 and speech.share == 0.5 and not speech.shards
    [fault] = speech.faults
    assert fault.startswith(f"{paths[1]}: damaged after ")
    for skip_bad in (False, True):
        cfg = Config(data_dir=tmp_path / "cache", skip_bad=skip_bad)
        report = preflight.run([("replay", speech)], cfg, TOKENS, Console(file=io.StringIO()))
        assert (report.skipped if skip_bad else report.faults) == [fault]


def test_remote_tars_are_checked_streamed_and_removed(
    tmp_path: Path,
    served: tuple[Path, str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, address = served
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    write_shards(folder, TEXTS, LENGTHS, 4)
    report = check(tmp_path, f"{address}/{{000..002}}.tar")
    assert not report.faults and report.role("data")[0].entries == 12
    order = Stream(report.role("data"), Config(batch_size=2), TOKENS, buffer=3)
    assert len(list(temporary.iterdir())) == survey.SAMPLED_REMOTE_SHARDS, "those of the sample"
    for windows in epoch_of(order, 0):
        assert batches.collate(windows, TOKENS, 80, Config()).waveforms.shape[0] == len(windows)
    del report, order, windows
    gc.collect()
    assert not list(temporary.iterdir())
