"""`python -m whisper_min.data split SOURCE --to FOLDER`: train, dev and test manifests that share nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from whisper_min import runs
from whisper_min.config import Config, InputError
from whisper_min.data import faults, parts, recordings, sources
from whisper_min.data.checked import Report
from whisper_min.data.examples import AUDIO_COLUMNS, Example
from whisper_min.data.recordings import Facts
from whisper_min.text import visible


@dataclass(frozen=True)
class Options:
    """Write a set as manifests: whole speakers in each where every one is known, a recording in one of them alone."""

    source: Annotated[str, tyro.conf.Positional]
    """The set, `source[:split]`, as --data of train.py takes it; subtitles become clips of at most 30 s."""
    to: Path
    """Folder for train.jsonl, dev.jsonl and test.jsonl; made where it does not exist."""
    dev: float = 0.1
    """Share of the entries to choose checkpoints on; 0 writes none."""
    test: float = 0.1
    """Share of the entries to be scored once; 0 writes none."""
    seed: int = 0
    """Seeds which ones are drawn."""
    data_dir: Path = Config.data_dir
    """Where downloaded sets and the preflight's results are kept."""


def main(argv: Sequence[str]) -> None:
    """Split as the command line says; InputError with all faults, before anything is written."""
    options = tyro.cli(Options, args=list(argv), prog="python -m whisper_min.data split", use_underscores=True)
    shares = {name: share for name, share in (("test", options.test), ("dev", options.dev)) if share}
    paths = {name: options.to / f"{name}.jsonl" for name in ("train", *shares)}
    if told := check(options, paths):
        raise InputError(told)
    cfg = Config(data_dir=options.data_dir.expanduser(), seed=options.seed)
    spec = sources.parse_spec(options.source, "")
    speech = sources.load_set(spec, cfg.data_dir)
    console, report = Console(stderr=True), Report()
    facts, _ = recordings.inspect_all(speech.examples, cfg, console, report.notes, decode_all=True)
    for example, its in zip(speech.examples, facts, strict=True):
        report.faults += [f"{example.where}: {fault}" for fault in faults.of_recording(example, its)]
    if any(example.member for example in speech.examples):
        report.faults.insert(
            0, f"{options.source}: a manifest cannot name recordings inside tars; split the set before it is packed"
        )
    if report.faults:
        raise InputError(report.shown_faults())
    counts = [max(1, round(share * len(speech.examples))) for share in shares.values()]
    drawn = parts.divide(speech.examples, counts, options.seed, [its.digest for its in facts])
    known = {example.where: its for example, its in zip(speech.examples, facts, strict=True)}
    made = dict(zip(("train", *shares), drawn, strict=True))
    before = sources.manifest_rows(spec)
    rows = {
        path: [row(each, known[each.where], before.get(each.where, {}), options.to) for each in made[name]]
        for name, path in paths.items()
    }
    write(rows)
    show(paths, made, known)
    for note in [*speech.notes, *report.notes]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def check(options: Options, paths: dict[str, Path]) -> list[str]:
    """Faults of the options, each with its fix."""
    told = [
        f"--{name} {share}: must be a share from 0 up to below 1, as in --{name} 0.1"
        for name, share in (("dev", options.dev), ("test", options.test))
        if not 0 <= share < 1
    ]
    if not told and not math.fsum([options.dev, options.test]) < 1:
        told.append(f"--dev {options.dev} --test {options.test}: leave nothing to train on; make them smaller")
    if options.to.exists() and not options.to.is_dir():
        told.append(f"--to {options.to}: is a file; give a folder")
    told += [f"{path}: exists; remove it or give another folder" for path in paths.values() if path.exists()]
    return told


def row(example: Example, facts: Facts, before: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An entry's line in a manifest that lies in `folder`, with those columns of its line before that nothing reads."""
    # other programs ask for a duration
    duration = example.duration or round(facts.seconds, 4)
    made = sources.manifest_row(replace(example, duration=duration), folder)
    return made | {name: value for name, value in before.items() if name not in {*made, *AUDIO_COLUMNS}}


def write(rows: dict[Path, list[dict[str, Any]]]) -> None:
    """Write all manifests, or none of them: `check` has seen that none was there before."""
    contents = {path: "".join(map(runs.to_json_line, its)) for path, its in rows.items()}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            runs.write_atomic(path, content)
    except BaseException:
        for path in contents:
            path.unlink(missing_ok=True)
        raise


def show(paths: dict[str, Path], made: dict[str, list[Example]], known: dict[str, Facts]) -> None:
    """Say what was written."""
    table = Table(Column("manifest", overflow="fold"), "entries", "hours", "speakers")
    for name, path in paths.items():
        seconds = sum(known[example.where].seconds for example in made[name])
        speakers = {example.speaker for example in made[name] if example.speaker}
        counts = str(len(made[name])), f"{seconds / 3600:.2f}", str(len(speakers) or "?")
        table.add_row(Text(visible(str(path))), *counts)
    out = Console()
    out.print(table)
    everyone = [{example.speaker for example in its if example.speaker} for its in made.values()]
    if sum(map(len, everyone)) > len(set().union(*everyone)):
        out.print("note: speakers are on several sides: too few are known to draw whole ones", soft_wrap=True)
