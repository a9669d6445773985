"""What every engine writes on what was exported for it, beside our own greedy decoding: a run, or a model.

    python tests/bench/exports.py runs/mine [--data accented-test] [--clips 50] [--arms NAME ...] [--json out.json]

openai, hf and ct2 get fp32; ggml, which has no fp32, fp16, and is compared with the same weights rounded to fp16. int8
(ct2) rounds further and is counted apart. All are greedy, without timestamps, fallback or prompt, in a window of 30 s;
whisper and CTranslate2 get whisper's log-mel, transformers and whisper.cpp make their own. Every mismatch is listed
with its margin: by how many logits our token led theirs where the two transcripts part.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

from whisper_min import config, export, runs
from whisper_min.config import InputError
from whisper_min.data.examples import Example
from whisper_min.export import Options, Pair
from whisper_min.scoring import decode

ARMS = {
    "openai fp32": ("openai", "fp32"),
    "hf fp32": ("hf", "fp32"),
    "ct2 fp32": ("ct2", "fp32"),
    "ggml fp16": ("ggml", "fp16"),
    "ct2 int8": ("ct2", "int8"),
}
PACKAGES = ("torch", "openai-whisper", "transformers", "ctranslate2", "faster-whisper", "pywhispercpp")


def run_arm(options: Options, examples: list[Example], known: dict[str, decode.Hypothesis]) -> list[Pair]:
    """Export aside, and hear the clips; what the weights themselves write is in `known`, or added to it."""
    engine: Any = importlib.import_module(f"whisper_min.engines.{export.ENGINES[options.to]}")
    export.check(options, engine)
    model, origin = export.load(options)
    export.write(engine, model, origin, options)
    return export.hear(engine, model, options.out, options, examples, known)


def record(pairs: list[Pair]) -> dict[str, Any]:
    """An arm's numbers as JSON; a margin without end (the same tokens, another text) is null."""
    differ = [pair for pair in pairs if pair.lead is not None]
    return {
        "clips": len(pairs),
        "alike": len(pairs) - len(differ),
        "share": (len(pairs) - len(differ)) / len(pairs),
        "ties": sum(pair.is_tie for pair in differ),
        "mismatches": [
            {**vars(pair), "lead": pair.lead if pair.lead is not None and math.isfinite(pair.lead) else None}
            for pair in differ
        ],
    }


def main() -> int:
    """Export, hear, report; exit code 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder, or any model that train.py takes")
    parser.add_argument("--data", default="accented-test", help="a manifest, or the name of a speech set")
    parser.add_argument("--clips", type=int, default=50, help="its first clips of at most 30 s")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME", help=", ".join(ARMS))
    parser.add_argument("--language", help="without it: the run's, else English")
    parser.add_argument("--json", type=Path, help="also write the numbers and every mismatch here")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    args = parser.parse_args()
    try:
        examples, found, mismatches = common.examples_of(args.data, args.clips), {}, []
        ours: dict[str, dict[str, decode.Hypothesis]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for arm in args.arms:
                to, precision = ARMS[arm]
                out = Path(folder) / arm.replace(" ", "-")
                options = Options(args.run, out, to, precision, language=args.language, verify=False)
                # int8 is compared with the weights that were rounded
                pairs = run_arm(options, examples, ours.setdefault("fp16" if precision == "fp16" else "fp32", {}))
                found[arm] = record(pairs)
                mismatches += [
                    f"{arm}, {pair.id}, {'a tie, ' if pair.is_tie else ''}{pair.lead:.2g} logits: "
                    f"{pair.theirs!r} for {pair.ours!r}"
                    for pair in pairs
                    if pair.lead is not None
                ]
    except InputError as error:
        return config.print_faults(error)
    rows = [
        [arm, f"{its['alike']} of {its['clips']}", f"{its['share']:.0%}", str(its["ties"])]
        for arm, its in found.items()
    ]
    title = f"exports of {args.run}, {len(examples)} clips of {args.data}"
    section = common.show(title, ["engine", "alike", "share", "ties"], rows, mismatches, common.environment(PACKAGES))
    if args.json:
        whole = {"run": args.run, "data": args.data, "clips": [each.id for each in examples], "arms": found}
        runs.write_atomic(args.json, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    if args.write:
        common.append(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
