"""The run folder `runs/<name>/`: everything a training writes and everything a reader needs.

Standard library only, so that a dashboard starts without torch. The disk is the interface: flat JSON
lines, flushed one by one; whole files replaced by rename; commands consumed by rename. A reader
tolerates a half line, unknown keys and a folder that is being written.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
T = TypeVar("T")

COMMANDS = ("stop", "save", "eval", "pause", "resume")
HEARTBEAT_SECONDS = 1.0
LOCK_FILE = ".lock"
# What a full disk and a quota that is used up answer, how long a run waits for room, and how often it looks.
FULL = (errno.ENOSPC, errno.EDQUOT)
ROOM_MINUTES = 60.0
ROOM_POLL_SECONDS = 2.0
# Of `control` that are read; nobody types so many commands.
CONTROL_BYTES = 65536
# Commands that are none and are said.
UNKNOWN_SAID = 5


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file to disk that others have written."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file whole: beside, flushed to disk, renamed over the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a file name need not be UTF-8: what cannot be written as such is written as an escape
        with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A place beside a file's or folder's own, renamed into it when all is there; what stops that leaves nothing."""

    def remove() -> None:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)

    beside = path.with_name(f".{path.name}.partial")
    remove()  # of a process that was killed
    try:
        yield beside
        os.replace(beside, path)
        sync_folder(path.absolute().parent)
    except (OSError, RuntimeError, KeyboardInterrupt):
        print(f"nothing is left of {path}", file=sys.stderr)
        raise
    finally:
        remove()


def to_json_line(record: dict[str, Any]) -> str:
    """One flat record as a JSON line; non-finite numbers become null and their keys are listed in `nonfinite`."""
    nonfinite = [key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    if nonfinite:
        record = {**record, **dict.fromkeys(nonfinite), "nonfinite": nonfinite}
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    # a lone surrogate (half an emoji, a file name that is not UTF-8) becomes the escape that JSON has for it
    return line.encode("utf-8", "backslashreplace").decode()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a JSON-lines file; a half line at the end and lines that are not objects are passed over."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def append_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records to a JSON-lines file (one flush for all), whole lines only; all of them or, with OSError, none."""
    end = None
    try:
        with open(path, "ab") as file:
            end = file.tell()
            # a process killed inside a write leaves a half line: end it, so that it spoils no record of ours
            if end > 0:
                with open(path, "rb") as written:
                    written.seek(-1, os.SEEK_END)
                    if written.read(1) != b"\n":
                        file.write(b"\n")
            file.write("".join(map(to_json_line, records)).encode())
    except OSError:
        if end is not None:
            os.truncate(path, end)
        raise


def merge_steps(rows: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Rows of the same `_step` merged by key, the last value of a key counts (so a resumed run has no doubles)."""
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        step = row.get("_step")
        if isinstance(step, int):
            steps.setdefault(step, {}).update(row)
    return dict(sorted(steps.items()))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "config.json").is_file() and (
        (folder / "metrics.jsonl").exists() or last_checkpoint(folder) is not None
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `checkpoints/last` names (a link, or a text file where links are not to be had), if whole."""
    return _named_checkpoint(folder, "last")


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `checkpoints/best` names, if whole."""
    return _named_checkpoint(folder, "best")


def _named_checkpoint(folder: Path, name: str) -> Path | None:
    pointer = folder / "checkpoints" / name
    if pointer.is_dir():
        return pointer.resolve()
    if pointer.is_symlink():
        target = pointer.parent / Path(os.readlink(pointer)).name
    elif pointer.is_file():
        target = pointer.parent / Path(pointer.read_text(encoding="utf-8").strip()).name
    else:
        return None
    whole = [path for path in (target, set_aside(target)) if target.name.isdigit() and path.is_dir()]
    return whole[0] if whole else None


def way_on(run: Path, error: OSError) -> str:
    """What is safe after an error of the disk, and what to do."""
    resume = f"run python train.py --resume {run}"
    if not run.is_dir():
        return f"{run} is not there any more: bring it back and {resume}"
    previous = last_checkpoint(run)
    kept = f"the checkpoint of step {previous.name} is whole" if previous else "there is no earlier checkpoint"
    mend = "Make it writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "Make room"
    return f"{kept}. {mend} and {resume}"


def set_aside(checkpoint: Path) -> Path:
    """Where a checkpoint waits while one of the same step takes its place; there it is whole, should that be killed."""
    return checkpoint.with_name(f".{checkpoint.name}.old")


def last_choice(folder: Path) -> dict[str, Any] | None:
    """The newest choice in `sweep.jsonl`: `chosen` is false where no point kept the budget; None without a choice, or
    where the newest takes it back (`chosen` is null).
    """
    rows = [row for row in read_jsonl(folder / "sweep.jsonl") if "chosen" in row]
    return rows[-1] if rows and rows[-1]["chosen"] is not None else None


def lock(folder: Path) -> IO[str] | None:
    """Take a run folder for this process, until the file returned is closed or the process ends, however it ends.

    BlockingIOError says who has it. None, and it is said, where there are no locks: flock(2) is POSIX only, and some
    network file systems refuse it, or keep it from other hosts.
    """
    file = open(folder / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"{folder}: {holder(folder) or 'another process has just taken it'}") from None
    except OSError as error:
        file.close()
        print(f"{folder}: cannot be locked ({error.strerror}); let no second process write it", file=sys.stderr)
        return None
    file.truncate(0)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(who))
    file.flush()
    return file


def holder(folder: Path) -> str | None:
    """Who writes a run folder, in words, and what to do; None where nobody does, or there are no locks."""
    try:
        with open(folder / LOCK_FILE, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                who = json.loads(file.read())
                return (
                    f"process {who['pid']} on {who['host']} writes it since {who['since']}; wait for its end, or stop "
                    f"it: echo stop > {folder / 'control'}"
                )
    except (OSError, AttributeError, ValueError, KeyError):  # no lock yet, no locks here, or taken at this moment
        pass
    return None


class RunFolder:
    """The writer's side of a run folder; one process writes.

    `attempt` counts resumes: it is 1 for a new run. Rows carry `_step _timestamp _runtime _attempt`. Where the disk is
    full, rows and checkpoints wait for room (`wait_for_room`), at most `room_minutes`.
    """

    def __init__(
        self, path: Path, attempt: int = 1, runtime_before: float = 0.0, room_minutes: float = ROOM_MINUTES
    ) -> None:
        self.path = path
        self.attempt = attempt
        self.followers: list[Callable[[str, list[dict[str, Any]]], None]] = []
        """Told of every `append`: the file's name, and its records as they were before they became JSON."""
        self.room_minutes = room_minutes
        self.is_ending: Callable[[], bool] = lambda: False
        """Whether the run was asked to end: then nothing waits."""
        self._lock: IO[str] | None = None
        self._started = time.monotonic() - runtime_before
        self._last_beat = -math.inf
        self._refused_control = False
        self.status: dict[str, Any] = {
            "state": "starting",
            "step": 0,
            "max_steps": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "heartbeat": time.time(),
            "exit_reason": None,
            "last_command": None,
        }

    @classmethod
    def create(cls, path: Path, runtime_before: float = 0.0, room_minutes: float = ROOM_MINUTES) -> RunFolder:
        """Make the folder, or take up one that is there: `attempt` is one more than its rows know, at least 2.

        Until `release`, or the end of the process, nobody else can: BlockingIOError.
        """
        resumed = (path / "config.json").exists()
        path.mkdir(parents=True, exist_ok=True)
        held = lock(path)
        attempts = [row.get("_attempt", 0) for row in read_jsonl(path / "metrics.jsonl")]
        made = cls(path, max([int(resumed), *attempts]) + 1, runtime_before, room_minutes)
        made._lock = held
        return made

    def release(self) -> None:
        """Let others write the folder."""
        if self._lock is not None:
            self._lock.close()

    def write_config(self, record: dict[str, Any]) -> None:
        """Write config.json: what the run was started with, options and environment."""
        write_atomic(self.path / "config.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    @property
    def runtime(self) -> float:
        """Seconds of training in all attempts."""
        return time.monotonic() - self._started

    def wait_for_room(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what writes; where the disk is full say so, pause, and do it again when there is room.

        Raises the last OSError when the time is over, or the run was asked to end.
        """
        until = time.monotonic() + 60 * self.room_minutes
        state = None
        while True:
            try:
                result = write(*args, **kwargs)
            except OSError as error:
                if error.errno not in FULL or self.is_ending() or time.monotonic() >= until:
                    raise
                if state is None:
                    state = self.status["state"]
                    print(f"{error}\nwaiting for room, at most {self.room_minutes:g} minutes", file=sys.stderr)
                self.beat(state="paused", exit_reason="the disk is full")
            else:
                if state is not None:
                    self.beat(state=state, exit_reason=None)
                return result
            time.sleep(ROOM_POLL_SECONDS)

    def append(self, name: str, records: Iterable[dict[str, Any]], wait: bool = True) -> None:
        """Append records to `<name>` (one flush for all), whole lines only; a full disk is waited for."""
        rows = list(records)
        try:
            if wait:
                self.wait_for_room(append_jsonl, self.path / name, rows)
            else:
                append_jsonl(self.path / name, rows)
        except OSError as error:
            reason = f"{self.path / name} could not be written: {error.strerror}"
            raise OSError(f"{reason}; {way_on(self.path, error)}") from error
        for follow in self.followers:
            follow(name, rows)

    def log_metrics(self, step: int, values: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        self.log("metrics.jsonl", step, values)

    def log(self, name: str, step: int, values: dict[str, Any], wait: bool = True) -> None:
        """Append one row of numbers to `<name>`, headed by step and time."""
        head = {
            "_step": step,
            "_timestamp": time.time(),
            "_runtime": round(self.runtime, 3),
            "_attempt": self.attempt,
        }
        self.append(name, [{**head, **values}], wait)

    def beat(self, *, force: bool = False, **changes: Any) -> None:
        """Update status.json: at once when something changes, else at most once a second.

        Only a forced one must succeed: rows and checkpoints tell soon enough of a disk that takes nothing.
        """
        changed = any(self.status.get(key) != value for key, value in changes.items() if key != "step")
        self.status.update(changes)
        now = time.monotonic()
        if force or changed or now - self._last_beat >= HEARTBEAT_SECONDS:
            self._last_beat = now
            self.status["heartbeat"] = time.time()
            with nullcontext() if force else suppress(OSError):
                write_atomic(self.path / "status.json", json.dumps(self.status, indent=1) + "\n")

    def read_commands(self) -> list[str]:
        """Take the commands waiting in `control`, oldest first; the file is renamed away before it is read.

        Lines that are no command are passed over and said on stderr; so is, once, what is no plain file: a link or a
        device would have other things read in its place.
        """
        control, taken = self.path / "control", self.path / f".control.{os.getpid()}"
        if control.is_symlink() or not control.is_file():
            if os.path.lexists(control) and not self._refused_control:
                print(f"control: {control} is no plain file and is left alone; remove it", file=sys.stderr)
                self._refused_control = True
            return []
        try:
            os.replace(control, taken)
            with open(taken, "rb") as file:
                words = file.read(CONTROL_BYTES).decode("utf-8", "replace").split("\n")
        except FileNotFoundError:
            return []
        taken.unlink()
        commands = [word.strip() for word in words if word.strip()]
        for unknown in sorted(set(commands) - set(COMMANDS))[:UNKNOWN_SAID]:
            print(f"control: unknown command {unknown[:80]!r}; known are {', '.join(COMMANDS)}", file=sys.stderr)
        return [command for command in commands if command in COMMANDS]


class UnwrittenRun(RunFolder):
    """The run folder on ranks that do not write it: status is remembered, files are left to the main rank's."""

    def write_config(self, record: dict[str, Any]) -> None:
        """Written by the main rank."""

    def append(self, name: str, records: Iterable[dict[str, Any]], wait: bool = True) -> None:
        """Written by the main rank."""

    def beat(self, *, force: bool = False, **changes: Any) -> None:
        """Remember the status."""
        self.status.update(changes)

    def read_commands(self) -> list[str]:
        """The main rank takes them."""
        return []


def send_command(folder: Path, command: str) -> None:
    """Ask a run to do something: one of `COMMANDS`, appended to its `control` file."""
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command!r}; known are {', '.join(COMMANDS)}")
    with open(folder / "control", "a", encoding="utf-8") as file:
        file.write(command + "\n")
