"""What a person sees: a calm progress line in a terminal, plain lines elsewhere, and train.log with all of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from whisper_min.text import visible

# Seconds between plain progress lines where stderr is no terminal.
PLAIN_LINE_SECONDS = 10.0


class Reporter:
    """Prints on stderr and, once there is a run folder, into train.log; of several ranks, only the main one's does."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.started = time.monotonic()
        """When the program began."""
        self.console = Console(stderr=True, quiet=rank > 0, force_terminal=False if rank > 0 else None)
        self.stdout = Console(quiet=rank > 0)
        self.log: Console | None = None
        self._next_line = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)

    def log_to(self, path: Path) -> None:
        """Append everything printed from now on to a file, too."""
        if self.rank > 0:
            return
        self.log = Console(file=open(path, "a", encoding="utf-8", buffering=1), width=120, no_color=True)  # noqa: SIM115

    def print(self, *what: RenderableType, sep: str = " ") -> None:
        """Print on stderr and into the log; what names files or holds their texts cannot steer the terminal."""
        shown = ["\n".join(map(visible, each.split("\n"))) if isinstance(each, str) else each for each in what]
        self.console.print(*shown, sep=sep, markup=False, highlight=False, soft_wrap=True)
        if self.log is not None:
            with suppress(OSError):  # a full disk: what matters more will wait for room, and say so
                self.log.print(*shown, sep=sep, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print what must be heard from any rank."""
        if self.rank > 0:
            print(f"rank {self.rank}: {visible(text)}", file=sys.stderr)
        else:
            self.print(text)

    @contextmanager
    def bar(self, description: str, total: int, completed: int = 0) -> Iterator[TaskID]:
        """A progress line for as long as something takes."""
        with self.bars if not self.bars.live.is_started else _nothing():
            task = self.bars.add_task(description, total=total, completed=completed, numbers="")
            try:
                yield task
            finally:
                self.bars.remove_task(task)

    def advance(self, task: TaskID, completed: int, numbers: str = "") -> None:
        """Move a progress line; where there is no terminal, say it in plain words every few seconds."""
        self.bars.update(task, completed=completed, numbers=numbers)
        if not self.console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_LINE_SECONDS
            bar = self.bars.tasks[self.bars.task_ids.index(task)]
            words = [f"{bar.description} {completed}/{bar.total:.0f}"]
            words += [f"  {numbers}"] if numbers else []
            words += [f", {bar.time_remaining:.0f} s left"] if bar.time_remaining else []
            self.print("".join(words))


@contextmanager
def _nothing() -> Iterator[Any]:
    yield
