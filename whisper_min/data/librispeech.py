"""LibriSpeech (https://www.openslr.org/12): downloaded and checked by torchaudio's dataset, or a tree already there."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from whisper_min import audio
from whisper_min.config import InputError
from whisper_min.data.disk import check_room
from whisper_min.data.examples import Example

SUBSETS = (
    *("dev-clean", "dev-other", "test-clean", "test-other"),
    *("train-clean-100", "train-clean-360", "train-other-500"),
)
# Size of each archive in bytes (openslr.org/12); unpacked it takes about as much again.
ARCHIVE_BYTES = {
    **{"dev-clean": 338e6, "dev-other": 314e6, "test-clean": 346e6, "test-other": 328e6},
    **{"train-clean-100": 6.4e9, "train-clean-360": 23e9, "train-other-500": 30e9},
}


def load(subset: str, data_dir: Path) -> list[Example]:
    """The subset's utterances; downloads it to `data_dir/LibriSpeech/<subset>` where it is not there yet."""
    if subset not in SUBSETS:
        raise InputError(f"librispeech:{subset}: no such subset; choose one of {', '.join(SUBSETS)}")
    folder = data_dir / "LibriSpeech" / subset
    if not folder.is_dir():
        download(subset, data_dir)
    return read_tree(folder)


def download(subset: str, data_dir: Path) -> None:
    """Download, check and unpack a subset through torchaudio's dataset; the folder appears only when it is whole.

    torchaudio takes a folder that exists for a whole one, so an unpacking cut short would pass for the set: it works in
    a staging folder here, which is renamed at the end. An archive that is already there is checked and used.
    """
    url, archive_bytes = f"http://www.openslr.org/resources/12/{subset}.tar.gz", ARCHIVE_BYTES[subset]
    staging = data_dir / f"LibriSpeech.{subset}.partial"
    archive = staging / f"{subset}.tar.gz"
    given = data_dir / archive.name
    try:
        staging.mkdir(parents=True, exist_ok=True)
        if given.is_file():
            check_archive(given, url)
            given.replace(archive)
        check_room(f"librispeech:{subset}", data_dir, archive_bytes * (1 if archive.exists() else 2))
        shutil.rmtree(staging / "LibriSpeech", ignore_errors=True)
        print(f"downloading LibriSpeech {subset} ({archive_bytes / 1e9:.1f} GB) to {data_dir}", file=sys.stderr)
        audio.torchaudio().datasets.LIBRISPEECH(staging, url=subset, download=True)
        final = data_dir / "LibriSpeech" / subset
        final.parent.mkdir(parents=True, exist_ok=True)
        (staging / "LibriSpeech" / subset).rename(final)
        shutil.rmtree(staging)
    except (OSError, RuntimeError) as error:  # network, checksum, disk
        raise InputError(
            f"librispeech:{subset}: could not be had from {url} ({error}); put that file into {data_dir} and run "
            "again, or give a LibriSpeech folder as --data"
        ) from None


def check_archive(path: Path, url: str) -> None:
    """Refuse an archive that is not the one at `url`: unpacking a damaged one can end early without an error."""
    expected = audio.torchaudio().datasets.librispeech._CHECKSUMS[url]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise InputError(
            f"{path}: is cut short or damaged (its SHA-256 is {digest.hexdigest()}, not {expected}); download it again "
            f"from {url}, or remove it"
        )


def read_tree(folder: Path) -> list[Example]:
    """Examples from LibriSpeech's `<speaker>-<chapter>.trans.txt` files, a line `<utterance id> <TEXT>` each."""
    examples: list[Example] = []
    faults: list[str] = []
    for path in sorted(folder.rglob("*.trans.txt")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{path}: cannot be read ({error})")
            continue
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            utterance, _, text = line.strip().partition(" ")
            where = f"{path}, line {number}"
            suffix = next((each for each in (".flac", ".wav") if (path.parent / (utterance + each)).exists()), ".flac")
            speaker = utterance.split("-")[0]
            examples.append(Example(utterance, path.parent / (utterance + suffix), text, where, speaker=speaker))
    if faults:
        raise InputError(faults)
    if not examples:
        raise InputError(
            f"{folder}: holds no LibriSpeech transcripts (*.trans.txt); give a LibriSpeech folder, or remove this one "
            "to download it again"
        )
    return examples
