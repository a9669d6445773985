"""Hub datasets: real parquet files behind a local server that speaks the hub's routes and has its troubles."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from conftest import REPOSITORY, faults_of
from huggingface_hub import constants
from rich.console import Console
from whisper import ModelDimensions

from whisper_min import audio
from whisper_min.config import Config, InputError
from whisper_min.data import disk, hub, preflight, sources
from whisper_min.data.examples import Columns, Example, SpeechSet
from whisper_min.data.sources import DEMO_FOLDER
from whisper_min.data.tokens import Tokens

AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
CLIPS = list(sources.read_manifest(DEMO_FOLDER / "train.jsonl")[:12])


def flac(example: Example) -> bytes:
    """A shipped clip, as FLAC at 16 kHz."""
    written = io.BytesIO()
    soundfile.write(written, example.read(), 16_000, format="FLAC")
    return written.getvalue()


STORED = [flac(clip) for clip in CLIPS]


def shard(rows: Sequence[dict[str, Any]], **types: pyarrow.DataType) -> bytes:
    """A parquet file; columns named `audio…` hold Hugging Face's Audio feature."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: types.get(name) or (AUDIO if name.startswith("audio") else None) for name in names}
    columns = {name: pyarrow.array([row.get(name) for row in rows], kinds[name]) for name in names}
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), written, row_group_size=3)
    return written.getvalue()


def rows(numbers: Sequence[int], **more: Any) -> list[dict[str, Any]]:
    """Rows of shipped clips: audio, text, a speaker for each two of them, and columns of one value."""
    return [
        {
            "audio": {"bytes": STORED[number], "path": f"clip-{number}.flac"},
            "text": CLIPS[number].text,
            "speaker_id": number // 2,
            **more,
        }
        for number in numbers
    ]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """A hub with three shards of four clips, where this process looks for one; nothing waits long."""
    with hub_server.serve(hub_server.Hub()) as served:
        for number in range(3):
            served.files[f"data/train-{number:05d}-of-00003.parquet"] = shard(rows(range(4 * number, 4 * number + 4)))
        served.files["README.md"] = b"A dataset."
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield served


def load(data_dir: Path, word: str = "hub:user/speech", option: str = "data", **columns: str) -> SpeechSet:
    asked = Columns(**columns, required=option in ("data", "eval_data"))  # type: ignore[arg-type]
    [speech] = sources.load_sets([word], option, data_dir, asked)
    return speech


def fault_of(call: Callable[[], object]) -> str:
    [fault] = faults_of(call)
    return fault


def check_whole(speech: SpeechSet, numbers: Sequence[int] = range(12)) -> None:
    """Every clip once, in order, its bytes untouched."""
    assert [each.text for each in speech.examples] == [CLIPS[number].text for number in numbers]
    assert [each.audio_filepath.read_bytes() for each in speech.examples] == [STORED[number] for number in numbers]
    assert [each.speaker for each in speech.examples] == [str(number // 2) for number in numbers]


def unpacked(data_dir: Path) -> list[Path]:
    """The audio files on disk."""
    return sorted((data_dir / "hub").glob("*/*/*/*/*/audio/*"))


def test_a_set_is_unpacked_once_and_then_needs_no_network(
    served: hub_server.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = load(tmp_path)
    check_whole(speech)
    assert (speech.name, speech.source) == ("speech", "hub:user/speech")
    assert len(served.asked("/tree/")) == 2, "the listing has two pages"
    said = capsys.readouterr().err
    folder = tmp_path / "hub" / "user--speech" / hub_server.COMMIT / "default" / "train" / "audio"
    assert "--data hub:user/speech: fetching 3 shards, " in said
    assert f"--data hub:user/speech: 12 recordings, {sum(map(len, STORED)) / 1e6:.1f} MB, in {folder}\n" in said
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "audio", "manifest.jsonl"]

    asked = len(served.requests)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    check_whole(load(tmp_path))
    assert len(served.requests) == asked and capsys.readouterr().err == ""
    assert "pip install 'whisper-min[hub]'" in fault_of(lambda: load(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_there_twice_after_a_503_and_a_cut_connection(
    served: hub_server.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = sorted(name for name in served.files if name.endswith(".parquet"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what is written at a time
    served.troubles = [
        ("GET /api/datasets/user/speech", 503),
        ("/tree/", 503),
        (f"HEAD /datasets/user/speech/resolve/{hub_server.COMMIT}/{second}", 503),
        (f"GET /storage/{first}", 503),
        (f"GET /storage/{second}", "cut"),
        (f"GET /storage/{third}", 429),
    ]
    check_whole(load(tmp_path))
    assert served.troubles == []
    assert len(unpacked(tmp_path)) == 12
    written = len(served.files[second]) // 2 // 4096 * 4096
    assert served.asked(f"/storage/{second}") == [f"GET /storage/{second}", f"GET /storage/{second} bytes={written}-"]
    assert f"{served.endpoint} is out of order (503); trying again in 0 s" in capsys.readouterr().err


def test_a_run_that_was_interrupted_goes_on_with_the_shard_it_was_at(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, calls = hub._suffix, iter(range(100))

    def interrupt(content: bytes, named: str | None) -> str:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return suffix(content, named)

    monkeypatch.setattr(hub, "_suffix", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert len(unpacked(tmp_path)) == 6
    monkeypatch.setattr(hub, "_suffix", suffix)
    before = [path.stat().st_mtime_ns for path in unpacked(tmp_path)[:4]]
    served.files.pop("data/train-00000-of-00003.parquet")  # of which nothing more is needed
    check_whole(load(tmp_path))
    assert [path.stat().st_mtime_ns for path in unpacked(tmp_path)[:4]] == before
    assert len(served.asked("GET /storage/")) == 3, "no shard is downloaded twice"
    assert len(served.asked("/tree/")) == 2, "the commit and its shards are those of the start"


def test_a_hub_that_stays_out_of_order_is_said_and_what_was_fetched_is_kept(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    served.troubles = [("GET /storage/data/train-00002", 503)] * 3
    fault = fault_of(lambda: load(tmp_path))
    assert fault == (
        f"--data hub:user/speech: {served.endpoint} is out of order (503); what was fetched is kept: run again later"
    )
    assert len(unpacked(tmp_path)) == 8 and not list(tmp_path.rglob("manifest.jsonl"))
    check_whole(load(tmp_path))
    assert len(served.asked("GET /storage/")) == 2 + 3 + 1


def test_private_and_gated_sets_say_what_they_need(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, served.token = f"{served.endpoint}/datasets/user/speech", "hf_secret"
    assert fault_of(lambda: load(tmp_path)) == (
        f"--data hub:user/speech: is not at {page}, or private; check the name, and set HF_TOKEN if it is private (401)"
    )
    served.gated = True
    assert fault_of(lambda: load(tmp_path)) == (
        f"--data hub:user/speech: is gated: accept its conditions at {page} with an account, and set HF_TOKEN to a "
        "token of it (401)"
    )
    assert not (tmp_path / "hub").exists(), "nothing is written"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "with the account of HF_TOKEN (401)" in fault_of(lambda: load(tmp_path))
    served.gated = False
    assert "check the name, and that HF_TOKEN is valid and may read it (401)" in fault_of(lambda: load(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    check_whole(load(tmp_path))
    assert served.tokens_at_storage == [], "the token stays with the hub"


def test_a_shard_that_is_not_the_hub_s_is_refused(served: hub_server.Hub, tmp_path: Path) -> None:
    """Changed on its way, or on the disk since then."""
    load(tmp_path / "first")
    shard = next(path for path in Path(constants.HF_HUB_CACHE).rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.resolve().write_bytes(content)
    told = fault_of(lambda: load(tmp_path / "second"))
    assert "is not what the hub has (its SHA-256 is " in told and f"remove {shard.resolve()}" in told
    shard.resolve().unlink()
    check_whole(load(tmp_path / "second"))


def test_http_is_for_this_machine_alone(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example")
    assert "HF_ENDPOINT http://mirror.example would send data and tokens by http" in fault_of(lambda: load(tmp_path))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (403, "or private; check the name, and set HF_TOKEN if it is private (403)"),
        (418, "could not be fetched from"),
        (429, "is asked too often (429); what was fetched is kept: run again later"),
    ],
)
def test_what_the_hub_refuses_is_told(status: int, told: str, served: hub_server.Hub, tmp_path: Path) -> None:
    served.troubles = [("/api/", status)] * 3
    assert told in fault_of(lambda: load(tmp_path))
    assert len(served.requests) == (3 if status == 429 else 1), "only what may pass is asked for again"


def test_a_set_that_does_not_exist_and_a_hub_that_does_not_answer(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not at" in fault_of(lambda: load(tmp_path, "hub:user/other"))
    for word in ("hub:speech", "hub:", "hub:user/spe ech:train"):
        assert "write hub:USER/NAME:SPLIT" in fault_of(lambda word=word: load(tmp_path, word))  # type: ignore[misc]
    assert "Cannot have -- or .." in fault_of(lambda: load(tmp_path, "hub:user/a--b"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "could not be fetched from http://127.0.0.1:9/" in fault_of(lambda: load(tmp_path))


def test_offline(served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fault_of(lambda: load(tmp_path)).endswith(
            "HF_HUB_OFFLINE is set, and it was not fetched before; unset that for one run"
        )
        assert served.requests == []
    check_whole(load(tmp_path))
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        asked = len(served.requests)
        check_whole(load(tmp_path))
        # unpacked again from the cache: the listing alone is kept here
        folder = tmp_path / "hub" / "user--speech" / hub_server.COMMIT / "default" / "train" / "audio"
        (folder / "manifest.jsonl").unlink()
        check_whole(load(tmp_path))
        assert len(served.requests) == asked


# ---- Which shards, which splits, which columns.


@pytest.mark.parametrize(
    ("files", "card", "default", "found"),
    [
        (["data/train-00000-of-00001.parquet", "data/dev-00000-of-00001-0123456789abcdef.parquet"], [], "default",
         {"default": {"dev": 1, "train": 1}}),
        (["train.parquet", "test.parquet"], [], "default", {"default": {"test": 1, "train": 1}}),
        (["en/train/0000.parquet", "en/train/0001.parquet", "de/train/0000.parquet"], [], None,
         {"de": {"train": 1}, "en": {"train": 2}}),
        (["x/train-0-of-1.parquet", "y/train-0-of-1.parquet"],
         [{"config_name": "clean", "data_files": [{"split": "train", "path": "x/train-*"}]},
          {"config_name": "noisy", "default": True, "data_files": [{"split": "train", "path": ["y/*.parquet"]}]}],
         "noisy", {"clean": {"train": 1}, "noisy": {"train": 1}}),
        (["x/a.parquet", "x/deep/b.parquet"], [{"data_files": "x/*.parquet"}], "default", {"default": {"train": 1}}),
        (["x/a.parquet", "x/deep/b.parquet"], [{"data_files": ["x/**"]}], "default", {"default": {"train": 2}}),
        (["x/a.parquet", "x/b.parquet"], [{"data_files": {"test": "x/a*", "train": "./x/b*"}}], "default",
         {"default": {"test": 1, "train": 1}}),
        (["train.parquet"], [{"config_name": "gone", "default": True, "data_files": "old/*.csv"}], "default",
         {"default": {"train": 1}}),
    ],
)  # fmt: skip
def test_shards_are_arranged_as_the_card_or_their_names_say(
    files: list[str], card: list[dict[str, Any]], default: str | None, found: dict[str, dict[str, int]]
) -> None:
    named, arranged = hub.arrange(dict.fromkeys(files, 7), card)
    assert named == default
    assert {c: {split: len(shards) for split, shards in splits.items()} for c, splits in arranged.items()} == found


def test_configurations_and_published_splits(served: hub_server.Hub, tmp_path: Path) -> None:
    served.files = {
        f"{configuration}/{split}-00000-of-00001.parquet": shard(rows([number]))
        for number, (configuration, split) in enumerate([("clean", "train"), ("clean", "dev"), ("noisy", "train")])
    }
    assert fault_of(lambda: load(tmp_path, "hub:user/speech:train")).endswith(
        "has several configurations; name one, as in hub:user/speech/NAME:SPLIT: clean, noisy"
    )
    assert "has no configuration 'calm'; it has clean, noisy" in fault_of(
        lambda: load(tmp_path, "hub:user/speech/calm:train")
    )
    check_whole(load(tmp_path, "hub:user/speech/clean:train"), [0])
    check_whole(load(tmp_path, "hub:user/speech/clean"), [0])
    for name in ("dev", "validation"):
        speech = load(tmp_path, f"hub:user/speech/clean:{name}")
        check_whole(speech, [1])
        assert (speech.name, speech.notes) == (name, ())
    assert fault_of(lambda: load(tmp_path, "hub:user/speech/clean:test")).endswith(
        "has no split 'test'; choose one of dev, train"
    )
    served.files["noisy/train-00000-of-00001.parquet"] = b""  # the commit is the one of the start
    assert len(served.asked("/tree/")) == 3 * 2, "two pages, twice before anything was chosen and once after"


def test_splits_are_made_where_a_set_has_only_train(served: hub_server.Hub, tmp_path: Path) -> None:
    sets = {name: load(tmp_path, f"hub:user/speech:{name}") for name in ("test", "train", "dev")}
    assert {name: len(each.examples) for name, each in sets.items()} == {"test": 2, "dev": 2, "train": 8}
    speakers = {name: {example.speaker for example in each.examples} for name, each in sets.items()}
    assert sorted(speaker for each in speakers.values() for speaker in each if speaker) == list("012345")
    wheres = sorted(example.where for each in sets.values() for example in each.examples)
    assert wheres == sorted(example.where for example in load(tmp_path).examples)
    assert sets["dev"].notes == (
        "the set has only train: 2 of its 12 entries make up validation (hub:user/speech alone means all of them)",
    )
    again = load(tmp_path, "hub:user/speech:validation")
    assert again.examples == sets["dev"].examples
    assert "has no split 'other'; choose one of train" in fault_of(lambda: load(tmp_path, "hub:user/speech:other"))


def test_columns_are_found_where_unambiguous_and_named_where_not(served: hub_server.Hub, tmp_path: Path) -> None:
    two = [
        {"audio.throat": row["audio"], "audio.air": {"bytes": STORED[9], "path": None}, "raw_text": row["text"].upper(),
         "normalized_text": row["text"], "speaker_id": row["speaker_id"], "words": [row["text"]], "locale": "en"}
        for row in rows([0, 1])
    ]  # fmt: skip
    served.files = {"data/train-00000-of-00001.parquet": shard(two)}
    with pytest.raises(InputError) as error:
        load(tmp_path)
    told = error.value.faults
    held = "; the columns are audio.throat (audio), audio.air (audio), raw_text (text), normalized_text (text), "
    assert "audio.throat and audio.air may all hold the audio; say which with --audio_column NAME" + held in told[0]
    assert "raw_text and normalized_text may all hold the text; say which with --text_column NAME" + held in told[1]
    names = {"audio": "audio.throat", "text": "words"}
    assert "the column 'words' of --text_column holds list<" in fault_of(lambda: load(tmp_path, **names))
    names = {"audio": "raw_text", "text": "raw_text"}
    assert "the column 'raw_text' of --audio_column holds text, no audio" in fault_of(lambda: load(tmp_path, **names))
    assert unpacked(tmp_path) == []

    names = {"audio": "audio.throat", "text": "normalized_text"}
    speech = load(tmp_path, **names)
    check_whole(speech, [0, 1])
    assert [each.language for each in speech.examples] == ["en", "en"]
    asked = len(served.requests)
    shouting = load(tmp_path, audio="audio.throat", text="raw_text")
    assert [each.text for each in shouting.examples] == [CLIPS[0].text.upper(), CLIPS[1].text.upper()]
    assert len(served.requests) == asked, "another text column needs no download"
    air = load(tmp_path, audio="audio.air", text="raw_text")
    assert [each.audio_filepath.read_bytes() for each in air.examples] == [STORED[9]] * 2


def test_general_sets_follow_the_domain_s_columns_only_where_they_have_them(
    served: hub_server.Hub, tmp_path: Path
) -> None:
    names = {"text": "normalized_text", "audio": "microphone"}
    check_whole(load(tmp_path, option="replay", **names))
    assert "'normalized_text' of --text_column is not there" in fault_of(lambda: load(tmp_path, text="normalized_text"))


def test_a_set_without_text_is_one(served: hub_server.Hub, tmp_path: Path) -> None:
    silent = [{key: row[key] for key in ("audio", "speaker_id")} for row in rows([0, 1])]
    served.files = {"data/train-00000-of-00001.parquet": shard(silent)}
    assert not load(tmp_path, option="retain").has_text


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([{"audio": {"bytes": None, "path": "http://elsewhere/a.wav"}, "text": "Hello."}],
         "row 0: audio names 'http://elsewhere/a.wav' and holds no bytes; the recordings are not in the set itself"),
        ([{"file": "a.wav", "text": "Hello."}], "no column is known to hold the audio; say which with --audio_column"),
        ([*rows([0]), {"audio": {"bytes": None, "path": "../../a.wav"}, "text": "Hello."}],
         "row 1: audio names '../../a.wav' and holds no bytes"),
        ([{"audio": {"bytes": b"x", "path": None}, "text": ["a", "list"]}],
         "no column is known to hold the text; say which with --text_column NAME; the columns are audio (audio), "
         "text (list<"),
        ([{"audio": {"bytes": b"x", "path": None}, "title": "a"}], "no column is known to hold the text"),
    ],
)  # fmt: skip
def test_sets_that_cannot_be_read_leave_nothing_half_written(
    table: list[dict[str, Any]], told: str, served: hub_server.Hub, tmp_path: Path
) -> None:
    served.files = {"data/train-00000-of-00001.parquet": shard(table)}
    assert told in fault_of(lambda: load(tmp_path))
    assert unpacked(tmp_path) == [] and not list(tmp_path.rglob("manifest.jsonl"))


def test_damaged_shards_and_sets_without_any(served: hub_server.Hub, tmp_path: Path) -> None:
    name = "data/train-00001-of-00003.parquet"
    whole = served.files[name]
    served.files[name] = whole[:4] + b"\xff" * 5000 + whole[5004:]
    fault = fault_of(lambda: load(tmp_path))
    assert f"{name} is no parquet file, or damaged (" in fault and f"remove {tmp_path / 'cache'}" in fault
    assert len(unpacked(tmp_path)) == 4, "the first shard's"
    served.files = {"busy-0-of-1.parquet": b"<html>Busy</html>"}
    assert "busy-0-of-1.parquet is no parquet file, or damaged" in fault_of(lambda: load(tmp_path / "b"))
    served.files, served.troubles = {"gone-0-of-1.parquet": b""}, [("HEAD ", "gone")]
    assert "changed at " in fault_of(lambda: load(tmp_path / "e"))
    served.files = {"train.csv": b"a,b"}
    assert "holds no parquet shards; download it" in fault_of(lambda: load(tmp_path / "c"))
    other = [{"audio": row["audio"], "sentence": row["text"]} for row in rows([1])]
    served.files = {"a-0-of-3.parquet": shard(rows([0])), "a-1-of-3.parquet": shard(other), "a-2-of-3.parquet": b""}
    assert fault_of(lambda: load(tmp_path / "f")) == (
        "--data hub:user/speech: a-0-of-3.parquet has a column 'text', a-1-of-3.parquet has none; name a column that "
        "all shards have with --text_column, or give a manifest"
    )
    assert len(unpacked(tmp_path / "f")) == 1, "told before the rest is fetched and unpacked"
    served.files = {"a-0-of-2.parquet": shard(rows([0])), "a-1-of-2.parquet": shard([{"text": "Hello."}])}
    assert "a-1-of-2.parquet has no audio column 'audio'" in fault_of(lambda: load(tmp_path / "d"))


def test_a_damaged_card_and_a_damaged_listing_say_so(served: hub_server.Hub, tmp_path: Path) -> None:
    files = ([{"path": "data/*"}], [{"split": "train"}])
    for card in ({"configs": "x"}, {"configs": ["x"]}, *({"configs": [{"data_files": each}]} for each in files)):
        served.card = card
        assert "the configs of its card are not what" in fault_of(lambda: load(tmp_path))
    served.card = {}
    served.files["data/.parquet"] = b"hidden"
    check_whole(load(tmp_path))
    [listing] = (tmp_path / "hub").glob("*/*/listing.json")
    listing.write_text(listing.read_text()[:20])
    told = fault_of(lambda: load(tmp_path))
    assert f"{listing} is damaged" in told and f"remove {listing.parent}, and run again" in told


def test_file_names_are_ours_whatever_the_set_calls_its_recordings(served: hub_server.Hub, tmp_path: Path) -> None:
    (opus,) = [clip.audio_filepath.read_bytes() for clip in CLIPS[:1]]
    names = ["../../../evil.flac", "/etc/passwd", "C:\\a.mp3", "same.wav", "same.wav", None, "x.sh", "a.m4a"]
    contents = [STORED[0], opus, b"ID3" + bytes(9), b"RIFF" + bytes(9), b"RIFF" + bytes(9), b"FORM", b"#!", b"\0\0"]
    assert hub._suffix(b"\0\0", b"/x/a.\xffm4a.m4a") == ".m4a", "names may be bytes"
    table = [
        {"audio": {"bytes": content, "path": name}, "text": "Hello."}
        for content, name in zip(contents, names, strict=True)
    ]
    served.files = {"up-0-of-1.parquet": shard(table)}
    served.card = {
        "configs": [{"config_name": "../..", "data_files": [{"split": "..", "path": "**/up-0-of-1.parquet"}]}]
    }
    loaded = load(tmp_path)
    assert [each.audio_filepath.suffix for each in loaded.examples] == [
        *(".flac", ".ogg", ".mp3", ".wav", ".wav", ".aiff", "", ".m4a")
    ]
    assert [each.audio_filepath.read_bytes() for each in loaded.examples] == contents
    inside = tmp_path / "hub" / "user--speech" / hub_server.COMMIT
    assert all(inside in each.audio_filepath.resolve().parents for each in loaded.examples)


def test_audio_that_is_missing_or_too_long_is_the_preflight_s_to_name(served: hub_server.Hub, tmp_path: Path) -> None:
    endless = io.BytesIO()
    soundfile.write(endless, np.zeros(audio.MAX_SECONDS + 60), 1, format="WAV")
    table = [{"audio": {"bytes": endless.getvalue(), "path": "a.wav"}, "text": "Hello."}]
    table += [{"audio": None, "text": "There."}, {"audio": rows([0])[0]["audio"], "text": None}]
    served.files = {"data/train-00000-of-00001.parquet": shard(table)}
    speech = load(tmp_path)
    cfg = Config(data_dir=tmp_path)
    tokens = Tokens(ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1))
    told = preflight.run([("data", speech)], cfg, tokens, Console(stderr=True)).faults
    assert len(told) == 3
    for fault, part in zip(
        told, ("6.0 h long; at most 6 h are read", "is empty (0 bytes)", "has an empty text"), strict=True
    ):
        assert part in fault


def test_too_little_room_is_said_before_the_download(
    served: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(len(content) for name, content in served.files.items() if name.endswith(".parquet"))

    class Disk:
        free = 2 * total - 1

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: Disk)
    fault = fault_of(lambda: load(tmp_path))
    assert f"hub:user/speech needs about 0.0 GB in {tmp_path / 'hub'}" in fault
    assert fault.endswith("make room, or name another folder with --data_dir")
    assert served.asked("/resolve/") == [] and not (tmp_path / "hub").exists()
    Disk.free = 2 * total  # in the cache, and unpacked
    check_whole(load(tmp_path))
    Disk.free = total
    check_whole(load(tmp_path / "b"))  # what is in the cache already needs no room there


# ---- The scripts, with the environment that huggingface_hub reads when it starts.


def run_script(served: hub_server.Hub, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "train.py", "--check", *words, "--data_dir", str(folder / "data"), "--device", "cpu"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": served.endpoint, "HF_HOME": str(folder / "home"), **environment}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_train_reads_a_hub_set_from_end_to_end(served: hub_server.Hub, tmp_path: Path, random_model_file: Path) -> None:
    served.token = "hf_secret"
    served.troubles = [("/resolve/", 503), ("GET /storage/data/train-00001", "cut")]
    words = ["--model", str(random_model_file), "--data", "hub:user/speech:train", "--eval_data"]
    words += ["domain=hub:user/speech:validation"]
    refused = run_script(served, tmp_path, *words)
    assert refused.returncode == 2
    assert "error: --data hub:user/speech:train: is not at" in refused.stderr and "set HF_TOKEN" in refused.stderr
    assert not (tmp_path / "data").exists()
    done = run_script(served, tmp_path, *words, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert served.troubles == [] and len(unpacked(tmp_path / "data")) == 12
    assert "2 of its 12 entries make up validation" in " ".join(done.stdout.split())
    assert (tmp_path / "home" / "hub" / "datasets--user--speech").is_dir()
    assert "hf_secret" not in done.stdout + done.stderr
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
