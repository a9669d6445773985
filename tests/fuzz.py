"""Damaged and hostile inputs for everything that reads a file: seeds made of shipped speech, and seeded mutations.

Input `index` of a parser is the same in every run, so that a number tells it again. What a parser may raise is in
`refusals`; anything else is a crash, and so are a result that is not what it claims to be, more than `SLOW` seconds of
the processor and more than `MEMORY` bytes. tests/test_fuzz.py tries some hundred inputs of each, tests/bench/fuzz.py
any number.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import random
import resource
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from fake_run import make_run
from quick_model import save_openai, small_whisper
from safetensors.torch import save
from tars import write_tar
from whisper import ModelDimensions

from whisper_min import audio, config, runs, text
from whisper_min.audio import AudioError
from whisper_min.config import InputError
from whisper_min.data import hub, shards, sources, subtitles
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Label, Tokens
from whisper_min.model import lora, weights
from whisper_min.training import checkpoint
from whisper_min.training.state import State
from whisper_min.ui import alerts, once, spectrogram
from whisper_min.ui.model import Deadline, RunView

SLOW, MEMORY = 1.0, 200 << 20
# What parsers stumble over, in texts and in numbers.
TOKENS = (
    *(b"[" * 3000, b'{"a":' * 3000, b"9" * 400, b"1e999", b"-1", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b'"'),
    *(b"\\ud800", b"\\u0000", b"\\u202e", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"\0", b"\n", b"\r", b"\t", b","),
    *(b"-->", b"00:00:01.000", b"<v a>", b"NOTE", b"../../x", b"/dev/zero", b"<|nospeech|>", b"<|endoftext|>"),
    *(bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00"),
)
# Headers and directories are at the ends of files: half of all changes are made within so many bytes of them.
ENDS = 2000


@dataclass(frozen=True)
class Parser:
    """One thing that reads files."""

    file: str
    """What an input is called; parsers tell formats by it."""
    seeds: Callable[[], list[bytes]]
    """Whole files that it reads, or has no quarrel with."""
    parse: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = (InputError,)
    external: bool = False
    """Whether it may start other programs, which are slow to start."""


@dataclass
class Found:
    """What a number of inputs did."""

    inputs: int = 0
    refused: int = 0
    crashes: dict[str, int] = field(default_factory=dict)
    """Kind of crash -> the first input that made it."""
    slowest: float = 0.0
    """Seconds of the processor."""
    memory: int = 0
    """Bytes beyond what the seeds needed."""


# ---- Inputs.


def mutate(seeds: Sequence[bytes], index: int) -> bytes:
    """Input number `index`: first the seeds as they are, then ever new changes of them."""
    if index < len(seeds):
        return seeds[index]
    generator = random.Random(index)
    data = bytearray(generator.choice(seeds))
    for _ in range(1 << generator.randrange(4)):
        near = min(ENDS, len(data))
        place = generator.choice((generator.randint(0, near), len(data) - generator.randint(0, near)))
        at = generator.choice((place, generator.randint(0, len(data))))
        length = min(1 << generator.randrange(12), len(data) - at)
        kind = generator.randrange(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at : at + length] = b""
        elif kind == 2:
            data[at:at] = data[at : at + length] * generator.randrange(1, 4)
        elif kind == 3:
            token = generator.choice(TOKENS)
            data[at : at + len(token) * generator.randrange(2)] = token
        elif kind == 4:
            data[at : at + length] = generator.randbytes(length)
        elif kind == 5:
            other = generator.choice(seeds)
            start = generator.randint(0, len(other))
            data[at : at + length] = other[start : start + length]
        elif generator.random() < 0.3:
            del data[at:]
    return bytes(data)


# ---- Trying them.


@contextmanager
def surroundings(parser: Parser) -> Iterator[Path]:
    """A folder for its inputs; programs such as ffmpeg are out of sight unless the parser is about them."""
    before = os.environ["PATH"]
    os.environ["PATH"] = before if parser.external else ""
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            yield Path(folder)
    finally:
        os.environ["PATH"] = before


def attempt(parser: Parser, data: bytes, folder: Path) -> str | None:
    """Why an input is a crash: the error and where it came from; None where it was read, "" where it was refused."""
    path = folder / parser.file
    path.write_bytes(data)
    try:
        parser.parse(path)
    except parser.refusals as error:
        return "" if str(error) else f"{type(error).__name__} says nothing"
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "whisper_min" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the test"
        return f"{type(error).__name__} at {where}: {str(error)[:100]!r}"
    return None


def run(
    parser: Parser, indices: Sequence[int], found: Found, before: Callable[[int], None] = lambda index: None
) -> None:
    """Try inputs; `before` is told each number first."""
    with surroundings(parser) as folder:
        seeds = parser.seeds()
        for seed in seeds:
            told = attempt(parser, seed, folder)
            assert told is None, f"{parser.file}: a whole file is refused ({told})"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for index in indices:
            before(index)
            started = time.process_time()
            told = attempt(parser, mutate(seeds, index), folder)
            seconds = time.process_time() - started
            extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
            found.inputs += 1
            found.refused += told == ""
            found.slowest, found.memory = max(found.slowest, seconds), max(found.memory, extra)
            told = told or (f"slow: {seconds:.1f} s" if seconds > SLOW else None)
            if extra > MEMORY:
                told, peak = f"memory: {extra >> 20} MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if told:
                found.crashes.setdefault(told, index)


def shrink(parser: Parser, index: int, tries: int = 500) -> bytes:
    """The input with everything taken away that its crash does not need, as far as so many tries go."""
    with surroundings(parser) as folder:
        data = mutate(parser.seeds(), index)
        wanted = (attempt(parser, data, folder) or "").partition(":")[0]
        size = len(data) // 2
        while size and wanted:
            at = 0
            while at < len(data) and tries:
                shorter, tries = data[:at] + data[at + size :], tries - 1
                if (attempt(parser, shorter, folder) or "").partition(":")[0] == wanted:
                    data = shorter
                else:
                    at += size
            size //= 2
    return data


# ---- What reads files, and whole files for it.


def speech(format_: str, subtype: str | None = None, rate: int = 16_000, seconds: float = 0.3) -> bytes:
    """A little of the shipped speech in a format."""
    manifest = sources.DEMO_FOLDER / "general.jsonl"
    name = json.loads(manifest.read_text(encoding="utf-8").split("\n")[0])["audio_filepath"]
    samples = audio.read(manifest.parent / name)[: round(seconds * 16_000)]
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format=format_, subtype=subtype)
    return written.getvalue()


def read_audio(path: Path) -> None:
    its, waveform = audio.info(path), audio.read(path)
    part = audio.read(path, 0.1, 0.1)
    assert waveform.dtype == np.float32 and waveform.ndim == part.ndim == 1
    assert its.seconds >= 0 and its.sample_rate > 0 and its.channels > 0


def read_clip(path: Path) -> None:
    clip = spectrogram.read_clip(spectrogram.Source(str(path)))
    assert np.isfinite(clip.mel).all()


def check_examples(examples: Sequence[Example]) -> None:
    for example in examples:
        assert isinstance(example.text, str) and example.id and (example.duration or 1) > 0
        assert math.isfinite(example.offset or 0) and "\n" not in text.visible(example.where)


def rows() -> list[dict[str, Any]]:
    """Lines of a manifest that use every column."""
    segments = [{"start": 0.0, "end": 1.0, "text": "Hello,"}, {"start": 1.2, "end": 2.0, "text": "world."}]
    row = {"audio_filepath": "a.wav", "text": "Hello, world.", "duration": 2.0, "speaker": "a", "language": "en"}
    return [row, {**row, "offset": 3.5, "prompt": "Before.", "segments": segments}, {"audio": "b.flac", "sentence": ""}]


def manifest_seeds() -> list[bytes]:
    return ["".join(json.dumps(row) + "\n" for row in rows()).encode()]


def table_seeds(delimiter: str) -> list[bytes]:
    written = io.StringIO()
    table = csv.DictWriter(written, list(rows()[1]), delimiter=delimiter)
    table.writeheader()
    table.writerows({**row, "segments": json.dumps(row.get("segments", []))} for row in rows()[:2])
    return [written.getvalue().encode()]


def tar_seeds() -> list[bytes]:
    row = json.dumps(rows()[0] | {"text": "One."}).encode()
    files: list[Any] = [("a/1.flac", speech("FLAC")), ("a/1.json", row), ("a/2.wav", b"RIFF"), ("a/2.txt", b"Two.")]
    with tempfile.TemporaryDirectory() as folder:
        return [write_tar(Path(folder, "x.tar"), files).read_bytes()]


def read_tar(path: Path) -> None:
    entries = list(shards.entries(str(path)))
    check_examples([each for each in entries if isinstance(each, Example)])


def parquet_seeds() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    clip, written = {"bytes": speech("FLAC"), "path": "a.flac"}, io.BytesIO()
    columns = {"audio": [clip, clip], "text": ["One.", "Two."], "speaker_id": [1, 2]}
    pyarrow.parquet.write_table(pyarrow.table(columns), written)
    return [written.getvalue()]


def read_parquet(path: Path) -> None:
    (path.parent / "audio").mkdir(exist_ok=True)
    hub.column_kinds(hub._open("x", path, "x").schema_arrow)
    for row in hub._unpack_shard("x", path, "x", 0, "audio", path.parent):
        assert (path.parent / row["audio_filepath"]).is_file()


def subtitle_seeds(suffix: str) -> list[bytes]:
    head, point = ("WEBVTT\nLanguage: en\n\n", ".") if suffix == ".vtt" else ("", ",")
    cues = ["1", f"00:00:01{point}000 --> 00:00:02{point}500", "<i>Hello</i>,", "world &amp; all."]
    more = ["2", f"01:00:03{point}000 --> 01:00:04{point}000", "<v Anna>Yes.</v>", ""]
    return [(head + "\n".join([*cues, "", *more])).encode()]


def read_subtitles(path: Path) -> None:
    check_examples(subtitles.examples(path, sources._read_text(path), path.with_suffix(".wav"), "talk"))


@functools.cache
def run_files() -> dict[str, bytes]:
    """A finished run's files."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), "run", steps=20)
        return {path.name: path.read_bytes() for path in run.path.iterdir()}


def read_run(path: Path) -> None:
    """A run of which one file is the input, read as the writer does and as the terminal does."""
    for name, content in run_files().items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    runs.merge_steps(runs.read_jsonl(path.parent / "metrics.jsonl"))
    runs.last_choice(path.parent)
    view = RunView(path.parent, "run")
    view.refresh()
    assert view.read(True, Deadline(60)), "not read to the end"
    assert "\x1b" not in "".join(alert.text for alert in alerts.of_run(view))
    once.table([view])
    json.dumps(once.record(view), allow_nan=False)


def read_control(path: Path) -> None:
    known = runs.RunFolder(path.parent).read_commands()
    assert set(known) <= set(runs.COMMANDS) and not path.exists()


def config_seeds() -> list[bytes]:
    cfg = config.resolve(config.Config(data=("a.jsonl",), run="x", noise=Path("n"), replay=("b.jsonl@0.1",)))
    return [json.dumps(config.to_record(cfg), indent=1).encode()]


def read_config(path: Path) -> None:
    cfg = config.load(path.parent)
    assert all(isinstance(fault, str) for fault in config.check(config.resolve(cfg)))


def read_weights(path: Path) -> None:
    model, _ = weights.load(str(path if path.suffix == ".pt" else path.parent))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@functools.cache
def base_file() -> Path:
    """Weights for adapters, in a place that stays."""
    return save_openai(small_whisper(), Path(tempfile.mkdtemp(prefix="fuzz-base-")) / "base.pt")


def pt_seeds() -> list[bytes]:
    return [base_file().read_bytes()]


def safetensors_seeds() -> list[bytes]:
    model = small_whisper()
    origin = weights.Origin("x", "x", "x", [[0, 0]])
    return [save(model.state_dict(), weights.safetensors_metadata(model.dims, origin))]


def adapter_seeds() -> list[bytes]:
    model, origin = weights.load(str(base_file()))
    lora.attach(model, lora.Adapters(2, 4.0, "qv"))
    return [save(lora.adapter_state(model), lora.adapter_metadata(model, str(base_file()), origin.fingerprint))]


def ctranslate2_seeds() -> list[bytes]:
    from test_ctranslate2 import converted, serialize

    return [serialize(converted(small_whisper()))]


@functools.cache
def trained() -> tuple[Any, Any, Any]:
    """A model, its optimizer after a step, and a scaler."""
    model = small_whisper()
    optimizer = torch.optim.AdamW(model.decoder.ln.parameters())
    for parameter in model.decoder.ln.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def trainer_seeds() -> list[bytes]:
    _, optimizer, scaler = trained()
    written = io.BytesIO()
    torch.save(State(step=3).record(optimizer, scaler, [torch.get_rng_state()]), written)
    return [written.getvalue()]


def read_trainer(path: Path) -> None:
    model, optimizer, scaler = trained()
    if not (weight_file := path.parent / "model.safetensors").exists():
        weight_file.write_bytes(save(model.state_dict()))
    state = State.of(path.parent, checkpoint.load(path.parent, model), optimizer, scaler, 0)
    assert [type(value) for value in asdict(state).values()][:2] == [int, tuple]


@functools.cache
def tokens() -> Tokens:
    return Tokens(ModelDimensions(80, 1500, 64, 1, 1, 51865, 448, 64, 1, 1))


def read_label(path: Path) -> None:
    """A transcript of any characters: restyled, made tokens, and shown."""
    written = path.read_bytes().decode("utf-8", "surrogateescape")
    for style in ("keep", "lower", "sentence"):
        label = text.restyle(written, style)
        if tokens().fits(label):
            targets = tokens().teacher_forcing([Label(label, prompt=written)])
            assert 0 < targets.count < 448 and int(targets.inputs.max()) < 51865
    shown = text.visible(written)
    assert shown.isprintable() or not shown


def m4a_seeds() -> list[bytes]:
    command = ["ffmpeg", "-v", "error", "-i", "-", "-c:a", "aac", "-f", "ipod", "-y"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.m4a")
        subprocess.run([*command, str(path)], input=speech("WAV"), check=True)
        return [path.read_bytes()]


PARSERS = {
    "wav": Parser("a.wav", lambda: [speech("WAV"), speech("WAV", "FLOAT", 44_100)], read_audio, (AudioError,)),
    "flac": Parser("a.flac", lambda: [speech("FLAC")], read_audio, (AudioError,)),
    "mp3": Parser("a.mp3", lambda: [speech("MP3")], read_audio, (AudioError,)),
    "ogg": Parser("a.ogg", lambda: [speech("OGG"), speech("OGG", "OPUS")], read_audio, (AudioError,)),
    "m4a, ffmpeg": Parser("a.m4a", m4a_seeds, read_audio, (AudioError,), external=True),
    "clip in the terminal": Parser(
        "a.wav", lambda: [speech("WAV"), speech("FLAC")], read_clip, (spectrogram.ClipError,)
    ),
    "manifest, jsonl": Parser("m.jsonl", manifest_seeds, lambda path: check_examples(sources.read_manifest(path))),
    "manifest, csv": Parser(
        "m.csv", lambda: table_seeds(","), lambda path: check_examples(sources.read_manifest(path))
    ),
    "manifest, tsv": Parser(
        "m.tsv", lambda: table_seeds("\t"), lambda path: check_examples(sources.read_manifest(path))
    ),
    "tar": Parser("a.tar", tar_seeds, read_tar, (shards.ShardError,)),
    "parquet": Parser("a.parquet", parquet_seeds, read_parquet),
    "subtitles, srt": Parser("a.srt", lambda: subtitle_seeds(".srt"), read_subtitles),
    "subtitles, vtt": Parser("a.vtt", lambda: subtitle_seeds(".vtt"), read_subtitles),
    **{
        name: Parser(name, functools.partial(lambda name: [run_files()[name]], name), read_run, ())
        for name in ("metrics.jsonl", "samples.jsonl", "sweep.jsonl", "system.jsonl", "status.json", "train.log")
    },
    "config.json in the terminal": Parser("config.json", config_seeds, read_run, ()),
    "config.json": Parser("config.json", config_seeds, read_config),
    "control": Parser("control", lambda: [b"save\neval\n", b"stop\n"], read_control, ()),
    "model.safetensors": Parser("model.safetensors", safetensors_seeds, read_weights),
    "adapters": Parser("model.safetensors", adapter_seeds, read_weights),
    "model.pt": Parser("model.pt", pt_seeds, read_weights),
    "trainer.pt": Parser("trainer.pt", trainer_seeds, read_trainer),
    "CTranslate2": Parser("model.bin", ctranslate2_seeds, read_weights),
    "labels": Parser("a.txt", lambda: ["Hello, world. Grüße, 你好!".encode(), b"HELLO WORLD I'M"], read_label, ()),
}
