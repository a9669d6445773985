"""What the recordings of entries are: length, rate, level, and a digest that tells copies; found once, then cached.

A file is known by its path, size and time of change. Above 50 h headers are read and a sample is decoded.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console
from whisper.audio import SAMPLE_RATE

from whisper_min import audio, runs
from whisper_min.config import Config
from whisper_min.data.examples import Example
from whisper_min.data.progress import progress

# Above so many hours only headers are read, and so many entries decoded.
DECODE_ALL_HOURS = 50
DECODED_SAMPLE = 1_000
# A sample of this size counts as clipped.
CLIPPED_AT = 0.999
# A manifest's duration may differ from the file's by so many seconds.
DURATION_TOLERANCE = 0.5


@dataclass(frozen=True)
class Facts:
    """What one entry's audio is."""

    error: str | None = None
    seconds: float = 0.0
    sample_rate: int = 0
    decoded: bool = False
    clipped: float = 0.0
    """Share of samples at full scale."""
    level_db: float = 0.0
    """Root mean square, in dB of full scale."""
    finite: bool = True
    digest: str = ""
    """Of the decoded samples: equal for equal recordings."""


Cached = TypeVar("Cached", bound=Any)


class Cache(Generic[Cached]):
    """What was found out about files, a line each; the empty key stands for what cannot be told apart."""

    def __init__(self, path: Path, kind: type[Cached]) -> None:
        self.path = path
        self.kind: type[Cached] = kind
        self.rows = {row.pop("key"): row for row in runs.read_jsonl(path) if "key" in row}

    def known(self, key: str) -> Cached | None:
        """What is known of a file; None where nothing is, or another version has written it."""
        row = self.rows.get(key, {})
        return self.kind(**row) if row.keys() == {each.name for each in fields(self.kind)} else None

    def add(self, found: Sequence[tuple[str, Cached]], what: str) -> list[str]:
        """Write down what was found out; returns a note where that cannot be."""
        rows = [{"key": key, **asdict(its)} for key, its in found if key]
        try:
            if rows:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                runs.append_jsonl(self.path, rows)
        except OSError as error:
            return [f"{what} could not be cached in {self.path} ({error.strerror})"]
        return []


def inspect_all(
    examples: Sequence[Example], cfg: Config, console: Console, notes: list[str], decode_all: bool = False
) -> tuple[list[Facts], bool]:
    """Facts of every example, from the cache where its file has not changed; a sample of many hours, or `decode_all`.

    Returns them, and whether all are decoded. What could not be looked at is added to the notes.
    """
    cache = Cache(cfg.data_dir / "preflight.jsonl", Facts)
    keys = [file_key(example) for example in examples]

    @functools.cache  # many entries may be parts of one recording, and not every format has a header
    def info(path: Path) -> audio.AudioInfo | str:
        try:
            return audio.info(path)
        except audio.AudioError as error:
            return str(error)

    cached = [cache.known(key) for key in keys]
    headers = [known or _header(example, info) for example, known in zip(examples, cached, strict=True)]
    hours = sum(facts.seconds for facts in headers) / 3600
    to_decode = [index for index, facts in enumerate(headers) if facts.error is None and not facts.decoded]
    all_decoded = decode_all or hours <= DECODE_ALL_HOURS or len(examples) <= DECODED_SAMPLE
    if not all_decoded:
        notes.append(
            f"{hours:.0f} h: the headers of all {len(examples)} files are read and {DECODED_SAMPLE} files decoded; bad "
            "audio in the others is met, and counted or refused, in training"
        )
        # of all of them, so that the next start, which finds these in the cache, decodes no others
        sample = random.Random(cfg.seed).sample(range(len(examples)), DECODED_SAMPLE)
        to_decode = sorted(set(sample).intersection(to_decode))
    only_read = [index for index in set(range(len(examples))).difference(to_decode) if cached[index] is None]
    new = [(keys[index], headers[index]) for index in only_read if headers[index].error is None]
    with progress("checking audio", console) as bars, ThreadPoolExecutor() as pool:
        work = pool.map(inspect, [examples[index] for index in to_decode], [headers[index] for index in to_decode])
        try:
            for index, facts in zip(to_decode, bars.track(work, total=len(to_decode)), strict=True):
                headers[index] = facts
                if facts.error is None:
                    new.append((keys[index], facts))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a signal does not wait for all that is left
    notes += cache.add(new, "the preflight's results")
    return headers, all_decoded


def file_key(example: Example) -> str:
    """What tells an entry's audio from any other without decoding it; empty where the file is not there."""
    try:
        stat = example.audio_filepath.stat()
    except OSError:
        return ""
    duration = example.duration if example.offset is not None else None
    place = [example.member.start] if example.member else []
    path = str(example.audio_filepath.resolve())
    return json.dumps([path, stat.st_size, stat.st_mtime_ns, example.offset, duration, *place])


def _header(example: Example, info: Callable[[Path], audio.AudioInfo | str]) -> Facts:
    """Length and rate as the header says."""
    if not example.audio_filepath.is_file():
        return Facts(error="does not exist; correct the path (it is relative to the manifest) or remove the entry")
    try:
        with example.file() as path:
            found = info(path)
    except audio.AudioError as error:
        found = str(error)
    if isinstance(found, str):
        return Facts(error=found)
    seconds = found.seconds
    if example.offset is not None:
        if example.offset >= found.seconds:
            return Facts(error=f"offset {example.offset:g} s lies beyond its end at {found.seconds:.2f} s")
        seconds = min(example.duration or found.seconds, found.seconds - example.offset)
        if example.duration and seconds < example.duration - DURATION_TOLERANCE:
            wanted = example.offset + example.duration
            return Facts(error=f"ends at {found.seconds:.2f} s, the entry goes to {wanted:.2f} s")
    return Facts(seconds=seconds, sample_rate=found.sample_rate)


def inspect(example: Example, header: Facts) -> Facts:
    """Decode one example and look at its samples."""
    try:
        waveform = example.read()
    except audio.AudioError as error:
        return replace(header, error=str(error))
    if len(waveform) == 0:
        return replace(header, seconds=0.0, decoded=True)
    magnitude = np.abs(waveform)
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return Facts(
        seconds=len(waveform) / SAMPLE_RATE,
        sample_rate=header.sample_rate,
        decoded=True,
        clipped=float(np.mean(magnitude >= CLIPPED_AT)),
        level_db=10 * float(np.log10(max(power, 1e-12))) if np.isfinite(power) else 0.0,
        finite=bool(np.isfinite(magnitude).all()),
        digest=hashlib.blake2b(waveform.tobytes(), digest_size=16).hexdigest(),
    )
