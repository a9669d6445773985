"""LibriSpeech: torchaudio's own downloader against a local server, checksums, and unpacking that was cut short."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import socket
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import babble

from whisper_min import audio
from whisper_min.config import InputError
from whisper_min.data import librispeech

SUBSET = "dev-clean"
URL = f"http://www.openslr.org/resources/12/{SUBSET}.tar.gz"
TEXTS = {"84-121123-0000": "GO DO YOU HEAR", "84-121123-0001": "BUT IN LESS THAN", "174-50561-0000": "FORGOTTEN TOO"}


def write_tree(folder: Path) -> None:
    """The utterances of `TEXTS` laid out as LibriSpeech lays them out below `LibriSpeech/<subset>`."""
    for seed, (utterance, text) in enumerate(TEXTS.items()):
        speaker, chapter, _ = utterance.split("-")
        place = folder / "LibriSpeech" / SUBSET / speaker / chapter
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{utterance}.flac", babble(0.5, seed=seed), 16_000)
        with open(place / f"{speaker}-{chapter}.trans.txt", "a") as file:
            file.write(f"{utterance} {text}\n")


@dataclass
class OpenSlr:
    """What the local server has answered with, and was asked for."""

    archive: bytes
    requests: list[str]
    cut_at: int | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as a proxy: the request line holds the whole address."""

    def __init__(self, served: OpenSlr, *arguments: object) -> None:
        self.served = served
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.served.requests.append(self.path)
        if self.path != URL:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.served.archive)))
        self.end_headers()
        self.wfile.write(self.served.archive[: self.served.cut_at])

    def log_message(self, *arguments: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The .tar.gz of the tree."""
    folder = tmp_path_factory.mktemp("openslr")
    write_tree(folder)
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder / "LibriSpeech", "LibriSpeech")
    return (folder / "archive.tar.gz").read_bytes()


def use_proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every http request of this process to a port of this machine."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # urlopen remembers the proxies of its first call


@pytest.fixture
def openslr(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenSlr]:
    """A local server in openslr.org's place, which torchaudio expects to serve the small archive."""
    served = OpenSlr(packed, [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, served))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    use_proxy(server.server_port, monkeypatch)
    expect(packed, monkeypatch)
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def expect(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchaudio and us expect this archive."""
    checksums = audio.torchaudio().datasets.librispeech._CHECKSUMS
    assert len(checksums[URL]) == 64, "torchaudio knows the archive by its SHA-256"
    monkeypatch.setitem(checksums, URL, hashlib.sha256(archive).hexdigest())
    monkeypatch.setitem(librispeech.ARCHIVE_BYTES, SUBSET, float(len(archive)))


@pytest.fixture
def no_network(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: the port was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        use_proxy(free.getsockname()[1], monkeypatch)
    expect(packed, monkeypatch)


def refused(data_dir: Path) -> str:
    """The one fault of a download that fails; no set may be there afterwards."""
    with pytest.raises(InputError) as error:
        librispeech.load(SUBSET, data_dir)
    [fault] = error.value.faults
    assert not (data_dir / "LibriSpeech" / SUBSET).exists(), "what is not whole must not pass for the set"
    return fault


def check_examples(data_dir: Path) -> None:
    examples = librispeech.load(SUBSET, data_dir)
    assert {each.id: each.text for each in examples} == TEXTS
    assert {each.id: each.speaker for each in examples} == {name: name.split("-")[0] for name in TEXTS}
    by_id = {each.id: each for each in examples}
    for seed, name in enumerate(TEXTS):
        np.testing.assert_allclose(by_id[name].read(), babble(0.5, seed=seed), atol=1e-4)
    transcripts = data_dir / "LibriSpeech" / SUBSET / "84" / "121123" / "84-121123.trans.txt"
    assert by_id["84-121123-0001"].where == f"{transcripts}, line 2"


def test_a_subset_is_downloaded_checked_and_kept(
    openslr: OpenSlr, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "new" / "cache"
    check_examples(data_dir)
    assert openslr.requests == [URL]
    assert f"downloading LibriSpeech {SUBSET}" in capsys.readouterr().err
    assert [path.name for path in data_dir.iterdir()] == ["LibriSpeech"], "no archive and no staging folder is left"
    check_examples(data_dir)
    assert openslr.requests == [URL], "what is there is not downloaded again"
    # torchaudio itself reads the same utterances from it
    theirs = audio.torchaudio().datasets.LIBRISPEECH(data_dir, url=SUBSET)
    assert {"-".join([str(s), str(c), f"{u:04d}"]): text for _, _, text, s, c, u in map(theirs.get_metadata, range(3))
            } == TEXTS  # fmt: skip


def test_a_wrong_checksum_is_refused_and_named(openslr: OpenSlr, packed: bytes, tmp_path: Path) -> None:
    openslr.archive = packed[:-1] + bytes([packed[-1] ^ 1])
    fault = refused(tmp_path)
    assert "invalid hash value" in fault and hashlib.sha256(packed).hexdigest() in fault and URL in fault
    openslr.archive = packed
    check_examples(tmp_path)


def test_a_download_cut_short_is_refused(openslr: OpenSlr, packed: bytes, tmp_path: Path) -> None:
    openslr.cut_at = len(packed) // 2
    assert URL in refused(tmp_path)
    openslr.cut_at = None
    check_examples(tmp_path)


def test_without_network_the_error_says_where_to_put_the_file(no_network: None, packed: bytes, tmp_path: Path) -> None:
    fault = refused(tmp_path)
    assert fault.startswith(f"librispeech:{SUBSET}: could not be had from {URL} (")
    assert fault.endswith(f"put that file into {tmp_path} and run again, or give a LibriSpeech folder as --data")
    (tmp_path / f"{SUBSET}.tar.gz").write_bytes(packed)
    check_examples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["LibriSpeech"]


@pytest.mark.parametrize("damage", ["cut", "overwritten", "no archive"])
def test_a_damaged_archive_is_not_taken_for_the_set_and_a_whole_one_mends_it(
    damage: str, no_network: None, packed: bytes, tmp_path: Path
) -> None:
    third = len(packed) // 3
    damaged = {
        "cut": packed[: 2 * third],
        "overwritten": packed[:third] + b"\xff" * third + packed[2 * third :],
        "no archive": b"<html>Busy</html>",
    }
    given = tmp_path / f"{SUBSET}.tar.gz"
    given.write_bytes(damaged[damage])
    fault = refused(tmp_path)
    assert fault.startswith(f"{given}: is cut short or damaged (its SHA-256 is ")
    assert hashlib.sha256(packed).hexdigest() in fault and fault.endswith(f"download it again from {URL}, or remove it")
    given.write_bytes(packed)
    check_examples(tmp_path)


def test_an_unpacking_cut_short_is_not_taken_for_a_whole_set(openslr: OpenSlr, packed: bytes, tmp_path: Path) -> None:
    # as a killed process leaves it: the archive and half of what was in it, a file of it empty
    staging = tmp_path / f"LibriSpeech.{SUBSET}.partial"
    write_tree(staging)
    (staging / f"{SUBSET}.tar.gz").write_bytes(packed)
    shutil.rmtree(staging / "LibriSpeech" / SUBSET / "174")
    for path in staging.rglob("*.flac"):
        path.write_bytes(b"")
    check_examples(tmp_path)
    assert openslr.requests == [], "the archive that was whole is used"
    assert [path.name for path in tmp_path.iterdir()] == ["LibriSpeech"]


def test_too_little_room_is_said_before_the_download(
    openslr: OpenSlr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(librispeech.ARCHIVE_BYTES, SUBSET, 1e18)
    fault = refused(tmp_path)
    assert fault.startswith(f"librispeech:{SUBSET} needs about 2000000000.0 GB in {tmp_path}, which has ")
    assert fault.endswith("make room, or name another folder with --data_dir") and openslr.requests == []


def test_a_data_dir_that_cannot_be_made_is_named(openslr: OpenSlr, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=rf"librispeech:{SUBSET}: .*{tmp_path / 'file'}"):
        librispeech.load(SUBSET, tmp_path / "file")


def test_an_unknown_subset_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"librispeech:train: no such subset; choose one of dev-clean, .*500$"):
        librispeech.load("train", tmp_path)
    assert set(librispeech.ARCHIVE_BYTES) == set(librispeech.SUBSETS)
    known = audio.torchaudio().datasets.librispeech._DATA_SUBSETS
    assert sorted(known) == sorted(librispeech.SUBSETS), "the same as torchaudio knows"


def test_a_tree_s_faults_name_the_folder_or_the_file(tmp_path: Path) -> None:
    empty = tmp_path / "LibriSpeech" / SUBSET
    empty.mkdir(parents=True)
    with pytest.raises(InputError) as error:
        librispeech.load(SUBSET, tmp_path)
    assert str(empty) in error.value.faults[0] and "*.trans.txt" in error.value.faults[0]

    for name in ("1-1", "2-1"):
        (empty / f"{name}.trans.txt").write_bytes(b"1-1-0000 CAF\xc9\n")
    with pytest.raises(InputError) as error:
        librispeech.load(SUBSET, tmp_path)
    told = error.value.faults
    assert [fault.partition(": cannot be read")[0] for fault in told] == [
        str(empty / "1-1.trans.txt"),
        str(empty / "2-1.trans.txt"),
    ]


def test_a_tree_may_hold_wav_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "7-1-0001.wav").write_bytes(b"")
    (tmp_path / "7-1.trans.txt").write_text("7-1-0000 ONE TWO\n\n7-1-0001\n", encoding="utf-8")
    examples = librispeech.read_tree(tmp_path)
    assert [(each.audio_filepath.name, each.text, each.where) for each in examples] == [
        ("7-1-0000.flac", "ONE TWO", f"{tmp_path / '7-1.trans.txt'}, line 1"),
        ("7-1-0001.wav", "", f"{tmp_path / '7-1.trans.txt'}, line 3"),
    ]
