"""How a stream of tars does with 100,000 entries: memory along an epoch, entries a second, time to the first batch.

The entries are synthetic: near-silent FLACs of 2 to 28 s, with real headers, texts and durations. Reading the order
is what is measured (headers, texts, shuffle, windows); decoding is only in the first batch, and in `decode`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import common  # first: it makes the checkout importable
import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track
from whisper.audio import SAMPLE_RATE

from whisper_min.config import Config
from whisper_min.data import batches, preflight, sources
from whisper_min.data.stream import Stream
from whisper_min.data.tokens import EVERY_LANGUAGE, Tokens

WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
]


def write(folder: Path, entries: int, size: int) -> str:
    """The tars; the word that means them all."""
    generator = np.random.default_rng(0)
    recordings = []
    for seconds in np.linspace(2, 28, 100).round(2):
        content = io.BytesIO()
        waveform = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
        waveform[:: SAMPLE_RATE // 10] = 0.1
        soundfile.write(content, waveform, SAMPLE_RATE, format="FLAC")
        recordings.append((float(seconds), content.getvalue()))
    count = -(-entries // size)
    for index in track(range(count), "writing tars", console=Console(stderr=True)):
        with tarfile.open(folder / f"{index:06d}.tar", "w") as tar:
            for entry in range(index * size, min(entries, (index + 1) * size)):
                seconds, content = recordings[entry % 100]
                text = " ".join(generator.choice(WORDS, max(3, round(2 * seconds)))).capitalize() + "."
                row = json.dumps({"text": text, "duration": seconds}).encode()
                for suffix, written in ((".flac", content), (".json", row)):
                    header = tarfile.TarInfo(f"{entry:09d}{suffix}")
                    header.size = len(written)
                    tar.addfile(header, io.BytesIO(written))
    return f"{folder}/{{{0:06d}..{count - 1:06d}}}.tar"


def measure(args: argparse.Namespace) -> common.Result:
    """One way to cut windows, in a fresh process, on tars that are there."""
    cfg = Config(
        data=(args.tars,),
        eval_data=("demo:dev",),
        data_dir=Path(args.tars).parent.parent / "cache" / args.arm,
        audio_context=args.arm,
    )
    tokens, found = Tokens(EVERY_LANGUAGE), {"start": common.resident_megabytes()}
    for name in ("first", "again"):
        started = time.perf_counter()
        report = preflight.run(sources.of_training(cfg), cfg, tokens, Console(stderr=True))
        assert not report.faults, report.faults
        found[name] = time.perf_counter() - started
    stream = Stream(report.role("data"), cfg, tokens)

    started = time.perf_counter()
    windows = next(stream.from_position(0, 0))[1]
    batches.collate(windows, tokens, EVERY_LANGUAGE.n_mels, cfg)
    found["first_batch"] = time.perf_counter() - started

    started = time.perf_counter()
    memory, seen, positions, every = [], 0, [], max(1, args.entries // 10)
    for position, windows in stream.from_position(0, 0):
        if position[0] == stream.blocks:
            break
        seen += sum(len(window.examples) for window in windows)
        positions.append((position, seen))
        if seen >= every * (len(memory) + 1):
            memory.append(common.resident_megabytes())
    assert seen == args.entries, f"{seen} of {args.entries} entries in an epoch"
    found |= {"rate": seen / (time.perf_counter() - started), "memory": memory}

    half = len(positions) // 2
    middle, _ = positions[half]
    expected = itertools.islice(stream.from_position(0, 0), half + 1, half + 501)
    started = time.perf_counter()
    resumed = stream.from_position(*middle)
    first = next(resumed)
    found["resume"] = time.perf_counter() - started
    assert [first, *itertools.islice(resumed, 499)] == list(expected), "the rest is not what was left"

    started, clips, seconds = time.perf_counter(), 0, 0.0
    for _, windows in itertools.islice(stream.from_position(0, 0), 20):
        batch = batches.collate(windows, tokens, EVERY_LANGUAGE.n_mels, cfg)
        clips, seconds = clips + len(batch.ids), seconds + batch.audio_seconds
    found["decode"] = seconds / (time.perf_counter() - started - found["first_batch"])
    return found


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """A row for each way to cut windows."""
    columns = ["windows", "preflight s", "again s", "first batch s", "entries/s", "resume at half s"]
    columns += ["MB at start", "at 10 %", "at 50 %", "at the end", "audio h/h decoded"]
    rows = []
    for arm, rounds in results.items():
        mean = {name: [each[name] for each in rounds] for name in ("first", "again", "first_batch", "rate", "resume")}
        digits = {"rate": 0}
        cells = [common.spread(values, digits.get(name, 1)) for name, values in mean.items()]
        last = rounds[-1]
        held = [last["start"], *(last["memory"][index] for index in (0, 4, -1))]
        rows.append([arm, *cells, *(f"{each:.0f}" for each in held), f"{last['decode']:.0f}"])
    title = f"a stream of {args.entries:,} entries in tars of {args.size:,}, buffer 10,000, batch 8"
    notes = [
        "After the resume the next 500 batches were compared with those of the uninterrupted order: equal.",
        "MB are resident memory of the process along the first epoch.",
    ]
    return title, columns, rows, notes


def main() -> int:
    """Write the tars and measure in fresh processes, or measure as such a process."""
    parser = common.options(__doc__ or "", ["trim", "pack", "full"], default=["trim", "pack", "full"], rounds=1)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1_000, help="entries in a tar")
    parser.add_argument("--tars", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(measure(args)))
        return 0
    where = common.environment(["torch", "soundfile"])
    with tempfile.TemporaryDirectory() as folder:
        tars = Path(folder, "tars")
        tars.mkdir()
        sys.argv += ["--tars", write(tars, args.entries, args.size)]
        section = common.show(*tabulate(args, common.interleave(args.arms, args.rounds)), where)
    if args.write:
        common.append(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
