"""A long training in fast motion: memory, open handles and the time of a step must be the same at its end as early on.

`python tests/bench/soak.py --steps 50000`: a small random Whisper, one clip a step, its encoder frozen and its output
kept, fifty evaluations and a hundred checkpoints. Exit code 1 where something grew between the second fifth of the
steps, when all caches are filled, and the last one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

# the checkout is tested, whatever is installed, with what its tests share
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from small_run import make_workshop

import train
from whisper_min import runs
from whisper_min.runs import RunFolder

# What is no growth yet, and how many steps it takes to tell that of their time from other work on the machine.
MEMORY_GROWTH, TIME_GROWTH, TIMED_STEPS = 0.05, 0.2, 10_000


class Gauge:
    """What the process holds, looked at after every hundredth of the steps."""

    def __init__(self, steps: int) -> None:
        self.process, self.every = psutil.Process(), max(1, steps // 100)
        self.steps: list[int] = []
        self.memory: list[int] = []
        self.handles: list[int] = []
        self.threads: list[int] = []

    def look(self, step: int) -> None:
        """One look, between two steps."""
        if step % self.every or step in self.steps[-1:]:
            return
        self.steps.append(step)
        self.memory.append(self.process.memory_info().rss)
        self.handles.append(self.process.num_fds())
        self.threads.append(threading.active_count())


def main() -> int:
    """Train, and compare the last fifth of the run with the second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    options = parser.parse_args()
    steps, gauge = options.steps, Gauge(options.steps)
    log_metrics = RunFolder.log_metrics

    def log_and_look(run: RunFolder, step: int, values: dict[str, Any]) -> None:
        log_metrics(run, step, values)
        gauge.look(step)

    RunFolder.log_metrics = log_and_look  # type: ignore[method-assign]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        workshop = make_workshop(Path(folder))
        more = ("--max_steps", str(steps), "--eval_every", str(max(20, steps // 50)), "--batch_size", "1")
        more += ("--save_every", str(max(10, steps // 100)), "--keep", "1", "--freeze_encoder")
        assert train.main(workshop.argv("soak", *more, retain=False)) == 0
        merged = runs.merge_steps(runs.read_jsonl(workshop.runs / "soak" / "metrics.jsonl"))
        seconds = np.array([1 / row["perf/samples_per_second"] for row in merged.values() if "train/loss" in row])
    fifth = len(gauge.steps) // 5
    early, late = slice(fifth, 2 * fifth), slice(-fifth, None)
    memory, handles = np.array(gauge.memory) / 1e6, np.array(gauge.handles)
    times = [float(np.median(seconds[part])) for part in (slice(steps // 5, 2 * steps // 5), slice(-steps // 5, None))]
    faults = []
    if np.median(memory[late]) > (1 + MEMORY_GROWTH) * np.median(memory[early]):
        faults.append("memory grows")
    if handles[late].max() > handles[early].max() or max(gauge.threads[late]) > max(gauge.threads[early]):
        faults.append("handles or threads grow")
    if steps >= TIMED_STEPS and times[1] > (1 + TIME_GROWTH) * times[0]:
        faults.append("steps take longer")
    told = [
        f"memory {np.median(memory[early]):.0f} to {np.median(memory[late]):.0f} MB",
        f"handles at most {handles[early].max()} and {handles[late].max()}",
        f"threads {max(gauge.threads[early])} and {max(gauge.threads[late])}",
        f"a step {1000 * times[0]:.1f} to {1000 * times[1]:.1f} ms",
    ]
    print(f"{steps} steps in {time.monotonic() - started:.0f} s: {', '.join(told)}: {'; '.join(faults) or 'flat'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
