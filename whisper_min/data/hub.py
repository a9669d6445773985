"""Hugging Face datasets: parquet shards with an audio column, unpacked once into audio files and a manifest.

A dataset lies in `data_dir/hub/<user>--<name>/<commit>/`:

    listing.json                             which shards make up each configuration and split
    <configuration>/columns.json             what its columns hold
    <configuration>/<split>/<audio column>/  audio/, the bytes as they are stored, and manifest.jsonl, written last

What is there needs neither network nor pyarrow, and further splits come from the same commit. huggingface_hub does the
talking: it reads HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, keeps whole shards in its cache, and goes on with a
shard where a connection was cut. How shards are laid out: https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from whisper_min import runs
from whisper_min.config import InputError
from whisper_min.data.addresses import is_private
from whisper_min.data.disk import check_room, existing
from whisper_min.data.examples import AUDIO_COLUMNS, AUDIO_SUFFIXES, KNOWN_COLUMNS, TEXT_COLUMNS, Columns

T = TypeVar("T")

# Beside those of manifests: FLEURS, VoxPopuli, Vibravox and others.
HUB_TEXT_COLUMNS = (*TEXT_COLUMNS, "transcription", "raw_transcription", "normalized_text", "raw_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
LANGUAGE_COLUMNS = ("language", "locale")
# Names under which the same split is published (datasets/data_files.py), the one that is made here first.
SPLIT_NAMES = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing", "eval", "evaluation"))
# `train-00000-of-00007.parquet`, `train.parquet`, `train/0000.parquet`
SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-\d+)?(-[0-9a-f]{16})?\.parquet", re.DOTALL)
NUMBERED = re.compile(r"\d+")
# First bytes of audio files whose format they tell.
MAGIC = {b"fLaC": ".flac", b"OggS": ".ogg", b"RIFF": ".wav", b"RF64": ".wav", b"FORM": ".aiff", b"ID3": ".mp3"}
# Rows that are in memory at a time: some hundred MB for the longest recordings.
ROWS = 16
# Bytes of a shard that are read at a time.
READ_BYTES = 1 << 20
# Seconds before each further attempt, where an error of the hub may pass.
WAITS = (1.0, 4.0, 16.0)
# Too many requests, and the server's own troubles.
PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Fetched:
    """A set as it lies on disk."""

    manifest: Path
    columns: Columns
    """The manifest's own columns to read."""
    made_split: str | None
    """The split to take of the manifest's entries, where the set has none of that name."""


@dataclass(frozen=True)
class Listing:
    """What a dataset holds at one commit."""

    dataset: str
    commit: str
    default: str | None
    """The configuration that is meant where none is named."""
    configurations: dict[str, dict[str, dict[str, int]]]
    """configuration -> split -> shard -> bytes"""


def fetch(where: str, source: str, split: str | None, data_dir: Path, columns: Columns) -> Fetched:
    """Unpack one split of a dataset, or find it unpacked already.

    Parameters
    ----------
    where : str
        how the set was asked for, for messages
    source : str
        `user/name` or `user/name/configuration`
    split : str or None
        as published, or one of train, validation and test, which are made where the set has only `train`; None for all
        of `train`
    columns : Columns
        the audio and text columns, where the user named them

    Raises
    ------
    InputError
        where the dataset cannot be had, read or told apart, with what to do about it
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/(.+))?", source)
    if match is None:
        raise InputError(f"{where}: write hub:USER/NAME:SPLIT, or hub:USER/NAME/CONFIGURATION:SPLIT")
    dataset, asked = match[1], match[2]
    home = data_dir / "hub" / dataset.replace("/", "--")
    known = sorted(home.glob("*/listing.json"))
    listing = Listing(**_read_json(where, known[0])) if known else _list(where, dataset)
    configuration = _choose_configuration(where, listing, asked)
    shards, stored, made = _choose_split(where, listing.configurations[configuration], split)
    folder = home / _folder_name(listing.commit) / _folder_name(configuration)
    kinds = _kinds(where, listing, shards, folder)
    audio_column, text_column = _choose_columns(where, kinds, columns)
    if not known:
        runs.write_atomic(folder.parent / "listing.json", json.dumps(vars(listing), indent=1) + "\n")
    unpacked = folder / _folder_name(stored) / _folder_name(audio_column)
    if not (unpacked / "manifest.jsonl").exists():
        _unpack(where, listing, shards, audio_column, text_column, unpacked)
    return Fetched(unpacked / "manifest.jsonl", Columns("audio_filepath", text_column), made)


def _read_json(where: str, path: Path) -> dict[str, Any]:
    """An object that was kept from the last time."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{where}: {path} is damaged ({error}); remove {path.parent}, and run again") from None


def _folder_name(name: str) -> str:
    """A name from the hub as that of one folder: no separators, and never `..`."""
    name = quote(name, safe=" ")
    return "%2E" + name[1:] if name.startswith(".") else name


# ---- What there is, and which of it is meant.


def _list(where: str, dataset: str) -> Listing:
    """Ask the hub for the newest commit and its shards."""
    api = _library(where).HfApi()
    info = _patiently(where, dataset, lambda: api.dataset_info(dataset))
    files = _patiently(
        where,
        dataset,
        lambda: list(api.list_repo_tree(dataset, repo_type="dataset", revision=info.sha, recursive=True)),
    )
    sizes = {file.path: file.size for file in files if SHARD.fullmatch(PurePosixPath(file.path).name)}
    card = info.card_data.to_dict() if info.card_data else {}
    try:
        default, configurations = arrange(sizes, card.get("configs") or [])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: the configs of its card are not what the hub says they are ({type(error).__name__}: {error}); "
            "download it, and give its folder or a manifest of its recordings"
        ) from None
    if not configurations:
        raise InputError(
            f"{where}: holds no parquet shards; download it, and give its folder or a manifest of its recordings"
        )
    return Listing(dataset, info.sha, default, configurations)


def arrange(
    sizes: Mapping[str, int], card: Sequence[Mapping[str, Any]]
) -> tuple[str | None, dict[str, dict[str, dict[str, int]]]]:
    """(default configuration, configuration -> split -> shard -> bytes) from the `configs` of a dataset's card.

    Without these the names tell: `data/train-00000-of-00007.parquet`, `<configuration>/train-*.parquet` and
    `<configuration>/train/0000.parquet`.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for described in card:
        name, files = str(described.get("config_name", "default")), described.get("data_files")
        if isinstance(files, Mapping):
            files = [{"split": split, "path": path} for split, path in files.items()]
        elif isinstance(files, str) or (files and isinstance(files[0], str)):
            files = [{"split": "train", "path": files}]
        for each in files or []:
            patterns = [each["path"]] if isinstance(each["path"], str) else each["path"]
            shards = {path: size for path, size in sorted(sizes.items()) if any(_matches(path, p) for p in patterns)}
            if shards:
                found.setdefault(name, {}).setdefault(str(each["split"]), {}).update(shards)
    default = next((str(each.get("config_name", "default")) for each in card if each.get("default")), None)
    if not found:
        for path, size in sorted(sizes.items()):
            match, folders = SHARD.fullmatch(PurePosixPath(path).name), list(PurePosixPath(path).parts[:-1])
            assert match is not None
            split = folders.pop() if NUMBERED.fullmatch(match["split"]) and folders else match["split"]
            name = "/".join(folders[1:] if folders[:1] == ["data"] else folders) or "default"
            found.setdefault(name, {}).setdefault(split, {})[path] = size
    if default not in found:
        default = next(iter(found)) if len(found) == 1 else "default" if "default" in found else None
    return default, found


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern of a card's `data_files` means a file: `*` stays in its folder, `**` does not."""
    pattern = pattern.removeprefix("./")
    parts = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda part: parts.get(part[0]) or re.escape(part[0]), pattern)
    return re.fullmatch(expression, path) is not None


def _choose_configuration(where: str, listing: Listing, asked: str | None) -> str:
    name = asked or listing.default
    if name in listing.configurations:
        assert name is not None
        return name
    names = ", ".join(sorted(listing.configurations))
    if asked:
        raise InputError(f"{where}: has no configuration {asked!r}; it has {names}")
    raise InputError(f"{where}: has several configurations; name one, as in hub:{listing.dataset}/NAME:SPLIT: {names}")


def _choose_split(
    where: str, splits: Mapping[str, dict[str, int]], asked: str | None
) -> tuple[dict[str, int], str, str | None]:
    """(shards, the published split that they make up, the split to be made of it)."""
    same = next((names for names in SPLIT_NAMES if asked in names), (asked,))
    if list(splits) == ["train"]:
        if asked is None or any(asked in names for names in SPLIT_NAMES):
            return splits["train"], "train", same[0]
    else:
        there = [name for name in (asked or "train", *same) if name in splits]
        if not asked and len(splits) == 1:
            there = list(splits)
        if there:
            return splits[there[0]], there[0], None
    name = f"has no split {asked!r}" if asked else "has several splits"
    raise InputError(f"{where}: {name}; choose one of {', '.join(splits)}")


def _kinds(where: str, listing: Listing, shards: Mapping[str, int], folder: Path) -> dict[str, str]:
    """What each column of a configuration holds; asks the first shard where that is not known yet."""
    path = folder / "columns.json"
    if path.exists():
        return _read_json(where, path)
    _check_room(where, listing, shards, folder)  # before the first download, of which there will be more
    shard = next(iter(shards))
    kinds = column_kinds(_open(where, _download(where, listing, shard), shard).schema_arrow)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_atomic(path, json.dumps(kinds, indent=1) + "\n")
    return kinds


def column_kinds(schema: Any) -> dict[str, str]:
    """What each column of a pyarrow schema holds: `audio` (a struct with `bytes`), `text`, or its type's name."""
    import pyarrow

    def kind(held: Any) -> str:
        if pyarrow.types.is_dictionary(held):
            held = held.value_type
        if pyarrow.types.is_struct(held):
            fields = {field.name: field.type for field in held}
            stored = fields.get("bytes", pyarrow.null())
            return "audio" if pyarrow.types.is_binary(stored) or pyarrow.types.is_large_binary(stored) else str(held)
        return "text" if pyarrow.types.is_string(held) or pyarrow.types.is_large_string(held) else str(held)

    return {field.name: kind(field.type) for field in schema}


def _choose_columns(where: str, kinds: Mapping[str, str], asked: Columns) -> tuple[str, str]:
    """The audio and the text column; `text` where the set has no column of text at all."""
    held = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    texts = _text_columns(kinds)
    faults: list[str] = []

    def choose(kind: str, name: str | None, possible: Sequence[str], usual: Sequence[str]) -> str:
        if name and (asked.required or name in kinds):
            if name not in possible:
                wrong = f"holds {kinds[name]}, no {kind}" if name in kinds else "is not there"
                faults.append(f"{where}: the column {name!r} of --{kind}_column {wrong}; the columns are {held}")
            return name
        if kind == "text" and not texts and not any(name in HUB_TEXT_COLUMNS for name in kinds):
            return "text"
        if len(usual) == 1:
            return usual[0]
        doubt = f"{' and '.join(usual)} may all hold the {kind}" if usual else f"no column is known to hold the {kind}"
        faults.append(f"{where}: {doubt}; say which with --{kind}_column NAME; the columns are {held}")
        return ""

    audios = [name for name, kind in kinds.items() if kind == "audio"]
    chosen = (
        choose("audio", asked.audio, audios, audios),
        choose("text", asked.text, texts, [name for name in texts if name in HUB_TEXT_COLUMNS]),
    )
    if faults:
        raise InputError(faults)
    return chosen


def _text_columns(kinds: Mapping[str, str]) -> list[str]:
    """Columns whose text may be the transcript: all are kept, so that another one can be chosen later."""
    others = (*AUDIO_COLUMNS, *KNOWN_COLUMNS, *SPEAKER_COLUMNS, *LANGUAGE_COLUMNS)
    return [name for name, kind in kinds.items() if kind == "text" and name not in others]


# ---- From shards to files.


def _unpack(
    where: str, listing: Listing, shards: Mapping[str, int], audio_column: str, text_column: str, folder: Path
) -> None:
    """Write the audio files, shard by shard, and the manifest last.

    A shard that is done leaves its rows in a file of its own; what an interrupted one left is written again under the
    same names, so that nothing is lost and nothing is there twice.
    """
    from filelock import FileLock  # comes with huggingface_hub

    parts = [folder / f"shard-{number:05d}.jsonl" for number in range(len(shards))]
    _check_room(where, listing, {shard: size for part, (shard, size) in zip(parts, shards.items(), strict=True)
                                 if not part.exists()}, folder)  # fmt: skip
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another process may want the same set
        if (folder / "manifest.jsonl").exists():
            return
        print(f"{where}: fetching {len(shards)} shards, {sum(shards.values()) / 1e6:.1f} MB", file=sys.stderr)
        have_text: dict[bool, str] = {}
        for (number, part), shard in zip(enumerate(parts), shards, strict=True):
            if not part.exists():
                path = _download(where, listing, shard)
                have_text[text_column in column_kinds(_open(where, path, shard).schema_arrow)] = shard
                if len(have_text) > 1:
                    raise InputError(
                        f"{where}: {have_text[True]} has a column {text_column!r}, {have_text[False]} has none; "
                        "name a column that all shards have with --text_column, or give a manifest"
                    )
                rows = _unpack_shard(where, path, shard, number, audio_column, folder)
                runs.write_atomic(part, "".join(map(runs.to_json_line, rows)))
        entries = "".join(part.read_text(encoding="utf-8") for part in parts)
        runs.write_atomic(folder / "manifest.jsonl", entries)
        for part in parts:
            part.unlink()
    sizes = [path.stat().st_size for path in (folder / "audio").iterdir()]
    print(f"{where}: {len(sizes)} recordings, {sum(sizes) / 1e6:.1f} MB, in {folder}", file=sys.stderr)


def _unpack_shard(
    where: str, path: Path, shard: str, number: int, audio_column: str, folder: Path
) -> list[dict[str, Any]]:
    """Write one shard's audio files; the manifest's rows. InputError where it is damaged, and nothing is left of it."""
    file = _open(where, path, shard)
    try:
        with _reading(where, path, shard):
            return list(_write_rows(where, file, shard, number, audio_column, folder))
    except InputError:
        for written in (folder / "audio").glob(f"{number:05d}-*"):
            written.unlink()
        raise


def _write_rows(
    where: str, file: Any, shard: str, number: int, audio_column: str, folder: Path
) -> Iterator[dict[str, Any]]:
    """Write a shard's audio files one by one; yields the manifest's rows."""
    kinds = column_kinds(file.schema_arrow)
    if kinds.get(audio_column) != "audio":
        raise InputError(f"{where}: {shard} has no audio column {audio_column!r}, which the first shard has")
    texts = _text_columns(kinds)
    about = {
        "speaker": [name for name in SPEAKER_COLUMNS if name in kinds],
        "language": [name for name in LANGUAGE_COLUMNS if kinds.get(name) == "text"],
    }
    columns = [audio_column, *texts, *about["speaker"], *about["language"]]
    table = (row for batch in file.iter_batches(ROWS, columns=columns) for row in batch.to_pylist())
    for index, row in enumerate(table):
        stored = row[audio_column] or {}
        content, named = stored.get("bytes"), stored.get("path")
        if content is None and named:
            raise InputError(
                f"{where}: {shard}, row {index}: {audio_column} names {named!r} and holds no bytes; the recordings are "
                "not in the set itself: download them, and give a manifest"
            )
        content = content or b""  # the preflight names empty files, and --skip_bad leaves them out
        name = f"audio/{number:05d}-{index:06d}{_suffix(content, named)}"
        (folder / name).write_bytes(content)
        entry = {"audio_filepath": name, **{column: row.get(column) or "" for column in texts or ["text"]}}
        for key, names in about.items():
            if known := [str(row[column]) for column in names if row[column] not in (None, "")]:
                entry[key] = known[0]
        yield entry


def _suffix(content: bytes, named: str | bytes | None) -> str:
    """A file name's end by what the audio is, or by the name under which it was stored, of which no more is used."""
    by_content = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "")
    by_name = PurePosixPath(os.fsdecode(named or "")).suffix.lower()  # a column of bytes is a name, too
    return by_content or (by_name if by_name in AUDIO_SUFFIXES else "")


def _open(where: str, path: Path, shard: str) -> Any:
    """A shard as a pyarrow.parquet.ParquetFile that reads through a small buffer, never the whole shard."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{where}: needs pyarrow; pip install 'whisper-min[hub]'") from None
    with _reading(where, path, shard):
        return pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)


@contextmanager
def _reading(where: str, path: Path, shard: str) -> Iterator[None]:
    """What pyarrow says of damaged bytes becomes an InputError; what the disk says stays."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ValueError, ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{where}: {shard} is no parquet file, or damaged ({reason}); remove {path} and run again"
        ) from None


# ---- The hub.


def _library(where: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{where}: needs huggingface_hub; pip install 'whisper-min[hub]'") from None
    return huggingface_hub


def _download(where: str, listing: Listing, shard: str) -> Path:
    """A shard's path in huggingface_hub's cache, where whole shards stay; its checksum is the hub's."""
    download = _library(where).hf_hub_download
    keys = {"repo_type": "dataset", "revision": listing.commit}
    path = Path(_patiently(where, listing.dataset, lambda: download(listing.dataset, shard, **keys)))
    expected = path.resolve().name  # the cache names what it holds by its checksum, SHA-256 for large files
    if re.fullmatch("[0-9a-f]{64}", expected):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
        if digest.hexdigest() != expected:
            reason = f"its SHA-256 is {digest.hexdigest()}, not {expected}"
            raise InputError(f"{where}: {shard} is not what the hub has ({reason}); remove {path.resolve()}, run again")
    return path


def _check_room(where: str, listing: Listing, shards: Mapping[str, int], folder: Path) -> None:
    """Shards stay in huggingface_hub's cache, and unpacked they take as much again."""
    library = _library(where)
    cache, unpacked = Path(library.constants.HF_HUB_CACHE), sum(shards.values())
    keys = {"repo_type": "dataset", "revision": listing.commit}
    downloaded = sum(
        size for shard, size in shards.items() if not library.try_to_load_from_cache(listing.dataset, shard, **keys)
    )
    if existing(cache).stat().st_dev == existing(folder).stat().st_dev:
        check_room(where, folder, downloaded + unpacked)
    else:
        check_room(where, folder, unpacked)
        check_room(where, cache, downloaded, "HF_HOME")


def _patiently(where: str, dataset: str, call: Callable[[], T]) -> T:
    """What huggingface_hub answers; errors that may pass are waited for, others say what to do.

    The library itself goes on after a cut connection and asks again in some places, but not in all.
    """
    errors, endpoint = _library(where).errors, _library(where).constants.ENDPOINT
    if not is_private(endpoint):
        fault = "would send data and tokens by http, which can be read and changed on its way; give it as https://"
        raise InputError(f"{where}: HF_ENDPOINT {endpoint} {fault}")
    for wait in (*WAITS, None):
        try:
            return call()
        except (OSError, ValueError, RuntimeError, errors.HTTPError) as error:  # its own, hf_xet's and httpx's
            fault, passes = _explain(error, dataset)
        if wait is None or not passes:
            break
        print(f"{where}: {fault}; trying again in {wait:g} s", file=sys.stderr)
        time.sleep(wait)
    raise InputError(f"{where}: {fault}" + ("; what was fetched is kept: run again later" if passes else ""))


def _explain(error: Exception, dataset: str) -> tuple[str, bool]:
    """What an error of the hub means and what to do, and whether it may pass by itself."""
    from huggingface_hub import constants, errors, get_token

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it was neither in the cache nor to be had
    page, token = f"{constants.ENDPOINT}/datasets/{dataset}", get_token()
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it was not fetched before; unset that for one run", False
    if isinstance(error, errors.GatedRepoError):
        with_token = "the account of HF_TOKEN" if token else "an account, and set HF_TOKEN to a token of it"
        return f"is gated: accept its conditions at {page} with {with_token} ({status})", False
    if isinstance(error, (errors.EntryNotFoundError, errors.RevisionNotFoundError)):
        return f"changed at {page} since it was listed; remove its folder in --data_dir, and run again", False
    if status in (401, 403, 404):  # the hub answers 401 and 404 alike for what does not exist and what is private
        advice = "that HF_TOKEN is valid and may read it" if token else "set HF_TOKEN if it is private"
        return f"is not at {page}, or private; check the name, and {advice} ({status})", False
    if status in PASSING:
        return f"{constants.ENDPOINT} is {'asked too often' if status == 429 else 'out of order'} ({status})", True
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    passes = status is None and not isinstance(error, (ValueError, errors.FileMetadataError))
    return f"could not be fetched from {page} ({reason[0]})", passes
