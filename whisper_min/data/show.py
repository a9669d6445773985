"""`python -m whisper_min.data show SOURCE`: what a set holds, on a screen, as JSON and in pictures."""

from __future__ import annotations

import json
import math
import random
import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from whisper.audio import CHUNK_LENGTH

from whisper_min import text
from whisper_min.config import Config, InputError
from whisper_min.data import recordings, sources
from whisper_min.data.checked import FAULTS_SHOWN
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.notes import PLAUSIBLE_SPEED
from whisper_min.data.progress import progress
from whisper_min.data.recordings import Facts
from whisper_min.ui import axes, picture
from whisper_min.ui.diff import plain
from whisper_min.ui.spectrogram import Clip

# Speakers, and clips of each kind, that are named.
SPEAKERS_SHOWN, CLIPS_SHOWN = 5, 3
# Bars of a histogram at most, beside one for what lies above all but this share of the values.
BARS, OUTLIERS = 12, 0.01
# Characters of a text that a table shows.
TEXT_SHOWN = 160
# Of the spectrograms.
COLOURS = "magma"


@dataclass(frozen=True)
class Options:
    """What a set holds: columns, hours, speakers, histograms, label style, samples, spectrograms."""

    source: Annotated[str, tyro.conf.Positional]
    """The set, `source[:split]`, as --data of train.py takes it."""
    samples: int = 5
    """Entries drawn to be shown."""
    spectrograms: Path | None = None
    """Write the samples' log-mel spectrograms into this folder: a PNG each, and an SVG with axes and the text."""
    json: bool = False
    """Print the same as JSON."""
    seed: int = 0
    """Seeds which entries are drawn."""
    data_dir: Path = Config.data_dir
    """Where downloaded sets and the preflight's results are kept."""


def main(argv: Sequence[str]) -> None:
    """Show what the command line asks for; InputError where the set cannot be read."""
    options = tyro.cli(Options, args=list(argv), prog="python -m whisper_min.data show", use_underscores=True)
    faults = [f"--samples {options.samples}: must be 0 or more"] if options.samples < 0 else []
    if options.spectrograms and options.spectrograms.exists() and not options.spectrograms.is_dir():
        faults.append(f"--spectrograms {options.spectrograms}: is a file; give a folder")
    if faults:
        raise InputError(faults)
    cfg = Config(data_dir=options.data_dir.expanduser(), seed=options.seed)
    spec = sources.parse_spec(options.source, "")
    speech = sources.load_set(spec, cfg.data_dir)
    console, notes = Console(stderr=True), list[str]()
    facts, _ = recordings.inspect_all(speech.examples, cfg, console, notes)
    known = list(zip(speech.examples, facts, strict=True))
    readable = [index for index, (_, its) in enumerate(known) if its.error is None and its.seconds > 0 and its.finite]
    drawn = random.Random(options.seed).sample(readable, min(options.samples, len(readable)))
    samples = [known[index] for index in sorted(drawn)]
    found = describe(speech, facts, sources.columns(spec, speech), samples)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found, Console())
    for note in [*speech.notes, *notes]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if options.spectrograms:
        options.spectrograms.mkdir(parents=True, exist_ok=True)
        with progress("drawing", console) as bars:
            for number, (example, _) in enumerate(bars.track(samples), start=1):
                draw(example, options.spectrograms, f"{number:02}")
        what = f"{options.spectrograms}: {len(samples)} spectrograms, a .png and a .svg each"
        console.print(what, markup=False, highlight=False, soft_wrap=True)


def describe(
    speech: SpeechSet, facts: Sequence[Facts], columns: dict[str, int], samples: Sequence[tuple[Example, Facts]]
) -> dict[str, Any]:
    """All that is shown, as JSON values; times in seconds, speeds in characters per second.

    Recordings that cannot be read count as entries, and in nothing that is measured.
    """
    known = list(zip(speech.examples, facts, strict=True))
    good = [(example, its) for example, its in known if its.error is None and its.seconds > 0]
    by_length = sorted(good, key=lambda pair: pair[1].seconds)
    low, high = PLAUSIBLE_SPEED
    spoken = [(example, its) for example, its in good if example.text not in ("", text.NON_SPEECH)]
    strange = [(example, its) for example, its in spoken if not low <= speed(example, its) <= high]
    repeated = Counter(its.digest for _, its in good if its.digest)
    return {
        "name": speech.name,
        "source": speech.source,
        "entries": len(known),
        "hours": round(sum(its.seconds for _, its in good) / 3600, 4),
        "over_30_s": sum(its.seconds > CHUNK_LENGTH for _, its in good),
        "repeated": sum(number - 1 for number in repeated.values()),
        "columns": columns,
        "speakers": speakers(good),
        "languages": counts(example.language for example, _ in known),
        "sample_rates": counts(its.sample_rate for _, its in good),
        "label_style": text.describe_style([example.text for example in speech.examples]),
        "duration": distribution([its.seconds for _, its in good]),
        "characters_per_second": distribution([speed(*pair) for pair in spoken]),
        "longest": [row(*pair) for pair in by_length[: -CLIPS_SHOWN - 1 : -1]],
        "shortest": [row(*pair) for pair in by_length[:CLIPS_SHOWN]],
        "implausible": {"entries": len(strange), "below": low, "above": high,
                        "clips": [row(*pair) for pair in sorted(strange, key=lambda pair: -speed(*pair))]},
        "unreadable": [{"where": example.where, "error": its.error or "holds no samples"}
                       for example, its in known if its.error is not None or its.seconds <= 0]
                      + [dict(zip(("where", "error"), fault.split(": ", 1), strict=True)) for fault in speech.faults],
        "samples": [row(*pair) for pair in samples],
    }  # fmt: skip


def speed(example: Example, facts: Facts) -> float:
    """Characters per second."""
    return len(example.text) / facts.seconds


def row(example: Example, facts: Facts) -> dict[str, Any]:
    """One clip among those that are shown."""
    return {
        "id": example.id,
        "where": example.where,
        "seconds": round(facts.seconds, 3),
        "characters_per_second": round(speed(example, facts), 2) if facts.seconds else None,
        "speaker": example.speaker,
        "text": example.text,
    }


def counts(values: Iterable[object]) -> dict[str, int]:
    """How often each value is there, the most frequent first; `?` where it is not known."""
    return {str(value or "?"): number for value, number in Counter(values).most_common()}


def speakers(known: Sequence[tuple[Example, Facts]]) -> dict[str, Any]:
    """How many speakers there are, and who speaks most, by time."""
    seconds: dict[str, float] = defaultdict(float)
    entries: dict[str, int] = defaultdict(int)
    for example, its in known:
        if example.speaker:
            seconds[example.speaker] += its.seconds
            entries[example.speaker] += 1
    total = sum(its.seconds for _, its in known)
    return {
        "known": len(seconds),
        "entries_without": len(known) - sum(entries.values()),
        "most": [
            {"speaker": name, "entries": entries[name], "hours": round(its / 3600, 4), "share": round(its / total, 4)}
            for name, its in sorted(seconds.items(), key=lambda pair: -pair[1])[:SPEAKERS_SHOWN]
        ],
    }


def distribution(values: Sequence[float]) -> dict[str, Any] | None:
    """Least, median, mean, greatest and a histogram of round bins, the last one open where few values lie far above."""
    if not values:
        return None
    top = float(np.quantile(values, 1 - OUTLIERS, method="higher"))
    step = axes.nice_step(top, BARS)
    edges = [step * index for index in range(math.floor(top / step) + 2)]
    numbers = np.histogram(values, [*edges, math.inf])[0].tolist()
    bins = [
        {"from": round(low, 6), "to": round(high, 6), "entries": number}
        for low, high, number in zip(edges, edges[1:], numbers, strict=False)
    ]
    if numbers[-1]:
        bins.append({"from": round(edges[-1], 6), "to": None, "entries": numbers[-1]})
    first = next(index for index, each in enumerate(bins) if each["entries"])
    return {
        "least": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "mean": round(statistics.fmean(values), 3),
        "greatest": round(max(values), 3),
        "histogram": bins[first:],
    }


def show(found: dict[str, Any], out: Console) -> None:
    """Print what `describe` found."""

    def say(line: str, before: str = "\n") -> None:
        out.print(before + plain(line), markup=False, highlight=False)

    def many(numbers: dict[str, int], unit: str = "") -> str:
        return ", ".join(f"{name}{unit if name != '?' else ''} ({number})" for name, number in numbers.items()) or "?"

    out.print(Text(f"{plain(found['name'])}: {found['entries']} entries, {found['hours']:.2f} h", style="bold"))
    who = found["speakers"]
    most = ", ".join(f"{each['speaker']} {100 * each['share']:.0f} %" for each in who["most"])
    facts = {
        "source": found["source"],
        "columns": many(found["columns"]),
        "speakers": f"{who['known']}: {most}" if who["known"] else "not known",
        "languages": many(found["languages"]),
        "sample rates": many(found["sample_rates"], " Hz"),
        "references": found["label_style"],
    }
    if who["known"] and who["entries_without"]:
        facts["speakers"] += f"; not known in {who['entries_without']} entries"
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(plain(value)))
    out.print(table)
    for key, title in (("duration", "seconds"), ("characters_per_second", "characters per second")):
        if found[key]:
            out.print(histogram(found[key], title))
    clips = {"longest": "longest clips", "shortest": "shortest clips", "samples": "samples"}
    for key, title in clips.items():
        if found[key]:
            say(title)
            out.print(clip_table(found[key]))
    strange = found["implausible"]
    if strange["entries"]:
        say(
            f"texts that do not fit their audio (below {strange['below']:g} or above {strange['above']:g} characters "
            f"per second): {strange['entries']}, such as"
        )
        out.print(clip_table(strange["clips"][:CLIPS_SHOWN]))
    if found["over_30_s"]:
        say(f"clips over {CHUNK_LENGTH} s, to be segmented before training on them: {found['over_30_s']}")
    if found["repeated"]:
        say(f"recordings that are there more than once: {found['repeated']}")
    if bad := found["unreadable"]:
        say(f"recordings that cannot be read: {len(bad)}")
        for each in bad[:FAULTS_SHOWN]:
            say(f"  {each['where']}: {each['error']}", before="")
        if len(bad) > FAULTS_SHOWN:
            say(f"  … and {len(bad) - FAULTS_SHOWN} more", before="")


def histogram(numbers: dict[str, Any], title: str) -> Table:
    """Bars, one a bin: where it begins and ends, how many entries it holds."""
    bins = numbers["histogram"]
    summary = ", ".join(f"{name} {numbers[name]:.3g}" for name in ("least", "median", "mean", "greatest"))
    table = Table.grid(padding=(0, 1), expand=True)
    table.title, table.title_justify = f"\n{title}: {summary}", "left"
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    largest = max(each["entries"] for each in bins)
    for each in bins:
        ends = f"{each['from']:g} … {each['to']:g}" if each["to"] is not None else f"{each['from']:g} and more"
        bar: RenderableType = Bar(largest, 0, each["entries"])
        table.add_row(ends, str(each["entries"]), bar)
    return table


def clip_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Clips with length, speed, speaker and text."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("s", "char/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("id", overflow="fold", max_width=28)
    has_speakers = any(each["speaker"] for each in rows)
    if has_speakers:
        table.add_column("speaker", overflow="fold", max_width=12)
    table.add_column("text", overflow="fold")
    for each in rows:
        fast = each["characters_per_second"]
        cells: list[RenderableType] = [
            f"{each['seconds']:.2f}",
            "" if fast is None else f"{fast:.1f}",
            Text(plain(each["id"])),
        ]
        cells += [Text(plain(each["speaker"] or "?"))] if has_speakers else []
        table.add_row(*cells, Text(textwrap.shorten(plain(each["text"]), TEXT_SHOWN, placeholder=" …")))
    return table


def draw(example: Example, folder: Path, number: str) -> None:
    """Write a clip's spectrogram as PNG and SVG, named by its number and its id."""
    clip = Clip.of(example.read())
    lines = [Text(line) for line in textwrap.wrap(example.text, picture.CHARACTERS)]
    picture.write(clip, COLOURS, example.id, lines, folder, picture.file_name(number, example.id))
