"""Weights out: `python -m whisper_min.export RUN --to openai model.pt`, then `whisper clip.wav --model model.pt`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
import whisper
from whisper import Whisper

from whisper_min import config, runs
from whisper_min.config import InputError
from whisper_min.model import weights


@dataclass(frozen=True)
class Options:
    """Write a run's chosen point, else its best checkpoint, for another engine, and read it back there."""

    run: Annotated[str, tyro.conf.Positional]
    """A run folder, one of its checkpoints, or any model that train.py takes."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write."""
    to: Literal["openai"]
    """`openai`: a .pt that `whisper.load_model` opens."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16 halves the file, as OpenAI's own are; fp32 keeps the scores to the digit."""
    interpolate: float | None = None
    """Another point of the run: 0 is its original, 1 its best checkpoint."""
    lines: float | None = None
    """The first layers' share of that point's way (LiNeS), as evaluate.py takes it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; exit code 0, 1 where the disk refuses, 2 for wrong input."""
    options = tyro.cli(Options, args=argv, prog="python -m whisper_min.export", use_underscores=True)
    try:
        if options.out.exists():
            raise InputError(f"{options.out}: exists; remove it or name another file")
        if not options.out.absolute().parent.is_dir():
            raise InputError(f"{options.out}: its folder does not exist; make it first")
        model, origin = load(options)
        to_openai(model, options.out, options.precision)
    except InputError as error:
        return config.print_faults(error)
    except (OSError, RuntimeError) as error:
        print(f"failed: {options.out} could not be written ({error}); nothing is left of it", file=sys.stderr)
        return 1
    print(f"{options.out}: {origin.found}, {options.out.stat().st_size / 1e6:.0f} MB, read back by whisper.load_model")
    return 0


def load(options: Options) -> tuple[Whisper, weights.Origin]:
    """What the options ask for: the run as it stands, or one point of it."""
    if options.interpolate is None:
        if options.lines is not None:
            raise InputError("--lines: scales the point of --interpolate; give that too, as in --interpolate 0.7")
        return weights.load(options.run)
    faults = [
        f"--{name} {value}: must lie between 0 and 1"
        for name, value in [("interpolate", options.interpolate), ("lines", options.lines)]
        if value is not None and not 0 <= value <= 1
    ]
    run = Path(options.run)
    checkpoint = runs.best_checkpoint(run) or runs.last_checkpoint(run)
    if checkpoint is None or not runs.is_run(run):
        faults.append(
            f"--interpolate: {run} is no run folder with a checkpoint; it takes a run, which knows its original"
        )
    if faults or checkpoint is None:
        raise InputError(faults)
    return weights.load_point(run, checkpoint, options.interpolate, options.lines)


def to_openai(model: Whisper, out: Path, precision: str) -> None:
    """Write a .pt in OpenAI's layout beside its place, read it back with whisper, compare, and rename it into place."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    state = {name: tensor.to("cpu", dtype) for name, tensor in model.state_dict().items()}
    beside = out.with_name(f".{out.name}.partial")
    try:
        torch.save({"dims": asdict(model.dims), "model_state_dict": state}, beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        read_back = whisper.load_model(str(beside), device="cpu").state_dict()
        wrong = [name for name, tensor in state.items() if not torch.equal(read_back[name], tensor.float())]
        if wrong:
            raise RuntimeError(f"whisper reads back other numbers in {', '.join(wrong[:3])}")
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
