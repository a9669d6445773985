"""The terminal app on many long runs, in a real pseudo-terminal: first paint, a tick, idle, memory.

    python tests/bench/terminal.py --runs 20 --rows 100000

The runs are made up, of the shape that train.py writes. First paint: from the start of Python until every run's newest
values and the selected run's whole curves are drawn. A tick: CPU of the whole process, drawing included, by the ticks
in a window in which three runs get a row each tick. Idle: the same with nothing new.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

WINDOW_SECONDS = 20.0
LIVE_RUNS = 3


def make_runs(folder: Path, runs: int, rows: int) -> None:
    """One run, and copies of it: what is in the rows does not matter, their number does."""
    from fake_run import evaluation_row, make_run, train_row

    def lines() -> Any:
        for step in range(1, rows + 1):
            yield {
                "_step": step,
                "_timestamp": 1.7e9 + step / 4,
                "_runtime": step / 4,
                "_attempt": 1,
                **train_row(step),
            }
            if step % 1000 == 0:
                row = evaluation_row(step, 0.4 - 0.2 * step / rows, 0.05)
                yield {"_step": step, "_timestamp": 1.7e9 + step / 4, "_runtime": step / 4, "_attempt": 1, **row}

    first = make_run(folder, "run-00", 0, state="training", max_steps=2 * rows)
    first.append("metrics.jsonl", lines())
    first.beat(force=True, step=rows, max_steps=2 * rows)
    for number in range(1, runs):
        shutil.copytree(folder / "run-00", folder / f"run-{number:02}")


def child(folder: Path, report: Path, tab: str) -> None:
    """The app, with a stop watch."""
    os.environ.setdefault("TEXTUAL_FPS", "15")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    import psutil

    from whisper_min.ui.app import WhisperApp

    process = psutil.Process()
    found: dict[str, Any] = {"tab": tab}

    def tell(**values: Any) -> None:
        found.update(values, memory=process.memory_info().rss / 1e6)
        report.with_suffix(".new").write_text(json.dumps(found))
        os.replace(report.with_suffix(".new"), report)

    class Timed(WhisperApp):
        ticks = 0
        longest = 0.0
        window: tuple[str, float, float, int] | None = None

        def _start(self) -> None:
            super()._start()
            if tab != "runs":
                self.action_tab(tab)

        def _tick(self) -> None:
            before = time.process_time()
            super()._tick()
            self.ticks += 1
            self.longest = max(self.longest, time.process_time() - before) if "first" in found else 0.0
            if "painted" not in found and self.selected is not None and not self.selected.loading:
                self.draw()
                found["painted"] = True
                self.call_after_refresh(self._painted)
            elif "first" in found and "read" not in found and not self.workspace.loading:
                wall = time.time() - process.create_time()
                tell(read=wall, read_cpu=time.process_time(), longest=self.longest)
                self.begin("settle", 5.0)

        def _painted(self) -> None:
            known = all(run.domain_wer[1] == run.domain_wer[1] for run in self.workspace.runs.values())
            assert known, "a run's newest error rate is not known"
            tell(first=time.time() - process.create_time(), first_cpu=time.process_time())

        def begin(self, name: str, seconds: float = WINDOW_SECONDS) -> None:
            self.window = (name, time.monotonic(), time.process_time(), self.ticks)
            self.set_timer(seconds, self.end)

        def end(self) -> None:
            assert self.window is not None
            name, wall, cpu, ticks = self.window
            wall, cpu, ticks = time.monotonic() - wall, time.process_time() - cpu, self.ticks - ticks
            tell(**{name: {"share": cpu / wall, "tick_ms": 1000 * cpu / ticks}})
            following = {"settle": "idle", "idle": "live", "live": ""}[name]
            if following:
                self.begin(following)
            else:
                self.exit()

    Timed(folder).run()


def measure(folder: Path, tab: str, width: int, height: int) -> dict[str, Any]:
    """Start the app in a pseudo-terminal, feed it while it asks for that, and take its report."""
    report = folder.parent / f"{tab}.json"
    report.unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    command = [sys.executable, __file__, "--child", str(folder), "--report", str(report), "--tab", tab]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    started = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    step, written, next_row = 10**7, 0, 0.0
    while started.poll() is None:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                written += len(os.read(ours, 1 << 16))
            except OSError:
                break
        known = json.loads(report.read_text()) if report.exists() else {}
        if "idle" in known and "live" not in known and time.monotonic() >= next_row:
            next_row, step = time.monotonic() + 0.5, step + 1
            from fake_run import train_row

            for number in range(LIVE_RUNS):
                row = {"_step": step, "_timestamp": time.time(), "_runtime": 1e6 + step, **train_row(step)}
                with open(folder / f"run-{number:02}" / "metrics.jsonl", "a") as file:
                    file.write(json.dumps(row) + "\n")
    started.wait(10)
    os.close(ours)
    return {**json.loads(report.read_text()), "bytes": written, "code": started.returncode}


def sentence(got: dict[str, Any]) -> str:
    """What was measured, in a line."""
    parts = [
        f"first paint {got['first']:.2f} s ({got['first_cpu']:.2f} s CPU)",
        f"all read after {got['read']:.1f} s ({got['read_cpu']:.1f} s CPU)",
        f"longest tick meanwhile {1000 * got['longest']:.0f} ms CPU",
        f"tick {got['live']['tick_ms']:.1f} ms CPU",
        f"idle {100 * got['idle']['share']:.2f} % of a core",
        f"memory {got['memory']:.0f} MB",
    ]
    return "; ".join(parts)


def main() -> int:
    """Make the runs, measure each tab, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tabs", nargs="+", default=["runs", "curves"])
    parser.add_argument("--size", default="120x36")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tab", default="runs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.report, options.tab)
        return 0
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs"
        make_runs(folder, options.runs, options.rows)
        total = sum(path.stat().st_size for path in folder.rglob("*.jsonl")) / 1e6
        load = os.getloadavg()[0]
        print(f"{options.runs} runs of {options.rows} rows, {total:.0f} MB, {width}×{height}; load {load:.1f}")
        for tab in options.tabs:
            print(f"{tab}: {sentence(measure(folder, tab, width, height))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
