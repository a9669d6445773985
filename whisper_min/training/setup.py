"""Everything that is checked before a training starts; all faults at once, before the model loads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from whisper import ModelDimensions, Whisper
from whisper.audio import N_SAMPLES, SAMPLE_RATE

from whisper_min import audio, config, runs
from whisper_min.config import Config, InputError
from whisper_min.data import augment, batches, preflight, sources
from whisper_min.data.batches import Batch, Order, Schedule, Window
from whisper_min.data.checked import TRAINED, Report
from whisper_min.data.stream import Stream
from whisper_min.data.tokens import Tokens, language_code, unknown_language
from whisper_min.model import weights
from whisper_min.model.forward import check_compiler
from whisper_min.training import batch_size, flops, memory
from whisper_min.training.optimizer import check_lean
from whisper_min.training.precision import choose_device, choose_precision
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.reporter import Reporter

# Evaluations in a run, the original's not counted.
EVALUATIONS = 5
# In runs of so many clips they take at most this share of the training's operations: whatever trains 2.8 clips a second
# goes through more in an hour, and in short runs a curve is worth more than the time.
LONG_RUN, EVALUATED_SHARE = 10_000, 0.1
# A checkpoint is written at this rate, in bytes a second, as long as no save of the run has shown how long it takes.
SLOW_DISK = 5e7


@dataclass(frozen=True)
class Prepared:
    """Checked input of a run; the weights are not loaded yet."""

    cfg: Config
    """With `max_steps`, `batch_size` and `eval_every` filled in."""
    dims: ModelDimensions
    tokens: Tokens
    report: Report
    data_fingerprint: str
    """Of the training data as it was read."""
    schedule: Order
    device: torch.device
    precision: str
    load: Callable[[], tuple[Whisper, weights.Origin]]

    def collate(self, windows: Sequence[Window], encoded: Container[tuple[str, ...]] = ()) -> Batch:
        """A batch as the loop reads it."""
        return batches.collate(windows, tokens=self.tokens, n_mels=self.dims.n_mels, cfg=self.cfg, encoded=encoded)

    def deadline(self, reporter: Reporter) -> float:
        """When `--max_time` is over, counted from the reporter's beginning, less what the first save may take."""
        if self.cfg.max_time is None:
            return math.inf
        return reporter.started + 3600 * self.cfg.max_time - memory.checkpoint_bytes(self.dims, self.cfg) / SLOW_DISK

    def relabelled(self, report: Report, ranks: Ranks = ALONE) -> Prepared:
        """The same run with the labels that the original had its part in; the number of steps stays.

        Raises InputError where the ranks would not train on the same clips in the same order.
        """
        known = [(each.speech.name, [example.id for example in each.speech.examples], each.labels, each.seconds)
                 for each in report.sets if each.role in TRAINED]  # fmt: skip
        ranks.check_same(hashlib.sha256(json.dumps(known).encode()).hexdigest(), "what is trained on")
        return replace(self, report=report, schedule=build_schedule(report, self.cfg, self.tokens))


def prepare(cfg: Config, console: Console, ranks: Ranks = ALONE) -> Prepared:
    """Check options, sets, every entry and memory; InputError with all that is wrong.

    The main rank goes first, fills the caches and decides what was left open; the others follow it.
    """
    made: list[Prepared] = []

    def here(wanted: Config) -> Config:
        made.append(_prepare(wanted, console, ranks))
        return made[0].cfg

    decided = ranks.on_main(lambda: here(cfg))
    ranks.gather(lambda: None if ranks.is_main else here(replace(decided, report_to=())))
    return made[0]


def _prepare(cfg: Config, console: Console, ranks: Ranks) -> Prepared:
    faults = config.check(cfg) + augment.check(cfg) + check_micro_batches(cfg, ranks)

    @contextmanager
    def collecting() -> Iterator[None]:
        try:
            yield
        except InputError as error:
            faults.extend(error.faults)

    device, precision = torch.device("cpu"), "fp32"
    with collecting():
        device = choose_device(ranks.device(cfg.device))
        precision = choose_precision(cfg.precision, device)
        if cfg.compile:
            check_compiler(device)
        faults += check_lean(cfg, precision, device)
    if cfg.shard and ranks.world_size == 1:
        faults.append("--shard: needs several ranks; start them with torchrun, or give --no_shard")
    if cfg.shard and precision == "fp16":
        faults.append("--shard: does not know the loss scale that fp16 needs; give --precision bf16 or fp32")
    if language_code(cfg.language) is None:
        faults.append(unknown_language(cfg.language))
        cfg = replace(cfg, language="en")
    load, dims = _find_model(cfg, faults)
    # what cannot fit with the shortest context is said before anything is downloaded
    least = replace(cfg, batch_size=1) if cfg.batch_size == "auto" else cfg
    faults += memory.check_memory(dims, least, precision, device, audio.CONTEXT_SECONDS[0] * SAMPLE_RATE)
    words = [word.rpartition("=")[2] for option in config.SET_OPTIONS for word in getattr(cfg, option)]
    if faults and any(word.startswith(sources.DOWNLOADED) for word in words):
        raise InputError(faults)
    report, tokens = Report(), Tokens(dims, cfg.language, cfg.task)
    with collecting():
        report = preflight.run(sources.of_training(cfg), cfg, tokens, console)
    faults += report.shown_faults()
    fingerprint = report.fingerprint
    if cfg.resume and not faults and config.recorded(cfg.resume).get("data_fingerprint") not in (None, fingerprint):
        faults.append(
            f"--resume {cfg.resume}: the training data is not what the run was started with; restore it, or start a "
            f"new run from the last checkpoint with --model {cfg.resume}"
        )
    longest = max((each.longest for each in report.sets if each.role in TRAINED), default=0.0)
    context = audio.context_samples(round(longest * SAMPLE_RATE)) if cfg.audio_context == "trim" else N_SAMPLES
    if not faults and cfg.batch_size == "auto":
        cfg = replace(cfg, batch_size=batch_size.choose(dims, cfg, precision, device, context, console))
    if not faults:
        faults += memory.check_memory(dims, cfg, precision, device, context) + memory.check_disk(dims, cfg)
    if faults:
        raise InputError(faults)
    schedule = build_schedule(report, cfg, tokens)
    max_steps = cfg.max_steps or max(1, round(cfg.epochs * schedule.steps_per_epoch(cfg.accumulate * ranks.world_size)))
    cfg = replace(cfg, max_steps=max_steps)
    cfg = replace(cfg, eval_every=cfg.eval_every or eval_every(dims, cfg, report, max_steps, ranks.world_size))
    return Prepared(cfg, dims, tokens, report, fingerprint, schedule, device, precision, load)


def eval_every(dims: ModelDimensions, cfg: Config, report: Report, max_steps: int, world_size: int) -> int:
    """Steps between evaluations where nobody says: five in a run, fewer in a long one that they would hold up.

    Operations are counted, not seconds: the same run is evaluated at the same steps on every machine. By the README's
    figures a decoded clip takes 2.1 times as long as one of accented-train in training; counted are 2.2 times as many.
    """
    clips = max_steps * cfg.clips_per_batch * cfg.accumulate * world_size
    if clips < LONG_RUN:
        return -(-max_steps // EVALUATIONS)
    samples = [round(seconds * SAMPLE_RATE) for each in report.role("data") for seconds in each.seconds]
    contexts = [audio.context_samples(each) if cfg.audio_context == "trim" else N_SAMPLES for each in samples]
    positions, tokens = round(np.mean(contexts)) // audio.SAMPLES_PER_POSITION, memory.TYPICAL_TOKENS
    training = flops.batch_flops(dims, flops.Gradients.of_config(cfg), clips, positions, tokens, clips * tokens)
    evaluated = sum(each.entries for each in report.role("eval_data") + report.role("retain"))
    # padded to 30 s, written token by token, and read once more for the loss
    forward = flops.forward_flops(dims, evaluated, dims.n_audio_ctx, tokens, evaluated * tokens)
    share = (forward.encoder + 2 * forward.decoder) / training
    evaluations = min(EVALUATIONS, max(1, int(EVALUATED_SHARE / share) - 1))  # the original is evaluated first
    if evaluations < EVALUATIONS:
        report.notes.append(
            f"evaluations: {evaluations} instead of {EVALUATIONS}, because one takes {share:.1%} of the training's "
            "operations; --eval_every says otherwise, smaller --eval_data and --retain sets take less"
        )
    return -(-max_steps // evaluations)


def check_micro_batches(cfg: Config, ranks: Ranks) -> list[str]:
    """Faults of a run that is resumed on another number of ranks: its steps must stay what they were."""
    if cfg.resume is None or not (cfg.resume / "config.json").exists():
        return []
    record = config.recorded(cfg.resume)
    accumulate, world_size = int(record.get("accumulate", 1)), int(record.get("environment", {}).get("ranks", 1))
    before, now = accumulate * world_size, cfg.accumulate * ranks.world_size
    if world_size == ranks.world_size or before == now:
        return []
    fault = (
        f"--resume {cfg.resume}: a step had {before} micro-batches (--accumulate {accumulate} on {world_size} ranks)"
    )
    if before % ranks.world_size:
        return [f"{fault}, which {ranks.world_size} ranks cannot share; start a number of ranks that divides {before}"]
    return [f"{fault}; on {ranks.world_size} give --accumulate {before // ranks.world_size}"]


def build_schedule(report: Report, cfg: Config, tokens: Tokens) -> Order:
    """The order of the domain's clips, with their labels as they are known by now; of tars, a stream."""
    training = report.role("data")
    if any(each.totals for each in training):
        return Stream(training, cfg, tokens)
    return Schedule(
        [example for each in training for example in each.speech.examples],
        [label for each in training for label in each.labels],
        [seconds for each in training for seconds in each.seconds],
        *(cfg.audio_context, cfg.clips_per_batch, tokens, cfg.seed),
    )


def _find_model(cfg: Config, faults: list[str]) -> tuple[Callable[[], tuple[Whisper, weights.Origin]], ModelDimensions]:
    """How to load the weights, and their dimensions: known for official names, read from the file for others."""
    dims = memory.official_dimensions(cfg.model)
    checkpoint = runs.last_checkpoint(cfg.resume) if cfg.resume else None
    if checkpoint is not None and cfg.resume is not None and config.needs_original(cfg):
        loaded = weights.load_original(cfg.resume)
        return lambda: loaded, loaded[0].dims
    if checkpoint is not None and cfg.resume is not None:
        loaded = weights.load(str(checkpoint))
        fingerprint = str(config.recorded(cfg.resume).get("weights_fingerprint"))
        original = weights.Origin(cfg.model, str(checkpoint), fingerprint, loaded[1].alignment_heads)
        return lambda: (loaded[0], original), loaded[0].dims
    if dims is not None:
        return lambda: weights.load(cfg.model), dims
    try:
        loaded = weights.load(cfg.model)
        return lambda: loaded, loaded[0].dims
    except InputError as error:
        faults.extend(error.faults)
        fallback = memory.official_dimensions("tiny.en" if cfg.model.endswith(".en") else "tiny")
        assert fallback is not None
        return lambda: weights.load(cfg.model), fallback


def show_check(prepared: Prepared, out: Console) -> None:
    """What `--check` prints: the sets, what is worth knowing, and one batch token by token."""
    cfg = prepared.cfg
    preflight.show(prepared.report, out)
    _, windows = next(prepared.schedule.from_position(0, 0))
    batch = prepared.collate(windows)
    for row, window in enumerate(batch.windows):
        effects = ", ".join(map(str, augment.of_role(cfg, window.role).draw(window.name, window.visit)))
        title = f"{window.name}: {window.context / SAMPLE_RATE:g} s context" + (f", {effects}" if effects else "")
        rows = batch.targets.inputs[row].tolist(), batch.targets.targets[row].tolist()
        out.print(preflight.batch_table(*rows, prepared.tokens, title))
    count = prepared.schedule.steps_per_epoch(1)
    out.print(
        f"{count} batches an epoch, {cfg.max_steps} steps of {cfg.clips_per_batch} × {cfg.accumulate}, "
        f"on {prepared.device} in {prepared.precision}. No run was written."
    )
