"""Recordings and manifests with any fault, and the preflight over them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from conftest import babble
from rich.console import Console
from whisper import ModelDimensions

from whisper_min.config import Config
from whisper_min.data import preflight, sources
from whisper_min.data.checked import Report
from whisper_min.data.examples import SpeechSet
from whisper_min.data.tokens import Tokens

TEXT = "The quick brown fox, it jumps."  # 30 characters for 2 s of audio
TOKENS = Tokens(ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


class Workbench:
    """A folder of recordings, and the preflight over sets that are written from rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cfg = Config(data_dir=folder / "cache")
        self.recordings = 0

    def record(self, name: str | None = None, seconds: float = 2.0, rate: int = 16_000, **options: Any) -> str:
        """Write a recording that no other one equals; its name."""
        self.recordings += 1
        name = name or f"{self.recordings}.wav"
        soundfile.write(self.folder / name, babble(seconds, rate, seed=self.recordings), rate, **options)
        return name

    def row(self, **changes: Any) -> dict[str, Any]:
        """A row of a manifest without a fault; its recording is made where none is named."""
        return {"audio": changes.get("audio") or self.record(), "text": TEXT, **changes}

    def load(self, rows: Sequence[dict[str, Any]], name: str = "mine") -> SpeechSet:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return SpeechSet(name, str(path), sources.read_manifest(path))

    def check(self, rows: Sequence[dict[str, Any]], role: str = "data", **options: Any) -> Report:
        """The preflight of one set."""
        speech = replace(self.load(rows), share=0.2 if role == "replay" else 0.0)
        return preflight.run([(role, speech)], replace(self.cfg, **options), TOKENS, quiet())


def bad_rows(bench: Workbench) -> list[tuple[dict[str, Any], str]]:
    """A row with each fault, and what the preflight says about it after file, line and recording."""
    folder, record = bench.folder, bench.record
    (folder / "text.wav").write_text("this is no audio\n" * 20)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    cut = folder / record("cut.flac", 5.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    short = folder / record("short.wav", 2.0)
    short.write_bytes(short.read_bytes()[:32_044])
    spoilt = babble(2.0, seed=99)
    spoilt[100] = np.nan
    soundfile.write(folder / "nan.wav", spoilt, 16_000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 16_000)
    return [
        (bench.row(audio="gone.wav"), r"does not exist; correct the path \(it is relative to the manifest\) or remove"),
        (bench.row(audio="folder.wav"), r"does not exist; correct the path"),
        (bench.row(audio="text.wav"), r"(neither soundfile nor ffmpeg|soundfile cannot decode it)"),
        (bench.row(audio="empty.wav"), r"is empty \(0 bytes\)"),
        (bench.row(audio="cut.flac"), r"is cut short or damaged .*; copy or convert the file again"),
        (bench.row(audio="short.wav"), r"ends after 1\.00 s of 2\.00 s: the file is cut short"),
        (bench.row(audio="nan.wav"), r"holds numbers that are not finite \(NaN\); convert the file again"),
        (bench.row(audio="none.wav"), r"holds no samples; remove the entry"),
        (
            bench.row(audio=record(seconds=30.5)),
            r"30\.5 s, but Whisper hears 30 s; split it into segments \(offset and ",
        ),
        (bench.row(text=""), r"has an empty text; write what is said, or remove the entry"),
        (bench.row(text="a " * 447), r"its text has 449 tokens, but the decoder reads 448; split the clip"),
        (bench.row(language="de"), r"is in 'de', but --language is 'en'; train one language at a time"),
        (
            bench.row(duration=2.6),
            r"is 2\.00 s long, the manifest says 2\.60 s; correct the duration, or add an offset",
        ),
        (
            bench.row(segments=[{"start": 0, "end": 2.6, "text": TEXT}]),
            r"the last segment goes from 0\.00 to 2\.60 s, the clip ends at 2\.00 s; correct the segments' times",
        ),
        (
            bench.row(segments=[{"start": 2.1, "end": 2.4, "text": TEXT}]),
            r"the last segment goes from 2\.10 to 2\.40 s, the clip ends at 2\.00 s; correct the segments' times",
        ),
        (
            bench.row(text=f"{TEXT} <|nospeech|>"),
            r"has <\|nospeech\|> beside words; it is for clips in which nobody speaks at all: remove it",
        ),
        (bench.row(offset=2.0), r"offset 2 s lies beyond its end at 2\.00 s"),
        (bench.row(offset=1.0, duration=2.0), r"ends at 2\.00 s, the entry goes to 3\.00 s"),
    ]
