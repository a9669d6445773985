"""WebDataset tars, read where they lie: samples from the headers and small texts, audio only when it is decoded.

A sample is a run of files of one key, which is a name up to the first dot of its last part
(https://github.com/webdataset/webdataset): `a/0001.flac` with `a/0001.txt`, or with `a/0001.json`. Nothing is ever
extracted under the name that a tar gives it.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from whisper_min.config import InputError, is_tar
from whisper_min.data import addresses
from whisper_min.data.examples import AUDIO_COLUMNS, AUDIO_SUFFIXES, TEXT_COLUMNS, Columns, Example, Member
from whisper_min.data.rows import read_row

# A .txt or .json beyond so many bytes is no transcript, and is not read into memory.
LARGEST_TEXT = 1_000_000
# Most tars that a word may mean.
MOST_SHARDS = 1_000_000


class ShardError(Exception):
    """A tar that cannot be read, or not to its end; the message names it."""


# ---- Words on the command line.


def expand(word: str) -> list[str]:
    """Every tar that a word means: `{000..127}` and `{a,b}` as a shell writes them, `*` and `?` for local files."""
    brace = re.search(r"\{([^{}]*)\}", word)
    if brace is None:
        word = os.path.expanduser(word)
        is_pattern = "://" not in word and not os.path.exists(word) and glob.has_magic(word)
        return sorted(glob.glob(word)) if is_pattern else [word]
    found = [expand(word[: brace.start()] + value + word[brace.end() :]) for value in _values(brace[1], word)]
    return list(itertools.chain.from_iterable(found))


def _values(inside: str, word: str) -> Sequence[str]:
    """What a brace stands for."""
    if ends := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = int(ends[1]), int(ends[2])
        if abs(last - first) >= MOST_SHARDS:
            raise InputError(f"{word}: {{{inside}}} means over {MOST_SHARDS:,} tars")
        width = max(map(len, ends.groups())) if any(end.startswith("0") for end in ends.groups()) else 0
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        return [f"{number:0{width}d}" for number in numbers]
    if "," not in inside:
        raise InputError(f"{word}: {{{inside}}} is neither a range, as {{000..127}}, nor a list, as {{a,b}}")
    return inside.split(",")


def join(words: Sequence[str]) -> list[str]:
    """The words, with runs of tars that differ in digits only as one word each: a shell expands one pattern to them."""

    def pattern(word: str) -> str:
        source, at, share = word.partition(".tar@")
        return re.sub(r"\d+", "0", source) + at + share

    joined: list[str] = []
    for _, run in itertools.groupby(words, pattern):
        same = list(run)
        joined += same if len(set(same)) < len(same) or not is_tar(same[0]) or len(same) == 1 else [_in_braces(same)]
    return joined


def _in_braces(words: Sequence[str]) -> str:
    """One word with braces for words that differ in digits only."""
    pieces = [re.split(r"(\d+)", word) for word in words]
    differ = [index for index, column in enumerate(zip(*pieces, strict=True)) if len(set(column)) > 1]
    first, last = differ[0], differ[-1] + 1
    values = ["".join(each[first:last]) for each in pieces]
    ends = f"{values[0]}..{values[-1]}"
    inside = ends if re.fullmatch(r"\d+\.\.\d+", ends) and _values(ends, ends) == values else ",".join(values)
    return "".join([*pieces[0][:first], "{", inside, "}", *pieces[0][last:]])


def set_name(source: str) -> str:
    """What a set of tars is called: the pattern's name without its digits and signs, else its folder's."""
    path = PurePosixPath(source.partition("?")[0])
    stem = re.sub(r"\{[^{}]*\}|\*", "", path.stem).strip("-_.") if re.search(r"[{*?]", path.stem) else path.stem
    return stem or path.parent.name or "shards"


def check_there(names: Sequence[str]) -> None:
    """InputError for local tars that are not there, and for remote ones that nothing here can fetch or should."""
    faults = [
        f"{name}: does not exist; correct the path"
        for name in names
        if not is_remote(name) and not os.path.isfile(name)
    ]
    faults += dict.fromkeys(fault for name in names if is_remote(name) for fault in addresses.faults(name))
    for scheme in sorted({name.partition("://")[0] for name in names if is_remote(name)}):
        try:
            import fsspec

            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            faults.append(
                f"{scheme}://: fetching remote tars needs fsspec and its driver ({error}); "
                "pip install 'whisper-min[remote]', for s3:// also s3fs, for gs:// gcsfs"
            )
        except ValueError:
            faults.append(f"{scheme}://: fsspec knows no such protocol; give https://, s3:// or a path")
    if faults:
        raise InputError(faults)


def is_remote(name: str) -> bool:
    """Whether a tar is to be fetched first."""
    return "://" in name


# ---- A tar on this machine.


class Fetched:
    """The local copy of a remote tar; it leaves the disk with the last thing that refers to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weakref.finalize(self, path.unlink, missing_ok=True)


# Those on the disk at the moment.
_fetched: weakref.WeakValueDictionary[str, Fetched] = weakref.WeakValueDictionary()


def fetch(url: str) -> Fetched:
    """A remote tar as a temporary file, downloaded unless it is there; ShardError where that fails."""
    import fsspec

    if (there := _fetched.get(url)) is not None:
        return there
    address = os.path.expandvars(url)
    with tempfile.NamedTemporaryFile(prefix="whisper-min-", suffix=".tar", delete=False) as copy:
        fetched = Fetched(Path(copy.name))
        try:
            with fsspec.open(address, "rb", **addresses.fetching(address)) as remote:
                shutil.copyfileobj(remote, copy)
        except Exception as caught:  # every driver has errors of its own, with the address in them
            error: BaseException = caught
            while isinstance(error, FileNotFoundError) and error.__cause__:  # fsspec's name for all that goes wrong
                error = error.__cause__
            told = addresses.without_secrets(f"{type(error).__name__}: {error}", url)
            raise ShardError(f"{url}: cannot be fetched ({told})") from None
    _fetched[url] = fetched
    return fetched


def version_key(shard: str) -> str:
    """What tells this content of a shard from any other without reading it; empty where that cannot be told."""
    try:
        if not is_remote(shard):
            stat = os.stat(shard)
            return json.dumps([os.path.realpath(shard), stat.st_size, stat.st_mtime_ns])
        import fsspec

        address = os.path.expandvars(shard)
        filesystem, path = fsspec.core.url_to_fs(address, **addresses.fetching(address))
        known = filesystem.info(path)
        return json.dumps([shard, *(str(known.get(key)) for key in ("size", "ETag", "LastModified", "mtime"))])
    except Exception:  # every driver has errors of its own; what cannot be asked is read
        return ""


# ---- Samples of a tar.


@dataclass(frozen=True)
class File:
    """One file of a sample as the tar's header tells it."""

    name: str
    start: int
    size: int
    content: bytes
    """Of transcripts; other files are not read."""
    fault: str | None

    @property
    def key(self) -> str:
        """What the files of a sample share."""
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    @property
    def kind(self) -> str:
        """What follows the key, in lower case: `flac`, `txt`, `json`."""
        return posixpath.basename(self.name).partition(".")[2].lower()

    @property
    def is_audio(self) -> bool:
        """Whether its name ends as a recording's."""
        return self.name.lower().endswith(AUDIO_SUFFIXES)


def entries(shard: str, columns: Columns = Columns()) -> Iterator[Example | str]:
    """Every sample of one tar, in order; a sample that has a fault is the fault's message instead.

    Reads headers and transcripts and keeps the keys of this one tar in memory, no more. Other files of a sample are
    left alone, as are folders and hidden files (`._x` of macOS).

    Raises
    ------
    ShardError
        where the tar is damaged, once all samples before the one that this hits have been given
    """
    fetched = fetch(shard) if is_remote(shard) else None
    path = fetched.path if fetched else Path(shard)
    seen: set[str] = set()
    for key, files in itertools.groupby(_files(shard, path), lambda file: file.key):
        where = f"{shard}, key {key}"
        try:
            if key in seen:
                raise ValueError("is there twice, or its files do not follow each other; sort the tar by name")
            seen.add(key)
            yield _example(shard, path, key, list(files), where, fetched, columns)
        except ValueError as error:
            yield f"{where}: {error}"


def _example(
    shard: str, path: Path, key: str, files: list[File], where: str, fetched: Fetched | None, columns: Columns
) -> Example:
    """One sample as an example; ValueError says what is wrong with it."""
    if faults := [f"{file.name} {file.fault}" for file in files if file.fault]:
        raise ValueError("; ".join(faults))
    recordings = [file for file in files if file.is_audio]
    if len(recordings) != 1:
        names = ", ".join(posixpath.basename(file.name) for file in files)
        what = f"{len(recordings)} recordings" if recordings else "no audio (.flac, .wav, .mp3, …)"
        raise ValueError(f"has {what}: {names}; give it one")
    row: dict[str, Any] = {}
    for file in files:
        if file.kind == "json":
            row = _json(file)
    for file in files:
        if file.kind == "txt":
            row = {**row, "text": _text(file)}
    stem = posixpath.basename(shard.partition("?")[0]).removesuffix(".tar")
    row = {**row, AUDIO_COLUMNS[0]: recordings[0].name, "id": row.get("id") or f"{stem}/{key}"}
    member = Member(recordings[0].name, recordings[0].start, recordings[0].size, fetched)
    text_columns = (columns.text,) if columns.text in row else TEXT_COLUMNS
    return replace(read_row(path, where, row, text_columns=text_columns), audio_filepath=path, member=member)


def _text(file: File) -> str:
    try:
        return file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8 text (byte {error.start}); write it as UTF-8") from None


def _json(file: File) -> dict[str, Any]:
    try:
        row = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name} is not JSON ({error})") from None
    except RecursionError:
        raise ValueError(f"{file.name} is not JSON that can be read (too deep)") from None
    if not isinstance(row, dict):
        raise ValueError(f"{file.name} is not a JSON object; write {{…}}")
    return row


def _files(shard: str, path: Path) -> Iterator[File]:
    """The files of a tar from its headers; ShardError where it is damaged, which tarfile alone takes for its end."""
    count = 0

    def damaged(why: object) -> ShardError:
        advice = "copy or download it again"
        return ShardError(
            f"{shard}: damaged after {count} files ({why}); {advice}, or leave the rest out with --skip_bad"
        )

    try:
        with open(path, "rb") as opened:
            if opened.read(2) == b"\x1f\x8b":
                raise ShardError(
                    f"{shard}: is compressed; unpack it with gunzip, so that its clips can be read in place"
                )
        tar = tarfile.open(path, "r:")  # noqa: SIM115  # closed below
    except OSError as error:
        raise ShardError(f"{shard}: cannot be read ({error.strerror})") from None
    except tarfile.TarError as error:
        raise damaged(error) from None
    with tar:
        while True:
            try:
                header = tar.next()
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every header that it has read
                file = _file(tar, header) if header is not None and _counts(header) else None
            except (tarfile.TarError, OSError, ValueError, ArithmeticError) as error:
                raise damaged(error) from None
            if header is None:
                break
            if file is not None:
                count += 1
                yield file
        if fault := _fault_of_end(tar):
            raise damaged(fault)


def _counts(header: tarfile.TarInfo) -> bool:
    return not header.isdir() and not posixpath.basename(header.name).startswith(".")


def _file(tar: tarfile.TarFile, header: tarfile.TarInfo) -> File:
    """One file, its content read where it is a transcript."""
    fault, content = None, b""
    is_text = header.name.lower().endswith((".txt", ".json"))
    if header.name.startswith("/") or ".." in header.name.split("/"):
        fault = "leads out of its folder; write the tar again with relative names"
    elif not header.isreg() or header.issparse():
        fault = "is no plain file but a link, a device or sparse; write the tar again with the files themselves"
    elif any("\udc80" <= character <= "\udcff" for character in header.name):
        fault = "has a name that is not UTF-8; rename it"
    elif is_text and header.size > LARGEST_TEXT:
        fault = f"has {header.size:,} bytes; no transcript is that long"
    elif is_text:
        opened: Any = tar.fileobj  # extractfile's objects would wait for the garbage collector
        opened.seek(header.offset_data)
        content = opened.read(header.size)
    name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return File(name, header.offset_data, header.size, content, fault)


def _fault_of_end(tar: tarfile.TarFile) -> str | None:
    """What is wrong where tarfile saw the end: it stops at a damaged header and at a lost end without a word."""
    file: Any = tar.fileobj
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "its end is missing"
    while block:
        if block.strip(b"\0"):
            return "what follows is no header"
        block = file.read(1 << 16)
    return None
