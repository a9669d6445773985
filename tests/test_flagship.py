"""`python train.py --model large-v3` as a user types it, against a local copy of LibriSpeech laid out and served as the
real archives are: downloaded, checked, unpacked, restyled, held out, retained, and trained to the first step."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import needs_weights
from whisper import Whisper

import train
from whisper_min import audio, runs
from whisper_min.data import librispeech
from whisper_min.data.sources import DEMO_FOLDER, read_manifest
from whisper_min.training import memory

SUBSET = "train-clean-100"


def write_archive(path: Path, speakers: int = 5, clips: int = 4) -> None:
    """Shipped speech as `LibriSpeech/train-clean-100/<speaker>/<chapter>/<id>.flac` and upper-case `.trans.txt`."""
    examples = iter(read_manifest(DEMO_FOLDER / "train.jsonl"))
    folder = path.parent / "LibriSpeech"
    for speaker in range(100, 100 + speakers):
        chapter = folder / SUBSET / str(speaker) / "1"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(clips):
            example = next(examples)
            utterance = f"{speaker}-1-{index:04d}"
            soundfile.write(chapter / f"{utterance}.flac", example.read(), 16_000)
            words = "".join(c for c in example.text.upper() if c.isalpha() or c in " '")
            lines.append(f"{utterance} {words}\n")
        (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "LibriSpeech")


class AsProxy(http.server.SimpleHTTPRequestHandler):
    """Answers `GET http://www.openslr.org/resources/12/<file>` from its folder, as a proxy would."""

    def translate_path(self, path: str) -> str:
        assert path.startswith("http://www.openslr.org/resources/12/"), path
        return str(Path(self.directory) / Path(path).name)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def openslr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local openslr.org whose archive has its own checksum; gives the archive."""
    archive = tmp_path / "served" / f"{SUBSET}.tar.gz"
    archive.parent.mkdir()
    write_archive(archive)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(AsProxy, directory=archive.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    checksums = audio.torchaudio().datasets.librispeech._CHECKSUMS
    url = f"http://www.openslr.org/resources/12/{SUBSET}.tar.gz"
    monkeypatch.setitem(checksums, url, hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(librispeech.ARCHIVE_BYTES, SUBSET, archive.stat().st_size)
    yield archive
    server.shutdown()


def check_run(folder: Path) -> None:
    """The run got to its end with LibriSpeech restyled, held out by speaker, and the shipped clean clips retained."""
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    config = json.loads((folder / "config.json").read_text())
    assert config["data"] == [f"librispeech:{SUBSET}"] and config["retain"] == ["clean=demo:general"]
    held_out = list(runs.read_jsonl(folder / "held_out.jsonl"))
    assert len({row["id"].split("-")[0] for row in held_out}) == 1 and len(held_out) == 4
    log = (folder / "train.log").read_text()
    assert "upper-case unpunctuated; they are written in sentence case" in log
    steps = runs.merge_steps(runs.read_jsonl(folder / "metrics.jsonl"))
    assert steps[0]["eval/held-out/wer"] is not None and steps[1]["train/loss"] > 0


def test_large_v3_is_refused_before_the_download_where_it_cannot_fit(
    openslr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: int(16e9))
    code = train.main(["--model", "large-v3", "--data_dir", str(tmp_path / "cache"), "--runs_dir", str(tmp_path)])
    told = capsys.readouterr().err
    assert code == 2
    assert "--model large-v3: training it with --batch_size 8" in told and "16 GB free; what would fit: " in told
    assert not (tmp_path / "cache").exists(), "something was downloaded before the refusal"


@pytest.mark.slow
def test_the_flagship_with_tiny_en_to_the_first_step(openslr: Path, tmp_path: Path) -> None:
    needs_weights()
    options = ["--data_dir", str(tmp_path / "cache"), "--runs_dir", str(tmp_path / "runs"), "--run", "flagship"]
    assert train.main(["--model", "tiny.en", "--max_steps", "1", *options]) == 0
    check_run(tmp_path / "runs" / "flagship")
    assert (tmp_path / "cache" / "LibriSpeech" / SUBSET).is_dir()
    assert not list((tmp_path / "cache").glob("*.partial")), "the staging folder was left behind"


@pytest.mark.gpu
@pytest.mark.slow
def test_the_flagship_with_large_v3s_shape_to_the_first_step(openslr: Path, tmp_path: Path) -> None:
    dims = memory.official_dimensions("large-v3")
    assert dims is not None
    if not torch.cuda.is_available() or memory.available_bytes(torch.device("cuda")) < 60e9:
        pytest.skip("needs a CUDA device with 60 GB free")
    model = Whisper(dims)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01)
    torch.save({"dims": asdict(dims), "model_state_dict": model.half().state_dict()}, tmp_path / "large.pt")
    options = ["--data_dir", str(tmp_path / "cache"), "--runs_dir", str(tmp_path / "runs"), "--run", "flagship"]
    assert train.main(["--model", str(tmp_path / "large.pt"), "--max_steps", "1", *options]) == 0
    check_run(tmp_path / "runs" / "flagship")
