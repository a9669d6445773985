"""Kill a real training at random moments and resume it, until it has finished: it must be the run that nobody killed.

`python tests/bench/kills.py --kills 100`: a small random Whisper, full fine-tuning, evaluations and a checkpoint every
second step. Each time a phase is drawn (the start, a step, an evaluation, a save, the renames at its end), and a moment
in it. All the while a reader of its own looks at every file and must never find one that it cannot read. Exit code 0
where the weights, the trainer's state, the metrics and the transcripts are those of the uninterrupted run, to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro  # noqa: F401  # imported here, once, and not in every process that is forked

# the checkout is tested, whatever is installed, with what its tests share
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from small_run import assert_same_run, make_workshop

import train
from whisper_min import runs
from whisper_min.config import InputError
from whisper_min.model import weights
from whisper_min.training import checkpoint

RENAMING = "renaming"
PHASES = ("starting", "training", "evaluating", "saving", RENAMING)
POLL_SECONDS = 0.002


def fork(work: Callable[[], int], output: Path) -> int:
    """Run something in a process of its own, without importing torch again; its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        with open(output, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(child: int) -> int:
    """Wait for a process; its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def status(run: Path) -> dict[str, Any]:
    """status.json, {} where it is not there yet."""
    try:
        found: dict[str, Any] = json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def watch(run: Path) -> int:
    """The reader: looks until the run has finished; exit code 1, and why, where a file cannot be read."""
    known: set[str] = set()
    read: tuple[str, int] | None = None
    looks = 0
    while status(run).get("state") != "finished":
        looks += 1
        for name in ("config.json", "status.json"):
            if name in known or (run / name).exists():
                known.add(name)
                json.loads((run / name).read_text())
        merged = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl"))
        steps = [step for step, row in merged.items() if "train/loss" in row]
        assert steps == list(range(1, len(steps) + 1)), f"steps are missing: {steps}"
        last = runs.last_checkpoint(run)
        assert last is not None or "last" not in known, "the last checkpoint is gone"
        if last is not None:
            known.add("last")
            try:
                identity = last.name, last.stat().st_ino
                if identity != read:
                    checkpoint.load_trainer(last)
                    weights.read_safetensors(last / checkpoint.MODEL_FILE)
                    read = identity
            except (InputError, OSError):
                # it may have given way to a newer one meanwhile; else it is damaged
                if runs.last_checkpoint(run) == last and (last.name, last.stat().st_ino) == identity:
                    raise
        time.sleep(0.1)
    print(f"the reader looked {looks} times")
    return 0


def kill_in(phase: str, child: int, run: Path, draw: random.Random) -> bool:
    """Kill a training at a moment of a phase, some steps after its start; False where it ended before that."""
    steps, at = draw.randint(0, 3), draw.random()
    began: int | None = None

    def is_there() -> bool:
        nonlocal began
        now = status(run)
        if now.get("pid") != child or now["state"] == "starting":
            return False
        began = now["step"] if began is None else began
        if now["step"] < began + steps:
            return False
        if phase == RENAMING:  # the card is the last file that is written before them
            return any((run / "checkpoints").glob(".*.partial/README.md"))
        return bool(now["state"] == phase)

    if phase == "starting":
        time.sleep(2 * at)
    else:
        while not is_there():
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(POLL_SECONDS)
        time.sleep((0.005 if phase == RENAMING else 0.1) * at)
    os.kill(child, signal.SIGKILL)
    return True


def kill_and_resume(argv: list[str], run: Path, kills: int, seed: int, output: Path) -> Counter[str]:
    """Train to the end through so many kills; how many there were in each phase."""
    draw, met = random.Random(seed), Counter[str]()
    while True:
        again = ["--resume", str(run)] if (run / "config.json").exists() else argv
        child = fork(lambda again=again: train.main(again), output)  # type: ignore[misc]
        phase = draw.choice(PHASES)
        killed = met.total() < kills and kill_in(phase, child, run, draw)
        code = finish(child)
        if code == 0:
            return met
        assert killed and code == -signal.SIGKILL, f"ended with {code}: {output.read_text()[-2000:]}"
        met[phase] += 1


def main() -> int:
    """Train undisturbed, train through kills, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        workshop = make_workshop(Path(folder))
        steps = 6 * options.kills + 10
        more = ("--max_steps", str(steps), "--save_every", "2", "--eval_every", "10", "--keep", "1")
        output = Path(folder) / "output"
        assert finish(fork(lambda: train.main(workshop.argv("whole", *more)), output)) == 0, output.read_text()[-2000:]
        run = workshop.runs / "killed"
        reader = fork(lambda: watch(run), Path(folder) / "reader")
        try:
            met = kill_and_resume(workshop.argv("killed", *more), run, options.kills, options.seed, output)
        except BaseException:
            os.kill(reader, signal.SIGKILL)
            raise
        code, told = finish(reader), (Path(folder) / "reader").read_text()
        assert code == 0, told
        assert met.total() == options.kills, f"finished after {met.total()} kills"
        whole = workshop.runs / "whole"
        assert_same_run(whole, run, steps)
        for find in (runs.last_checkpoint, runs.best_checkpoint):
            one, other = find(whole), find(run)
            assert one and other and one.name == other.name
        left = {path.name for path in (run / "checkpoints").iterdir()}
        assert left == {path.name for path in (whole / "checkpoints").iterdir()}
    phases = ", ".join(f"{count} {state}" for state, count in met.most_common())
    print(f"{options.kills} kills in {steps} steps ({phases}): weights, trainer, metrics and transcripts are equal; "
          f"{told.strip()} and could read every file; {time.monotonic() - started:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
