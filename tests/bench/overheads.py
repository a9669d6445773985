"""What LoRA, KL, EWC, L2-SP, compiling and bf16 weights cost a training step, beside plain training of all weights.

    python tests/bench/overheads.py --rounds 3 --write

Each arm is `train.py` itself in a fresh process, on the same clips in the same order; a step's time is what
metrics.jsonl says. KL is taken on the domain's clips (gate off), so that every clip of a step pays for it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

import train
from whisper_min import runs

MODEL, SPEECH_SET = "tiny.en", "accented-train"
ARMS = {
    "plain": [],
    "lora": ["--method", "lora"],
    "kl, lora": ["--method", "lora", "--kl", "1", "--kl_on", "domain"],
    "kl, full": ["--kl", "1", "--kl_on", "domain"],
    "ewc, lora": ["--method", "lora", "--ewc", "1"],
    "ewc, full": ["--ewc", "1"],
    "l2sp, full": ["--l2sp", "1"],
    "compile": ["--compile"],
    "lean": ["--lean"],
    "lean, lora": ["--lean", "--method", "lora"],
}
PACKAGES = ("torch", "openai-whisper")


def run_arm(args: argparse.Namespace) -> common.Result:
    """Train some steps; the median of the ratios to another arm is taken round by round."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        options = ["--replay", f"general={common.manifest('general-replay')}@0", "--fisher_samples", "20"]
        code = train.main(
            [
                *("--model", args.model, "--data", f"domain={common.manifest(SPEECH_SET)}"),
                *("--eval_data", f"hello={common.manifest('hello')}", "--retain", f"jfk={common.manifest('jfk')}"),
                *("--max_steps", str(args.warmup + args.steps), "--eval_every", "100000", "--run", "arm"),
                *("--runs_dir", folder, "--device", args.device, *ARMS[args.arm]),
                *(options if "ewc" in args.arm else []),
            ]
        )
        assert code == 0, f"train.py ended with {code}"
        rows = [row for row in runs.read_jsonl(Path(folder) / "arm" / "metrics.jsonl") if "train/loss" in row]
    lengths = np.diff([0, *(row["train/audio_seconds"] for row in rows)])
    seconds = lengths / [row["perf/audio_hours_per_hour"] for row in rows]
    found = {"first": float(seconds[0]), "step": float(seconds[args.warmup :].mean())}
    found |= {"peak": common.peak_megabytes(), "loss": rows[-1]["train/ce"]}
    gpu = [row["gpu/0/memory"] for row in rows if row.get("gpu/0/memory")]
    return {**found, "gpu": max(gpu) / 1e6 if gpu else None}


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; ratios are taken round by round."""
    columns = ["arm", "first step, s", "s/step", "× plain", "peak MB"]
    rows = []
    for arm, rounds in results.items():
        steps = [each["step"] for each in rounds]
        base = [each["step"] for each in results["plain"]] if "plain" in results else steps
        peaks = [each["gpu"] or each["peak"] for each in rounds]
        first = common.spread([each["first"] for each in rounds], 1)
        rows.append([arm, first, common.spread(steps, 3), common.ratio(steps, base), f"{np.median(peaks):.0f}"])
    title = f"overhead of a training step, {args.model}, batch 8, {args.steps} steps of {SPEECH_SET}"
    return title, columns, rows, ["Medians of the rounds with smallest and largest; × is a step's time by plain's."]


def main() -> int:
    """Run the arms, or one of them as a child process does."""
    parser = common.options(__doc__, list(ARMS), default=list(ARMS), rounds=3)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=4, help="steps before them")
    return common.run(parser.parse_args(), run_arm, tabulate, SPEECH_SET, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
