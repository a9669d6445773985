"""All runs below a folder, found and read by turns."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from whisper_min import runs
from whisper_min.ui.run_view import ENDED, Deadline, RunView


class Workspace:
    """Every run below a folder, or the one run that the folder is. `runs` is by name, which is the path below it."""

    DEPTH = 4
    LIST_SECONDS = 2.0
    # Runs that have ended are looked at this often: somebody may resume them.
    ENDED_SECONDS = 5.0

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock
        self.runs: dict[str, RunView] = {}
        self.loading = True
        self._numbers: dict[str, int] = {}
        self._next_list = 0.0
        self._next_look: dict[str, float] = {}
        self._turn = 0

    def tick(self, budget: float = 0.02, watched: Iterable[str] = ()) -> None:
        """Look for what is new and read it, for about `budget` seconds; the watched runs first, the rest by turns.

        Without a budget the folder is listed, and long runs are only peeked into.
        """
        deadline = Deadline(budget)
        if time.perf_counter() >= self._next_list:
            self._list()
            self._next_list = time.perf_counter() + self.LIST_SECONDS
        first = [name for name in watched if name in self.runs]
        others = [name for name in self.runs if name not in first]
        self._turn += 1
        turn = self._turn % max(1, len(others))
        behind = False
        for name in first + others[turn:] + others[:turn]:
            run, now = self.runs[name], time.perf_counter()
            if now < self._next_look.get(name, 0.0) and name not in first:
                continue
            run.refresh()
            done = run.read(name in first, deadline)
            behind |= not done
            wait = self.ENDED_SECONDS if done and run.status.get("state") in ENDED else 0.0
            self._next_look[name] = now + wait
        self.loading = behind

    def read_all(self, watched: Iterable[str] | None = None) -> None:
        """Read everything that is there now."""
        names = None if watched is None else list(watched)
        while True:
            self.tick(1.0, list(self.runs) if names is None else names)
            if not self.loading:
                break
        if names is None:
            self.tick(60.0, list(self.runs))

    def _list(self) -> None:
        """New runs come, deleted ones go; a run that stays is the same object."""
        found = dict(find_runs(self.folder, self.DEPTH))
        for name in [name for name in self.runs if name not in found]:
            del self.runs[name]
        for name in sorted(found.keys() - self.runs.keys()):
            number = self._numbers.setdefault(name, len(self._numbers))
            self.runs[name] = RunView(found[name], name, number, self.clock)


def looks_like_run(folder: Path) -> bool:
    """Whether a folder is a run's, perhaps one that has just begun (a checkpoint has a config.json, too)."""
    return (folder / "metrics.jsonl").exists() or (folder / "status.json").exists() or runs.is_run(folder)


def find_runs(folder: Path, depth: int) -> Iterable[tuple[str, Path]]:
    """(name, path) of the run that the folder is, or of those below it."""
    if looks_like_run(folder):
        yield folder.resolve().name, folder
        return
    level: Sequence[tuple[str, Path]] = [("", folder)]
    for _ in range(depth):
        below = []
        for prefix, parent in level:
            with contextlib.suppress(OSError), os.scandir(parent) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.is_dir():
                        continue
                    name, path = f"{prefix}{entry.name}", Path(entry.path)
                    if looks_like_run(path):
                        yield name, path
                    else:
                        below.append((f"{name}/", path))
        level = below
