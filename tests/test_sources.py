"""Sources: what a set's word means, manifests with every fault at once, folders, and the held-out tenth."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import babble, faults_of
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_min.config import REPLAY_SHARE, Config, InputError
from whisper_min.data import sources
from whisper_min.data.examples import AUDIO_COLUMNS, TEXT_COLUMNS, Columns, Example, Segment, SpeechSet
from whisper_min.data.sources import Spec, parse_spec, read_folder, read_manifest

WINDOWS_LINE = st.sampled_from(["\n", "\r\n"])


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- Words of the command line.


@pytest.mark.parametrize(
    ("word", "spec"),
    [
        ("my/train.jsonl", ("train", "my/train.jsonl", None)),
        ("my/manifest.jsonl", ("my", "my/manifest.jsonl", None)),
        ("ward=my/dev.csv", ("ward", "my/dev.csv", None)),
        ("folder/of.clips/", ("of", "folder/of.clips/", None)),
        ("a folder", ("a-folder", "a folder", None)),
        ("demo", ("demo", "demo", None)),
        ("demo:dev", ("dev", "demo", "dev")),
        ("throat=demo:dev", ("throat", "demo", "dev")),
        ("librispeech:test-other", ("test-other", "librispeech", "test-other")),
        ("hub:user/name", ("name", "hub:user/name", None)),
        ("hub:user/name/clean:test", ("test", "hub:user/name/clean", "test")),
        ("throat=hub:user/name:train", ("throat", "hub:user/name", "train")),
        ("odd/name=x.jsonl", ("name-x", "odd/name=x.jsonl", None)),
        ("=x.jsonl", ("x", "x.jsonl", None)),
    ],
)
def test_a_word_has_name_source_and_split(word: str, spec: tuple[str, str, str | None]) -> None:
    assert parse_spec(word, "data") == Spec(*spec, "data")


@pytest.mark.parametrize(
    ("word", "spec"),
    [
        ("my/train.jsonl", ("train", "my/train.jsonl", None, REPLAY_SHARE)),
        ("my/train.jsonl@0.1", ("train", "my/train.jsonl", None, 0.1)),
        ("calm=my/train.jsonl@0", ("calm", "my/train.jsonl", None, 0.0)),
        ("librispeech:dev-clean@.25", ("dev-clean", "librispeech", "dev-clean", 0.25)),
        ("calm=demo:general@5e-1", ("calm", "demo", "general", 0.5)),
        ("me@home/train.jsonl@0.1", ("train", "me@home/train.jsonl", None, 0.1)),
        ("me@home.jsonl", ("me-home", "me@home.jsonl", None, REPLAY_SHARE)),
        ("speech@0.5/", ("speech-0", "speech@0.5/", None, REPLAY_SHARE)),
    ],
)
def test_a_replay_word_may_have_a_share(word: str, spec: tuple[str, str, str | None, float]) -> None:
    name, source, split, share = spec
    assert parse_spec(word, "replay") == Spec(name, source, split, "replay", share)


@pytest.mark.parametrize("share", ["1", "1.5", "-0.1", "nan", "inf", "", "10%", "a tenth"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    [fault] = faults_of(lambda: parse_spec(f"calm=my/train.jsonl@{share}", "replay"))
    assert fault.startswith(f"--replay calm=my/train.jsonl@{share}: the share {share!r} is not a number from 0 up to")
    assert f"as in calm=my/train.jsonl@{REPLAY_SHARE};" in fault


@pytest.mark.parametrize("option", ["data", "eval_data", "retain"])
def test_only_replay_takes_a_share(option: str) -> None:
    [fault] = faults_of(lambda: parse_spec("my/train.jsonl@0.1", option))
    assert fault == (
        f"--{option} my/train.jsonl@0.1: only --replay takes a share; leave @0.1 out, or write a folder of that name "
        "as my/train.jsonl@0.1/"
    )
    for word in ("speech@2024", "me@home.jsonl", "speech@0.5/"):
        assert parse_spec(word, option).source == word, "a path's own @"


def test_the_shares_leave_room_for_the_domain(make_set: Callable[..., Path], tmp_path: Path) -> None:
    path = make_set("calm", ["Hello."], seconds=0.1)

    def load(*shares: float) -> list[SpeechSet]:
        return sources.load_sets([f"s{n}={path}@{share}" for n, share in enumerate(shares)], "replay", tmp_path)

    assert [each.share for each in load(0.5, 0.25, 0.0)] == [0.5, 0.25, 0.0]
    assert [each.share for each in load(*[0.1] * 9)] == [0.1] * 9
    for shares in [(0.5, 0.5), (0.1,) * 10, (0.9, 0.2)]:
        [fault] = faults_of(lambda shares=shares: load(*shares))  # type: ignore[misc]
        assert fault.startswith(
            f"--replay: the shares {' + '.join(map(str, shares))} leave nothing of a step to --data"
        )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("nowhere.jsonl", "nowhere.jsonl: does not exist; correct the path"),
        (
            "nowhere",
            "--data nowhere: does not exist; give a manifest (.jsonl, .csv, .tsv), subtitles (.srt, .vtt), a folder",
        ),
        ("clip.wav", "--data clip.wav: not a manifest (.jsonl, .csv, .tsv), subtitles or a folder; give one of these"),
        ("folder.jsonl", "folder.jsonl: is a folder; give the file inside it"),
        ("empty.jsonl", "--data empty.jsonl: holds no entries"),
        ("empty.csv", "--data empty.csv: holds no entries"),
        ("latin.jsonl", "latin.jsonl: is not UTF-8 text (byte 13); save it as UTF-8"),
        ("demo:all", "--data demo:all: the shipped speech has the splits train, dev, test, general"),
        ("librispeech:train", "librispeech:train: no such subset; choose one of dev-clean"),
        ("hub:name:train", "--data hub:name:train: write hub:USER/NAME:SPLIT, or hub:USER/NAME/CONFIGURATION:SPLIT"),
        ("silent", "silent: holds no audio files (.wav .flac"),
        ("tars", "tars: holds tars; name them, as in 'tars/*.tar'"),
        ("", "--data '': names no set; give a source, or . for this folder"),
        ("mine=", "--data 'mine=': names no set"),
    ],
)
def test_a_source_that_cannot_be_read_says_why(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.jsonl", "silent"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tars").mkdir()
    write(tmp_path / "tars" / "0.tar", "")
    write(tmp_path / "clip.wav", "")
    write(tmp_path / "empty.jsonl", "\n\n")
    write(tmp_path / "empty.csv", "audio,text\n")
    write(tmp_path / "latin.jsonl", '{"text": "caf\xe9"}'.encode("latin-1"))
    [fault] = faults_of(lambda: sources.load_sets([word], "data", tmp_path))
    assert fault.startswith(told)


def test_every_set_s_faults_are_told_at_once(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", '{"audio": "a.wav", "text": "Hello."}\n')
    bad = write(tmp_path / "bad.jsonl", '{"audio": "a.wav"}\n{"text": "Hello."}\n')
    cfg = Config(data=(str(bad), str(good)), eval_data=("nowhere",), retain=("demo:all",), data_dir=tmp_path)
    told = faults_of(lambda: sources.of_training(cfg))
    assert len(told) == 4
    assert told[0].startswith(f"{bad}, line 1: ") and told[1].startswith(f"{bad}, line 2: ")
    assert told[2].startswith("--eval_data nowhere") and told[3].startswith("--retain demo:all")


def test_two_sets_of_one_name_are_refused_with_the_fix(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / folder / "train.jsonl", '{"audio": "a.wav", "text": "Hello."}\n') for folder in ("one", "two")
    )
    [fault] = faults_of(lambda: sources.load_sets([str(first), str(second)], "data", tmp_path))
    assert fault == (f"--data: 2 sets are called 'train' ({first} and {second}); name them, as in other={second}")
    sets = sources.load_sets([str(first), f"other={second}"], "data", tmp_path)
    assert [each.name for each in sets] == ["train", "other"]

    cfg = Config(data=(str(first),), eval_data=(str(first),), retain=(f"train={second}",), data_dir=tmp_path)
    [fault] = faults_of(lambda: sources.of_training(cfg))
    assert fault.startswith("--eval_data and --retain both hold a set called 'train'; name one of them, as in other=")


def test_the_shipped_speech_is_there(tmp_path: Path) -> None:
    sets = sources.load_sets([f"demo:{split}" for split in sources.DEMO_SPLITS], "data", tmp_path)
    assert [each.name for each in sets] == list(sources.DEMO_SPLITS)
    assert all(example.audio_filepath.is_file() and example.text for each in sets for example in each.examples)
    paths = [example.audio_filepath for each in sets for example in each.examples]
    assert len(paths) == len(set(paths)), "no recording is in two splits"


# ---- Manifests.

ROWS = [
    {"audio_filepath": "a.wav", "text": "Hello, there.", "duration": 1.5, "speaker": "7", "language": "en"},
    {"audio_filepath": "sub/b.flac", "text": 'A "quoted" word', "duration": 2.0, "speaker": "8", "language": ""},
    {"audio_filepath": "/abs/c.wav", "text": "", "duration": "", "speaker": "", "language": ""},
]


def write_table(path: Path, rows: Sequence[dict[str, object]], line: str = "\n", delimiter: str = ",") -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator=line)
    writer.writeheader()
    writer.writerows(rows)
    return write(path, out.getvalue())


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".CSV"])
def test_jsonl_csv_and_tsv_say_the_same(suffix: str, line: str, bom: str, tmp_path: Path) -> None:
    path = tmp_path / f"set{suffix}"
    if suffix.startswith(".json"):
        write(path, bom + "".join(json.dumps(row) + line for row in ROWS) + line)
    else:
        write_table(path, ROWS, line, "\t" if suffix == ".tsv" else ",")
        write(path, bom.encode() + path.read_bytes())
    examples = read_manifest(path)
    first = 1 if suffix.startswith(".json") else 2
    assert examples == [
        Example("a.wav", tmp_path / "a.wav", "Hello, there.", f"{path}, line {first}", None, 1.5, "7", "en"),
        Example("sub/b.flac", tmp_path / "sub/b.flac", 'A "quoted" word', f"{path}, line {first + 1}", None, 2.0, "8"),
        Example("/abs/c.wav", Path("/abs/c.wav"), "", f"{path}, line {first + 2}"),
    ]


@pytest.mark.parametrize("audio_column", AUDIO_COLUMNS)
@pytest.mark.parametrize("text_column", TEXT_COLUMNS)
def test_columns_go_by_several_names(audio_column: str, text_column: str, tmp_path: Path) -> None:
    row = {audio_column: "a.wav", text_column: "  Hello. ", "prompt": "Names:", "segments": [], "mine": 1}
    examples = read_manifest(write(tmp_path / "set.jsonl", json.dumps(row)))
    assert [(example.audio_filepath, example.text) for example in examples] == [(tmp_path / "a.wav", "Hello.")]


def test_segments_and_prompt_are_read_from_lines_and_cells(tmp_path: Path) -> None:
    segments = [{"start": 0, "end": 1.5, "text": " Hello,"}, {"start": 1.5, "end": 2.01, "text": "there."}]
    row = {"audio": "a.wav", "text": "Hello,\nthere.", "duration": 2.0, "prompt": " Names: ", "segments": segments}
    examples = read_manifest(write(tmp_path / "set.jsonl", json.dumps(row)))
    assert examples[0].segments == (Segment(0.0, 1.5, "Hello,"), Segment(1.5, 2.01, "there."))
    assert examples[0].prompt == "Names:"
    cells: dict[str, object] = {**row, "segments": json.dumps(segments)}
    for name in ("set.csv", "set.tsv"):
        [example] = read_manifest(write_table(tmp_path / name, [cells], delimiter="\t" if "t" in name[4] else ","))
        assert (example.segments, example.prompt) == (examples[0].segments, "Names:")
    no_spaces = {"audio": "a.wav", "text": "你好世界", "segments": [
        {"start": 0, "end": 1, "text": "你好"}, {"start": 1, "end": 2, "text": "世界"}]}  # fmt: skip
    [example] = read_manifest(write(tmp_path / "zh.jsonl", json.dumps(no_spaces)))
    assert len(example.segments) == 2 and example.prompt is None


def test_nemo_rows_keep_their_offset_and_get_an_id(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "a.wav", "text": "one", "offset": 0, "duration": 2},
        {"audio_filepath": "a.wav", "text": "two", "offset": 2.5, "duration": 1.0, "speaker": 3},
        {"audio_filepath": "a.wav", "text": "all", "id": 17},
    ]
    examples = read_manifest(write(tmp_path / "set.json", "\n".join(map(json.dumps, rows))))
    assert [(each.id, each.offset, each.duration, each.speaker) for each in examples] == [
        *[("a.wav@0", 0.0, 2.0, None), ("a.wav@2.5", 2.5, 1.0, "3"), ("17", None, None, None)]
    ]


def test_an_example_reads_its_part_of_the_file(tmp_path: Path) -> None:
    waveform = babble(3.0)
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    rows = [
        {"audio": "a.wav", "text": "part", "offset": 0.5, "duration": 1.0},
        {"audio": "a.wav", "text": "rest", "offset": 2.0},
        {"audio": "a.wav", "text": "whole", "duration": 1.0},
    ]
    examples = read_manifest(write(tmp_path / "set.jsonl", "\n".join(map(json.dumps, rows))))
    for example, part in zip(examples, [slice(8_000, 24_000), slice(32_000, None), slice(None)], strict=True):
        np.testing.assert_array_equal(example.read(), waveform[part])
        assert np.abs(example.read(normalize=True)).max() == pytest.approx(0.95)


FAULTY_LINES = [
    ('{"audio": "a.wav", "text": "Hel', "not JSON .*; the line is torn or the file is not JSONL"),
    ("[1, 2]", r"not a JSON object; write \{…\} a line"),
    ("[" * 100_000, "not JSON"),
    ('{"text": "Hello."}', "names no audio; add one of audio_filepath, audio, path, file"),
    ('{"audio": "", "text": "Hello."}', "names no audio"),
    ('{"audio": ["a.wav"], "text": "Hello."}', "audio is not a path but list"),
    ('{"audio": "a.wav"}', "has no text; add one of text, sentence, transcript"),
    ('{"audio": "a.wav", "text": null}', "has no text"),
    ('{"audio": "a.wav", "text": 5}', "text is not text but int"),
    ('{"audio": "a.wav", "text": "x", "duration": "long"}', "duration 'long' is not a number of seconds"),
    ('{"audio": "a.wav", "text": "x", "duration": -1}', "duration -1 is not a number of seconds from 0 up"),
    ('{"audio": "a.wav", "text": "x", "duration": NaN}', "duration nan is not a number of seconds from 0 up"),
    ('{"audio": "a.wav", "text": "x", "duration": 0}', "duration is 0; remove the entry"),
    ('{"audio": "a.wav", "text": "x", "offset": -0.5}', r"offset -0\.5 is not a number of seconds from 0 up"),
    ('{"audio": "a.wav", "text": "x", "prompt": ["x"]}', "prompt is not text but list"),
    *(
        (f'{{"audio": "a.wav", "text": "x y", "duration": 2, "segments": {segments}}}', expected)
        for segments, expected in [
            ('"0-2 x y"', "segments is not JSON"),
            (
                '{"start": 0}',
                r'segments is not a list but dict; write \[\{"start": 0.0, "end": 2.5, "text": "…"\}, …\]',
            ),
            ("[5]", "segment 1 is not an object with a text"),
            ('[{"start": 0, "end": 1, "text": " "}]', "segment 1 is not an object with a text"),
            ('[{"start": 0, "text": "x"}]', "segment 1 has no end"),
            ('[{"start": "a", "end": 1, "text": "x"}]', "segment 1: start 'a' is not a number of seconds"),
            ('[{"start": 1, "end": 1, "text": "x y"}]', "segment 1 begins at 1 s and ends at 1 s; correct its times"),
            (
                '[{"start": 0, "end": 2.5, "text": "x y"}]',
                "segment 1 ends at 2.5 s, beyond the duration of 2 s; correct",
            ),
            (
                '[{"start": 0, "end": 1, "text": "x"}, {"start": 0.5, "end": 3, "text": "y"}]',
                "segment 2 begins at 0.5 s, before segment 1 ends at 1 s; order them, without overlap; "
                "segment 2 ends at 3 s, beyond the duration of 2 s",
            ),
            (
                '[{"start": 0, "end": 1, "text": "x"}]',
                "the segments' texts do not make up the text; write the same words",
            ),
        ]
    ),
]


def test_every_faulty_line_is_told_with_its_number(tmp_path: Path) -> None:
    good = '{"audio": "a.wav", "text": "Hello."}'
    path = write(tmp_path / "set.jsonl", "".join(f"{good}\n{line}\n" for line, _ in FAULTY_LINES))
    told = faults_of(lambda: read_manifest(path))
    assert len(told) == len(FAULTY_LINES)
    for number, (fault, (_, expected)) in enumerate(zip(told, FAULTY_LINES, strict=True)):
        assert re.match(re.escape(f"{path}, line {2 * number + 2}: ") + expected, fault), fault


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_every_faulty_row_of_a_table_is_told_with_its_line(suffix: str, delimiter: str, tmp_path: Path) -> None:
    rows = ["audio,text,duration", "a.wav,Hello.,1", "b.wav,too few", "c.wav,too,1,many", ",no audio,1", "d.wav,x,y"]
    path = write(tmp_path / f"set{suffix}", "\n".join(rows).replace(",", delimiter))
    told = faults_of(lambda: read_manifest(path))
    assert [fault.removeprefix(f"{path}, line ")[:40] for fault in told] == [
        "3: has not as many fields as the header "[:40],
        "4: has not as many fields as the header "[:40],
        "5: names no audio; add one of audio_file"[:40],
        "6: duration 'y' is not a number of secon"[:40],
    ]
    assert told[0].endswith("(3)")


def test_a_table_without_the_columns_is_told_in_full(tmp_path: Path) -> None:
    told = faults_of(lambda: read_manifest(write(tmp_path / "set.csv", "a.wav,Hello.\nb.wav,World.\n")))
    assert told == [f"{tmp_path / 'set.csv'}, line 2: names no audio; add one of audio_filepath, audio, path, file"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_quote_that_is_not_closed_swallows_no_row_in_silence(suffix: str, tmp_path: Path) -> None:
    comma = "\t" if suffix == ".tsv" else ","
    rows = ["audio,text", 'a.wav,"Hello', "b.wav,World", "c.wav,Again"]
    path = write(tmp_path / f"set{suffix}", "\n".join(rows).replace(",", comma) + "\n")
    [fault] = faults_of(lambda: read_manifest(path))
    assert re.fullmatch(
        re.escape(f"{path}, line 2: ") + ".*; close every quote, and write one inside a field twice", fault
    )


@settings(deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), max_size=5), line=WINDOWS_LINE)
def test_any_text_survives_a_manifest(texts: list[str], line: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sets")
    rows: list[dict[str, object]] = [{"audio": f"{index}.wav", "text": text} for index, text in enumerate(texts)]
    write(folder / "set.jsonl", line.join(json.dumps(row, ensure_ascii=False) for row in rows))
    write_table(folder / "set.csv", rows or [{"audio": "", "text": ""}], line)
    for name in ("set.jsonl", *(["set.csv"] if rows else [])):
        examples = read_manifest(folder / name)
        assert [example.text for example in examples] == [text.strip() for text in texts]


# ---- Folders.


def test_a_folder_of_audio_with_texts_beside(tmp_path: Path) -> None:
    write(tmp_path / "one.wav", "")
    write(tmp_path / "one.txt", "\ufeffHello.\n")
    write(tmp_path / "sub" / "two.FLAC", "")
    write(tmp_path / "sub" / "two.txt", " Two\nlines ")
    for other in ("notes.txt", "cover.jpg", "._one.wav"):
        write(tmp_path / other, "no audio")
    assert read_folder(tmp_path) == [
        Example("one.wav", tmp_path / "one.wav", "Hello.", str(tmp_path / "one.wav")),
        Example("sub/two.FLAC", tmp_path / "sub/two.FLAC", "Two\nlines", str(tmp_path / "sub/two.FLAC")),
    ]


def test_a_folder_s_faults_are_told_at_once(tmp_path: Path) -> None:
    for name in ("one.wav", "two.opus", "three.mp3"):
        write(tmp_path / name, "")
    write(tmp_path / "two.txt", b"caf\xe9")
    write(tmp_path / "three.txt", "Fine.")
    told = faults_of(lambda: read_folder(tmp_path))
    assert told[0] == (
        f"{tmp_path / 'one.wav'}: has no transcript; write it to one.txt beside it, or remove the recording"
    )
    assert told[1].startswith(f"{tmp_path / 'two.txt'}: cannot be read as UTF-8 text") and len(told) == 2


def test_a_folder_without_a_transcript_is_a_set_without_text(tmp_path: Path) -> None:
    for name in ("one.wav", "two.opus"):
        write(tmp_path / name, "")
    assert [(example.id, example.text) for example in read_folder(tmp_path)] == [("one.wav", ""), ("two.opus", "")]
    assert not sources.load_sets([f"calm={tmp_path}@0.1"], "replay", tmp_path)[0].has_text
    write(tmp_path / "two.txt", b"caf\xe9")
    assert len(faults_of(lambda: read_folder(tmp_path))) == 2


def test_a_folder_may_be_a_librispeech_tree(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    write(chapter / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    write(chapter / "84-121123-0000.flac", "")
    loaded = sources.load_set(parse_spec(str(tmp_path / "dev-clean"), "data"), tmp_path)
    assert loaded.name == "dev-clean" and [each.text for each in loaded.examples] == ["GO DO YOU HEAR"]
    assert loaded.examples[0].audio_filepath == chapter / "84-121123-0000.flac"


# ---- The held-out tenth.


def speech_set(speakers: Sequence[str | None], name: str = "mine") -> SpeechSet:
    """A set with an utterance for each speaker given."""
    examples = [
        Example(f"{index}", Path(f"{name}/{index}.wav"), "x", f"{name}, line {index}", speaker=speaker)
        for index, speaker in enumerate(speakers)
    ]
    return SpeechSet(name, f"{name}.jsonl", examples)


SPEAKERS = st.lists(st.one_of(st.none(), st.sampled_from("abcdefg")), min_size=1, max_size=60)


@settings(deadline=None)
@given(first=SPEAKERS, second=SPEAKERS, seed=st.integers(0, 3))
def test_the_split_is_disjoint_complete_and_repeatable(
    first: list[str | None], second: list[str | None], seed: int
) -> None:
    sets = [speech_set(first, "one"), speech_set(second, "two")]
    training, held_out = sources.hold_out(sets, seed)
    left = {example.where for each in training for example in each.examples}
    held = {example.where for example in held_out.examples}
    assert held and left and not held & left
    assert held | left == {example.where for each in sets for example in each.examples}
    assert (held_out.name, held_out.source) == ("held-out", "a tenth of --data")
    assert sources.hold_out(sets, seed) == (training, held_out)

    speakers = {*first, *second}
    total = len(first) + len(second)
    if None not in speakers and len(speakers) > 1:
        apart = [{example.speaker for example in examples} for examples in (
            held_out.examples, [example for each in training for example in each.examples])]  # fmt: skip
        assert not apart[0] & apart[1], "a speaker is on one side only"
        assert len(held) >= min(total // 10, 1)
    else:
        assert len(held) == max(1, total // 10)


@pytest.mark.parametrize("seed", range(8))
def test_one_speaker_is_always_left_to_train_on(seed: int) -> None:
    [training], held_out = sources.hold_out([speech_set(["a"] + ["b"] * 40)], seed)
    assert {len(training.examples), len(held_out.examples)} == {1, 40}


def test_another_seed_holds_out_others() -> None:
    sets = [speech_set([None] * 200)]
    chosen = [{example.id for example in sources.hold_out(sets, seed)[1].examples} for seed in range(3)]
    assert all(len(each) == 20 for each in chosen) and chosen[0] != chosen[1] != chosen[2] != chosen[0]


@given(speakers=st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=3, max_size=60))
def test_made_splits_hold_everything_once_and_keep_speakers_apart(speakers: list[str | None]) -> None:
    examples = speech_set(speakers).examples
    made = {split: sources.made_split("--data x", examples, split) for split in ("train", "validation", "test")}
    assert all(made.values()), "none is empty"
    assert sorted(example.where for each in made.values() for example in each) == sorted(e.where for e in examples)
    if None not in speakers and len(set(speakers)) >= 3:
        apart = [{example.speaker for example in each} for each in made.values()]
        assert sum(map(len, apart)) == len(set(speakers)), "a speaker is in one split only"
    else:
        assert len(made["test"]) == len(made["validation"]) == max(1, len(examples) // 10)


def test_two_entries_make_no_three_splits() -> None:
    [fault] = faults_of(lambda: sources.made_split("--data x", speech_set(["a", "b"]).examples, "test"))
    assert fault == "--data x: its only split holds 2 entries, too few to make test from them"


def test_one_entry_cannot_be_split() -> None:
    [fault] = faults_of(lambda: sources.hold_out([speech_set(["a"])], 0))
    assert fault == "--data holds 1 entry; give --eval_data, or at least 2 entries to split"


def test_of_training_holds_out_only_without_eval_data(make_set: Callable[..., Path], tmp_path: Path) -> None:
    mine = make_set("mine", ["Hello."] * 20, seconds=0.1)
    theirs = make_set("theirs", ["Hello."], seconds=0.1)
    cfg = Config(data=(str(mine),), retain=(str(theirs),), data_dir=tmp_path, seed=3)
    found = sources.of_training(cfg)
    assert sorted((role, each.name, len(each.examples)) for role, each in found) == [
        *[("data", "mine", 18), ("eval_data", "held-out", 2), ("retain", "theirs", 1)]
    ]
    assert sources.of_training(cfg) == found
    given_set = sources.of_training(Config(data=(str(mine),), eval_data=(str(theirs),), data_dir=tmp_path))
    assert [(role, each.name, len(each.examples)) for role, each in given_set] == [
        *[("data", "mine", 20), ("eval_data", "theirs", 1)]
    ]


def test_of_training_reads_replay_sets_last_and_holds_out_none_of_them(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    mine, calm, news = (make_set(name, ["Hello."] * 20, seconds=0.1) for name in ("mine", "calm", "news"))
    cfg = Config(data=(str(mine),), replay=(f"{calm}@0.1", f"mine={news}"), data_dir=tmp_path)
    assert [(role, each.name, len(each.examples), each.share) for role, each in sources.of_training(cfg)] == [
        ("data", "mine", 18, 0.0),
        ("eval_data", "held-out", 2, 0.0),
        ("replay", "calm", 20, 0.1),
        ("replay", "mine", 20, REPLAY_SHARE),
    ]
    twice = replace(cfg, replay=(f"{calm}@0.1", f"calm={news}"), retain=("nowhere",))
    told = faults_of(lambda: sources.of_training(twice))
    assert [fault.split(":")[0] for fault in told] == ["--retain nowhere", "--replay"]
    assert "2 sets are called 'calm'" in told[1]


def test_columns_of_manifests_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"recording": "a.wav", "audio": "b.wav", "text": "X", "said": "Hello."}) + "\n")
    [example] = read_manifest(path, Columns("recording", "said"))
    assert (example.audio_filepath, example.text) == (tmp_path / "a.wav", "Hello.")
    with pytest.raises(InputError) as error:
        read_manifest(path, Columns("sound", "words"))
    assert error.value.faults == [
        f"{path}: has no column {name!r}, which {option} asks for; it has audio, recording, said, text"
        for name, option in [("sound", "--audio_column"), ("words", "--text_column")]
    ]
    [example] = read_manifest(path, Columns("sound", "words", required=False))
    assert (example.audio_filepath, example.text) == (tmp_path / "b.wav", "X")
