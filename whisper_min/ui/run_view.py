"""One run as the screens see it: read from disk a slice at a time, no screen and no thread involved."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from whisper_min.ui.table import Table
from whisper_min.ui.tail import Document, Tail, parse_records

ENDED = ("finished", "failed", "stopped")
# The state of a run whose process is gone, and of one that lives but has not been heard of for long.
CRASHED, STALLED = "crashed", "stalled"
# Silence is judged by the run's own pace: this many of its steps, but never less than the seconds.
QUIET_STEPS, QUIET_SECONDS = 10, 60.0
# On another host nobody can ask for the process: after this it counts as gone (W&B's LEET waits as long).
GONE_SECONDS = 600.0
LOG_BYTES, LOG_LINES = 1 << 20, 20_000
# How much of a long file is looked at before it is read whole: its end, and backwards to the last evaluation.
PEEK_BYTES, PEEK_EVALUATION = 1 << 16, 1 << 23
NOT_SETS = ("non_speech", "pooled_general")
SampleKey = tuple[str, str]


class Deadline:
    """So much of the processor may be spent, and no more than four times that on the wall (a slow disk's share).

    By the processor's time: on a machine busy with training, the clock on the wall would be over before a line is read.
    """

    def __init__(self, seconds: float) -> None:
        self._cpu, self._wall = time.thread_time() + seconds, time.perf_counter() + 4 * seconds

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return time.thread_time() >= self._cpu or time.perf_counter() >= self._wall


class RunView:
    """One run: what its folder holds, as far as it was read. `version` grows whenever something changed.

    `samples`, `system` and `log` are read while the run is watched (selected or marked) alone.
    """

    def __init__(self, path: Path, name: str, number: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.path, self.name, self.clock = path, name, clock
        self.number = number
        """Given at first sight and kept: what the run's colour goes by."""
        self.version = 0
        self.metrics = Table()
        self.system = Table(one_a_step=False)
        self.samples: dict[SampleKey, list[dict[str, Any]]] = {}
        """(set, id) -> the utterance's rows in the order of steps."""
        self.samples_version = 0
        self.sweep: list[dict[str, Any]] = []
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.log_count = 0
        """Lines read of the log so far, also those that `log` has dropped."""
        self._config, self._status = Document(path / "config.json"), Document(path / "status.json")
        self._tails: dict[str, Tail] = {}
        self._restarts: dict[str, int] = {}
        self._preview: Table | None = None
        self._complete = False
        self._computed: dict[str, tuple[int, Any]] = {}
        self._heartbeat_seen: tuple[Any, float | None] = (None, None)
        self._watched = False

    # ---- Reading.

    def refresh(self) -> None:
        """Look at the small files."""
        changed = self._config.refresh() | self._status.refresh()
        beat = self.status.get("heartbeat")
        if beat != self._heartbeat_seen[0]:
            # the first beat seen may be old; from the second on our own clock counts, whatever the host's says
            self._heartbeat_seen = (beat, None if self._heartbeat_seen[0] is None else self.clock())
        self.version += changed

    def read(self, watched: bool, deadline: Deadline) -> bool:
        """Read on until the deadline; whether all is read that is known of."""
        if watched != self._watched:
            self._watch(watched)
        done = self._read_file("metrics.jsonl", self._take_metrics, deadline)
        if done:
            self.version += self._preview is not None  # what was a glimpse is the whole now
            self._preview, self._complete = None, True
        elif self._preview is None and not self._complete:
            self._peek()
        done &= self._read_file("sweep.jsonl", self._take_sweep, deadline)
        if watched:
            done &= self._read_file("train.log", self._take_log, deadline)
            done &= self._read_file("samples.jsonl", self._take_samples, deadline)
            done &= self._read_file("system.jsonl", self._take_system, deadline)
        return done

    def _watch(self, watched: bool) -> None:
        """Forget what only a watched run needs."""
        self._watched = watched
        if not watched:
            for name in ("train.log", "samples.jsonl", "system.jsonl"):
                self._tails.pop(name, None)
                self._clear(name)

    def _clear(self, name: str) -> None:
        """Drop what was gathered from a file: it starts anew."""
        if name == "metrics.jsonl":
            self.metrics, self._preview, self._complete = Table(), None, False
        elif name == "system.jsonl":
            self.system = Table(one_a_step=False)
        elif name == "samples.jsonl":
            self.samples = {}
            self.samples_version += 1
        elif name == "sweep.jsonl":
            self.sweep = []
        else:
            self.log.clear()
            self.log_count = 0
        self.version += 1

    def _read_file(self, name: str, take: Callable[[list[bytes]], None], deadline: Deadline) -> bool:
        tail = self._tails.get(name)
        if tail is None:
            last = LOG_BYTES if name == "train.log" else None
            tail = self._tails[name] = Tail(self.path / name, last)
            self._restarts[name] = 0
        while not deadline.over:
            before = tail.offset
            lines = tail.read()
            if tail.restarts != self._restarts[name]:
                self._restarts[name] = tail.restarts
                self._clear(name)
            if lines:
                take(lines)
                self.version += 1
            if tail.offset == before:
                return True  # at the end, or at a half line
        return False

    def _take_metrics(self, lines: list[bytes]) -> None:
        self.metrics.extend(parse_records(lines))

    def _take_system(self, lines: list[bytes]) -> None:
        self.system.extend(parse_records(lines))

    def _take_sweep(self, lines: list[bytes]) -> None:
        self.sweep += parse_records(lines)

    def _take_log(self, lines: list[bytes]) -> None:
        self.log.extend(line.decode("utf-8", "replace").rstrip("\r") for line in lines)
        self.log_count += len(lines)

    def _take_samples(self, lines: list[bytes]) -> None:
        for row in parse_records(lines):
            if not (type(row.get("_step")) is int and isinstance(row.get("id"), str)):
                continue
            rows = self.samples.setdefault((str(row.get("set", "")), row["id"]), [])
            if rows:
                # what does not change along a run is kept once
                row = {
                    key: rows[0].get(key, value) if rows[0].get(key) == value else value for key, value in row.items()
                }
            while rows and rows[-1]["_step"] >= row["_step"]:
                rows.pop()  # a resumed run evaluates a step again
            rows.append(row)
        self.samples_version += 1

    def _peek(self) -> None:
        """Of a long file that is not read yet: its first rows, its last ones and the last evaluation."""
        self._preview = Table()
        with contextlib.suppress(OSError), open(self.path / "metrics.jsonl", "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= 2 * PEEK_BYTES:
                return
            file.seek(0)
            lines = file.read(PEEK_BYTES).split(b"\n")[:-1]
            end = size
            while end > max(0, size - PEEK_EVALUATION):
                start = max(0, end - (1 << 20))
                file.seek(start)
                piece = file.read(end - start)
                at = piece.rfind(b'"eval/')
                if at >= 0:
                    file.seek(start + piece.rfind(b"\n", 0, at) + 1)
                    lines.append(file.readline(PEEK_BYTES))
                    break
                end = start
            file.seek(size - PEEK_BYTES)
            lines += file.read(PEEK_BYTES).split(b"\n")[1:-1]
            self._preview.extend(parse_records(lines))
        self.version += 1

    # ---- What the screens ask.

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return self._config.value

    @property
    def status(self) -> dict[str, Any]:
        """status.json."""
        return self._status.value

    @property
    def loading(self) -> bool:
        """Whether metrics.jsonl is not read to its end yet."""
        return self._preview is not None

    @property
    def bytes_behind(self) -> int:
        """Bytes not read yet."""
        return sum(tail.behind for tail in self._tails.values())

    def newest(self, key: str) -> float:
        """The newest value of a metric, also before the file is read whole; NaN where there is none."""
        return (self._preview if self._preview is not None and key in self._preview else self.metrics).last(key)

    def oldest(self, key: str) -> float:
        """The first value of a metric (the original's, for an evaluation at step 0); NaN where there is none."""
        table = self.metrics if key in self.metrics else self._preview
        series = table.get(key) if table is not None else None
        return series.first if series else math.nan

    @property
    def step(self) -> int | None:
        """Where the run is."""
        step = self.status.get("step")
        if type(step) is int:
            return step
        series = (self._preview or self.metrics).get("train/loss")
        return int(series.steps[-1]) if series else None

    @property
    def max_steps(self) -> int | None:
        """Where it ends."""
        for record in (self.status, self.config):
            if type(record.get("max_steps")) is int:
                return int(record["max_steps"])
        return None

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the run was last heard of; None where it never was."""
        beat, seen = self._heartbeat_seen
        if not isinstance(beat, (int, float)) or not math.isfinite(beat):
            return None
        return max(0.0, self.clock() - (seen if seen is not None else beat))

    @property
    def on_this_host(self) -> bool:
        """Whether the run's process would be on this machine."""
        return self.status.get("host") == socket.gethostname()

    @property
    def state(self) -> str:
        """What status.json says, or `crashed` or `stalled` where the run fell silent; `unknown` without one."""
        said = self.status.get("state")
        if not isinstance(said, str):
            return "unknown"
        if said in ENDED:
            return said
        age, pid = self.heartbeat_age, self.status.get("pid")
        if self.on_this_host and type(pid) is int and not process_lives(pid):
            return CRASHED
        # a start downloads, compiles and reads data without a beat
        quiet = max(QUIET_SECONDS, QUIET_STEPS * (self.seconds_per_step or 0.0), 900.0 * (said == "starting"))
        if age is not None and age > quiet:
            return CRASHED if not self.on_this_host and age > max(GONE_SECONDS, quiet) else STALLED
        return said

    @property
    def alive(self) -> bool:
        """Whether a process is there that would hear a command."""
        return self.state not in (*ENDED, CRASHED, "unknown")

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What was computed from this version already; asked for many times a tick."""
        known = self._computed.get(name)
        if known is None or known[0] != self.version:
            known = self._computed[name] = (self.version, compute())
        return known[1]

    @property
    def seconds_per_step(self) -> float | None:
        """Median over the newest steps; evaluations between them do not count."""
        pace: float | None = self._once("pace", self._pace)
        return pace

    def _pace(self) -> float | None:
        series = (self._preview or self.metrics).get("train/loss")
        if series is None or len(series) < 2:
            return None
        steps, seconds = np.diff(series.steps[-200:]), np.diff(series.runtimes[-200:])
        paces = seconds[steps > 0] / steps[steps > 0]
        paces = paces[np.isfinite(paces) & (paces > 0)]
        return float(np.median(paces)) if len(paces) else None

    @property
    def eta(self) -> float | None:
        """Seconds left, evaluations included; None where nobody knows."""
        pace, step, end = self.seconds_per_step, self.step, self.max_steps
        if not self.alive or pace is None or step is None or end is None:
            return None
        left = max(0, end - step)
        every = self.config.get("eval_every")
        evaluations = -(-left // every) if type(every) is int and every > 0 else 0
        costs = [self.newest(f"eval/{name}/decode_seconds") for name in [*self.domain_sets, *self.general_sets]]
        return left * pace + evaluations * sum(cost for cost in costs if math.isfinite(cost))

    # ---- Word error rates.

    @property
    def eval_sets(self) -> list[str]:
        """Names of the sets that were evaluated, in the order of the command line."""
        sets: list[str] = self._once("sets", self._eval_sets)
        return sets

    def _eval_sets(self) -> list[str]:
        table = self._preview or self.metrics
        found = {key.split("/")[1] for key in table if re.fullmatch(r"eval/[^/]+/(wer|drift)", key)} - {*NOT_SETS}
        order = [set_name(word) for key in ("eval_data", "retain") for word in as_list(self.config.get(key))]
        return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))

    @property
    def general_sets(self) -> list[str]:
        """The sets of everything else (`--retain`)."""
        sets: list[str] = self._once("general sets", self._general_sets)
        return sets

    def _general_sets(self) -> list[str]:
        named = {set_name(word) for word in as_list(self.config.get("retain"))} | {"general"}
        return [name for name in self.eval_sets if name in named]

    @property
    def domain_sets(self) -> list[str]:
        """The sets of the domain (`--eval_data`, or what was held out)."""
        general = self.general_sets
        return [name for name in self.eval_sets if name not in general]

    @property
    def domain_wer(self) -> tuple[float, float]:
        """Mean over the domain's sets: the first (the original's) and the newest, as fractions; NaN if unknown."""
        both: tuple[float, float] = self._once(
            "domain", lambda: (self._mean_wer(self.oldest), self._mean_wer(self.newest))
        )
        return both

    def _mean_wer(self, value: Callable[[str], float]) -> float:
        rates = [rate for name in self.domain_sets if math.isfinite(rate := value(f"eval/{name}/wer"))]
        return sum(rates) / len(rates) if rates else math.nan

    @property
    def general_wer(self) -> tuple[float, float]:
        """The general sets pooled as one count of errors: the first (the original's) and the newest."""
        both: tuple[float, float] = self._once(
            "general", lambda: (self._pooled_wer(self.oldest), self._pooled_wer(self.newest))
        )
        return both

    def _pooled_wer(self, value: Callable[[str], float]) -> float:
        errors = words = 0.0
        for name in self.general_sets:
            count, rate = value(f"eval/{name}/words"), value(f"eval/{name}/wer")
            if math.isfinite(rate):
                errors, words = errors + rate * (count if count > 0 else 1), words + (count if count > 0 else 1)
        return errors / words if words else math.nan


def as_list(value: Any) -> list[str]:
    """An option that takes several words, whatever a foreign config.json holds there."""
    words = value if isinstance(value, list) else [value]
    return [word for word in words if isinstance(word, str)]


def set_name(word: str) -> str:
    """The name of a set `[name=]source[:split]`, as train.py gives it."""
    name, equals, _ = word.partition("=")
    if not equals or "/" in name:
        path, _, split = word.partition(":") if ":" in word else (word, "", "")
        where = Path(path)
        stem = where.stem if where.suffix else where.name
        name = split.rpartition(":")[2] or (where.parent.name if stem == "manifest" else stem)
    return re.sub(r"[^\w.-]+", "-", name)


def process_lives(pid: int) -> bool:
    """Whether a process of this number is there."""
    if os.name != "posix":
        import psutil  # late: signal 0 would end a process on Windows

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except OSError:
        return True
    return True
