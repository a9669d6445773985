"""What is left of Whisper's timestamps after a training, beside the original's.

    python tests/bench/timestamps.py tiny.en runs/plain runs/timed [--set general-test] [--write]

Every clip of a speech set is decoded with timestamps, by the model's own choice of when to write one (whisper's rules
would force them); the first model is the original that the others' times are compared with.
"""

from __future__ import annotations

import argparse
import sys

import common
import torch
from rich.console import Console
from rich.progress import track

from whisper_min import audio, config
from whisper_min.config import InputError
from whisper_min.data import sources
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, timestamps

BATCH = 8
PACKAGES = ("torch", "openai-whisper", weights.DEMO_PACKAGE)
SHARES = ("written", "paired", "in_range", "monotone", "valid")


def judge(name: str, speech_set: str) -> timestamps.Timestamps:
    """What a model writes for every clip of a set."""
    model, _ = weights.load(name)
    tokens = Tokens(model.dims)
    waveforms = [example.read() for example in sources.read_manifest(common.manifest(speech_set))]
    rows = []
    for first in track(range(0, len(waveforms), BATCH), name, console=Console(stderr=True)):
        mel = audio.log_mel(audio.pad(waveforms[first : first + BATCH]), model.dims.n_mels)  # (B, M, F)
        with torch.inference_mode():
            rows += timestamps.write(model, decode.encode_windows(model, mel), tokens)
    seconds = [len(waveform) / audio.SAMPLE_RATE for waveform in waveforms]
    return timestamps.judge(rows, seconds, tokens.tokenizer.timestamp_begin)


def main() -> int:
    """Decode, judge, print; exit code 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", help="the original, then runs or models")
    parser.add_argument("--set", default="general-test", help="a speech set's name")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    args = parser.parse_args()
    try:
        judged = [judge(name, args.set) for name in args.systems]
    except InputError as error:
        return config.print_faults(error)
    rows = []
    for name, its in zip(args.systems, judged, strict=True):
        seconds, compared = timestamps.drift(its, judged[0])
        drift = f"{seconds:.2f} s over {compared}" if seconds is not None else "none alike"
        rows.append([name, *(f"{getattr(its, share):.0%}" for share in SHARES), drift])
    title = f"timestamps on the {judged[0].clips} clips of {args.set}"
    columns = ["model", *(share.replace("_", " ") for share in SHARES), "off the original's"]
    section = common.show(title, columns, rows, [], common.environment(PACKAGES))
    if args.write:
        common.append(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
