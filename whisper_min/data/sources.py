"""What `--data`, `--eval_data`, `--retain` and `--replay` accept, read into sets of examples."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisper_min.config import REPLAY_SHARE, SET_OPTIONS, Config, InputError, is_tar, streams
from whisper_min.data import librispeech, shards
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.rows import AUDIO_SUFFIXES, read_row

# Columns that mean something to Whisper and that training does not use yet: said, so that nothing is lost in silence.
UNUSED_COLUMNS = ("prompt", "segments")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
DEMO_FOLDER = Path(__file__).parent.parent / "demo"
DEMO_SPLITS = ("train", "dev", "test", "general")


@dataclass(frozen=True)
class Spec:
    """One set as written on the command line: `[name=]source[:split]`, under --replay with `@share`."""

    name: str
    source: str
    split: str | None
    option: str
    share: float = 0.0
    """Of every step's clips; above 0 under --replay alone."""

    def __str__(self) -> str:
        return (f"--{self.option} " if self.option else "") + self.source + (f":{self.split}" if self.split else "")


def parse_spec(word: str, option: str) -> Spec:
    """Take `[name=]source[:split][@share]` apart; InputError for a share that is none or not under --replay.

    The name falls back to the file's stem, or its folder's for `manifest` and for numbered tars.
    """
    rest, share = _parse_share(word, option)
    name, equals, source = rest.partition("=")
    if not equals or "/" in name:
        name, source = "", rest
    split = None
    if source.partition(":")[0] in ("demo", "librispeech", "hub"):
        source, _, split = source.partition(":")
    if not name:
        path = Path(source)
        stem = path.stem if path.suffix else path.name
        name = split or (path.resolve().parent.name if stem == "manifest" else stem)
        name = shards.set_name(source) if is_tar(source) else name
    return Spec(re.sub(r"[^\w.-]+", "-", name), source, split or None, option, share)


def _parse_share(word: str, option: str) -> tuple[str, float]:
    """(word without its share, share). What follows the last `@` is a share unless it looks like a path's end."""
    rest, at, last = word.rpartition("@")
    is_path = not at or "/" in last or last.lower().endswith((*MANIFEST_SUFFIXES, ".tar"))
    try:
        share = float(last)
    except ValueError:
        share = math.nan
    if option != "replay":
        if not is_path and 0 <= share < 1:
            raise InputError(
                f"--{option} {word}: only --replay takes a share; leave @{last} out, or write a folder of that name as "
                f"{word}/"
            )
        return word, 0.0
    if is_path:
        return word, REPLAY_SHARE
    if not 0 <= share < 1:
        raise InputError(
            f"--replay {word}: the share {last!r} is not a number from 0 up to below 1, as in {rest}@{REPLAY_SHARE}; "
            f"write a folder of that name as {word}/"
        )
    return rest, share


def load_sets(words: Sequence[str], option: str, data_dir: Path, stream: bool = False) -> list[SpeechSet]:
    """Read every set that an option names; InputError with the faults of all of them at once.

    `stream` only names the tars, for a training that goes through them again and again.
    """
    sets: list[SpeechSet] = []
    faults: list[str] = []
    shares: list[float] = []
    for word in shards.join(words):
        try:
            spec = parse_spec(word, option)
            shares.append(spec.share)
            sets.append(load_set(spec, data_dir, stream))
        except InputError as error:
            faults += error.faults
    if math.fsum(shares) >= 1:  # fsum: ten tenths are 1
        faults.append(
            f"--{option}: the shares {' + '.join(f'{share:g}' for share in shares)} leave nothing of a step to --data; "
            f"make them add up to less than 1, as in SET@0.1 (a set without a share takes {REPLAY_SHARE})"
        )
    names = [each.name for each in sets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        sources = [each.source for each in sets if each.name == name]
        faults.append(
            f"--{option}: {len(sources)} sets are called {name!r} ({' and '.join(sources)}); name them, as in "
            f"other={sources[-1]}"
        )
    if faults:
        raise InputError(faults)
    return sets


def of_training(cfg: Config) -> list[tuple[str, SpeechSet]]:
    """All sets of a training as (option, set); without --eval_data a tenth of --data is held out."""
    faults: list[str] = []
    loaded: dict[str, list[SpeechSet]] = {}
    for option in SET_OPTIONS:
        try:
            loaded[option] = load_sets(getattr(cfg, option), option, cfg.data_dir, stream=option == "data")
        except InputError as error:
            faults += error.faults
    names = [each.name for option in ("eval_data", "retain") for each in loaded.get(option, [])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"--eval_data and --retain both hold a set called {name!r}; name one of them, as in other=SOURCE")
    if faults:
        raise InputError(faults)
    if not cfg.eval_data and not streams(cfg):
        loaded["data"], held_out = hold_out(loaded["data"], cfg.seed)
        loaded["eval_data"] = [held_out]
    return [(option, each) for option, sets in loaded.items() for each in sets]


def of_evaluation(cfg: Config) -> list[tuple[str, SpeechSet]]:
    """All sets of an evaluation as (role, set): those of --data are `evaluate`, those of --retain `retain`."""
    loaded: list[tuple[str, SpeechSet]] = []
    faults: list[str] = []
    for option, role in [("data", "evaluate"), ("retain", "retain")]:
        try:
            loaded += [(role, each) for each in load_sets(getattr(cfg, option), option, cfg.data_dir)]
        except InputError as error:
            faults += error.faults
    names = [each.name for role, each in loaded if role == "evaluate"]
    for role, each in loaded:
        if role == "retain" and each.name in names:
            faults.append(
                f"--data and --retain both hold a set called {each.name!r}; name one of them, as in other={each.source}"
            )
        if role == "evaluate" and cfg.retain and not each.has_text:
            faults.append(f"--data {each.source}: has no text to measure a gain on; give it under --retain")
    if faults:
        raise InputError(faults)
    return loaded


def load_set(spec: Spec, data_dir: Path, stream: bool = False) -> SpeechSet:
    """Read one set's entries (no audio yet); of tars that are to be streamed only the names."""
    if is_tar(spec.source):
        return read_shards(spec, stream)
    path = Path(spec.source).expanduser()
    unused: tuple[str, ...] = ()
    if spec.source == "demo":
        if (spec.split or "train") not in DEMO_SPLITS:
            raise InputError(f"{spec}: the shipped speech has the splits {', '.join(DEMO_SPLITS)}")
        examples, _ = read_manifest(DEMO_FOLDER / f"{spec.split or 'train'}.jsonl")
    elif spec.source == "librispeech":
        examples = librispeech.load(spec.split or "train-clean-100", data_dir)
    elif spec.source == "hub":
        raise InputError(
            f"{spec}: hub datasets are not supported yet; download the set, write a manifest "
            '({"audio_filepath": …, "text": …} a line) and give its path'
        )
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        examples, unused = read_manifest(path)
    elif path.is_dir():
        examples = read_folder(path)
    elif path.exists():
        raise InputError(f"{spec}: not a manifest (.jsonl, .csv, .tsv) and not a folder; give one of these")
    else:
        raise InputError(
            f"{spec}: does not exist; give a manifest (.jsonl, .csv, .tsv), a folder of audio with .txt beside, "
            "tars (shards/{000..127}.tar), librispeech:SUBSET or demo"
        )
    if not examples:
        raise InputError(f"{spec}: holds no entries")
    return SpeechSet(spec.name, spec.source, examples, unused, share=spec.share)


def read_manifest(path: Path) -> tuple[list[Example], tuple[str, ...]]:
    """Read a JSONL, CSV or TSV manifest; paths in it are relative to its folder, as NeMo writes and reads them.

    Returns the examples and those of `UNUSED_COLUMNS` that hold something. Raises InputError with all faulty lines.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            entries = list(_rows(path, file.read()))
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; give the manifest's path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the manifest inside it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    examples: list[Example] = []
    faults: list[str] = []
    unused: set[str] = set()
    for where, row in entries:
        if isinstance(row, str):
            faults.append(row)
            continue
        try:
            examples.append(read_row(path, where, row))
            unused.update(column for column in UNUSED_COLUMNS if row.get(column))
        except ValueError as error:
            faults.append(f"{where}: {error}")
    if faults:
        raise InputError(faults)
    return examples, tuple(sorted(unused))


def _rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(where, row) of every entry; a row that cannot be read is its fault's message."""
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        # strict: a quote that is not closed would swallow the rows that follow, in silence
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        while True:
            where = f"{path}, line {reader.line_num + 1}"
            try:
                columns = len(reader.fieldnames or ())  # reads the header
                where = f"{path}, line {reader.line_num + 1}"
                row = next(reader, None)
            except csv.Error as error:
                yield where, f"{where}: {error}; close every quote, and write one inside a field twice"
                continue
            if row is None:
                return
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                yield where, f"{where}: has not as many fields as the header ({columns})"
            else:
                yield where, row
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, f"{where}: not JSON ({error}); the line is torn or the file is not JSONL"
            continue
        yield where, row if isinstance(row, dict) else f"{where}: not a JSON object; write {{…}} a line"


def read_shards(spec: Spec, stream: bool) -> SpeechSet:
    """The entries of tars, with their faults for the preflight; of a stream the names of its tars alone."""
    names = shards.expand(spec.source)
    if not names:
        raise InputError(f"{spec}: no file has such a name")
    shards.check_there(names)
    if stream:
        return SpeechSet(spec.name, spec.source, [], shards=tuple(names))
    examples: list[Example] = []
    faults: list[str] = []
    for name in names:
        try:
            for entry in shards.entries(name):
                examples.append(entry) if isinstance(entry, Example) else faults.append(entry)
        except shards.ShardError as error:
            faults.append(str(error))
    if not examples:
        raise InputError(faults or f"{spec}: holds no entries")
    return SpeechSet(spec.name, spec.source, examples, faults=tuple(faults), share=spec.share)


def read_folder(folder: Path) -> list[Example]:
    """A LibriSpeech tree (`*.trans.txt`), or audio files with a `.txt` of the same stem beside each, or beside none."""
    if any(folder.rglob("*.trans.txt")):
        return librispeech.read_tree(folder)
    examples: list[Example] = []
    faults: list[str] = []
    silent = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        beside = path.with_suffix(".txt")
        try:
            text = beside.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            faults.append(f"{path}: has no transcript; write it to {beside.name} beside it, or remove the recording")
            text, silent = "", silent + 1
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{beside}: cannot be read as UTF-8 text ({error})")
            continue
        examples.append(Example(str(path.relative_to(folder)), path, text, str(path)))
    # without a single transcript it is a set without text, which --retain and --replay take
    if faults and not len(faults) == silent == len(examples):
        raise InputError(faults)
    if not examples:
        raise InputError(f"{folder}: holds no audio files ({' '.join(AUDIO_SUFFIXES)})")
    return examples


def hold_out(sets: Sequence[SpeechSet], seed: int) -> tuple[list[SpeechSet], SpeechSet]:
    """Split off a tenth of the utterances for evaluation: whole speakers where every one is known, else utterances.

    Returns the training sets that are left and the held-out set, the same for the same seed and entries.
    """
    everything = [example for each in sets for example in each.examples]
    if len(everything) < 2:
        raise InputError(f"--data holds {len(everything)} entry; give --eval_data, or at least 2 entries to split")
    speakers = sorted({example.speaker for example in everything if example.speaker is not None})
    by_speaker = all(example.speaker is not None for example in everything) and len(speakers) >= 2
    target = max(1, len(everything) // 10)
    generator = random.Random(seed)
    held: set[str] = set()
    if by_speaker:
        generator.shuffle(speakers)
        counts = {speaker: sum(example.speaker == speaker for example in everything) for speaker in speakers}
        taken = 0
        for speaker in speakers[:-1]:
            if taken >= target:
                break
            held.add(speaker)
            taken += counts[speaker]
        chosen = {example.where for example in everything if example.speaker in held}
    else:
        chosen = {example.where for example in generator.sample(everything, target)}
    evaluation = [example for example in everything if example.where in chosen]
    training = [
        replace(each, examples=[example for example in each.examples if example.where not in chosen]) for each in sets
    ]
    return [each for each in training if each.examples], SpeechSet(
        "held-out", "a tenth of --data", evaluation, held_out=True
    )
