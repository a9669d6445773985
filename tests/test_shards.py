"""Tars: what a word means, what is in them, and everything that can be wrong with one."""

from __future__ import annotations

import gc
import io
import json
import re
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from tars import hollow_tar, recording, served, write_tar  # noqa: F401

from whisper_min import audio
from whisper_min.config import InputError, is_tar
from whisper_min.data import shards, sources
from whisper_min.data.examples import Example
from whisper_min.data.shards import ShardError


def read(path: Path | str) -> tuple[list[Example], list[str]]:
    """(examples, faults) of a tar that is whole."""
    found = list(shards.entries(str(path)))
    return [each for each in found if isinstance(each, Example)], [each for each in found if isinstance(each, str)]


# ---- Words.


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ("a/{000..003}.tar", ["a/000.tar", "a/001.tar", "a/002.tar", "a/003.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{2..0}.tar", ["2.tar", "1.tar", "0.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("https://host/x-{00..01}.tar?sig=1", ["https://host/x-00.tar?sig=1", "https://host/x-01.tar?sig=1"]),
        ("one.tar", ["one.tar"]),
    ],
)
def test_braces_mean_what_they_mean_in_a_shell(word: str, means: list[str]) -> None:
    assert shards.expand(word) == means


@pytest.mark.parametrize("word", ["{0..9999999}.tar", "{x}.tar", "{0..}.tar"])
def test_braces_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"\{"):
        shards.expand(word)


def test_a_star_finds_files_in_order(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).touch()
    assert shards.expand(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]


@given(
    st.lists(st.integers(0, 300), min_size=2, max_size=30, unique=True), st.sampled_from(["{:03d}", "{}"]),
    st.sampled_from(["s/{}.tar", "mine=s/a-{}-x.tar", "s/{}/{}.tar"]),
)  # fmt: skip
def test_what_a_shell_expanded_is_one_word_again(numbers: list[int], width: str, pattern: str) -> None:
    words = [pattern.format(*[width.format(number)] * 2) for number in numbers]
    [joined] = shards.join(words)
    assert shards.expand(joined) == words


def test_other_words_are_left_alone() -> None:
    words = ["a1.jsonl", "a2.jsonl", "train-1.tar", "dev-1.tar", "x.tar", "x.tar"]
    assert shards.join(words) == words
    assert shards.join(["a0.tar@0.2", "a1.tar@0.2", "a2.tar@0.3"]) == ["a{0..1}.tar@0.2", "a2.tar@0.3"]
    assert shards.join(["m.jsonl", "0.tar", "1.tar", "demo"]) == ["m.jsonl", "{0..1}.tar", "demo"]


@pytest.mark.parametrize(
    ("word", "name"),
    [("s/{0..9}.tar", "s"), ("train-{000..127}.tar", "train"), ("s/7.tar", "7"), ("x/a_*.tar", "a"),
     ("https://host/deep/{0..9}.tar?key=a", "deep"), ("mine=s/{0..9}.tar", "mine")],
)  # fmt: skip
def test_a_set_of_tars_has_a_name(word: str, name: str) -> None:
    assert sources.parse_spec(word, "data").name == name


@pytest.mark.parametrize("word", ["a.tar", "n=a.tar@0.1", "s/{0..1}.tar", "https://h/a.tar?x=1"])
def test_words_that_name_tars(word: str) -> None:
    assert is_tar(word) and not is_tar(word.replace(".tar", ".jsonl")) and not is_tar("folder.tar/manifest.jsonl")


def test_tars_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "1.tar").touch()
    with pytest.raises(InputError) as caught:
        sources.load_sets([f"{tmp_path}/{{0..2}}.tar", f"{tmp_path}/*-none.tar"], "data", tmp_path, stream=True)
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == [
        f"{tmp_path}/0.tar", f"{tmp_path}/2.tar", f"--data {tmp_path}/*-none.tar",
    ]  # fmt: skip


# ---- Samples.


def test_text_comes_from_txt_or_json_and_audio_from_the_place_in_the_tar(tmp_path: Path) -> None:
    one, two = recording(1.0, 1), recording(1.5, 2, format_="WAV")
    row = {"sentence": "Second. ", "duration": 1.5, "speaker": 7, "language": "en", "id": "two"}
    path = write_tar(tmp_path / "a.tar", [
        ("in/0.flac", one), ("in/0.txt", "\ufeffFirst, käse.\n".encode()), ("in/0.cls", b"5"),
        ("in/1.JSON", json.dumps(row).encode()), ("in/1.wav", two), ("in/._1.wav", b"\0"), ("in/.DS_Store", b"\0"),
    ])  # fmt: skip
    (first, second), faults = read(path)
    assert not faults
    assert (first.id, first.text, first.where) == ("a/in/0", "First, käse.", f"{path}, key in/0")
    assert (second.id, second.text, second.duration, second.speaker, second.language) == (
        "two",
        "Second.",
        1.5,
        "7",
        "en",
    )
    for example, content in [(first, one), (second, two)]:
        with example.file() as copy:
            assert copy.read_bytes() == content and copy.suffix == Path(example.member.name).suffix
        assert not copy.exists()
        expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
        np.testing.assert_array_equal(example.read(), expected)


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "/etc/passwd"
    return header


SOUND = recording(0.5, "sound")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([("../k.flac", SOUND), ("../k.txt", b"x")], "../k.flac leads out of its folder"),
        ([("/k.flac", SOUND), ("/k.txt", b"x")], "/k.flac leads out of its folder"),
        ([(link("k.flac"), b""), ("k.txt", b"x")], "k.flac is no plain file but a link, a device or sparse"),
        ([(link("k.flac", tarfile.CHRTYPE), b""), ("k.txt", b"x")], "k.flac is no plain file"),
        ([(link("k.flac", tarfile.LNKTYPE), b""), ("k.txt", b"x")], "k.flac is no plain file"),
        ([("k.txt", b"x")], "has no audio (.flac, .wav, .mp3, …): k.txt"),
        ([("k.flac", SOUND), ("k.wav", SOUND), ("k.txt", b"x")], "has 2 recordings"),
        ([("k.flac", SOUND)], "has no text"),
        ([("k.flac", SOUND), ("k.json", b'{"duration": 1}')], "has no text"),
        ([("k.flac", SOUND), ("k.txt", b"caf\xe9")], "k.txt is not UTF-8 text (byte 3)"),
        ([("k.flac", SOUND), ("k.json", b'{"text": "caf\xe9"}')], "k.json is not UTF-8 text (byte 13)"),
        ([("k.flac", SOUND), ("k.json", b"{")], "k.json is not JSON"),
        ([("k.flac", SOUND), ("k.json", b"[" * 100_000)], "k.json is not JSON that can be read (too deep)"),
        ([("k.flac", SOUND), ("k.json", b"[1]")], "k.json is not a JSON object"),
        ([("k.flac", SOUND), ("k.json", b'{"text": 5}')], "text is not text but int"),
        ([("k.flac", SOUND), ("k.json", b'{"text": "x", "duration": -1}')], "duration -1 is not a number of seconds"),
        ([("k.flac", SOUND), ("k.txt", b"x" * 1_000_001)], "k.txt has 1,000,001 bytes"),
        ([("k\udce9.flac", SOUND), ("k\udce9.txt", b"x")], "k\\xe9.flac has a name that is not UTF-8"),
        ([("a.flac", SOUND), ("a.txt", b"x"), ("a.flac", SOUND)], "has 2 recordings"),
    ],
)  # fmt: skip
def test_a_sample_with_a_fault_is_named_and_the_others_are_read(
    tmp_path: Path, files: list[tuple[str | tarfile.TarInfo, bytes]], told: str
) -> None:
    path = write_tar(
        tmp_path / "a.tar", [("0.flac", SOUND), ("0.txt", b"A"), *files, ("z.flac", SOUND), ("z.txt", b"Z")]
    )
    examples, [fault] = read(path)
    assert [example.text for example in examples] == ["A", "Z"]
    assert fault.startswith(f"{path}, key ") and told in fault
    assert not fault.encode("utf-8", "surrogatepass").decode("utf-8", "replace").count("\ufffd"), "it can be printed"
    assert sorted(tmp_path.iterdir()) == [path], "nothing is extracted"


def test_a_key_that_comes_back_is_a_fault(tmp_path: Path) -> None:
    pair = [("a.flac", SOUND), ("a.txt", b"A")]
    examples, [fault] = read(write_tar(tmp_path / "a.tar", [*pair, ("b.flac", SOUND), ("b.txt", b"B"), *pair]))
    assert len(examples) == 2 and "key a: is there twice" in fault


def test_an_audio_beyond_the_limit_is_refused_when_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 3)
    [example], _ = read(write_tar(tmp_path / "a.tar", [("a.flac", recording(4.0)), ("a.txt", b"A")]))
    with pytest.raises(audio.AudioError, match="split it"):
        example.read()


# ---- Damage.


def five(path: Path) -> Path:
    return write_tar(
        path, [(f"{n}{kind}", SOUND if kind == ".flac" else b"x") for n in range(5) for kind in (".flac", ".txt")]
    )


def damaged(path: Path) -> tuple[int, str]:
    """(entries before the damage, what is said of it)."""
    count = 0
    with pytest.raises(ShardError) as caught:
        for entry in shards.entries(str(path)):
            count += isinstance(entry, Example)
    return count, str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.77, 0.9])
def test_a_tar_that_was_cut_says_so_after_what_is_whole(tmp_path: Path, share: float) -> None:
    path = five(tmp_path / "a.tar")
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    path.write_bytes(content[: int(share * end)])
    count, told = damaged(path)
    assert told.startswith(f"{path}: damaged after ") and "--skip_bad" in told
    assert count <= 5 * share + 1


def test_a_tar_that_was_cut_between_two_files_says_so(tmp_path: Path) -> None:
    path = five(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        second = tar.getmembers()[4].offset
    path.write_bytes(path.read_bytes()[:second])
    assert damaged(path) == (1, f"{path}: damaged after 4 files (its end is missing); copy or download it again, or "
                                "leave the rest out with --skip_bad")  # fmt: skip


def test_a_header_that_was_hit_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = five(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        second = tar.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[second + 3] ^= 0xFF
    path.write_bytes(content)
    count, told = damaged(path)
    assert count == 1 and "what follows is no header" in told


def test_two_tars_in_one_file_are_not_read_as_one(tmp_path: Path) -> None:
    content = five(tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(content * 2)
    assert damaged(tmp_path / "b.tar")[0] == 4, "the last one may go on"


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "empty file"), (b"no tar" * 1000, "damaged"), (b"\x1f\x8b\x08" + b"x" * 999, "gunzip")]
)
def test_what_is_no_tar_says_so(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    count, said = damaged(tmp_path / "a.tar")
    assert count == 0 and told in said


@given(st.integers(0, 20_000), st.binary(min_size=1, max_size=600))
def test_no_damage_ends_in_anything_but_a_message(place: int, junk: bytes) -> None:
    content = bytearray(WHOLE)
    content[place : place + len(junk)] = junk
    HIT.write_bytes(content)
    try:
        found = [entry for entry in shards.entries(str(HIT))]
    except ShardError as error:
        assert str(HIT) in str(error)
    else:
        assert len(found) <= 8


@pytest.fixture(scope="module", autouse=True)
def _hit(tmp_path_factory: pytest.TempPathFactory) -> None:
    global HIT, WHOLE
    HIT = tmp_path_factory.mktemp("hit") / "hit.tar"
    WHOLE = five(HIT).read_bytes()


def test_the_audio_of_a_tar_that_changed_is_an_audio_error(tmp_path: Path) -> None:
    path = five(tmp_path / "a.tar")
    examples, _ = read(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(audio.AudioError, match="ends inside it"):
        examples[-1].read()
    path.unlink()
    with pytest.raises(audio.AudioError, match="cannot be read"):
        examples[-1].read()


# ---- Memory.


def test_memory_does_not_grow_with_the_tar(tmp_path: Path) -> None:
    def peak(entries: int) -> int:
        path = hollow_tar(tmp_path / f"{entries}.tar", entries)
        gc.collect()
        tracemalloc.start()
        assert sum(isinstance(entry, Example) for entry in shards.entries(str(path))) == entries
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(200), peak(1200)
    assert many - few < 1000 * 200, "no more than the keys of a tar: a header alone would be 1 kB"


# ---- Remote.


def test_a_remote_tar_is_on_the_disk_as_long_as_an_entry_of_it_is_known(served: tuple[Path, str]) -> None:  # noqa: F811
    folder, address = served
    five(folder / "a.tar")
    examples, faults = read(f"{address}/a.tar")
    assert len(examples) == 5 and not faults
    assert examples[0].where == f"{address}/a.tar, key 0" and examples[0].id == "a/0"
    copy = examples[0].audio_filepath
    assert copy.is_file() and len(examples[4].read()) == 8000
    (folder / "a.tar").unlink()
    examples += read(f"{address}/a.tar")[0]
    assert {each.audio_filepath for each in examples} == {copy}, "it is not fetched again"
    del examples[1:]
    assert copy.is_file()
    examples.clear()
    gc.collect()
    assert not copy.exists()
    assert damaged(f"{address}/a.tar")[0] == 0, "now it would be"  # type: ignore[arg-type]


def test_a_remote_tar_that_is_not_there_says_so(served: tuple[Path, str]) -> None:  # noqa: F811
    _, address = served
    count, told = damaged(f"{address}/none.tar")  # type: ignore[arg-type]
    assert count == 0 and told.startswith(f"{address}/none.tar: cannot be fetched (")


def test_a_redirect_is_followed_unless_it_leaves_tls(served: tuple[Path, str]) -> None:  # noqa: F811
    folder, address = served
    five(folder / "a.tar")
    assert len(read(f"{address}/x.tar?redirect=/a.tar")[0]) == 5
    for header in ("redirect", "uri"):
        _, told = damaged(f"{address}/x.tar?{header}=http://elsewhere.example/a.tar")  # type: ignore[arg-type]
        assert (
            "it is redirected to http://elsewhere.example/a.tar, and http:// can be read and changed on its way" in told
        )


def test_a_protocol_without_a_driver_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="fetching tars needs fsspec: pip install -e '.[remote]'")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError) as caught:
        shards.check_there(["nowhere://bucket/a.tar", "s3://bucket/a.tar", "s3://bucket/b.tar"])
    unknown, missing = caught.value.faults
    assert unknown == "nowhere://: fsspec knows no such protocol; give https://, s3:// or a path"
    assert re.fullmatch(r"s3://: fetching remote tars .*whisper-min\[remote\]', for s3:// also s3fs, .*", missing)
