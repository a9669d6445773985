"""How a training step's cost grows: with the batch, the text, the model and the ranks. A table and a picture.

    python tests/bench/costs.py [--steps 3] [--rounds 1] [--arms NAME ...] [--write] [--out FILE.svg]

Random weights on noise, all weights in the processor's precision; beside the seconds the operations that are counted,
for large-v3, too, which is not run. Without other words: tiny.en, batch 8, context 10 s, 32 tokens. Ranks share one
step of four micro-batches of accented-train, under torchrun, in one thread each.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

import common
import figure
import numpy as np
import synthetic
import torch
from whisper.audio import SAMPLE_RATE

from whisper_min import audio, runs
from whisper_min.config import Config
from whisper_min.training import flops, memory
from whisper_min.training.precision import choose_precision

MODELS = ("tiny.en", "base.en", "small.en")
COUNTED_ONLY = ("medium.en", "large-v3")
GROWING = {"batch": (1, 2, 4, 8, 16, 32, 64), "text": (8, 32, 128, 448), "model": MODELS, "ranks": (1, 2)}
ARMS = [f"{kind}={value}" for kind, values in GROWING.items() for value in values]
PACKAGES = ("torch", "openai-whisper")
CFG, SAMPLES, CPU = Config(method="full", lr=1e-5), 10 * SAMPLE_RATE, torch.device("cpu")


def setting(arm: str) -> tuple[str, int, int]:
    """(model, batch, tokens) of an arm."""
    kind, _, value = arm.partition("=")
    return (
        value if kind == "model" else MODELS[0],
        int(value) if kind == "batch" else 8,
        int(value) if kind == "text" else 32,
    )


def counted(arm: str) -> int:
    """Operations of a step."""
    model, batch, tokens = setting(arm)
    dims = memory.official_dimensions(model)
    assert dims is not None
    positions = SAMPLES // audio.SAMPLES_PER_POSITION
    return flops.batch_flops(dims, flops.Gradients.of_config(CFG), batch, positions, tokens, batch * tokens)


def run_arm(args: argparse.Namespace) -> common.Result:
    """One arm in this process, or in those that it starts."""
    kind, _, value = args.arm.partition("=")
    if kind == "ranks":
        return run_ranks(int(value), args.steps)
    model, batch, tokens = setting(args.arm)
    dims = memory.official_dimensions(model)
    assert dims is not None
    cfg, precision = Config(method="full", lr=1e-5, batch_size=batch), choose_precision("auto", CPU)
    return synthetic.train(dims, cfg, precision, CPU, SAMPLES, tokens, warmup=1, steps=args.steps)


def run_ranks(ranks: int, steps: int) -> common.Result:
    """Steps of train.py under torchrun, the same clips a step on any number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--"]
        command += [str(common.REPOSITORY / "train.py"), "--model", MODELS[0], "--device", "cpu", "--run", "arm"]
        command += [
            "--data",
            f"domain={common.manifest('accented-train')}",
            "--retain",
            f"jfk={common.manifest('jfk')}",
        ]
        command += ["--eval_data", f"hello={common.manifest('hello')}", "--eval_every", "100000"]
        command += ["--accumulate", str(4 // ranks), "--max_steps", str(steps + 1)]
        command += ["--runs_dir", folder, "--data_dir", folder]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=alone, stdout=sys.stderr, check=True)
        rows = [row for row in runs.read_jsonl(Path(folder, "arm", "metrics.jsonl")) if "train/loss" in row]
    rates = [row["perf/samples_per_second"] for row in rows[1:]]
    return {"step": 4 * 8 / float(np.median(rates)), "cpu": None, "peak": None}


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; an arm's cost stands beside that of the smallest of its kind."""
    columns = ["", "s/step", "CPU s/step", "× the first", "counted, GFLOP", "× the first", "peak MB"]
    rows = []
    shown = [*args.arms, *(f"model={model}" for model in COUNTED_ONLY)]
    for kind in GROWING:
        arms = [arm for arm in shown if arm.partition("=")[0] == kind]
        for arm in arms:
            timed = [each["step"] for each in results.get(arm, [])]
            base = [each["step"] for each in results.get(arms[0], [])]
            row = [arm.replace("=", " "), common.spread(timed, 3) if timed else "not run"]
            cpu = [each["cpu"] for each in results.get(arm, []) if each["cpu"]]
            row += [common.spread(cpu, 3) if cpu else "–", common.ratio(timed, base) if timed and base else "–"]
            operations = [counted(each) / 1e9 for each in (arm, arms[0])]
            row += ["–"] * 2 if kind == "ranks" else [f"{operations[0]:,.0f}", f"{operations[0] / operations[1]:.2f}"]
            peaks = [each["peak"] for each in results.get(arm, []) if each["peak"]]
            rows.append([*row, f"{np.median(peaks):.0f}" if peaks else "–"])
    if args.out:
        args.out.write_text(draw(results), encoding="utf-8")
        print(f"wrote {args.out}", file=sys.stderr)
    notes = ["tiny.en, batch 8, context 10 s, 32 tokens, but for what is named; random weights on noise."]
    notes += ["ranks: four micro-batches of 8 clips of accented-train a step, one thread a rank, evaluations left out."]
    return f"how a step's cost grows, {args.steps} steps", columns, rows, notes


def draw(results: dict[str, list[common.Result]]) -> str:
    """Seconds a step, as a multiple of the smallest, on two logarithmic axes: measured, and counted operations."""
    body: list[str] = []
    kinds = [kind for kind in ("batch", "text", "model") if any(arm.startswith(kind) for arm in results)]
    width = (figure.WIDTH - 2 * figure.LEFT) // max(1, len(kinds)) - 40
    for index, kind in enumerate(kinds):
        arms = [f"{kind}={value}" for value in GROWING[kind] if f"{kind}={value}" in results]
        arms += [f"model={model}" for model in COUNTED_ONLY if kind == "model"]
        operations = [counted(arm) / counted(arms[0]) for arm in arms]
        base = np.median([each["step"] for each in results[arms[0]]])
        seconds = [float(np.median([each["step"] for each in results[arm]]) / base) for arm in arms if arm in results]
        ticks = [arm.partition("=")[2].removesuffix(".en").removesuffix("-v3") for arm in arms]
        left = figure.LEFT + index * (width + 60)
        body += panel(f"{kind}: × the first", ticks, {"measured": seconds, "counted": operations}, left, width)
    return figure.page(body, ["measured seconds", "counted operations"])


def panel(title: str, ticks: list[str], curves: dict[str, list[float]], left: int, width: int) -> list[str]:
    """One quantity's growth; a grid line for each power of two."""
    bottom, top = figure.HEIGHT - figure.BOTTOM, figure.TOP
    powers = math.ceil(max(1.0, *(math.log2(value) for curve in curves.values() for value in curve)))

    def at(place: int, value: float) -> tuple[float, float]:
        across = width * place / max(1, len(ticks) - 1)
        return left + across, bottom - (bottom - top) * math.log2(max(value, 1 / 2)) / powers

    made = [f'<text x="{left}" y="{top - 14}" font-weight="bold">{escape(title)}</text>']
    for power in range(0, powers + 1, max(1, powers // 5)):
        y = at(0, 2**power)[1]
        made.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        made.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{2**power}</text>')
    for place, tick in enumerate(ticks):
        made.append(f'<text x="{at(place, 1)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(tick)}</text>')
    for colour, curve in zip(figure.COLOURS, curves.values(), strict=False):
        made += figure.line([at(place, value) for place, value in enumerate(curve)], colour)
    return made


def main() -> int:
    """Run the arms, or one of them as a child process does."""
    parser = common.options(__doc__ or "", ARMS, default=ARMS, rounds=1)
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after two")
    parser.add_argument("--out", type=Path, help="also draw it, as an SVG")
    return common.run(parser.parse_args(), run_arm, tabulate, None, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
