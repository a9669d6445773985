"""Training steps and decoding of large-v3's dimensions on a GPU: random weights, random audio, 30 s windows.

    python tests/bench/gpu.py [--model large-v3] [--batch 32] [--steps 20] [--rounds 1] [--arms NAME ...] [--write]
    python tests/bench/gpu.py --device cpu --model tiny.en --batch 1 --steps 1 --warmup 0 --count 4     # that it runs

Arms, each in a fresh process, round by round:

    full, full-checkpointing     all weights in bf16; with activations computed again
    lora, lora-checkpointing     adapters of rank 16 everywhere
    full-compiled, full-lean     all weights with --compile; with --lean --checkpointing
    hf-tuned                     transformers in bf16 in a plain loop: fused attention and AdamW, no checkpointing
    hf-blog                      transformers as https://huggingface.co/blog/fine-tune-whisper sets it: batch 16, fp16,
                                 checkpointing (in the same loop, which spares it the Trainer's own costs)
    decoding                     clips of 10 s in 30 s windows, `--count` tokens each, log-mel included

A step is forward, backward, clipping and update; labels have 64 tokens. MFU is model FLOPs (what checkpointing computes
again does not count) by the data sheet's peak.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import common
import numpy as np
import synthetic
import torch
from whisper.audio import N_SAMPLES

from whisper_min.config import Config, InputError
from whisper_min.training import memory

FULL, LORA = Config(method="full", lr=1e-5), Config(method="lora", lr=1e-5)
ARMS = {
    "full": FULL,
    "full-checkpointing": replace(FULL, checkpointing=True),
    "lora": LORA,
    "lora-checkpointing": replace(LORA, checkpointing=True),
    "full-compiled": replace(FULL, compile=True),
    "full-lean": replace(FULL, lean=True, checkpointing=True),
    "hf-tuned": FULL,
    "hf-blog": replace(FULL, checkpointing=True, batch_size=16),
    "decoding": FULL,
}
PACKAGES = ("torch", "openai-whisper", "transformers")
CLIP_SECONDS = 10.0


def run_arm(args: argparse.Namespace) -> common.Result:
    """One arm in this process."""
    device, dims, cfg = torch.device(args.device), memory.official_dimensions(args.model), ARMS[args.arm]
    if dims is None:
        raise InputError(f"--model {args.model}: give an official name, such as large-v3")
    if args.arm == "decoding":
        return synthetic.transcribe(
            dims, "bf16", device, 4 * args.batch, CLIP_SECONDS, args.count, max(1, args.steps // 5)
        )
    cfg = replace(cfg, batch_size=min(args.batch, 16) if args.arm == "hf-blog" else args.batch)
    precision = "fp16" if args.arm == "hf-blog" and device.type == "cuda" else "bf16"
    sizes = (N_SAMPLES, memory.TYPICAL_TOKENS, args.warmup, args.steps)
    return synthetic.train(dims, cfg, precision, device, *sizes, peer=args.arm.startswith("hf"))


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; ratios are taken round by round."""
    peers = [arm for arm in ("hf-tuned", "hf-blog") if arm in results]
    columns = ["arm", "samples/s", "s/step", "CPU s/step", "MFU", "peak MB", "to the first step, s"]
    columns += [f"× {peer}" for peer in peers]
    rows, notes = [], ["Medians of the rounds with smallest and largest."]
    for arm, rounds in results.items():
        steps, cpu, peak = ([each[key] for each in rounds] for key in ("step", "cpu", "peak"))
        cells = [common.spread(steps, 3), common.spread(cpu, 3)]
        if arm == "decoding":
            speed = common.spread([each["rtfx"] for each in rounds], 0)
            notes.append(
                f"decoding: {args.count} tokens of {4 * args.batch} clips of {CLIP_SECONDS:g} s, RTFx {speed}."
            )
            rows.append([arm, "–", *cells, "–", f"{np.median(peak):.0f}", "–", *("–" for _ in peers)])
            continue
        rates = {name: [each["rate"] for each in results[name]] for name in (arm, *peers)}
        mfu = "–" if rounds[0]["mfu"] is None else common.spread([100 * each["mfu"] for each in rounds], 1) + " %"
        first = common.spread([each["first"] for each in rounds], 1)
        cells = [common.spread(rates[arm], 2), *cells, mfu, f"{np.median(peak):.0f}", first]
        rows.append([arm, *cells, *(common.ratio(rates[arm], rates[peer]) for peer in peers)])
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    return f"random {args.model} on {name}, batch {args.batch}, {args.steps} steps", columns, rows, notes


def main() -> int:
    """Run the arms, or one of them as a child process does."""
    parser = common.options(__doc__ or "", list(ARMS), default=list(ARMS), rounds=1)
    parser.add_argument("--model", default="large-v3")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them, and one more")
    parser.add_argument("--count", type=int, default=40, help="tokens that each clip is decoded to")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: needs a CUDA device; --device cpu --model tiny.en tries the script without", file=sys.stderr)
        return 2
    return common.run(args, run_arm, tabulate, None, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
