"""What `pack` writes is what was there, can be streamed, and is whole or not there at all."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import babble
from tars import recording, write_tar

from whisper_min.data import __main__ as commands
from whisper_min.data import pack, shards, sources
from whisper_min.data.examples import Example

DEMO = sources.DEMO_FOLDER / "dev.jsonl"


def run(argv: Sequence[str]) -> int:
    return commands.main(["pack", *argv])


def packed(folder: Path) -> list[Example]:
    """Everything in a folder of tars."""
    found = list(itertools.chain.from_iterable(map(shards.entries, map(str, sorted(folder.glob("*.tar"))))))
    assert all(isinstance(each, Example) for each in found), found
    return [each for each in found if isinstance(each, Example)]


def test_the_shipped_speech_comes_out_as_it_went_in(tmp_path: Path) -> None:
    assert run(["demo:dev", "--to", str(tmp_path / "out"), "--shard_size", "15"]) == 0
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["000000.tar", "000001.tar", "000002.tar"]
    before = sources.read_manifest(DEMO)
    after = packed(tmp_path / "out")
    assert [(each.id, each.text, each.speaker) for each in after] == [
        (each.id, each.text, each.speaker) for each in before
    ]
    for one, other in zip(before, after, strict=True):
        with other.file() as copy:
            assert copy.read_bytes() == one.audio_filepath.read_bytes() and copy.suffix == one.audio_filepath.suffix
        assert other.duration == pytest.approx(len(one.read()) / 16_000, abs=1e-4)


def test_a_part_of_a_file_becomes_a_file_of_its_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", babble(10), 16_000)
    rows = [{"audio": "long.wav", "text": "Part.", "offset": 2.0, "duration": 1.5, "language": "en"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run([str(tmp_path / "m.jsonl"), "--to", str(tmp_path / "out")]) == 0
    [part] = packed(tmp_path / "out")
    assert (part.member.name, part.duration, part.offset, part.language) == ("000000000.flac", 1.5, None, "en")
    [before] = sources.read_manifest(tmp_path / "m.jsonl")
    np.testing.assert_allclose(part.read(), before.read(), atol=2**-15)


def test_times_and_prompts_go_along(tmp_path: Path, make_set: Callable[..., Path]) -> None:
    """A window's segments are its clips', their times from its start; its prompt is the first one's."""
    segments = [{"start": 0.5, "end": 2.0, "text": "Number 1."}]
    manifest = make_set("clips", ["Number 1."] * 2, [8.0, 9.0], segments=segments, prompt="Before.")
    for words, times in (((), [[(0.5, 2.0)], [(0.5, 2.0)]]), (("--windows",), [[(0.5, 2.0), (8.5, 10.0)]])):
        assert run([str(manifest), "--to", str(tmp_path / f"out{len(words)}"), *words]) == 0
        entries = packed(tmp_path / f"out{len(words)}")
        assert [[(each.start, each.end) for each in entry.segments] for entry in entries] == times
        assert {entry.prompt for entry in entries} == {"Before."}


def test_windows_hold_the_clips_one_after_another(tmp_path: Path, make_set: Callable[..., Path]) -> None:
    manifest = make_set(
        "clips", [f"Number {n}." for n in range(7)], [8.0, 9.0, 10.0, 12.0, 20.0, 5.0, 5.0], speaker="x"
    )
    assert run([str(manifest), "--to", str(tmp_path / "out"), "--windows"]) == 0
    windows = packed(tmp_path / "out")
    assert [window.text for window in windows] == [
        "Number 0. Number 1. Number 2.", "Number 3.", "Number 4. Number 5. Number 6.",
    ]  # fmt: skip
    assert [window.duration for window in windows] == [27.0, 12.0, 30.0] and windows[0].speaker == "x"
    before = sources.read_manifest(manifest)
    joined = np.concatenate([each.read() for each in before[:3]])
    np.testing.assert_allclose(windows[0].read(), joined, atol=2**-15)


def test_tars_can_be_packed_again_with_their_lengths(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.flac", recording(1.25)), ("a.txt", b"No length is told.")])
    assert run([str(path), "--to", str(tmp_path / "out")]) == 0
    [example] = packed(tmp_path / "out")
    assert (example.duration, example.id, example.text) == (1.25, "a/a", "No length is told.")


def test_all_faults_are_said_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "good.wav", babble(1), 16_000)
    rows: list[dict[str, Any]] = [{"audio": name, "text": "Hello."} for name in ("good.wav", "noise.wav", "gone.wav")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = sorted(tmp_path.iterdir())
    argv = [str(tmp_path / "m.jsonl"), "--to", str(tmp_path / "out")]
    for option in ([], ["--windows"]):
        assert run([*argv, *option]) == 2
        told = capsys.readouterr().err
        assert "line 2" in told and "line 3" in told and "line 1" not in told
        assert sorted(tmp_path.iterdir()) == before
    assert run([*argv, "--skip_bad"]) == 0
    assert "1 entries in 1 tars, 2 left out" in capsys.readouterr().err
    assert len(packed(tmp_path / "out")) == 1


def test_a_recording_of_any_name_is_found_again(tmp_path: Path) -> None:
    """Readers of tars know a recording by its suffix: under another one it would be there and be lost."""
    for index, name in enumerate(("plain", "a.w64", "b.wav.bak", "c.WAV")):
        with open(tmp_path / name, "wb") as file:
            soundfile.write(file, babble(1, seed=index), 16_000, format="WAV")
    rows = [{"audio": name, "text": f"{name}."} for name in ("plain", "a.w64", "b.wav.bak", "c.WAV")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run([str(tmp_path / "m.jsonl"), "--to", str(tmp_path / "out")]) == 0
    for one, other in zip(sources.read_manifest(tmp_path / "m.jsonl"), packed(tmp_path / "out"), strict=True):
        assert (other.id, other.text, other.duration) == (one.id, one.text, 1.0)
        np.testing.assert_allclose(one.read(), other.read(), atol=2**-15)


def test_what_cannot_be_used_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(1600, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    rows = [{"audio": "nan.wav", "text": "One.", "offset": 0}, {"audio": "none.wav", "text": "Two."}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for option in ([], ["--windows"]):
        assert run([str(tmp_path / "m.jsonl"), "--to", str(tmp_path / "out"), *option]) == 2
        told = capsys.readouterr().err
        assert "nan.wav: holds numbers that are not finite" in told and "none.wav: holds no samples" in told


def test_where_nobody_speaks_a_window_has_the_words_of_the_others(
    tmp_path: Path, make_set: Callable[..., Path]
) -> None:
    manifest = make_set("clips", ["<|nospeech|>", "One.", "<|nospeech|>"], [8.0, 9.0, 20.0])
    assert run([str(manifest), "--to", str(tmp_path / "out"), "--windows"]) == 0
    assert [window.text for window in packed(tmp_path / "out")] == ["One.", "<|nospeech|>"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["demo:dev", "--to", "there"], "exists"),
        (["demo:dev", "--to", "no/where/out"], "its folder does not exist"),
        (["nothing.jsonl", "also.tar", "--to", "out"], "also.tar: does not exist"),
        (["demo:dev", "--to", "out", "--shard_size", "0"], "must be at least 1"),
        (["--to", "there", "--shard_size", "0"], "3 faults"),
        (["--to", "out"], "names no set"),
    ],
)
def test_wrong_usage_is_refused(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert run(argv) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_an_interrupted_pack_leaves_nothing(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pack.write_tar
    count = iter(range(9))

    def stop(path: Path, samples: Iterator[pack.Packed], first: int) -> int:
        if next(count) == 1:
            raise error
        return write(path, samples, first)

    monkeypatch.setattr(pack, "write_tar", stop)
    assert run(["demo:dev", "--to", str(tmp_path / "out"), "--shard_size", "10"]) == code
    assert list(tmp_path.iterdir()) == []
    said = {1: "failed: [Errno 28] No space left on device", 130: "stopped"}[code]
    assert capsys.readouterr().err == f"nothing is left of {tmp_path / 'out'}\n{said}\n"


def test_tars_are_plain_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(["demo:dev", "--to", str(tmp_path / name)]) == 0
    content = (tmp_path / "one" / "000000.tar").read_bytes()
    assert content == (tmp_path / "two" / "000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert [member.name for member in tar][:2] == ["000000000.opus", "000000000.json"]
