"""Write a set as WebDataset tars that a training can stream: `python -m whisper_min.data pack SET --to shards/`."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import tyro
from rich.console import Console
from whisper.audio import CHUNK_LENGTH, N_SAMPLES, SAMPLE_RATE

from whisper_min import audio, runs
from whisper_min.config import Config, InputError
from whisper_min.data import shards, sources
from whisper_min.data.batches import Clip, Window, fill_windows, timed
from whisper_min.data.examples import AUDIO_SUFFIXES, Example, SpeechSet
from whisper_min.data.progress import progress
from whisper_min.data.tokens import EVERY_LANGUAGE, Tokens
from whisper_min.text import join, visible


@dataclass(frozen=True)
class Options:
    """Write a set as tars (000000.tar …) with each recording's file beside a .json: text, duration, speaker, id."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Sets as train.py's --data takes them."""
    to: Path
    """The folder to write; it must not exist."""
    shard_size: int = 1000
    """Entries in a tar."""
    windows: bool = False
    """Join clips, in their order, to windows of at most 30 s, as --audio_context pack does."""
    data_dir: Path = Config.data_dir
    """Where downloaded sets are kept."""
    skip_bad: bool = False
    """Leave out entries with faults (listed and counted) instead of refusing."""


@dataclass(frozen=True)
class Packed:
    """One sample to write."""

    recording: bytes
    suffix: str
    row: dict[str, Any]


def main(argv: Sequence[str]) -> None:
    """Pack as the command line says; InputError with all faults."""
    options = tyro.cli(Options, args=list(argv), prog="python -m whisper_min.data pack", use_underscores=True)
    entries, tars, left_out = pack(options, Console(stderr=True))
    for fault in left_out:
        print(f"left out: {visible(fault)}", file=sys.stderr)
    told = f"{options.to}: {entries} entries in {tars} tars" + (f", {len(left_out)} left out" if left_out else "")
    print(told, file=sys.stderr)


def pack(options: Options, console: Console) -> tuple[int, int, list[str]]:
    """Write beside the folder and rename it: (entries, tars, faults of what was left out).

    Nothing but one entry, or one window's clips, is held. InputError with all faults.
    """
    faults: list[str] = []
    if not options.source:
        faults.append("pack: names no set; give one, as in: python -m whisper_min.data pack my/train.jsonl --to out/")
    if options.shard_size < 1:
        faults.append(f"--shard_size {options.shard_size}: must be at least 1")
    if options.to.exists():
        faults.append(f"--to {options.to}: exists; choose another folder, or remove it")
    elif not options.to.absolute().parent.is_dir():
        faults.append(f"--to {options.to}: its folder does not exist; make it first")
    sets: list[SpeechSet] = []
    for word in shards.join(options.source):
        try:
            spec = sources.parse_spec(word, "")
            sets.append(sources.load_set(spec, options.data_dir.expanduser(), stream=True))
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    examples = (example for speech in sets for example in _entries(speech, faults.append))
    total = None if any(speech.shards for speech in sets) else sum(len(speech.examples) for speech in sets)
    with runs.writing(options.to) as beside, progress("packing", console) as bars:
        beside.mkdir()
        counted = bars.track(examples, total=total)
        packed = _windows(counted, faults.append) if options.windows else _whole(counted, faults.append)
        entries = tars = 0
        for sample in packed:
            tar = chain([sample], islice(packed, options.shard_size - 1))
            entries = write_tar(beside / f"{tars:06d}.tar", tar, first=entries)
            tars += 1
        if not entries and not faults:
            faults.append(f"{' '.join(options.source)}: holds no entries")
        if faults and not (options.skip_bad and entries):
            raise InputError(faults)
    return entries, tars, faults


def write_tar(path: Path, samples: Iterable[Packed], first: int) -> int:
    """One tar, flushed to disk; its keys count on from `first`. Returns what the next one's are to begin with."""
    number = first
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                row = (json.dumps(sample.row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
                for suffix, content in [(sample.suffix, sample.recording), (".json", row)]:
                    header = tarfile.TarInfo(f"{number:09d}{suffix}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
                number += 1
        file.flush()
        os.fsync(file.fileno())
    return number


def _entries(speech: SpeechSet, report: Callable[[str], None]) -> Iterator[Example]:
    """A set's entries, also of tars; faults are reported."""
    yield from speech.examples
    for shard in speech.shards:
        try:
            for entry in shards.entries(shard, speech.columns):
                if isinstance(entry, Example):
                    yield entry
                else:
                    report(entry)
        except shards.ShardError as error:
            report(str(error))


def _whole(examples: Iterable[Example], report: Callable[[str], None]) -> Iterator[Packed]:
    """Each entry by itself: its file as it is, or as FLAC (16 kHz, 16 bit) where it is a part of one or where nothing
    in a file's name says that it is a recording, by which readers of tars know one.
    """
    for example in examples:
        try:
            if example.offset is not None or not example.audio_name.lower().endswith(AUDIO_SUFFIXES):
                waveform = _read(example)
                yield _packed(_flac(waveform), ".flac", [example], [len(waveform) / SAMPLE_RATE])
                continue
            with example.file() as path:
                seconds = audio.info(path).seconds
                if seconds == 0:
                    raise audio.AudioError(audio.NO_SAMPLES)
                yield _packed(path.read_bytes(), path.suffix.lower(), [example], [seconds])
        except (audio.AudioError, OSError) as error:
            report(f"{example.where}: {example.audio_name}: {error}")


def _windows(examples: Iterable[Example], report: Callable[[str], None]) -> Iterator[Packed]:
    """Clips joined to windows of at most 30 s, as FLAC (16 kHz, 16 bit)."""
    recordings: dict[int, audio.Waveform] = {}

    def clips() -> Iterator[Clip]:
        for example in examples:
            try:
                waveform = _read(example)
            except audio.AudioError as error:
                report(f"{example.where}: {example.audio_name}: {error}")
                continue
            if len(waveform) > CHUNK_LENGTH * SAMPLE_RATE:
                seconds = len(waveform) / SAMPLE_RATE
                report(f"{example.where}: {example.audio_name}: {seconds:.1f} s, more than a window holds; split it")
                continue
            recordings[id(example)] = waveform
            yield Clip(example, example.text, len(waveform))

    for window in fill_windows(clips(), Tokens(EVERY_LANGUAGE)):
        waveforms = [recordings.pop(id(clip.example)) for clip in window]
        seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        yield _packed(_flac(np.concatenate(waveforms)), ".flac", [clip.example for clip in window], seconds)


def _read(example: Example) -> audio.Waveform:
    """A waveform to write; AudioError where there is nothing to write or FLAC could not hold it."""
    waveform = example.read()
    if not len(waveform):
        raise audio.AudioError(audio.NO_SAMPLES)
    if not np.isfinite(waveform).all():
        raise audio.AudioError(audio.NOT_FINITE)
    return waveform


def _packed(recording: bytes, suffix: str, examples: Sequence[Example], seconds: Sequence[float]) -> Packed:
    """A sample of one entry, or of several with their lengths.

    It has a speaker and a language where all of them have the same, segments where all of them have some, and the
    first one's prompt.
    """
    row: dict[str, Any] = {"id": " + ".join(example.id for example in examples)}
    row |= {"text": join([example.text for example in examples if example.text]), "duration": math.fsum(seconds)}
    window = Window(tuple(examples), tuple(example.text for example in examples), N_SAMPLES)
    row["segments"] = [asdict(segment) for segment in timed(window, seconds)] or None
    row["prompt"] = examples[0].prompt
    for name in ("speaker", "language"):
        values = {getattr(example, name) for example in examples}
        row[name] = values.pop() if len(values) == 1 else None
    return Packed(recording, suffix, {name: value for name, value in row.items() if value is not None})


def _flac(waveform: audio.Waveform) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, waveform, SAMPLE_RATE, "PCM_16", format="FLAC")
    return written.getvalue()
