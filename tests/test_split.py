"""`python -m whisper_min.data split`, the parts it draws, and the commands beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY, babble
from hypothesis import given
from hypothesis import strategies as st
from tars import write_tar

from whisper_min import runs
from whisper_min.config import InputError
from whisper_min.data import __main__ as commands
from whisper_min.data import parts, sources
from whisper_min.data.examples import Example

# (speaker, recording) of every entry
ENTRIES = st.lists(st.tuples(st.none() | st.sampled_from("abcdefgh"), st.integers(0, 30)), min_size=1, max_size=60)


def entries_of(speakers: Sequence[str | None]) -> list[Example]:
    return [Example(str(n), Path(f"{n}.wav"), "x", f"line {n}", speaker=who) for n, who in enumerate(speakers)]


@given(ENTRIES, st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 3))
def test_parts_share_no_recording_and_no_known_speaker(
    entries: list[tuple[str | None, int]], counts: list[int], seed: int
) -> None:
    examples = entries_of([who for who, _ in entries])
    recordings = [f"recording {recording}" for _, recording in entries]
    recording_of = dict(zip((example.id for example in examples), recordings, strict=True))
    if len(set(recordings)) <= len(counts):
        with pytest.raises(InputError, match=f"different recordings, too few for {len(counts) + 1} parts"):
            parts.divide(examples, counts, seed, recordings)
        return
    drawn = parts.divide(examples, counts, seed, recordings)
    assert drawn == parts.divide(examples, counts, seed, recordings)
    assert len(drawn) == len(counts) + 1 and all(drawn)
    together = [each for part in drawn for each in part]
    assert sorted(together, key=lambda each: int(each.id)) == examples, "every entry is in one part"
    assert all([int(each.id) for each in part] == sorted(int(each.id) for each in part) for part in drawn)
    sides = Counter(recording for part in drawn for recording in {recording_of[each.id] for each in part})
    assert set(sides.values()) == {1}
    # speakers joined by a recording are one
    everyone = {who: {who} for who, _ in entries}
    for _ in entries:
        for recording in set(recordings):
            met = set().union(*(everyone[who] for who, its in entries if f"recording {its}" == recording))
            everyone |= dict.fromkeys(met, met)
    if None not in everyone and len({frozenset(each) for each in everyone.values()}) > len(counts):
        sides = Counter(who for part in drawn for who in {each.speaker for each in part})
        assert set(sides.values()) == {1}


def test_parts_have_about_the_size_asked_for() -> None:
    sizes = [len(part) for part in parts.divide(entries_of([None] * 100), [20, 10], seed=0)]
    assert sizes == [70, 20, 10]
    sizes = [len(part) for part in parts.divide(entries_of([str(n % 20) for n in range(100)]), [20, 10], seed=0)]
    assert sizes == [70, 20, 10], "speakers of 5 entries each"
    assert [len(part) for part in parts.divide(entries_of([None] * 3), [3, 3], seed=0)] == [1, 1, 1]


# ---- The command.


def run(*words: str | Path) -> int:
    return commands.main([str(word) for word in words])


def read(path: Path) -> list[Example]:
    return sources.read_manifest(path)


def test_a_split_set_is_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ("--data_dir", tmp_path / "cache")
    assert run("split", "demo:dev", "--to", tmp_path / "a" / "b", "--dev", "0.25", *cache) == 0
    out = capsys.readouterr().out
    assert "several sides" in out, "the shipped speech is one speaker's"
    made = {name: read(tmp_path / "a" / "b" / f"{name}.jsonl") for name in ("train", "dev", "test")}
    assert {name: len(its) for name, its in made.items()} == {"train": 24, "dev": 10, "test": 4}
    whole = sources.load_set(sources.parse_spec("demo:dev", "data"), tmp_path).examples
    together = [each for its in made.values() for each in its]

    def said(examples: Sequence[Example]) -> list[tuple[object, ...]]:
        return sorted((each.id, each.text, each.speaker, each.audio_filepath.resolve()) for each in examples)

    assert said(together) == said(whole)
    assert run("split", "demo:dev", "--to", tmp_path / "again", "--dev", "0.25", *cache) == 0
    for name in made:
        again = tmp_path / "again" / f"{name}.jsonl"
        assert again.read_text() == (tmp_path / "a" / "b" / f"{name}.jsonl").read_text()
    assert run("split", "demo:dev", "--to", tmp_path / "other", "--dev", "0", "--seed", "1", *cache) == 0
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["test.jsonl", "train.jsonl"]
    assert {each.id for each in read(tmp_path / "other" / "test.jsonl")} != {each.id for each in made["test"]}


def test_copies_of_a_recording_stay_together_and_durations_are_filled_in(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = make_set("mine", ["Hello."] * 8, seconds=0.5)
    for index in range(0, 8, 2):
        (manifest.parent / f"{index + 1}.wav").write_bytes((manifest.parent / f"{index}.wav").read_bytes())
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "duration": None}) + "\n" for row in rows))
    for seed in range(4):
        to = manifest.parent if seed == 0 else tmp_path / str(seed)
        assert run("split", manifest, "--to", to, "--seed", str(seed), "--data_dir", tmp_path / "cache") == 0
        for name in ("train", "dev", "test"):
            its = read(to / f"{name}.jsonl")
            numbers = {int(each.audio_filepath.stem) for each in its}
            assert numbers == {number ^ 1 for number in numbers}, "0 beside 1, 2 beside 3"
            assert all(each.duration == 0.5 and each.audio_filepath.is_file() for each in its)
    inside = json.loads((manifest.parent / "train.jsonl").read_text().splitlines()[0])
    assert not Path(inside["audio_filepath"]).is_absolute(), "files below the folder move with it"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_columns_that_nothing_reads_go_along(suffix: str, make_set: Callable[..., Path], tmp_path: Path) -> None:
    manifest = make_set("mine", ["Hello."] * 6, seconds=0.5, speaker="", mark="5")
    before = [json.loads(line) | {"mine": str(n)} for n, line in enumerate(manifest.read_text().splitlines())]
    manifest = manifest.with_suffix(suffix)
    table = [",".join(before[0]), *(",".join(map(str, row.values())) for row in before)]
    manifest.write_text("\n".join(table if suffix == ".csv" else map(json.dumps, before)))
    assert run("split", manifest, "--to", tmp_path / "set", "--data_dir", tmp_path / "cache") == 0
    lines = [path.read_text().splitlines() for path in sorted((tmp_path / "set").iterdir())]
    after = [json.loads(line) for its in lines for line in its]
    assert sorted(row["mine"] for row in after) == list("012345")
    for row in after:
        assert Path(row["audio_filepath"]).name == before[int(row["mine"])]["audio_filepath"]
        assert (row["text"], row["duration"], row["speaker"], row["mark"]) == ("Hello.", 0.5, "", "5")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_what_stops_between_two_manifests_leaves_none(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = runs.write_atomic, iter(range(9))

    def stop(path: Path, content: str) -> None:
        if next(count) == 1:
            raise error
        write(path, content)

    monkeypatch.setattr(runs, "write_atomic", stop)
    assert run("split", "demo:dev", "--to", tmp_path / "set", "--data_dir", tmp_path / "cache") == code
    assert next(count) == 2 and list((tmp_path / "set").iterdir()) == []


def test_subtitles_become_manifests_with_all_they_hold(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", babble(60.0), 16_000)
    said = [
        (start, start + 4, f"<v {who}>Words of {start}.") for start, who in zip(range(0, 60, 10), "ababcc", strict=True)
    ]
    blocks = [f"00:{start:02}.000 --> 00:{end:02}.000\n{text}" for start, end, text in said]
    (tmp_path / "talk.vtt").write_text("WEBVTT\nLanguage: en\n\n" + "\n\n".join(blocks))
    cache = ("--data_dir", str(tmp_path / "cache"))
    assert run("split", tmp_path / "talk.vtt", "--to", tmp_path / "set", "--test", "0.3", *cache) == 0
    made = {name: read(tmp_path / "set" / f"{name}.jsonl") for name in ("train", "dev", "test")}
    assert {frozenset(each.speaker for each in its) for its in made.values()} == {*map(frozenset, "abc")}
    whole = {each.id: each for each in sources.read_subtitles(tmp_path / "talk.vtt")}
    for its in made.values():
        for each in its:
            assert (each.segments, each.prompt, each.offset, each.duration, each.speaker, each.language, each.text) == (
                *(whole[each.id].segments, whole[each.id].prompt, whole[each.id].offset, whole[each.id].duration),
                *(whole[each.id].speaker, "en", whole[each.id].text),
            )
            np.testing.assert_array_equal(each.read(), whole[each.id].read())
    assert run("check", *(tmp_path / "set" / f"{name}.jsonl" for name in made), *cache) == 0


def test_wrong_usage_is_told_at_once_and_nothing_is_written(
    tmp_path: Path, make_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ("--data_dir", str(tmp_path / "cache"))
    (tmp_path / "dev.jsonl").write_text("mine")
    assert run("split", "demo", "--to", tmp_path, "--dev", "1.5", "--test", "-0.1", *cache) == 2
    err = capsys.readouterr().err
    for told in ("--dev 1.5: must be a share", "--test -0.1: must be a share", "dev.jsonl: exists; remove it or give"):
        assert told in err
    assert run("split", "demo", "--to", tmp_path / "new", "--dev", "0.5", "--test", "0.5", *cache) == 2
    assert "leave nothing to train on" in capsys.readouterr().err
    assert run("split", "demo", "--to", tmp_path / "dev.jsonl", *cache) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan, np.float32), 16_000, subtype="FLOAT")
    for name in ("none", "nan"):
        (tmp_path / f"{name}.txt").write_text("Hello.")
    assert run("split", tmp_path, "--to", tmp_path / "new", *cache) == 2
    assert "holds no samples" in (err := capsys.readouterr().err) and "not finite" in err
    tar = write_tar(tmp_path / "a.tar", [("a.wav", (tmp_path / "nan.wav").read_bytes()), ("a.txt", b"Hi.")])
    assert run("split", tar, "--to", tmp_path / "new", *cache) == 2
    assert "a manifest cannot name recordings inside tars" in capsys.readouterr().err
    manifest = make_set("mine", ["Hello."] * 4, seconds=0.1)
    (manifest.parent / "2.wav").unlink()
    assert run("split", manifest, "--to", tmp_path / "new", *cache) == 2
    assert "line 3: " in (err := capsys.readouterr().err) and "2.wav: does not exist" in err
    assert run("split", make_set("two", ["Hello."] * 2, seconds=0.1), "--to", tmp_path / "new", *cache) == 2
    assert "2 entries hold 2 different recordings, too few for 3 parts" in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and (tmp_path / "dev.jsonl").read_text() == "mine"


def test_a_folder_s_name_is_no_markup(
    tmp_path: Path,
    make_set: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest, to = make_set("mine", ["Hello."] * 4, seconds=0.1), Path("[", "b]")
    assert run("split", manifest, "--to", to, "--data_dir", tmp_path / "cache") == 0
    assert len(read(to / "train.jsonl")) == 2 and "[/b]/train.jsonl" in capsys.readouterr().out


def test_check_says_what_a_training_would(
    tmp_path: Path, make_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ("--data_dir", str(tmp_path / "cache"))
    good, long = make_set("good", ["HELLO THERE"] * 3, seconds=1.0), make_set("long", ["Hello."], seconds=31.0)
    assert run("check", good, *cache) == 0
    captured = capsys.readouterr()
    assert "Preflight" in captured.out and "note: data good: references are upper-case unpunctuated" in captured.out
    assert captured.err == ""
    assert run("check", good, long, *cache) == 2
    captured = capsys.readouterr()
    assert "31.0 s, but Whisper hears 30 s" in captured.err and "long" in captured.out
    assert run("check", good, long, "--skip_bad", *cache) == 2, "nothing would be left of a set"
    both = good.with_name("both.jsonl")
    both.write_text(good.read_text() + json.dumps({"audio": str(long.parent / "0.wav"), "text": "Hello."}))
    assert run("check", both, "--skip_bad", *cache) == 0
    captured = capsys.readouterr()
    assert f"left out: {both}, line 4: " in captured.out and "31.0 s, but Whisper hears 30 s" in captured.out
    assert run("check", good, "--language", "xx", *cache) == 2
    assert "--language xx: Whisper does not know it" in capsys.readouterr().err
    assert run("check", *cache) == 2
    assert "names no set" in capsys.readouterr().err


def test_sources_are_named_as_they_were_given(
    tmp_path: Path, make_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no --data here."""
    good = make_set("good", ["Hello."] * 3, seconds=0.1)
    for words, told in [
        (("show", "demo:none"), "error: demo:none: the shipped speech has the splits "),
        (("split", "demo:none", "--to", tmp_path / "x"), "error: demo:none: the shipped speech has the splits "),
        (("check", "demo:none"), "error: demo:none: the shipped speech has the splits "),
        (("check", "demo@0.1"), "error: demo@0.1: only --replay takes a share; "),
        (("check", good, good), "error: 2 sets are called 'good' "),
        (("show", ""), "error: '': names no set; "),
    ]:
        assert run(*words, *(() if words[0] == "show" else ("--data_dir", tmp_path))) == 2
        assert capsys.readouterr().err.startswith(told)


def test_commands_are_named_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in commands.COMMANDS)
    assert run() == 2 and "usage: " in capsys.readouterr().err
    assert run("slit") == 2 and "error: slit: no such command" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whisper_min.data", "split", "nowhere.jsonl", "--to", "x"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.jsonl: does not exist; correct the path\n"
