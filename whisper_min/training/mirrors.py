"""`--report_to`: what a run writes into its folder, shown in TensorBoard, Trackio or Weights & Biases, too.

The run folder stays the record. Each mirror works in a thread of its own behind a queue, so that one that is slow or
fails can neither hold up nor end a training: it misses rows, counted, or is switched off, and that is said.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any, Literal, Protocol

from whisper_min.runs import RunFolder

PROJECT = "whisper-min"
# Rows of metrics and tables that may wait for a mirror; what comes on top is dropped.
QUEUE_LENGTH = 1000
# How long the end of a run waits for a mirror that still has to write.
FINISH_SECONDS = 30.0
WANDB_FINISH_SECONDS = 25.0
# Clips of a set in a table, the same ones at every evaluation.
TABLE_ROWS = 50
TABLE_COLUMNS = ("id", "reference", "hypothesis", "original", "wer")

Numbers = Mapping[str, float]
Rows = Sequence[Sequence[Any]]


class Tracker(Protocol):
    """What a mirror writes to. May raise anything and take any time."""

    def log(self, step: int, numbers: Numbers) -> None:
        """Take the metrics of a step."""

    def table(self, step: int, key: str, rows: Rows) -> None:
        """Take a set's samples at a step: cells by `TABLE_COLUMNS`."""

    def finish(self) -> None:
        """Write what is left and close."""


class TensorBoard:
    """Event files in the run folder, so that `tensorboard --logdir runs` shows every run by its name."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what a killed attempt wrote after its last checkpoint is written again
        purge = None if resumed_at is None else resumed_at + 1
        self.writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def log(self, step: int, numbers: Numbers) -> None:
        """A scalar a key."""
        for key, number in numbers.items():
            self.writer.add_scalar(key, number, step)

    def table(self, step: int, key: str, rows: Rows) -> None:
        """Text, as a table in Markdown."""
        lines = [TABLE_COLUMNS, ["---"] * len(TABLE_COLUMNS), *rows]
        cells = [[" ".join(str(cell).replace("|", r"\|").split()) for cell in line] for line in lines]
        self.writer.add_text(key, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)

    def finish(self) -> None:
        """Flush and close."""
        self.writer.close()


class _Logged:
    """What Trackio and wandb have in common, for the one took over the other's ways."""

    run: Any
    make_table: Callable[..., Any]

    def log(self, step: int, numbers: Numbers) -> None:
        """A row of metrics."""
        self.run.log(dict(numbers), step=step)

    def table(self, step: int, key: str, rows: Rows) -> None:
        """A table among the step's metrics."""
        self.run.log({key: self.make_table(columns=list(TABLE_COLUMNS), data=[list(row) for row in rows])}, step=step)


class Trackio(_Logged):
    """A run of Trackio's local database, or of the Space or server that its environment variables name."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        import trackio

        self.make_table = trackio.Table
        with redirect_stdout(sys.stderr):  # its greetings are no data
            self.run = trackio.init(
                project=PROJECT,
                name=folder.name,
                config=read_config(folder),
                resume=resume_mode(resumed_at),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def finish(self) -> None:
        """Wait until all is in the database."""
        with redirect_stdout(sys.stderr):
            self.run.finish()


class WeightsAndBiases(_Logged):
    """A run of wandb, whose environment variables count: WANDB_MODE=offline, WANDB_PROJECT, WANDB_DIR, WANDB_API_KEY.

    wandb takes no steps back: what a killed attempt logged after its last checkpoint stays, and is not taken again.
    """

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        import wandb

        self.make_table = wandb.Table
        # silent: no question for a key on the terminal of the training, no lines through its progress bar
        wandb.setup(settings=wandb.Settings(silent=True))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=folder.name,
            resume=resume_mode(resumed_at),
            dir=os.environ.get("WANDB_DIR", str(folder)),
            config=read_config(folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                finish_timeout=WANDB_FINISH_SECONDS,  # else it waits for a dead network without end
                finish_timeout_raises=True,
            ),
        )

    def finish(self) -> None:
        """Wait until all is uploaded, or, offline, on the disk."""
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, int | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
}


def read_config(folder: Path) -> dict[str, Any]:
    """The run's config.json."""
    record: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return record


def resume_mode(resumed_at: int | None) -> Literal["never", "allow"]:
    """A new run never goes on in another one of its name; a resumed one does, where the mirror knows it."""
    return "never" if resumed_at is None else "allow"


class Mirror:
    """A tracker in a thread of its own, which opens it, writes to it and closes it."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.dropped = 0
        self._open = open_tracker
        self._waiting: Queue[Callable[[Tracker], None] | None] = Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            tracker = self._open()
            while (write := self._waiting.get()) is not None:
                write(tracker)
            tracker.finish()
        except BaseException as error:  # also SystemExit, which would end this thread without a word
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.say(f"--report_to {self.name}: failed and is off ({reason}); the run goes on")

    def put(self, write: Callable[[Tracker], None]) -> None:
        """Leave something to write; never waits."""
        if self._thread.is_alive():
            try:
                self._waiting.put_nowait(write)
            except Full:
                self.dropped += 1

    def finish(self) -> None:
        """Wait a while for what is still to be written, and say what was not."""
        if self._thread.is_alive():
            with suppress(Full):
                self._waiting.put(None, timeout=FINISH_SECONDS)
            self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self.say(f"--report_to {self.name}: has not finished in {FINISH_SECONDS:.0f} s and is left behind")
        if self.dropped:
            self.say(f"--report_to {self.name}: too slow for the run; {self.dropped} rows are missing there")


class Mirrors:
    """All mirrors of a run, told by its folder of what is appended to metrics.jsonl and samples.jsonl.

    Keys and steps are those of metrics.jsonl without `_timestamp` and its like; what is not finite is left out.
    """

    def __init__(self, names: Sequence[str], run: RunFolder, say: Callable[[str], None]) -> None:
        resumed_at = run.status["step"] if run.attempt > 1 else None
        self.say = say
        self.mirrors = [
            Mirror(name, lambda name=name: TRACKERS[name](run.path, resumed_at), say)  # type: ignore[misc]
            for name in names
        ]
        self._shortened: set[str] = set()
        if self.mirrors:
            run.followers.append(self.follow)

    def follow(self, file: str, rows: list[dict[str, Any]]) -> None:
        """Pass on what was appended to a file of the run folder."""
        if file == "metrics.jsonl":
            for row in rows:
                self._pass_on_metrics(row["_step"], finite_numbers(row))
        elif file == "samples.jsonl" and rows:
            self._pass_on_samples(rows[0]["_step"], rows[0]["set"], rows)  # an evaluation appends a set at a time

    def _pass_on_metrics(self, step: int, numbers: dict[str, float]) -> None:
        for mirror in self.mirrors:
            mirror.put(lambda tracker: tracker.log(step, numbers))

    def _pass_on_samples(self, step: int, name: str, rows: list[dict[str, Any]]) -> None:
        if len(rows) > TABLE_ROWS and name not in self._shortened:
            self._shortened.add(name)
            self.say(f"{name}: mirrors show the first {TABLE_ROWS} of {len(rows)} clips; samples.jsonl has all")
        cells = [[row[column] for column in TABLE_COLUMNS] for row in rows[:TABLE_ROWS]]
        for mirror in self.mirrors:
            mirror.put(lambda tracker: tracker.table(step, f"samples/{name}", cells))

    def finish(self) -> None:
        """Let every mirror write what it still has."""
        for mirror in self.mirrors:
            mirror.finish()


def finite_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row of metrics.jsonl, without its head and without what is null there."""
    return {
        key: value
        for key, value in row.items()
        if not key.startswith("_") and isinstance(value, int | float) and math.isfinite(value)
    }
