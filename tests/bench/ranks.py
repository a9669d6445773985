"""What a second rank costs and brings: the same global batch on one gloo rank and on two, one thread each.

    python tests/bench/ranks.py --rounds 3 --json ranks.json --write

Each arm is torchrun on this file, and each of its processes `train.py` itself; timed is from the end of one optimizer
step to the end of another. On one machine this shows what ranks cost, not what more machines bring.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import torch.distributed as dist

import train

MODEL, SPEECH_SET = "tiny.en", "accented-train"
ARMS = {"1 rank": 1, "2 ranks": 2}
MICRO_BATCHES = 2
"""Of a step, on all ranks together."""
PACKAGES = ("torch", "openai-whisper")


def run_arm(args: argparse.Namespace) -> common.Result:
    """Start the ranks, and put together what each has measured."""
    count = ARMS[args.arm]
    with tempfile.TemporaryDirectory() as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        options = ["--steps", str(args.steps), "--warmup", str(args.warmup), "--model", args.model]
        subprocess.run(
            [*torchrun, "--", __file__, "--rank-into", folder, *options],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr, check=True,
        )  # fmt: skip
        ranks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
    assert len(ranks) == count
    return {
        "step": float(np.mean([rank["wall"] for rank in ranks])),
        "cpu": sum(rank["cpu"] for rank in ranks),
        "reduced": ranks[0]["reduced"],
        "peak": max(rank["peak"] for rank in ranks),
    }


def run_rank(args: argparse.Namespace) -> int:
    """Train as one of the ranks, and write what it took into a file."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    ends: list[np.ndarray] = []
    reduced = 0
    all_reduce, clip_and_step = dist.all_reduce, train.clip_and_step

    def counting(tensor: torch.Tensor, *more: Any, **named: Any) -> Any:
        nonlocal reduced
        reduced += tensor.nbytes
        return all_reduce(tensor, *more, **named)

    def timing(*parts: Any) -> torch.Tensor:
        norm = clip_and_step(*parts)
        ends.append(np.array([*common.now(), reduced]))
        return norm

    dist.all_reduce, train.clip_and_step = counting, timing
    folder = args.rank_into
    with contextlib.redirect_stdout(sys.stderr):
        code = train.main(
            [
                *("--model", args.model, "--data", f"domain={common.manifest(SPEECH_SET)}"),
                *("--eval_data", f"hello={common.manifest('hello')}", "--retain", f"jfk={common.manifest('jfk')}"),
                *("--max_steps", str(args.warmup + args.steps), "--eval_every", "100000", "--device", "cpu"),
                *("--batch_size", "4", "--accumulate", str(MICRO_BATCHES // count)),
                *("--run", "arm", "--runs_dir", str(folder), "--data_dir", str(folder / "cache")),
            ]
        )
    wall, cpu, sent = (ends[-1] - ends[args.warmup - 1]) / args.steps
    measured = {"wall": wall, "cpu": cpu, "reduced": sent, "peak": common.peak_megabytes()}
    (folder / f"rank-{rank}.json").write_text(json.dumps(measured))
    return code


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; all numbers as JSON where asked for."""
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    columns = ["ranks", "steps/s", "CPU s/step", "MB summed/step", "peak MB/rank"]
    rows = [
        [
            arm,
            common.spread([1 / each["step"] for each in rounds], 3),
            common.spread([each["cpu"] for each in rounds], 2),
            f"{rounds[0]['reduced'] / 1e6:.1f}",
            f"{np.median([each['peak'] for each in rounds]):.0f}",
        ]
        for arm, rounds in results.items()
    ]
    title = f"one rank and two, {args.model}, {MICRO_BATCHES} micro-batches of 4 a step, {args.steps} steps"
    notes = [
        "gloo on one machine, one thread a rank. CPU time is of all ranks together, MB summed are what each rank",
        "hands to the sums of gradients and losses. Medians of the rounds, smallest and largest in brackets.",
    ]
    return title, columns, rows, [" ".join(notes)]


def main() -> int:
    """Run the arms, one of them, or one of its ranks."""
    parser = common.options(__doc__, list(ARMS), default=list(ARMS), rounds=3)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    parser.add_argument("--rank-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    return run_rank(args) if args.rank_into else common.run(args, run_arm, tabulate, SPEECH_SET, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
