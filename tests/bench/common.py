"""What the benchmarks share: arms in fresh processes, interleaved round by round, one table, RESULTS.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

# The checkout is measured, whatever is installed; so the scripts import this module before whisper_min.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from whisper_min import audio, config
from whisper_min.config import InputError
from whisper_min.data import sources
from whisper_min.data.examples import Example
from whisper_min.scoring import decode

REPOSITORY = Path(__file__).resolve().parents[2]
SPEECH = Path(os.environ.get("WHISPER_MIN_SPEECH", REPOSITORY.parent / "shared" / "data"))
RESULTS = Path(__file__).with_name("RESULTS.md")
THREADS = os.cpu_count() or 1
Result = dict[str, Any]
# title, columns, rows, notes
Report = tuple[str, list[str], list[list[str]], list[str]]


def manifest(name: str) -> Path:
    """The manifest of a speech set."""
    path = SPEECH / name / "manifest.jsonl"
    if not path.is_file():
        raise InputError(f"{path} is missing: set WHISPER_MIN_SPEECH; tests/bench/make_speech_sets.py makes the sets")
    return path


def examples_of(data: str, clips: int) -> list[Example]:
    """The first clips of a manifest, or of a speech set by its name, that Whisper's window holds."""
    examples = sources.read_manifest(Path(data) if Path(data).is_file() else manifest(data))
    short = [each for each in examples if not decode.is_long(audio.info(each.audio_filepath).seconds)]
    if not 0 < clips <= len(short):
        raise InputError(f"--clips {clips}: {data} holds {len(short)} clips of at most 30 s")
    return short[:clips]


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def now() -> np.ndarray:
    """Seconds on the wall and of this process's CPU time, all threads: (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


class Stopwatch:
    """Takes each step's time twice: the step itself, and all since the step before."""

    def __init__(self) -> None:
        self.steps: list[np.ndarray] = []
        self.laps: list[np.ndarray] = []
        self.ended = self.begun = now()

    def begin(self) -> None:
        """The step begins: its input is there."""
        self.begun = now()

    def end(self) -> None:
        """The step has ended."""
        time = now()
        self.steps.append(time - self.begun)
        self.laps.append(time - self.ended)
        self.ended = time


def resident_megabytes() -> float:
    """Resident memory of this process."""
    return float(psutil.Process().memory_info().rss / 1e6)


def peak_megabytes() -> float:
    """Peak resident memory of this process since its start.

    On Linux ru_maxrss begins with what the parent held when it forked; VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def options(about: str, arms: Sequence[str], default: Sequence[str], rounds: int) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="fresh processes of each arm")
    parser.add_argument("--arms", nargs="+", choices=arms, default=default, metavar="NAME", help=", ".join(arms))
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--arm", choices=arms, help=argparse.SUPPRESS)  # one arm, in this process
    return parser


def run(
    args: argparse.Namespace,
    run_arm: Callable[[argparse.Namespace], Result],
    tabulate: Callable[[argparse.Namespace, dict[str, list[Result]]], Report],
    speech: str | None,
    packages: Sequence[str],
    optional: Sequence[str] = (),
) -> int:
    """Measure every arm in fresh processes and report; in such a process, measure one.

    Exit code: 0, 1 where an arm failed, 2 where something is missing, 130 after Ctrl-C.
    """
    try:
        if speech:
            manifest(speech)
        if missing := [name for name in packages if version(name) is None]:
            raise InputError(f"not installed: {', '.join(missing)}; pip install -e '.[bench]'")
        if args.arm:
            torch.set_num_threads(THREADS)
            print(json.dumps(run_arm(args)))
            return 0
        where = environment([*packages, *optional])
        section = show(*tabulate(args, interleave(args.arms, args.rounds)), where)
        if args.write:
            append(section)
    except InputError as error:
        return config.print_faults(error)
    except subprocess.CalledProcessError as error:
        print(f"failed: {shlex.join(error.cmd)}", file=sys.stderr)
        return error.returncode if error.returncode == 2 else 1
    except KeyboardInterrupt:
        return 130
    return 0


def interleave(arms: Sequence[str], rounds: int) -> dict[str, list[Result]]:
    """Run every arm once a round, each time in a fresh process: arm -> its results, one a round.

    The process is the same command with `--arm NAME`; the last line that it prints is its result as JSON.
    """
    results: dict[str, list[Result]] = {arm: [] for arm in arms}
    for each in range(rounds):
        for arm in arms:
            started = time.perf_counter()
            command = [sys.executable, *sys.argv, "--arm", arm]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[arm].append(json.loads(done.stdout.splitlines()[-1]))
            seconds = time.perf_counter() - started
            print(f"round {each + 1} of {rounds}, {arm}: {seconds:.0f} s in all", file=sys.stderr)
    return results


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and the smallest and largest in brackets."""
    middle, low, high = (f"{number:.{digits}f}" for number in (np.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def ratio(ours: Sequence[float], base: Sequence[float]) -> str:
    """Median over the rounds of one arm by another's."""
    return f"{np.median(np.divide(ours, base)):.2f}"


def environment(packages: Sequence[str]) -> list[str]:
    """Lines that say where the numbers come from."""
    try:
        entries = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in entries)}
        cpu = f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
    except (OSError, KeyError):
        cpu = platform.processor() or platform.machine()
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.strip()
    versions = [f"{name} {found}" for name in packages if (found := version(name))]
    return [
        f"`{shlex.join(['python', str(Path(sys.argv[0]).resolve().relative_to(REPOSITORY)), *sys.argv[1:]])}`",
        f"{cpu}, {THREADS} cores, load {os.getloadavg()[0]:.1f} at the start",
        f"whisper-min {described or 'without git'}, Python {platform.python_version()}, {', '.join(versions)}",
    ]


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], where: Sequence[str]
) -> str:
    """Print the table, and return the same as a section of RESULTS.md."""
    console, table = Console(), Table(title=title, title_justify="left")
    if not console.is_terminal:
        console.width = 200
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    print(*notes, *where, sep="\n")
    lines = [f"## {time.strftime('%Y-%m-%d %H:%M')}: {title}", "", *(f"- {line}" for line in where), ""]
    lines += [f"| {' | '.join(row)} |" for row in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows)]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def append(section: str) -> None:
    """Add a section at the end of RESULTS.md."""
    before = RESULTS.read_text(encoding="utf-8").rstrip() if RESULTS.is_file() else "# Measured"
    RESULTS.write_text(f"{before}\n\n{section.rstrip()}\n", encoding="utf-8")
    print(f"added to {RESULTS.relative_to(REPOSITORY)}", file=sys.stderr)
