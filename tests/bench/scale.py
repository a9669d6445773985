"""What 10,000 and 100,000 hours of speech take: counted on paper, and the loader checked by simulation.

    python tests/bench/scale.py [--hours 100000] [--write]
    python tests/bench/scale.py --counted                     # the tables of the README's section "Scale" alone

Counted: operations of a clip (`python -m whisper_min.limits`) against an H200's data sheet. Bytes an hour are those of
the speech that is shipped. The simulation puts an index of empty tars on the disk, a thousand entries of 10 s each, and
takes what would be read from them from a generator; all else is the product's own: finding the tars, the preflight and
its cache, the sample that is decoded, the order, the shuffle buffer, batches, resuming, the split by rank.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import common  # first: it makes the checkout importable
import numpy as np
import shards as synthetic
import soundfile
from rich.console import Console
from whisper.audio import CHUNK_LENGTH, SAMPLE_RATE

from whisper_min import audio
from whisper_min.config import Config
from whisper_min.data import batches, preflight, shards, sources, survey
from whisper_min.data.examples import Columns, Example, Member, SpeechSet
from whisper_min.data.stream import Stream
from whisper_min.data.tokens import EVERY_LANGUAGE, Tokens
from whisper_min.limits import count_operations
from whisper_min.training.flops import PEAK_FLOPS
from whisper_min.training.memory import TYPICAL_TOKENS, official_dimensions
from whisper_min.training.ranks import Ranks

GPU, GPUS = "H200", 8
# What of the peak a good training reaches; an assumption (see `perf/mfu` for your own).
SHARE = 0.4
HOURS = (10_000, 100_000)
ENTRIES_PER_TAR, SECONDS = 1_000, 10.0
RANKS = 64


# ---- Counted.


@dataclass(frozen=True)
class Training:
    """A row of the table."""

    name: str
    model: str
    cfg: Config
    seconds: float
    """Of speech in a window."""
    context: int
    """Samples of the window."""

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio that go through a GPU in an hour at its peak."""
        dims = official_dimensions(self.model)
        assert dims is not None
        tokens = round(TYPICAL_TOKENS * self.seconds / CHUNK_LENGTH)
        step = count_operations(dims, self.cfg, self.context // audio.SAMPLES_PER_POSITION, tokens)["step"]
        return PEAK_FLOPS[GPU] / step * self.seconds


def trainings() -> list[Training]:
    """What is counted: windows full of speech (`pack`), and clips of 10 s in windows of their own (`trim`)."""
    full, lora = Config(method="full"), Config(method="lora")
    window, clip = (float(CHUNK_LENGTH), CHUNK_LENGTH * SAMPLE_RATE), (SECONDS, audio.context_samples(160_000))
    return [
        Training("large-v3, all weights, packed windows", "large-v3", full, *window),
        Training("large-v3, all weights, clips of 10 s", "large-v3", full, *clip),
        Training("large-v3, LoRA, packed windows", "large-v3", lora, *window),
        Training("turbo, all weights, packed windows", "turbo", full, *window),
        Training("small, all weights, packed windows", "small", full, *window),
    ]


def counted_table() -> tuple[list[str], list[list[str]]]:
    """(columns, rows): GPU-hours of an epoch."""
    columns = ["training", f"audio h per GPU-hour at an {GPU}'s peak", f"at {100 * SHARE:g} % of it"]
    columns += [f"{hours:,} h: GPU-hours" for hours in HOURS] + [f"{HOURS[-1]:,} h on {GPUS} GPUs: days"]
    rows = []
    for training in trainings():
        rate = SHARE * training.hours_per_hour
        hours = [f"{each / rate:,.1f}" for each in HOURS]
        days = f"{HOURS[-1] / rate / GPUS / 24:.2f}"
        rows.append([training.name, f"{training.hours_per_hour:,.0f}", f"{rate:,.0f}", *hours, days])
    return columns, rows


def bytes_per_hour() -> dict[str, float]:
    """Bytes of an hour of the shipped speech, read at 16 kHz and written as FLAC (what `pack` writes) and Opus."""
    written, seconds = Counter(), 0.0
    for example in sources.load_sets(["demo:general"], "data", Path())[0].examples:
        waveform = example.read()
        seconds += len(waveform) / SAMPLE_RATE
        for name, kind in {"FLAC": ("FLAC", "PCM_16"), "Opus": ("OGG", "OPUS")}.items():
            content = io.BytesIO()
            soundfile.write(content, waveform, SAMPLE_RATE, format=kind[0], subtype=kind[1])
            written[name] += len(content.getvalue())
    return {name: size / seconds * 3600 for name, size in written.items()}


def storage_table() -> tuple[list[str], list[list[str]]]:
    """(columns, rows): disk, and what a node of eight GPUs reads."""
    columns = ["recordings", "MB per hour of speech", *(f"{hours:,} h, TB" for hours in HOURS)]
    fastest = max((each for each in trainings() if each.model == "large-v3"), key=lambda each: each.hours_per_hour)
    columns.append(f"{GPUS} GPUs read, MB/s ({fastest.name})")
    rows = []
    for name, size in {"16-bit samples": 2.0 * SAMPLE_RATE * 3600, **bytes_per_hour()}.items():
        rate = SHARE * fastest.hours_per_hour * GPUS * size / 3600 / 1e6
        terabytes = [f"{hours * size / 1e12:.2f}" for hours in HOURS]
        rows.append([name, f"{size / 1e6:.1f}", *terabytes, f"{rate:.0f}"])
    return columns, rows


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table as the README has it."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- Simulated.


def entries_of(recording: Path, shard: str, columns: Columns = Columns()) -> Iterator[Example]:
    """What a tar of the index would hold: texts and durations of its own, one recording of 20 s for all."""
    generator = np.random.default_rng(int(Path(shard).stem))
    lengths = generator.uniform(2, 2 * SECONDS - 2, ENTRIES_PER_TAR).round(2)
    for index, seconds in enumerate(lengths.tolist()):
        words = generator.choice(synthetic.WORDS, max(3, round(2 * seconds)))
        key, text = f"{Path(shard).stem}/{index:04d}", " ".join(words.tolist()).capitalize() + "."
        member = Member("a.flac", 0, recording.stat().st_size, None)
        yield Example(key, recording, text, key, offset=0.0, duration=seconds, member=member)


def simulate(hours: float, folder: Path) -> list[list[str]]:
    """The rows of the report: seconds on the wall and of CPU time, resident memory after it."""
    rows: list[list[str]] = []
    begun = common.now()

    def note(what: str) -> None:
        nonlocal begun
        wall, cpu = common.now() - begun
        rows.append([what, f"{wall:.2f}", f"{cpu:.2f}", f"{common.resident_megabytes():.0f}"])
        print(*rows[-1], sep="; ", file=sys.stderr)
        begun = common.now()

    count = math.ceil(hours * 3600 / SECONDS / ENTRIES_PER_TAR)
    index, recording = folder / "index", folder / "recording.tar"
    index.mkdir()
    for number in range(count):
        (index / f"{number:06d}.tar").touch()
    noise = 0.01 * np.random.default_rng(0).standard_normal(round(2 * SECONDS * SAMPLE_RATE))
    soundfile.write(recording, noise, SAMPLE_RATE, format="FLAC")
    cfg = Config(data=(f"{index}/{{000000..{count - 1:06d}}}.tar",), eval_data=("demo:dev",), data_dir=folder / "cache")
    tokens, console = Tokens(EVERY_LANGUAGE), Console(stderr=True)

    note("the index is made")
    real = synthetic.write(folder, ENTRIES_PER_TAR, ENTRIES_PER_TAR)
    begun = common.now()
    [read] = [survey.survey_shard(name, SpeechSet("", real, []), "keep", cfg, tokens) for name in shards.expand(real)]
    note(f"a real tar: headers and texts of {read.entries:,} entries")
    facts = replace(read, timed=ENTRIES_PER_TAR, seconds=SECONDS * ENTRIES_PER_TAR, longest=2 * SECONDS)
    with mock.patch.object(shards, "entries", partial(entries_of, recording)):
        with mock.patch.object(survey, "survey_shard", lambda *rest: facts):  # as if each had been read once
            preflight.run(sources.of_training(cfg), cfg, tokens, console)
        begun = common.now()
        report = preflight.run(sources.of_training(cfg), cfg, tokens, console)
        checked = report.role("data")
        assert checked[0].entries == count * ENTRIES_PER_TAR, report.shown_faults()
        order = Stream(checked, cfg, tokens)
        batches.collate(next(order.from_position(0, 0))[1], tokens, EVERY_LANGUAGE.n_mels, cfg)
        note(f"start, from the preflight of {count:,} tars to the first batch")

        stream, clips = order.from_position(0, 0), 0
        for wanted in (0.5, 1, 2):
            while clips < wanted * order.block_parts * ENTRIES_PER_TAR:
                clips += len(next(stream)[1])
            note(f"{clips:,} entries of the order")
        for share in (0.25, 0.5, 0.99):
            place = (int(share * order.blocks), order.block_parts * ENTRIES_PER_TAR // 2 // cfg.clips_per_batch)
            next(Stream(checked, cfg, tokens).from_position(*place))
            note(f"a resume at {share:.0%} of the epoch, in the middle of its block")
        whole = list(itertools.islice(order.from_position(order.blocks - 1, 0), 200))
        again = Stream(checked, cfg, tokens).from_position(*whole[99][0])
        assert list(itertools.islice(again, 100)) == whole[100:], "a resumed order is not what was left"
        begun = common.now()

        everyone = [Ranks(rank, RANKS) for rank in range(RANKS)]
        steps = batches.steps(order, [], RANKS, (0, 0, 0))
        for _, micro_batches in itertools.islice(steps, 50):
            shared = [ranks.mine(micro_batches) for ranks in everyone]
            assert sorted(map(len, shared)) == [1] * RANKS, "ranks have unlike numbers of micro-batches"
            heard = [example.id for [windows] in shared for window in windows for example in window.examples]
            assert len(heard) == len(set(heard)) == sum(map(len, micro_batches)), "a clip is nobody's, or two ranks'"
        note(f"50 steps of {RANKS} ranks: each clip is one rank's")
    return rows


def main() -> int:
    """Print what is counted, then simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=HOURS[-1], help="of the simulated index")
    parser.add_argument("--counted", action="store_true", help="print the counted tables alone")
    parser.add_argument("--write", action="store_true", help="append the simulation to RESULTS.md")
    args = parser.parse_args()
    print(markdown(*counted_table()), markdown(*storage_table()), sep="\n\n", end="\n\n")
    if args.counted:
        return 0
    where = common.environment(["torch", "soundfile"])
    with tempfile.TemporaryDirectory() as folder:
        rows = simulate(args.hours, Path(folder))
    title = f"a simulated index of {args.hours:,.0f} h in tars of {ENTRIES_PER_TAR:,} entries"
    notes = ["After the resume the next 100 batches were compared with those of the uninterrupted order: equal."]
    section = common.show(title, ["", "s", "CPU s", "MB then"], rows, notes, where)
    if args.write:
        common.append(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
