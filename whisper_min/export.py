"""Weights out: `python -m whisper_min.export RUN --to openai model.pt`, then `whisper clip.wav --model model.pt`.

What was written is opened in the engine that it is for, and hears clips shipped here: it must write what the run does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jiwer
import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor
from whisper import Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio, config, runs
from whisper_min.config import InputError
from whisper_min.data import sources
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens, language_code, unknown_language, written_language
from whisper_min.model import weights
from whisper_min.scoring import decode, wer
from whisper_min.training import card

ENGINES = {"openai": "openai", "hf": "huggingface", "ct2": "faster_whisper", "ggml": "whisper_cpp"}
# Clips that are heard, of those shipped.
VERIFIED_CLIPS = 10
# Where two tokens are nearly as likely, arithmetic in another order may take the other one: within so many logits that
# is a tie, beyond them a fault.
TIE = 0.1
# Word error rate against the run's own transcripts beyond which rounding to int8 has done harm.
INT8_LIMIT = 0.1


@dataclass(frozen=True)
class Options:
    """Write a run's chosen point, else its best checkpoint, for another engine, and hear the same with it."""

    run: Annotated[str, tyro.conf.Positional]
    """A run folder, one of its checkpoints, or any model that train.py takes."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file (openai, ggml) or folder (hf, ct2) to write."""
    to: Literal["openai", "hf", "ct2", "ggml"]
    """`openai`: a .pt for `whisper.load_model`; `hf`: transformers; `ct2`: faster-whisper; `ggml`: whisper.cpp."""
    precision: Literal["fp32", "fp16", "int8"] | None = None
    """fp32 keeps the scores to the digit; fp16 halves the file, as OpenAI's own are; int8 (ct2) quarters it.
    Without it: fp32, for ggml fp16."""
    interpolate: float | None = None
    """Another point of the run: 0 is its original, 1 its best checkpoint."""
    lines: float | None = None
    """The first layers' share of that point's way (LiNeS), as evaluate.py takes it."""
    language: str | None = None
    """What the clips are decoded as. Without it: the run's language, else English."""
    verify: bool = True
    """Hear a few shipped clips with the engine, and fail where it writes something else."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; the exit code, as `config.exit_code` tells it."""
    options = tyro.cli(Options, args=argv, prog="python -m whisper_min.export", use_underscores=True)
    engine = importlib.import_module(f"whisper_min.engines.{ENGINES[options.to]}")
    options = replace(options, precision=options.precision or next(iter(engine.PRECISIONS)))

    def work() -> None:
        check(options, engine)
        model, origin = load(options)
        written = write(engine, model, origin, options)
        size = sum(path.stat().st_size for path in [options.out, *options.out.rglob("*")] if path.is_file())
        print(f"{options.out}: {origin.found}, {size / 1e6:.0f} MB, {written}")

    return config.exit_code(work, RuntimeError)


def check(options: Options, engine: Any) -> None:
    """InputError with all that keeps the engine from being written for."""
    faults = []
    if options.out.exists():
        faults.append(f"{options.out}: exists; remove it or name another")
    if not options.out.absolute().parent.is_dir():
        faults.append(f"{options.out}: its folder does not exist; make it first")
    if options.precision not in engine.PRECISIONS:
        faults.append(f"--precision {options.precision}: --to {options.to} takes {' or '.join(engine.PRECISIONS)}")
    missing = [name for name in engine.NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        faults.append(f"--to {options.to}: needs {' and '.join(missing)}; pip install 'whisper-min[{engine.EXTRA}]'")
    if options.language is not None and language_code(options.language) is None:
        faults.append(unknown_language(options.language))
    if faults:
        raise InputError(faults)


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


def write(engine: Any, model: Whisper, origin: weights.Origin, options: Options) -> str:
    """Write beside the place, open it in the engine, compare, and rename it into place; what was seen, for people."""
    with runs.writing(options.out) as beside:
        engine.write(model, origin.alignment_heads, beside, options.precision)
        if beside.is_dir() and (text := card_of(options)) is not None:
            (beside / "README.md").write_text(text, encoding="utf-8")
        for path in [beside, *beside.rglob("*")]:
            if path.is_file():
                runs.sync_file(path)
        return verify(engine, model, beside, options) if options.verify else "not verified"


def card_of(options: Options) -> str | None:
    """The model card of what is exported: its results, precision and place; None for what is no run."""
    run = Path(options.run)
    checkpoint = runs.best_checkpoint(run) or runs.last_checkpoint(run)
    if checkpoint is None or not runs.is_run(run):
        return None
    choice = runs.last_choice(run)
    if options.interpolate is None and choice is not None and choice["chosen"]:
        point = choice
    else:
        alpha = 1.0 if options.interpolate is None else options.interpolate
        point = {"checkpoint": f"checkpoints/{checkpoint.name}", "alpha": alpha, "lines": options.lines}
    cfg = config.load(run)
    results, evaluated = card.point_results(run, point)
    language, task = spoken(options)
    normalizer, _ = wer.normalizer(written_language(language, task))
    exported = f"Exported for {ENGINES[options.to]} in {options.precision}"
    if point["alpha"] != 1:
        depth = "" if point["lines"] is None else f", the first layers to {point['lines']:g} of that"
        exported += f", at the point {point['alpha']:g} between the original (0) and the checkpoint (1){depth}"
    if options.precision != "fp32":
        exported += "; the figures are of the weights before they were rounded"
    step = int(Path(point["checkpoint"]).name)
    return card.model_card(cfg, step, results, evaluated, normalizer, f"{exported}.")


def verify(engine: Any, model: Whisper, out: Path, options: Options) -> str:
    """Hear the shipped clips with the engine and with the weights as they were written; RuntimeError where they differ.

    fp16 is compared with the same weights rounded to fp16. int8 has no such twin: there the words may differ a little.
    """
    (speech,) = sources.load_sets(["clean=demo:general"], "retain", Path())
    pairs = hear(engine, model, out, options, speech.examples[:VERIFIED_CLIPS])
    differ = [
        f"{pair.id}: {pair.theirs!r} for {pair.ours!r}, which led by {pair.lead:.2g} logits"
        for pair in pairs
        if pair.lead is not None
    ]
    told = f"{len(pairs) - len(differ)} of {len(pairs)} clips heard alike by {options.to}"
    if options.precision == "int8":
        rate = jiwer.wer([pair.ours or "-" for pair in pairs], [pair.theirs or "-" for pair in pairs])
        if rate > INT8_LIMIT:
            raise RuntimeError(f"int8 changes {100 * rate:.0f} % of the words: {'; '.join(differ[:3])}")
        return f"{told}, {100 * rate:.1f} % of the words changed by int8"
    if len(differ) > sum(pair.is_tie for pair in pairs):
        raise RuntimeError(f"{told}: {'; '.join(differ[:3])}")
    return told + (f"; a tie: {'; '.join(differ)}" if differ else "")


@dataclass(frozen=True)
class Pair:
    """What we and an engine wrote for one clip."""

    id: str
    ours: str
    theirs: str
    lead: float | None
    """By how many logits our token led theirs where the two part; None where they do not."""

    @property
    def is_tie(self) -> bool:
        """Whether they part where arithmetic in another order may."""
        return self.lead is not None and self.lead < TIE


def hear(
    engine: Any,
    model: Whisper,
    out: Path,
    options: Options,
    examples: Sequence[Example],
    known: dict[str, decode.Hypothesis] | None = None,
) -> list[Pair]:
    """Transcripts of clips of at most 30 s by our greedy decoding, and by the engine on what was written to `out`.

    For an export in fp16 the model's weights are rounded to fp16, and stay so. What these weights write is taken from
    `known`, and added to it.
    """
    known = {} if known is None else known
    tokens = Tokens(model.dims, *spoken(options))
    if options.precision == "fp16":
        model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    transcribe = engine.transcriber(out, tokens)
    pairs = []
    for example in track(examples, f"{options.to} hears {len(examples)} clips", console=Console(stderr=True)):
        waveform = example.read(False)
        if example.id not in known:
            (known[example.id],) = decode.greedy(model, encode(model, waveform), tokens)
        theirs, ours, led = transcribe(waveform), known[example.id], None
        if theirs != ours.text:
            row = tokens.encode(theirs)[len(tokens.prefix) : -1]
            led = lead(model, encode(model, waveform), ours.tokens, row, tokens)
        pairs.append(Pair(example.id, ours.text, theirs, led))
    return pairs


@torch.inference_mode()
def encode(model: Whisper, waveform: audio.Waveform) -> Tensor:
    """Features (1, A, C) of a clip in a window of 30 s."""
    features: Tensor = model.encoder(audio.log_mel(audio.pad([waveform], N_SAMPLES), model.dims.n_mels))
    return features


def spoken(options: Options) -> tuple[str, str]:
    """(language code, task) of a run, or what was asked for."""
    run, language, task = Path(options.run), options.language, "transcribe"
    if runs.is_run(run):
        record = config.load(run)
        language, task = language or record.language, record.task
    return language_code(language or "en") or "en", task


@torch.inference_mode()
def lead(model: Whisper, features: Tensor, ours: Sequence[int], theirs: Sequence[int], tokens: Tokens) -> float:
    """By how many logits our token led theirs where two transcripts (text tokens alone) part; infinite at its end."""
    ours, theirs = [*ours, tokens.end], [*theirs, tokens.end]
    at = next((index for index, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    if at is None:
        return float("inf")  # the same tokens, and yet another text: no tie
    logits = model.decoder(torch.tensor([[*tokens.prefix, *ours[:at]]]), features)[0, -1]  # (V,)
    return float(logits[ours[at]] - logits[theirs[at]])


if __name__ == "__main__":
    sys.exit(main())
