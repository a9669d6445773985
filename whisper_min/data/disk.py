"""Room on a disk, asked for before something large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from whisper_min.config import InputError


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_room(what: str, folder: Path, needed: float, setting: str = "--data_dir") -> None:
    """InputError where the disk of `folder` has less than `needed` bytes free; `setting` is what names another one."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise InputError(
            f"{what} needs about {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free; make room, or "
            f"name another folder with {setting}"
        )
