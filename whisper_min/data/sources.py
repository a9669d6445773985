"""What `--data`, `--eval_data`, `--retain` and `--replay` accept, read into sets of examples."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisper_min.config import REPLAY_SHARE, SET_OPTIONS, Config, InputError
from whisper_min.data import hub, librispeech
from whisper_min.data.examples import AUDIO_COLUMNS, AUDIO_SUFFIXES, TEXT_COLUMNS, Columns, Example, SpeechSet

# Columns that mean something to Whisper and that training does not use yet: said, so that nothing is lost in silence.
UNUSED_COLUMNS = ("prompt", "segments")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
DEMO_FOLDER = Path(__file__).parent.parent / "demo"
DEMO_SPLITS = ("train", "dev", "test", "general")
# How the sources that are downloaded begin.
DOWNLOADED = ("librispeech", "hub:")
# Of the order in which made splits take speakers: fixed, so that a test set is the same for every training.
MADE_SPLITS_SEED = 0


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
        return f"--{self.option} {self.source}" + (f":{self.split}" if self.split else "")


def parse_spec(word: str, option: str) -> Spec:
    """Take `[name=]source[:split][@share]` apart; InputError for a share that is none or not under --replay.

    The name falls back to the file's stem, or its folder's for `manifest`.
    """
    rest, share = _parse_share(word, option)
    name, equals, source = rest.partition("=")
    if not equals or "/" in name:
        name, source = "", rest
    split = None
    if source.partition(":")[0] in ("demo", "librispeech"):
        source, _, split = source.partition(":")
    elif source.startswith("hub:"):
        dataset, _, split = source.removeprefix("hub:").partition(":")
        source = f"hub:{dataset}"
    if not name:
        path = Path(source)
        stem = path.stem if path.suffix else path.name
        name = split or (path.resolve().parent.name if stem == "manifest" else stem)
    return Spec(re.sub(r"[^\w.-]+", "-", name), source, split or None, option, share)


def _parse_share(word: str, option: str) -> tuple[str, float]:
    """(word without its share, share). What follows the last `@` is a share unless it looks like a path's end."""
    rest, at, last = word.rpartition("@")
    is_path = not at or "/" in last or last.lower().endswith(MANIFEST_SUFFIXES)
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


def load_sets(
    words: Sequence[str], option: str, data_dir: Path, audio_column: str | None = None, text_column: str | None = None
) -> list[SpeechSet]:
    """Read every set that an option names; InputError with the faults of all of them at once."""
    columns = Columns(audio_column, text_column, required=option in ("data", "eval_data"))
    sets: list[SpeechSet] = []
    faults: list[str] = []
    shares: list[float] = []
    for word in words:
        try:
            spec = parse_spec(word, option)
            shares.append(spec.share)
            sets.append(load_set(spec, data_dir, columns))
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
            loaded[option] = _load_option(cfg, option)
        except InputError as error:
            faults += error.faults
    names = [each.name for option in ("eval_data", "retain") for each in loaded.get(option, [])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"--eval_data and --retain both hold a set called {name!r}; name one of them, as in other=SOURCE")
    if faults:
        raise InputError(faults)
    if not cfg.eval_data:
        loaded["data"], held_out = hold_out(loaded["data"], cfg.seed)
        loaded["eval_data"] = [held_out]
    return [(option, each) for option, sets in loaded.items() for each in sets]


def of_evaluation(cfg: Config) -> list[tuple[str, SpeechSet]]:
    """All sets of an evaluation as (role, set): those of --data are `evaluate`, those of --retain `retain`."""
    loaded: list[tuple[str, SpeechSet]] = []
    faults: list[str] = []
    for option, role in [("data", "evaluate"), ("retain", "retain")]:
        try:
            loaded += [(role, each) for each in _load_option(cfg, option)]
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


def _load_option(cfg: Config, option: str) -> list[SpeechSet]:
    return load_sets(getattr(cfg, option), option, cfg.data_dir, cfg.audio_column, cfg.text_column)


def load_set(spec: Spec, data_dir: Path, columns: Columns = Columns()) -> SpeechSet:  # noqa: B008  # it is frozen
    """Read one set's entries (no audio yet)."""
    path = Path(spec.source).expanduser()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if spec.source == "demo":
        if (spec.split or "train") not in DEMO_SPLITS:
            raise InputError(f"{spec}: the shipped speech has the splits {', '.join(DEMO_SPLITS)}")
        examples, _ = read_manifest(DEMO_FOLDER / f"{spec.split or 'train'}.jsonl")
    elif spec.source == "librispeech":
        examples = librispeech.load(spec.split or "train-clean-100", data_dir)
    elif spec.source.startswith("hub:"):
        fetched = hub.fetch(str(spec), spec.source.removeprefix("hub:"), spec.split, data_dir, columns)
        examples, unused = read_manifest(fetched.manifest, fetched.columns)
        if fetched.made_split:
            everything, examples = examples, made_split(str(spec), examples, fetched.made_split)
            notes = (
                f"the set has only train: {len(examples)} of its {len(everything)} entries make up "
                f"{fetched.made_split} ({spec.source} alone means all of them)",
            )
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        examples, unused = read_manifest(path, columns)
    elif path.is_dir():
        examples = read_folder(path)
    elif path.exists():
        raise InputError(f"{spec}: not a manifest (.jsonl, .csv, .tsv) and not a folder; give one of these")
    else:
        raise InputError(
            f"{spec}: does not exist; give a manifest (.jsonl, .csv, .tsv), a folder of audio with .txt beside, "
            "hub:USER/NAME:SPLIT, librispeech:SUBSET or demo"
        )
    if not examples:
        raise InputError(f"{spec}: holds no entries")
    return SpeechSet(spec.name, spec.source, examples, unused, notes=notes, share=spec.share)


def read_manifest(
    path: Path,
    columns: Columns = Columns(),  # noqa: B008  # it is frozen
) -> tuple[list[Example], tuple[str, ...]]:
    """Read a JSONL, CSV or TSV manifest; paths in it are relative to its folder, as NeMo writes and reads them.

    Returns the examples and those of `UNUSED_COLUMNS` that hold something. Raises InputError with all faulty lines, or
    where a column asked for is in none of them.
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
    there = {column for _, row in entries if isinstance(row, dict) for column in row}
    faults = [
        f"{path}: has no column {name!r}, which {option} asks for; it has {', '.join(sorted(map(str, there)))}"
        for option, name in [("--audio_column", columns.audio), ("--text_column", columns.text)]
        if columns.required and name and name not in there and there
    ]
    audio_columns = (columns.audio,) if columns.audio in there else AUDIO_COLUMNS
    text_columns = (columns.text,) if columns.text in there else TEXT_COLUMNS
    if faults:
        raise InputError(faults)
    examples: list[Example] = []
    unused: set[str] = set()
    for where, row in entries:
        if isinstance(row, str):
            faults.append(row)
            continue
        try:
            examples.append(_example(path, where, row, audio_columns, text_columns))
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


def _example(
    path: Path, where: str, row: dict[str, Any], audio_columns: Sequence[str], text_columns: Sequence[str]
) -> Example:
    """One example from a manifest's row; ValueError says what is wrong with it."""
    audio_column = next((column for column in audio_columns if row.get(column)), None)
    if audio_column is None:
        raise ValueError(f"names no audio; add one of {', '.join(audio_columns)}")
    if not isinstance(row[audio_column], str):
        raise ValueError(f"{audio_column} is not a path but {type(row[audio_column]).__name__}")
    text_column = next((column for column in text_columns if row.get(column) is not None), None)
    if text_column is None:
        raise ValueError(f"has no text; add one of {', '.join(text_columns)} (empty where there is no transcript)")
    if not isinstance(row[text_column], str):
        raise ValueError(f"{text_column} is not text but {type(row[text_column]).__name__}")
    offset, duration = (_seconds(row, column) for column in ("offset", "duration"))
    if duration == 0:
        raise ValueError("duration is 0; remove the entry")
    audio_filepath = Path(row[audio_column])
    return Example(
        id=str(row.get("id") or (row[audio_column] if offset is None else f"{row[audio_column]}@{offset:g}")),
        audio_filepath=path.parent / audio_filepath,
        text=row[text_column].strip(),
        where=where,
        offset=offset,
        duration=duration,
        speaker=str(row["speaker"]) if row.get("speaker") not in (None, "") else None,
        language=str(row["language"]) if row.get("language") else None,
    )


def _seconds(row: dict[str, Any], column: str) -> float | None:
    if row.get(column) in (None, ""):
        return None
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"{column} {row[column]!r} is not a number of seconds") from None
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{column} {row[column]} is not a number of seconds from 0 up")
    return value


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
    [chosen] = _draw_tenths(everything, 1, seed)
    evaluation = [example for example in everything if example.where in chosen]
    training = [
        replace(each, examples=[example for example in each.examples if example.where not in chosen]) for each in sets
    ]
    return [each for each in training if each.examples], SpeechSet(
        "held-out", "a tenth of --data", evaluation, held_out=True
    )


def made_split(where: str, examples: Sequence[Example], split: str) -> list[Example]:
    """One of the splits `train`, `validation` and `test` of a set that comes without: a tenth, a tenth and the rest.

    Whole speakers where every one is known and there are enough. The three never overlap, and hold everything.
    """
    if len(examples) < 3:
        raise InputError(f"{where}: its only split holds {len(examples)} entries, too few to make {split} from them")
    test, validation = _draw_tenths(examples, 2, MADE_SPLITS_SEED)
    taken = {"test": test, "validation": validation}
    if split in taken:
        return [example for example in examples if example.where in taken[split]]
    return [example for example in examples if example.where not in test | validation]


def _draw_tenths(examples: Sequence[Example], parts: int, seed: int) -> list[set[str]]:
    """`where` of several tenths that do not overlap and leave something: whole speakers where all are known."""
    speakers = sorted({example.speaker for example in examples if example.speaker is not None})
    target = max(1, len(examples) // 10)
    generator = random.Random(seed)
    if any(example.speaker is None for example in examples) or len(speakers) <= parts:
        drawn = [example.where for example in generator.sample(examples, parts * target)]
        return [set(drawn[part * target : (part + 1) * target]) for part in range(parts)]
    generator.shuffle(speakers)
    counts = Counter(example.speaker for example in examples)
    tenths: list[set[str]] = []
    for part in range(parts):
        held: set[str | None] = set()
        # the parts to come, and what is left in the end, need a speaker each
        while len(speakers) > parts - part and sum(counts[speaker] for speaker in held) < target:
            held.add(speakers.pop(0))
        tenths.append({example.where for example in examples if example.speaker in held})
    return tenths
