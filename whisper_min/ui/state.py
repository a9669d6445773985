"""What is remembered between two starts of the app: a small file in the user's state folder."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from whisper_min.runs import write_atomic

# Folders of runs remembered; the oldest go.
MOST_FOLDERS = 50


def state_file() -> Path:
    """Where it is kept, by the XDG convention."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "whisper-min" / "tui.json"


def load(path: Path, folder: Path) -> dict[str, Any]:
    """What was remembered of the app (`app`) and of this folder (`folder`); empty where nothing can be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {"app": dict(known.get("app", {})), "folder": dict(known["folders"].get(str(folder.resolve()), {}))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"app": {}, "folder": {}}


def save(path: Path, folder: Path, app: dict[str, Any], of_folder: dict[str, Any]) -> None:
    """Remember; where that cannot be written it is not remembered."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["folders"]
        folders = dict(known)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        folders = {}
    folders.pop(str(folder.resolve()), None)
    folders[str(folder.resolve())] = of_folder
    record = {"app": app, "folders": dict(list(folders.items())[-MOST_FOLDERS:])}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
