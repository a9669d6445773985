"""Rebuild the speech sets behind the README's figures from their public downloads.

    python tests/bench/make_speech_sets.py --downloads DIR --out DIR [--sets NAME ...] [--fetch] [--verify OTHER_DIR]

`speech_sets.json`, beside this file, lists each set's utterances in the manifest's order. The recordings, and the texts
wherever the corpus has them, come from the downloads it names: archives as published, read without unpacking, or
folders already unpacked. Recordings are taken whole and written as 16 kHz mono FLAC; `hello` stays as recorded. What
has another rate is resampled by soxr at its "HQ" setting (`pip install soxr`); Asterisk's prompts need ffmpeg.
`--verify` compares the outcome with another copy: ids, texts, decoded samples (another soxr may round a last bit).
Exit codes: 0 done, 1 failed or differs, 2 wrong usage or something missing, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

RATE = 16_000


@dataclass(frozen=True)
class Source:
    """A public download: what to fetch, and where it keeps an utterance's recording and text."""

    files: dict[str, str]  # name under --downloads: address
    folder: str  # what the files unpack to, under --downloads; a pattern
    audio: str  # the end of a recording's path, {} for the utterance's id
    texts: list[str]  # the ends of the text files' paths, {} for the id without its number
    speaker: str  # the manifest's speaker, or a pattern whose group is found in the recording's path
    licence: str


LISTS = json.loads(Path(__file__).with_name("speech_sets.json").read_text(encoding="utf-8"))
SOURCES = {name: Source(**entry) for name, entry in LISTS["sources"].items()}
SPEECH_SETS: dict[str, dict[str, Any]] = LISTS["sets"]


def ids_of(name: str) -> list[str]:
    """The set's utterance ids, in the manifest's order (several stand in one string of the file)."""
    return " ".join(SPEECH_SETS[name]["ids"]).split()


def places(source: Source, downloads: Path) -> tuple[list[Path], dict[Path, str]]:
    """Where the source lies, an unpacked folder before archives, and what is missing with its address."""
    folders = [path for path in sorted(downloads.glob(source.folder)) if path.is_dir()]
    missing = {downloads / name: url for name, url in source.files.items() if not (downloads / name).is_file()}
    return (folders, {}) if folders else ([downloads / name for name in source.files], missing)


def fetch(missing: dict[Path, str]) -> list[str]:
    """Download each file whole and return what failed; a broken download leaves nothing behind."""
    problems = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for path, url in missing.items():
            task, part = progress.add_task(path.name, total=None), path.with_name(path.name + ".part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as file:
                    total = int(answer.headers["Content-Length"] or 0)
                    progress.update(task, total=total or None)
                    while block := answer.read(1 << 20):
                        file.write(block)
                        progress.advance(task, len(block))
                    if total > file.tell():
                        raise OSError(f"the connection closed after {file.tell()} of {total} bytes")
                part.replace(path)
            except (OSError, http.client.HTTPException) as error:
                problems.append(f"{url}: {error}\n    try again, or download it by hand to {path}")
            finally:
                part.unlink(missing_ok=True)
    return problems


def deb_payload(path: Path) -> io.BytesIO:
    """The data.tar of a Debian package: an `ar` archive of 60-byte headers, bodies padded to even lengths (deb(5))."""
    data, at = path.read_bytes(), 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode("ascii", "replace"), int(data[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return io.BytesIO(data[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
    raise tarfile.ReadError("no data.tar inside")


def wanted_files(place: Path, left: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (end, whole path, content) of the files whose path ends in one of `left`, and take each off `left`.

    Archives are streamed and nothing is unpacked: a path inside an archive is only looked at, never written to.
    """

    def end_of(path: str) -> str | None:
        parts = path.split("/")
        return next((end for n in (1, 2, 3) if (end := "/".join(parts[-n:])) in left), None)

    if place.is_dir() or not re.search(r"\.(deb|tar\.\w+)$", place.name):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if (end := end_of(path.as_posix())) and path.is_file():
                left.discard(end)
                yield end, path.as_posix(), path.read_bytes()
        return
    opened = deb_payload(place) if place.suffix == ".deb" else place.open("rb")
    with opened as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            if member.isfile() and (end := end_of(member.name)) and (content := tar.extractfile(member)):
                left.discard(end)
                yield end, member.name, content.read()
                if not left:
                    return


def texts_in(end: str, data: bytes) -> dict[str, str]:
    """Texts by utterance id from one of the corpora's text files, put as the sets have them."""
    lines = (gzip.decompress(data) if end.endswith(".gz") else data).decode("utf-8").splitlines()
    if end.endswith(".csv"):  # LJ Speech: id|text as printed|text with numbers spelt out
        return {row[0]: row[1] for line in lines if len(row := line.split("|")) > 1}
    if end.endswith(".gz"):  # Asterisk: "silence/2: (2 seconds of silence)", "..." where a sentence goes on elsewhere
        found = (re.match(r"([^;:\s]+):(.*)", line) for line in lines)
        return {match[1]: " ".join(match[2].replace("...", " ").split()) for match in found if match}
    rows = [line.split(maxsplit=1) for line in lines]  # Kaldi's `text`, and LibriSpeech's transcripts: id, blank, TEXT
    return {row[0]: row[1].lower() if end.endswith(".trans.txt") else row[1].strip() for row in rows if len(row) == 2}


def write_audio(data: bytes, path: Path, g722: bool) -> float:
    """Write a recording as 16 kHz mono FLAC (to a `.wav`: as it is) and return its seconds."""
    if path.suffix == ".wav":
        path.write_bytes(data)
        return float(soundfile.info(path).duration)
    if not g722:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    else:  # no header, so that ffmpeg would take anything for it
        command = "ffmpeg -v error -f g722 -i pipe:0 -f s16le -ac 1 -ar 16000 pipe:1"
        raw = subprocess.run(command.split(), input=data, capture_output=True, check=True).stdout
        samples, rate = np.frombuffer(raw, "<i2")[:, None], RATE
    mono = samples[:, 0] if samples.shape[1] == 1 else (samples / 32768).mean(axis=1).astype(np.float32)
    if rate != RATE:
        import soxr

        floats = mono.astype(np.float32) / 32768 if mono.dtype == np.int16 else mono
        mono = soxr.resample(floats, rate, RATE, quality="HQ")
    soundfile.write(path, mono, RATE, subtype="PCM_16")
    return len(mono) / RATE


def build(source: Source, found: list[Path], names: list[str], out: Path, progress: Progress) -> list[str]:
    """Write the sets that come from one source, in one pass over it; return what is wrong."""
    stored = {name: SPEECH_SETS[name].get("texts", {}) for name in names}
    utterances = {source.audio.format(utt): (name, utt) for name in names for utt in ids_of(name)}
    untexted = {u for n, u in utterances.values() if "text" not in SPEECH_SETS[n] and u not in stored[n]}
    left = set(utterances) | {end.format(utt.rsplit("-", 1)[0]) for utt in untexted for end in source.texts}
    task = progress.add_task(found[0].name, total=len(left))
    texts: dict[str, str] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    problems = []
    for name in names:
        (out / name / "audio").mkdir(parents=True, exist_ok=True)
    for place in found:
        try:
            for end, path, data in wanted_files(place, left):
                progress.advance(task)
                if end not in utterances:
                    texts.update(texts_in(end, data))
                    continue
                name, utt = utterances[end]
                audio = f"audio/{utt.rsplit('/', 1)[-1]}{'.wav' if name == 'hello' else '.flac'}"
                try:
                    seconds = write_audio(data, out / name / audio, end.endswith(".g722"))
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    return [f"{path} to {out / name / audio}: {error}\n    make room there, or download {place} again"]
                rows[name, utt] = {"audio_filepath": audio, "text": "", "duration": round(seconds, 2)}
                if "(" in source.speaker:
                    rows[name, utt]["speaker"] = match[1] if (match := re.search(source.speaker, path)) else "unknown"
                elif source.speaker:
                    rows[name, utt]["speaker"] = source.speaker
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, ValueError) as error:
            problems.append(f"{place}: cannot be read ({error})\n    download it again")
    for name, utt in rows:
        rows[name, utt]["text"] = SPEECH_SETS[name].get("text", stored[name].get(utt, texts.get(utt)))
    left |= {f"the text of {name} {utt}" for (name, utt), row in rows.items() if row["text"] is None}
    if left and not problems:
        where, some = ", ".join(map(str, found)), ", ".join(sorted(left)[:5])
        problems.append(f"{where}: not in it: {len(left)} files or texts ({some} …)\n    unpack or download it again")
    for name in names if not problems else []:
        listed = [rows[name, utt] for utt in ids_of(name)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
        (out / name / "manifest.jsonl").write_text(lines, encoding="utf-8")
        minutes = sum(row["duration"] for row in listed) / 60
        about = f"# {name}\n\n{len(listed)} recordings, {minutes:.1f} min. {SPEECH_SETS[name]['about']}\n"
        (out / name / "SOURCE.md").write_text(f"{about}\nSource and licence: {source.licence}\n", encoding="utf-8")
    return problems


def difference(ours: dict[str, Any], theirs: dict[str, Any], our_set: Path, their_set: Path) -> str:
    """What differs between two manifests' rows of one utterance, or nothing."""
    keys = [key for key in ("text", "duration", "speaker") if ours.get(key) != theirs.get(key)]
    a, rate_a = soundfile.read(our_set / ours["audio_filepath"], dtype="int16")
    b, rate_b = soundfile.read(their_set / theirs["audio_filepath"], dtype="int16")
    if rate_a != rate_b or a.shape != b.shape:
        keys.append(f"{len(a)} samples at {rate_a} Hz against {len(b)} at {rate_b} Hz")
    elif len(a) and (most := int(np.abs(a.astype(int) - b).max())):
        keys.append(f"samples by up to {most} of 32768")
    return ", ".join(keys)


def verify(name: str, out: Path, other: Path) -> bool:
    """Print one line: how many of the set's utterances are the same in the other copy, and which are not."""
    if not (other / name / "manifest.jsonl").is_file():
        print(f"{name}: not in {other}")
        return False
    files = [(root / name / "manifest.jsonl").read_text(encoding="utf-8") for root in (out, other)]
    ours, theirs = ({(row := json.loads(line))["audio_filepath"]: row for line in text.splitlines()} for text in files)
    wrong = {key: "only in one copy" for key in ours.keys() ^ theirs.keys()}
    for key in ours.keys() & theirs.keys():
        if what := difference(ours[key], theirs[key], out / name, other / name):
            wrong[key] = what
    order = "" if wrong or list(ours) == list(theirs) else "; in another order"
    some = "".join(f"; {Path(key).stem}: {what}" for key, what in sorted(wrong.items())[:5])
    same = len(ours.keys() | theirs.keys()) - len(wrong)
    print(f"{name}: {same} identical, {len(wrong)} differ{order}{some}{'; …' * (len(wrong) > 5)}")
    return not wrong and not order


def fail(code: int, problems: list[str]) -> int:
    """Print every problem at once, and hand the exit code on."""
    print("error:", *problems, sep="\n  ", file=sys.stderr)
    return code


def main() -> int:
    """Find or fetch what the sets need, build them source by source, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--downloads", type=Path, required=True, help="folder of the archives or what they unpack to")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the sets to")
    sets = list(SPEECH_SETS)
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, metavar="NAME", help=f"of {', '.join(sets)}")
    parser.add_argument("--fetch", action="store_true", help="download what is missing (all sets: about 10 GB)")
    parser.add_argument("--verify", type=Path, metavar="OTHER_DIR", help="compare with this copy afterwards")
    args = parser.parse_args()
    args.sets = list(dict.fromkeys(args.sets))
    by_source: dict[str, list[str]] = {}
    for name in args.sets:
        by_source.setdefault(SPEECH_SETS[name]["source"], []).append(name)

    problems = []
    if args.verify and args.verify.resolve() == args.out.resolve():
        problems.append(f"--verify {args.verify}: that is --out itself\n    name another folder")
    if by_source.keys() & {"ljspeech", "dc_tts", "jfk"} and not importlib.util.find_spec("soxr"):
        problems.append("soxr resamples general-dev, reader-test and jfk\n    pip install soxr")
    if "asterisk" in by_source and not shutil.which("ffmpeg"):
        problems.append("ffmpeg decodes the prompts\n    install it from ffmpeg.org or your system's packages")
    missing = {path: url for key in by_source for path, url in places(SOURCES[key], args.downloads)[1].items()}
    if missing and args.fetch and not problems:
        problems += fetch(missing)
    elif missing:
        problems += [f"{path} is missing\n    download {url} to there, or add --fetch" for path, url in missing.items()]
    if problems:
        return fail(2, problems)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for key, names in by_source.items():
            problems += build(SOURCES[key], places(SOURCES[key], args.downloads)[0], names, args.out, progress)
    if problems:
        return fail(1, problems)
    return 0 if not args.verify or all([verify(name, args.out, args.verify) for name in args.sets]) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, soundfile.LibsndfileError) as error:
        sys.exit(fail(1, [f"{error}\n    see that the folders named can be read and written"]))
