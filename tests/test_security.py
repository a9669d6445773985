"""What a stranger's files can do here: nothing but be refused, or be shown for what they are."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import REPOSITORY, babble, faults_of
from quick_model import Attack, save_openai, small_whisper
from safetensors.torch import load_file, save_file
from tars import recording, write_tar
from test_audio import needs_ffmpeg

from whisper_min import audio, config, runs
from whisper_min.data import sources
from whisper_min.model import lora, weights
from whisper_min.training import checkpoint
from whisper_min.training.reporter import Reporter
from whisper_min.training.state import State

BOMB = "[" * 100_000
CONTROL_SEQUENCE = "\x1b]0;owned\x07\x1b[2J[red]"


def fault_of(call: Callable[[], object]) -> str:
    return "\n".join(faults_of(call))


# ---- Checkpoints.


def test_a_poisoned_trainer_runs_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "attacked", tmp_path / "trainer.pt"
    torch.save({"step": 1, "optimizer": Attack(mark)}, path)
    assert f"{path}: cannot be read" in fault_of(lambda: checkpoint.load_trainer(tmp_path))
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the attack would have worked
    assert mark.exists()


@pytest.mark.parametrize(
    "changes",
    [{"step": "5"}, {"rng": []}, {"rng": ["x"]}, {"optimizer": 3}, {"optimizer": {"state": {}}}, {"position": [0]}],
    ids=str,
)
def test_a_trainer_s_state_of_wrong_types_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    model, scaler = small_whisper(), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.AdamW(model.parameters())
    record = State().record(optimizer, scaler, [torch.get_rng_state()])
    torch.save(record | changes, tmp_path / "trainer.pt")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert fault_of(lambda: State.of(tmp_path, checkpoint.load(tmp_path, model), optimizer, scaler, 0)).startswith(
        f"{tmp_path}: is not a checkpoint of this run ("
    )
    torch.save(record, tmp_path / "trainer.pt")
    assert State.of(tmp_path, checkpoint.load(tmp_path, model), optimizer, scaler, 0) == State()


def claims(dims: dict[str, Any], state: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a .pt may hold in place of Whisper's dimensions and tensors."""
    name, tensor = "encoder.conv1.weight", state["encoder.conv1.weight"]
    repeated = torch.zeros(1).expand(51_864, 1 << 20)
    return {
        "a model of any size": ({**dims, "n_audio_layer": 10**9}, state),
        "a text for a number": ({**dims, "n_mels": "80"}, state),
        "a negative vocabulary": ({**dims, "n_vocab": -1}, state),
        "no heads": ({**dims, "n_audio_head": 0}, state),
        "dims that are a number": (5, state),
        "tensors that are a list": (dims, [1, 2]),
        "numbers for tensors": (dims, dict.fromkeys(state, 3)),
        "names that are numbers": (dims, {1: tensor}),
        "a sparse tensor": (dims, {**state, name: tensor.to_sparse()}),
        "complex numbers": (dims, {**state, name: tensor.to(torch.complex64)}),
        "whole numbers": (dims, {**state, name: tensor.to(torch.int8)}),
        "one number repeated to 200 GB": (dims, {**state, "decoder.token_embedding.weight": repeated}),
        "odd channels": (dims, {**state, name: torch.zeros(65, 80, 3)}),
    }


@pytest.mark.parametrize("claim", claims({}, {"encoder.conv1.weight": torch.zeros(1)}))
def test_weights_that_claim_what_they_are_not_are_refused(tmp_path: Path, claim: str) -> None:
    model = small_whisper()
    dims, state = claims(asdict(model.dims), model.state_dict())[claim]
    torch.save({"dims": dims, "model_state_dict": state}, tmp_path / "model.pt")
    assert fault_of(lambda: weights.load(str(tmp_path / "model.pt"))).startswith(f"{tmp_path / 'model.pt'}: ")


def test_a_compressed_checkpoint_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A thousandth of its size on the disk; torch itself would unpack it."""
    whole_file, path = save_openai(small_whisper(), tmp_path / "whole.pt"), tmp_path / "bomb.pt"
    with zipfile.ZipFile(whole_file) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, bytes(part.file_size) if "/data/" in part.filename else whole.read(part))
    assert path.stat().st_size < whole_file.stat().st_size / 20
    assert "refused" in fault_of(lambda: weights.load(str(path))) and torch.load(path, weights_only=True)


class Hoard:
    """Pickled, it is a quarter of a gigabyte when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (1 << 28,)


@pytest.mark.parametrize("form", ["bytes by their number", "packed before torch 1.6"])
def test_a_small_checkpoint_cannot_fill_the_memory(tmp_path: Path, form: str) -> None:
    """torch itself reads both."""
    model, path = small_whisper(), tmp_path / "model.pt"
    whole: dict[str, Any] = {"dims": asdict(model.dims), "model_state_dict": model.state_dict()}
    if form == "bytes by their number":
        torch.save(whole | {"more": Hoard()}, path)
    else:
        torch.save(whole, path, _use_new_zipfile_serialization=False)
    assert torch.load(path, weights_only=True).keys() >= whole.keys()
    assert "refused" in fault_of(lambda: weights.load(str(path)))


@pytest.mark.parametrize("damage", ["itself", "rank", "alpha", "deep"])
def test_a_stranger_s_adapters_are_refused(tmp_path: Path, damage: str) -> None:
    model, origin = weights.load(str(save_openai(small_whisper(), tmp_path / "base.pt")))
    lora.attach(model, lora.Adapters(2, 4.0, "qv"))
    metadata = lora.adapter_metadata(model, origin.name, origin.fingerprint)
    path = tmp_path / "model.safetensors"
    save_file(lora.adapter_state(model), path, metadata=metadata)
    weights.load(str(tmp_path))
    adapters = json.loads(metadata["adapters"])
    changes = {
        "itself": {"base": str(tmp_path)},
        "rank": {"adapters": json.dumps(adapters | {"rank": 10**12})},
        "alpha": {"adapters": json.dumps(adapters | {"alpha": "x"})},
        "deep": {"adapters": BOMB},
    }
    save_file(load_file(path), path, metadata=metadata | changes[damage])
    assert str(path) in fault_of(lambda: weights.load(str(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [BOMB, "5", "{", '{"environment": []}',
     '{"environment": {"ranks": "2"}}', '{"lr": {}}', '{"data": [5]}', '{"method": []}', '{"noise": 5}',
     '{"seed": true}', '{"lr": 1' + "0" * 400 + "}"],
    ids=lambda content: content[:20],
)  # fmt: skip
def test_a_stranger_s_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert fault_of(lambda: config.load(tmp_path)).startswith(f"{tmp_path / 'config.json'}: ")


def test_an_own_config_is_read_back(tmp_path: Path) -> None:
    cfg = config.resolve(config.Config(data=("a.jsonl",), lr=1, noise=Path("noise"), batch_size="auto", run="x"))
    (tmp_path / "config.json").write_text(json.dumps(config.to_record(cfg)))
    assert config.from_record(json.loads((tmp_path / "config.json").read_text()), "config.json") == cfg


# ---- Recordings, tars.


@pytest.mark.parametrize("kind", ["HLS", "ffconcat"])
def test_a_playlist_called_a_recording_reads_no_other_file(kind: str, tmp_path: Path) -> None:
    """Else a data set could take in what lies elsewhere on the disk."""
    needs_ffmpeg()
    soundfile.write(tmp_path / "private.mp3", babble(2.0), 16_000)
    path = tmp_path / "clip.m4a"
    lines = {
        "HLS": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path / 'private.mp3'}\n#EXT-X-ENDLIST\n",
        "ffconcat": "ffconcat version 1.0\nfile private.mp3\n",
    }
    path.write_text(lines[kind])
    with pytest.raises(audio.AudioError, match="neither soundfile nor ffmpeg can decode it"):
        audio.read(path)


@pytest.mark.parametrize("name", ["pipe.wav", "a\0.wav", "\ud800.wav", "folder.wav"])
def test_what_is_no_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "a", babble(1.0), 16_000, format="WAV")
    for read in (audio.read, audio.info):
        with pytest.raises(audio.AudioError, match=r"does not exist|is no plain file"):
            read(tmp_path / name)


def test_a_traversing_tar_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Names that lead out, links to what lies elsewhere and devices; nothing is ever written under a tar's names."""
    link, device = tarfile.TarInfo("b.flac"), tarfile.TarInfo("c.flac")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    sound = recording(1.0, "x")
    files: list[Any] = [("../a.flac", sound), ("../a.txt", b"x"), (link, b""), ("b.txt", b"x")]
    path = write_tar(tmp_path / "in" / "set.tar", [*files, (device, b""), ("c.txt", b"x"), ("/d.flac", sound)])
    before = sorted(tmp_path.rglob("*"))
    told = fault_of(lambda: sources.load_sets([str(path)], "data", tmp_path))
    assert told.count("leads out of its folder") == 3 and told.count("is no plain file") == 2
    assert sorted(tmp_path.rglob("*")) == before


# ---- Dependencies.


def test_every_dependency_has_a_lowest_and_a_highest_version() -> None:
    tomllib = pytest.importorskip("tomllib")
    record = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = record["project"]["optional-dependencies"].values()
    needed = [*record["build-system"]["requires"], *record["project"]["dependencies"], *itertools.chain(*extras)]
    for each in needed:
        assert "==" in each or (">=" in each and "<" in each) or each.startswith("whisper-min["), each


# ---- The control file, and what is printed.


@pytest.mark.parametrize("kind", ["huge", "deep", "bytes", "link", "pipe", "folder"])
def test_a_hostile_control_file_is_harmless(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, control, secret = runs.RunFolder(tmp_path / "run"), tmp_path / "run" / "control", tmp_path / "secret"
    run.path.mkdir()
    secret.write_text("stop\n")
    if kind == "link":
        control.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(control)
    elif kind == "folder":
        control.mkdir()
    else:
        content = {"huge": b"x" * (50 << 20) + b"\nstop", "deep": BOMB.encode(), "bytes": bytes(range(256)) * 9}
        control.write_bytes(content[kind])
    started = time.monotonic()
    assert run.read_commands() == [] == run.read_commands()
    assert time.monotonic() - started < 5
    told = capsys.readouterr().err
    assert told.startswith("control: ") and len(told) < 5000 and told.replace("\n", "").isprintable()
    assert told.count("no plain file") == (kind in ("link", "pipe", "folder"))
    assert secret.read_text() == "stop\n"


def test_what_is_printed_and_logged_cannot_steer_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    reporter = Reporter()
    reporter.log_to(tmp_path / "train.log")
    reporter.print(f"left out: {CONTROL_SEQUENCE}", "two\nlines", "https://me:pass@host/a.tar hf_abcdefgh")
    for text in (capsys.readouterr().err, (tmp_path / "train.log").read_text()):
        assert text.replace("\n", "").isprintable() and "\\x1b]0;owned\\x07" in text and "[red]" in text
        assert "two\nlines" in text and "https://…@host/a.tar $HF_TOKEN" in text
        assert "pass" not in text and "hf_abcdefgh" not in text
