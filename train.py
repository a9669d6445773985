"""Fine-tune Whisper, read top to bottom: input is checked, the original is evaluated, then the loop.

One utterance's way: `data/sources.py` names it, `data/preflight.py` checks it, `data/batches.py` reads it and on the
device makes it a log-mel, `data/tokens.py` makes its text tokens, `model/forward.py` encodes it and predicts its text,
and below its loss is summed, divided once and stepped.

Under torchrun every rank runs all of this on its share of each step's micro-batches; `training/ranks.py` says how.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from whisper_min import audio, config, runs
from whisper_min.config import InputError
from whisper_min.data import batches, preflight
from whisper_min.data.batches import Batch
from whisper_min.model import lora
from whisper_min.model.bf16 import in_fp32
from whisper_min.model.forward import compile_blocks, decode, encode, project, sum_cross_entropy
from whisper_min.retain.original import Original
from whisper_min.runs import RunFolder, UnwrittenRun
from whisper_min.scoring import sweep
from whisper_min.scoring.budget import Budget
from whisper_min.scoring.originals import KeptResults
from whisper_min.scoring.tracking import Evaluation
from whisper_min.scoring.transcripts import Transcriber
from whisper_min.training import card, checkpoint, doctor, flops, launch, retention, setup, sharding, system
from whisper_min.training.frozen import FrozenEncoder
from whisper_min.training.micro_batches import MicroBatches, Totals
from whisper_min.training.mirrors import Mirrors
from whisper_min.training.optimizer import build_optimizer, choose_trainable, clip_and_step, default_lr, lr_at, set_lr
from whisper_min.training.precision import autocast, loss_scaler
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.reporter import Reporter
from whisper_min.training.state import State
from whisper_min.training.steering import Steering, Stop, end_at_signals
from whisper_min.training.step_log import StepLog


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; the exit code: 0 done, 1 failed, 2 wrong input, 130 and 143 after a signal."""
    ranks, reporter = ALONE, Reporter()
    end_at_signals()
    try:
        ranks = Ranks.start()
        reporter = Reporter(ranks.rank)
        cfg = ranks.on_main(lambda: launch.options(sys.argv[1:] if argv is None else argv))
        if cfg.doctor:
            return doctor.show(cfg, reporter.stdout, ranks)
        prepared = setup.prepare(cfg, reporter.console, ranks)
        if faults := Budget.of(prepared.cfg).check(prepared.report.role("retain")):
            raise InputError(faults)
        if cfg.check:
            setup.show_check(prepared, reporter.stdout)
            return 0
        return train(prepared, reporter, ranks)
    except InputError as error:
        return config.print_faults(error) if ranks.speaks_of(error) else 2
    except (audio.AudioError, OSError, MemoryError, FloatingPointError) as error:
        if ranks.speaks_of(error):
            reporter.warn(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        reporter.print("interrupted; what the last checkpoint holds is safe")
        return 130
    finally:
        ranks.finish()


def train(prepared: setup.Prepared, reporter: Reporter, ranks: Ranks) -> int:
    """One run, from its weights to its last checkpoint."""
    cfg, device, precision = prepared.cfg, prepared.device, prepared.precision
    max_steps, eval_every, name, kl_weight = cfg.max_steps, cfg.eval_every, cfg.run, cfg.kl
    assert max_steps and eval_every and name is not None and kl_weight is not None

    # ---- The model, what trains of it, and what holds it to the original.
    model, origin = ranks.main_first(prepared.load)
    model = model.to(device)
    writer = Transcriber(cfg, lambda: model, prepared.tokens, origin.fingerprint, precision, reporter)
    report = ranks.main_first(writer.label, prepared.report)  # where labels are to be the original's
    if cfg.timestamps:
        report = ranks.main_first(writer.timestamp, report)
    prepared = prepared.relabelled(report, ranks)
    cfg = replace(
        cfg,
        lr=cfg.lr or default_lr(model, cfg),
        warmup_steps=max_steps // 10 if cfg.warmup_steps is None else cfg.warmup_steps,
    )
    assert cfg.lr and cfg.warmup_steps is not None
    choose_trainable(model, cfg)
    if cfg.compile:
        compile_blocks(model)
    if not ranks.is_main:
        torch.manual_seed(cfg.seed + ranks.rank)  # dropout differs from rank to rank
    frozen_encoder = None if any(p.requires_grad for p in model.encoder.parameters()) else FrozenEncoder(model, cfg)
    in_precision = partial(autocast, device, precision)
    original = Original(model, cfg) if cfg.kl else None
    anchors = retention.anchors(model, origin.fingerprint, prepared, in_precision, reporter, ranks)

    # ---- Where the run stands: at its start, or exactly where its last checkpoint stopped.
    resumed = ranks.on_main(lambda: runs.last_checkpoint(cfg.resume) if cfg.resume else None)
    saved = ranks.together(checkpoint.load, resumed, model)
    parameters = sharding.trained_parameters(model, cfg)
    optimizer, scaler = build_optimizer(model, cfg), loss_scaler(device, precision)
    state = ranks.together(State.of, resumed, saved, optimizer, scaler, ranks.rank)
    parts = MicroBatches(prepared, optimizer, reporter, ranks)

    # ---- The run folder, and who may interfere.
    record = card.run_record(cfg, origin, device, precision, ranks) | {"data_fingerprint": prepared.data_fingerprint}
    open_folder = RunFolder.create if ranks.is_main else UnwrittenRun
    run = ranks.together(open_folder, cfg.runs_dir / name, runtime_before=state.runtime, room_minutes=cfg.room_minutes)
    run.write_config(record)
    reporter.log_to(run.path / "train.log")
    ranks.on_main(preflight.write_lists, run.path, prepared.report)
    run.beat(state="starting", step=state.step, max_steps=max_steps)
    steering, mirrors = Steering(run, ranks, prepared.deadline(reporter)), Mirrors(cfg.report_to, run, reporter.print)
    kept = KeptResults(cfg, prepared.tokens, origin.fingerprint, precision)
    evaluate = Evaluation(cfg, prepared.tokens, prepared.report, run, steering, reporter, in_precision, kept, ranks)
    reporter.print(preflight.table(prepared.report), *(f"note: {note}" for note in prepared.report.notes), sep="\n")
    reporter.print(f"{run.path}: {origin.found} on {device} in {precision}, {max_steps} steps, lr {cfg.lr:g}")

    def save() -> None:
        log.write()  # its rows first: none is missing after a resume
        run.beat(state="saving", step=state.step)
        state.saved, state.runtime, steering.save_wanted = state.step, run.runtime, False
        trainer = state.record(optimizer, scaler, ranks.gather(torch.get_rng_state))
        results = (evaluate.latest, evaluate.latest_step, evaluate.normalizer)
        text = ranks.on_main(card.model_card, cfg, state.step, *results)
        trained = checkpoint.what_trained(model, origin)
        ranks.on_main(run.wait_for_room, checkpoint.save, run.path, state.step, trained, trainer, record, text)
        ranks.on_main(checkpoint.tidy, run.path, state.best, cfg.keep)

    # ---- The data: a seeded order, collated ahead of the loop where the device leaves the cores idle.
    encoded = frozen_encoder.kept if frozen_encoder else ()
    collate = partial(prepared.collate, encoded=encoded)
    in_step = cfg.accumulate * ranks.world_size
    order = batches.steps(prepared.schedule, retention.replays(prepared.report, cfg), in_step, state.position)
    workers = batches.default_workers(device.type)
    data = batches.read_ahead(order, lambda item: [collate(each) for each in ranks.mine(item[1])], workers)

    # ---- What the loop is about: a step's gradients, from its micro-batches or, where memory runs out, parts of them.
    def losses(batch: Batch, totals: Totals) -> tuple[Tensor, Tensor]:
        """What a micro-batch adds to the step's loss (), and to its mean cross-entropy and KL (2,)."""
        on = batch.on(device)  # mel (B, M, F), inputs (B, T), counted positions (N,), labels (N,)
        with in_precision():
            features = frozen_encoder(batch, on.mel) if frozen_encoder else encode(model, on.mel, cfg.checkpointing)
            hidden = decode(model, on.inputs, features, cfg.checkpointing)  # (B, T), (B, A, C) -> (B, T, C)
            logits = project(model, hidden, on.counted)  # (N, V)
        ce, kl = sum_cross_entropy(logits, on.labels) / totals.tokens, torch.zeros((), device=device)
        if original and original.applies_to(batch):
            with in_precision():
                kl = original.sum_kl(batch, on, features, logits) / totals.kl_tokens
        return ce + kl_weight * kl, torch.stack([ce, kl]).detach()

    def add_gradients(micro_batches: Sequence[Batch], totals: Totals) -> Tensor:
        """Add the gradients of micro-batches; returns (2,): what they add to the step's mean cross-entropy and KL."""
        means = torch.zeros(2, device=device)
        for batch, weight in sharding.padded(micro_batches, totals.largest_share if cfg.shard else 0):
            loss, its_means = sharding.run(model, partial(losses, batch, totals))
            means += weight * its_means
            scaler.scale(weight * loss).backward()
        return means

    # ---- The loop: occasional work first, the step last.
    log, reason = StepLog(run, reporter, evaluate.one_line, device, state.step, cfg.max_nonfinite), "finished"
    try:
        with system.SystemLog(run, device), reporter.bar("training", max_steps, state.step) as bar:
            while True:
                # Evaluate, now and then; the original first, so that every curve starts at step 0.
                due = state.step % eval_every == 0 or state.step == max_steps
                if (due and state.evaluated != state.step) or steering.evaluation_wanted:
                    with in_fp32(model), lora.merged(model):
                        state.evaluation_done(evaluate(sharding.whole_model(model), state.step), evaluate.over_budget)
                    steering.evaluation_wanted, steering.save_wanted = False, state.step > 0
                save_due = cfg.save_every and state.step % cfg.save_every == 0 and state.saved != state.step
                if steering.save_wanted or save_due:
                    save()
                if state.step == max_steps:
                    break
                if cfg.patience and state.stale >= cfg.patience:
                    reason = f"stopped early: no better domain WER in {cfg.patience} evaluations"
                    break
                run.beat(state="training", step=state.step)
                steering.between_steps()

                # Draw the step's micro-batches; a loss is a sum over tokens, divided once by the tokens of all ranks.
                started = time.perf_counter()
                (state.position, _), micro_batches = ranks.together(next, data)
                waited = time.perf_counter() - started
                totals = Totals.of(micro_batches, original, ranks)
                for bad in totals.bad:
                    reporter.print(f"left out: {bad}")
                ce, kl = means = parts.run(partial(add_gradients, totals=totals), micro_batches)
                penalties = [anchor.add_gradients(scaler.get_scale()) for anchor in anchors]
                penalty = sum(penalties, torch.zeros((), device=device))
                ranks.sum_gradients(parameters)
                ranks.sum_([means])
                state.step_done(totals)
                lr = lr_at(state.step, cfg.lr, cfg.warmup_steps, max_steps)
                set_lr(optimizer, lr)
                norm = clip_and_step(optimizer, scaler, parameters, cfg.grad_clip, state.step)

                # Log; what the device computed is read a step later, and waiting for it belongs to the time of a step.
                log.write(bar)
                seconds = time.perf_counter() - started
                known = {
                    **{"_step": state.step, "clips": totals.clips, "train/lr": lr, "train/tokens": state.tokens},
                    "train/audio_seconds": round(state.audio_seconds, 2),
                    **totals.rates(seconds, waited),
                    **flops.mfu(model, micro_batches, seconds, precision),
                    **system.gpu_memory(device),
                    **parts.numbers(),
                }
                numbers = {"train/loss": ce + kl_weight * kl + penalty, "train/ce": ce, "train/grad_norm": norm}
                numbers |= ({"train/kl": kl} if original else {}) | ({"train/ewc": penalty} if anchors else {})
                log.put(numbers, known)
        # Under a budget also look between the original and the checkpoints.
        ranks.together(lambda: sweep.choose_for_run(evaluate, device, reporter.stdout) if ranks.is_main else None)
    except Stop as stop:
        if state.saved != state.step:
            reporter.print(f"{stop.reason}: saving step {state.step}")
            save()
        run.beat(force=True, state="stopped", step=state.step, exit_reason=stop.reason)
        reporter.print(f"{stop.reason}; continue with: python train.py --resume {run.path}")
        return stop.exit_code
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide why the run failed
            run.beat(force=True, state="failed", exit_reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        mirrors.finish()
        run.release()
    run.beat(force=True, state="finished", step=state.step, exit_reason=reason)
    reporter.print(reason)
    if ranks.is_main:
        evaluate.summarise(reporter.stdout, state.best, cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
