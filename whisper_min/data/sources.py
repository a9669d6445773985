"""What `--data`, `--eval_data`, `--retain` and `--replay` accept, read into sets of examples."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whisper_min.config import REPLAY_SHARE, SET_OPTIONS, Config, InputError, is_tar, streams
from whisper_min.data import hub, librispeech, parts, shards, subtitles
from whisper_min.data.examples import AUDIO_COLUMNS, AUDIO_SUFFIXES, TEXT_COLUMNS, Columns, Example, SpeechSet
from whisper_min.data.rows import read_row
from whisper_min.text import repeated

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
        return said(self.option, self.source + (f":{self.split}" if self.split else ""))


def said(option: str, word: str) -> str:
    """A set as messages name it: with its option, where it was given to one."""
    return f"--{option} {word}" if option else word


def parse_spec(word: str, option: str) -> Spec:
    """Take `[name=]source[:split][@share]` apart; InputError for a share that is none or not under --replay.

    The name falls back to the file's stem, or its folder's for `manifest` and for numbered tars.
    """
    rest, share = _parse_share(word, option)
    if not rest.rpartition("=")[2].strip():
        raise InputError(f"{said(option, repr(word))}: names no set; give a source, or . for this folder")
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
        name = shards.set_name(source) if is_tar(source) else name
    return Spec(re.sub(r"[^\w.-]+", "-", name), source, split or None, option, share)


def _parse_share(word: str, option: str) -> tuple[str, float]:
    """(word without its share, share). What follows the last `@` is a share unless it looks like a path's end."""
    rest, at, last = word.rpartition("@")
    is_path = not at or "/" in last or last.lower().endswith((*MANIFEST_SUFFIXES, *subtitles.SUFFIXES, ".tar"))
    try:
        share = float(last)
    except ValueError:
        share = math.nan
    if option != "replay":
        if not is_path and 0 <= share < 1:
            raise InputError(
                f"{said(option, word)}: only --replay takes a share; leave @{last} out, or write a folder of that name "
                f"as {word}/"
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
    words: Sequence[str], option: str, data_dir: Path, columns: Columns = Columns(), stream: bool = False
) -> list[SpeechSet]:
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
            sets.append(load_set(spec, data_dir, columns, stream))
        except InputError as error:
            faults += error.faults
    if math.fsum(shares) >= 1:  # fsum: ten tenths are 1
        faults.append(
            f"--{option}: the shares {' + '.join(f'{share:g}' for share in shares)} leave nothing of a step to --data; "
            f"make them add up to less than 1, as in SET@0.1 (a set without a share takes {REPLAY_SHARE})"
        )
    for name in repeated([each.name for each in sets]):
        sources = [each.source for each in sets if each.name == name]
        faults.append(
            (f"--{option}: " if option else "")
            + f"{len(sources)} sets are called {name!r} ({' and '.join(sources)}); name them, as in "
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
            loaded[option] = _load_option(cfg, option, stream=option == "data")
        except InputError as error:
            faults += error.faults
    names = [each.name for option in ("eval_data", "retain") for each in loaded.get(option, [])]
    for name in repeated(names):
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


def _load_option(cfg: Config, option: str, stream: bool = False) -> list[SpeechSet]:
    columns = Columns(cfg.audio_column, cfg.text_column, required=option in ("data", "eval_data"))
    return load_sets(getattr(cfg, option), option, cfg.data_dir, columns, stream)


def load_set(spec: Spec, data_dir: Path, columns: Columns = Columns(), stream: bool = False) -> SpeechSet:
    """Read one set's entries (no audio yet); of tars that are to be streamed only the names."""
    if is_tar(spec.source):
        return read_shards(spec, columns, stream)
    path = Path(spec.source).expanduser()
    notes: tuple[str, ...] = ()
    if spec.source == "demo":
        if (spec.split or "train") not in DEMO_SPLITS:
            raise InputError(f"{spec}: the shipped speech has the splits {', '.join(DEMO_SPLITS)}")
        examples = read_manifest(DEMO_FOLDER / f"{spec.split or 'train'}.jsonl")
    elif spec.source == "librispeech":
        examples = librispeech.load(spec.split or "train-clean-100", data_dir)
    elif spec.source.startswith("hub:"):
        fetched = hub.fetch(str(spec), spec.source.removeprefix("hub:"), spec.split, data_dir, columns)
        examples = read_manifest(fetched.manifest, fetched.columns)
        if fetched.made_split:
            everything, examples = examples, made_split(str(spec), examples, fetched.made_split)
            notes = (
                f"the set has only train: {len(examples)} of its {len(everything)} entries make up "
                f"{fetched.made_split} ({spec.source} alone means all of them)",
            )
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        examples = read_manifest(path, columns)
    elif path.suffix.lower() in subtitles.SUFFIXES:
        examples = read_subtitles(path)
    elif path.is_dir():
        examples = read_folder(path)
    elif path.exists():
        raise InputError(f"{spec}: not a manifest (.jsonl, .csv, .tsv), subtitles or a folder; give one of these")
    else:
        raise InputError(
            f"{spec}: does not exist; give a manifest (.jsonl, .csv, .tsv), subtitles (.srt, .vtt), a folder of audio "
            "with .txt or subtitles beside, tars (shards/{000..127}.tar), hub:USER/NAME:SPLIT, librispeech:SUBSET or "
            "demo"
        )
    if not examples:
        raise InputError(f"{spec}: holds no entries")
    return SpeechSet(spec.name, spec.source, examples, notes=notes, share=spec.share)


def read_manifest(path: Path, columns: Columns = Columns()) -> list[Example]:
    """Read a JSONL, CSV or TSV manifest; paths in it are relative to its folder, as NeMo writes and reads them.

    Raises InputError with all faulty lines, or where a column asked for is in none of them.
    """
    entries = list(_rows(path, _read_text(path)))
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
    for where, row in entries:
        if isinstance(row, str):
            faults.append(row)
            continue
        try:
            examples.append(read_row(path, where, row, audio_columns, text_columns))
        except ValueError as error:
            faults.append(f"{where}: {error}")
    if faults:
        raise InputError(faults)
    return examples


def _read_text(path: Path) -> str:
    """A text file's content, ends of lines as they are."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; correct the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the file inside it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


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


def manifest_rows(spec: Spec) -> dict[str, dict[str, Any]]:
    """A manifest's rows with all their columns, by where they stand; none of other sources."""
    path = DEMO_FOLDER / f"{spec.split or 'train'}.jsonl" if spec.source == "demo" else Path(spec.source).expanduser()
    if path.suffix.lower() not in MANIFEST_SUFFIXES or spec.source.startswith(DOWNLOADED):
        return {}
    return {where: row for where, row in _rows(path, _read_text(path)) if isinstance(row, dict)}


def columns(spec: Spec, speech: SpeechSet) -> dict[str, int]:
    """How many entries fill each column: of a manifest all that it has, of other sources what an example holds."""
    rows = manifest_rows(spec).values() or [manifest_row(each, Path(spec.source)) for each in speech.examples]
    filled: Counter[str] = Counter()
    for row in rows:
        filled.update({column: int(value not in (None, "", [])) for column, value in row.items()})
    return dict(filled)


def manifest_row(example: Example, folder: Path) -> dict[str, Any]:
    """The row that `read_manifest` reads the example back from, in a manifest that lies in `folder`."""
    path = example.audio_filepath.resolve()
    inside = path.is_relative_to(folder.resolve())
    row = {
        "id": example.id,
        "audio_filepath": path.relative_to(folder.resolve()).as_posix() if inside else str(path),
        "text": example.text,
        "offset": example.offset,
        "duration": example.duration,
        "speaker": example.speaker,
        "language": example.language,
        "prompt": example.prompt,
        "segments": [asdict(segment) for segment in example.segments] or None,
    }
    return {column: value for column, value in row.items() if value is not None}


def read_shards(spec: Spec, columns: Columns, stream: bool) -> SpeechSet:
    """The entries of tars, with their faults for the preflight; of a stream the names of its tars alone."""
    names = shards.expand(spec.source)
    if not names:
        raise InputError(f"{spec}: no file has such a name")
    shards.check_there(names)
    if stream:
        return SpeechSet(spec.name, spec.source, [], shards=tuple(names), columns=columns)
    examples: list[Example] = []
    faults: list[str] = []
    for name in names:
        try:
            for entry in shards.entries(name, columns):
                examples.append(entry) if isinstance(entry, Example) else faults.append(entry)
        except shards.ShardError as error:
            faults.append(str(error))
    if not examples:
        raise InputError(faults or f"{spec}: holds no entries")
    return SpeechSet(spec.name, spec.source, examples, faults=tuple(faults), share=spec.share)


def read_folder(folder: Path) -> list[Example]:
    """A LibriSpeech tree (`*.trans.txt`), or audio files with a `.txt` of the same stem beside each, or beside none.

    Beside long recordings `.srt` or `.vtt` may stand instead; where a `.txt` is there, too, that is read.
    """
    if any(folder.rglob("*.trans.txt")):
        return librispeech.read_tree(folder)
    examples: list[Example] = []
    faults: list[str] = []
    silent = 0
    paths = sorted(folder.rglob("*"))
    of_recording: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in subtitles.SUFFIXES:
            for stem in subtitles.stems(path):
                of_recording[path.parent / stem].append(path)
    for path in paths:
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        beside = path.with_suffix(".txt")
        if not beside.exists() and (found := of_recording.get(path.with_suffix(""))):
            if len(found) > 1:
                faults.append(f"{path}: has the subtitles {' and '.join(each.name for each in found)}; keep one")
                continue
            try:
                name = str(path.relative_to(folder))
                examples += subtitles.examples(found[0], _read_text(found[0]), path, name)
            except InputError as error:
                faults += error.faults
            continue
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
    if not examples and any(is_tar(path.name) for path in paths):
        raise InputError(f"{folder}: holds tars; name them, as in '{folder}/*.tar'")
    if not examples:
        raise InputError(f"{folder}: holds no audio files ({' '.join(AUDIO_SUFFIXES)})")
    return examples


def read_subtitles(path: Path) -> list[Example]:
    """The clips that subtitles make of the recording beside them, of the same stem (`talk`, too, for `talk.en.srt`)."""
    content = _read_text(path)
    recordings = [each for each in sorted(path.parent.iterdir()) if each.suffix.lower() in AUDIO_SUFFIXES]
    for stem in subtitles.stems(path):
        found = [each for each in recordings if each.stem == stem]
        if len(found) > 1:
            raise InputError(f"{path}: {' and '.join(each.name for each in found)} are beside it; keep one")
        if found:
            return subtitles.examples(path, content, found[0], found[0].name)
    raise InputError(f"{path}: no recording is beside it; put it there as {path.stem}.wav, .flac, .mp3 or the like")


def hold_out(sets: Sequence[SpeechSet], seed: int) -> tuple[list[SpeechSet], SpeechSet]:
    """Split off a tenth of the utterances for evaluation: whole speakers where every one is known, else utterances.

    Returns the training sets that are left and the held-out set, the same for the same seed and entries.
    """
    everything = [example for each in sets for example in each.examples]
    if len(everything) < 2:
        raise InputError(f"--data holds {len(everything)} entry; give --eval_data, or at least 2 entries to split")
    _, evaluation = parts.divide(everything, [max(1, len(everything) // 10)], seed)
    chosen = {example.where for example in evaluation}
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
    drawn = parts.divide(examples, [max(1, len(examples) // 10)] * 2, MADE_SPLITS_SEED)
    return dict(zip(("train", "test", "validation"), drawn, strict=True))[split]
