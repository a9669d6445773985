"""Damaged and hostile inputs for every parser, any number of them: what broke, the slowest, the memory.

    python tests/bench/fuzz.py --inputs 100000 --out fuzz/
    python tests/bench/fuzz.py --inputs 100000 --parsers tar control

Each parser runs in a process of its own, so that what kills or hangs it is told like any other crash. A crash's input
is saved, shrunk, in the folder of --out, beside fuzz.json, which keeps what other parsers did before. Ctrl-C ends with
what was found until then. Each input is a file: with TMPDIR=/dev/shm they spare the disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common  # it makes the checkout importable
import fuzz
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

# Seconds on the clock after which an input counts as hung, also where the processor is shared.
HUNG = 20.0
# Inputs that a process tries before what it found is known.
AT_ONCE = 2000
FORKED = multiprocessing.get_context("fork")


def work(name: str, first: int, last: int, at: Synchronized[int], answer: Any) -> None:
    """In a process of its own: try inputs, and say which is being tried."""
    found = fuzz.Found()

    def before(index: int) -> None:
        at.value = index

    sys.stderr = open("/dev/null", "w")  # noqa: SIM115  # for as long as the process lives
    fuzz.run(fuzz.PARSERS[name], range(first, last), found, before)
    answer.send(asdict(found))


def try_parser(name: str, inputs: int, progress: Progress) -> Iterator[tuple[fuzz.Found, float]]:
    """(what the inputs of a parser did, seconds), told again and again until there were so many."""
    total, started, first = fuzz.Found(), time.perf_counter(), 0
    task = progress.add_task(name, total=inputs)
    try:
        while first < inputs:
            last = min(inputs, first + AT_ONCE)
            at, (mine, theirs) = FORKED.Value("q", first - 1), FORKED.Pipe(False)
            process = FORKED.Process(target=work, args=(name, first, last, at, theirs))
            process.start()
            theirs.close()
            seen, since, hung = at.value, time.monotonic(), False
            while process.is_alive() and not mine.poll(0.2):
                if at.value != seen:
                    seen, since = at.value, time.monotonic()
                elif hung := time.monotonic() - since > HUNG:
                    process.kill()
                progress.update(task, completed=max(first, at.value))
            try:
                part = fuzz.Found(**mine.recv())
            except EOFError:
                process.join()
                told = "hung" if hung else f"ended by {process.exitcode}"
                part = fuzz.Found(at.value + 1 - first, crashes={told: at.value})  # the rest of what it found is lost
                last = at.value + 1
            process.join()
            total.inputs += part.inputs
            total.refused += part.refused
            total.crashes = {**part.crashes, **total.crashes}
            total.slowest, total.memory = max(total.slowest, part.slowest), max(total.memory, part.memory)
            first = last
            yield total, time.perf_counter() - started
    finally:
        progress.remove_task(task)


def main() -> int:
    """Fuzz as the command line says; exit code 1 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--parsers", nargs="+", choices=list(fuzz.PARSERS), default=list(fuzz.PARSERS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("fuzz"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console, kept = Console(stderr=True), options.out / "fuzz.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    with suppress(KeyboardInterrupt), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for name in options.parsers:
            for found, seconds in try_parser(name, options.inputs, bar):
                results[name] = {**asdict(found), "seconds": round(seconds, 1)}
                kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = Table(*("parser", "inputs", "refused", "crashes", "slowest", "more memory", "took"))
    for name, its in results.items():
        counts = f"{its['inputs']:,}", f"{its['refused']:,}", str(len(its["crashes"]))
        costs = f"{its['slowest']:.2f} s", f"{its['memory'] >> 20} MB", f"{its['seconds']:.0f} s"
        table.add_row(name, *counts, *costs)
        for number, (told, index) in enumerate(its["crashes"].items()):
            console.print(f"{name}, input {index}: {told}", markup=False, highlight=False, soft_wrap=True)
            killed = told.startswith(("hung", "ended"))
            data = fuzz.mutate(fuzz.PARSERS[name].seeds(), index) if killed else fuzz.shrink(fuzz.PARSERS[name], index)
            (options.out / f"{name.replace(' ', '-')}-{number}").write_bytes(data)
    Console().print(table)
    print(*common.environment(["torch", "safetensors", "soundfile", "pyarrow"]), sep="\n")
    return int(any(each["crashes"] for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
