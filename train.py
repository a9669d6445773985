"""Fine-tune Whisper, read top to bottom: input is checked, the original is evaluated, then the loop.

One utterance's way: `data/sources.py` names it, `data/preflight.py` checks it, `data/batches.py` makes it a log-mel and
`data/tokens.py` tokens, `model/forward.py` encodes it and predicts its text, and below its loss is summed, divided
once and stepped.

Under torchrun every rank runs all of this on its share of each step's micro-batches; `training/ranks.py` says how.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor

from whisper_min import audio, config, runs
from whisper_min.config import InputError
from whisper_min.data import batches, preflight
from whisper_min.data.batches import Batch
from whisper_min.model import lora
from whisper_min.model.forward import decode, encode, project, sum_cross_entropy
from whisper_min.retain.original import Original
from whisper_min.runs import RunFolder, UnwrittenRun
from whisper_min.scoring import sweep
from whisper_min.scoring.budget import Budget
from whisper_min.scoring.originals import KeptResults
from whisper_min.scoring.tracking import Evaluation
from whisper_min.scoring.transcripts import Transcriber
from whisper_min.training import card, checkpoint, flops, retention, setup, system
from whisper_min.training.frozen import FrozenEncoder
from whisper_min.training.micro_batches import MicroBatches
from whisper_min.training.mirrors import Mirrors
from whisper_min.training.optimizer import build_optimizer, choose_trainable, clip_and_step, default_lr, lr_at
from whisper_min.training.precision import autocast, loss_scaler
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.readback import Readback
from whisper_min.training.reporter import Reporter
from whisper_min.training.steering import Steering, Stop


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; the exit code: 0 done, 1 failed, 2 wrong input, 130 and 143 after a signal."""
    ranks, reporter = ALONE, Reporter()
    try:
        ranks = Ranks.start()
        reporter = Reporter(ranks.rank)
        cfg = ranks.on_main(lambda: config.resolve(config.parse(sys.argv[1:] if argv is None else argv)))
        prepared = setup.prepare(cfg, reporter.console, ranks)
        if faults := Budget.of(prepared.cfg).check(prepared.report.role("retain")):
            raise InputError(faults)
        if cfg.check:
            setup.show_check(prepared, reporter.stdout)
            return 0
        return train(prepared, reporter, ranks)
    except InputError as error:
        return config.print_faults(error) if ranks.speaks_of(error) else 2
    except (checkpoint.SaveError, audio.AudioError, OSError, MemoryError) as error:
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
    max_steps, name, kl_weight = cfg.max_steps, cfg.run, cfg.kl
    assert max_steps is not None and name is not None and kl_weight is not None

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
        eval_every=cfg.eval_every or -(-max_steps // 5),
    )
    assert cfg.lr and cfg.warmup_steps is not None and cfg.eval_every
    parameters = choose_trainable(model, cfg)
    if not ranks.is_main:
        torch.manual_seed(cfg.seed + ranks.rank)  # dropout differs from rank to rank
    optimizer, scaler = build_optimizer(model, cfg), loss_scaler(device, precision)
    parts = MicroBatches(prepared, optimizer, reporter)
    frozen_encoder = None if any(p.requires_grad for p in model.encoder.parameters()) else FrozenEncoder(model, cfg)
    in_precision = partial(autocast, device, precision)
    original = Original(model, cfg) if cfg.kl else None
    # one rank adds the anchors' gradients, before all are summed
    fixed = (model, origin.fingerprint, prepared, in_precision, reporter)
    anchors = ranks.together(lambda: retention.anchors(*fixed) if ranks.is_main else [])

    # ---- Where the run stands: at its start, or exactly where its last checkpoint stopped.
    state: dict[str, Any] = {"step": 0, "position": (0, 0, 0), "evaluated": -1, "best": None, "stale": 0}
    state |= {"tokens": 0, "audio_seconds": 0.0, "runtime": 0.0}
    resumed = ranks.on_main(lambda: runs.last_checkpoint(cfg.resume) if cfg.resume else None)
    if resumed is not None:
        saved = ranks.together(checkpoint.load_trainer, resumed)
        ranks.together(checkpoint.load_weights, resumed, model)
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["rng"][ranks.rank % len(saved["rng"])])
        state = {key: saved[key] for key in state}

    # ---- The run folder, and who may interfere.
    open_folder = RunFolder.create if ranks.is_main else UnwrittenRun
    run = open_folder(cfg.runs_dir / name, runtime_before=state["runtime"])
    reporter.log_to(run.path / "train.log")
    environment = card.run_record(cfg, origin, device, precision, ranks)
    record = environment | {"data_fingerprint": prepared.data_fingerprint}
    ranks.on_main(preflight.write_lists, run.path, prepared.report)
    run.write_config(record)
    run.beat(state="starting", step=state["step"], max_steps=max_steps)
    steering, mirrors = Steering(run, ranks), Mirrors(cfg.report_to, run, reporter.print)
    kept = KeptResults(cfg, prepared.tokens, origin.fingerprint, precision)
    evaluate = Evaluation(cfg, prepared.tokens, prepared.report, run, steering, reporter, in_precision, kept, ranks)
    reporter.print(preflight.table(prepared.report), *(f"note: {note}" for note in prepared.report.notes), sep="\n")
    reporter.print(f"{run.path}: {origin.found} on {device} in {precision}, {max_steps} steps, lr {cfg.lr:g}")

    def save(step: int) -> None:
        run.beat(state="saving", step=step)
        state.update(step=step, runtime=run.runtime)
        trainer = {**state, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        trainer["rng"] = ranks.gather(torch.get_rng_state)
        ranks.on_main(write, step, trainer)
        steering.save_wanted = False

    def write(step: int, trainer: dict[str, Any]) -> None:
        text = card.model_card(cfg, step, evaluate.latest, evaluate.latest_step, evaluate.normalizer)
        checkpoint.save(run.path, step, model, origin, trainer, record, text)
        if state["best"] is not None and state["best"]["step"] == step:
            checkpoint.point(run.path, "best", step)
        checkpoint.prune(run.path, cfg.keep)

    # ---- What the loop is about: a step's gradients, from its micro-batches or, where memory runs out, parts of them.
    def add_gradients(micro_batches: Sequence[Batch], tokens: int, kl_tokens: int) -> Tensor:
        """Add the gradients of micro-batches; returns (2,): what they add to the step's mean cross-entropy and KL."""
        means = torch.zeros(2, device=device)
        for batch in micro_batches:
            on = batch.on(device)  # mel (B, M, F), inputs (B, T), counted positions (N,), labels (N,)
            with in_precision():
                features = frozen_encoder(batch, on.mel) if frozen_encoder else encode(model, on.mel, cfg.checkpointing)
                hidden = decode(model, on.inputs, features, cfg.checkpointing)  # (B, T), (B, A, C) -> (B, T, C)
                logits = project(model, hidden, on.counted)  # (N, V)
            loss = sum_cross_entropy(logits, on.labels) / tokens
            means[0] += loss.detach()
            if original and original.applies_to(batch):
                with in_precision():
                    divergence = original.sum_kl(batch, on, features, logits) / kl_tokens
                means[1] += divergence.detach()
                loss = loss + kl_weight * divergence
            scaler.scale(loss).backward()
        return means

    # ---- The loop: occasional work first, the step last.
    encoded = frozen_encoder.kept if frozen_encoder else ()
    collate = partial(prepared.collate, encoded=encoded)
    in_step = cfg.accumulate * ranks.world_size
    order = batches.steps(prepared.schedule, retention.replays(prepared.report, cfg), in_step, state["position"])
    workers = batches.default_workers(device.type)
    data = batches.read_ahead(order, lambda item: [collate(each) for each in ranks.mine(item[1])], workers)
    step, readback, reason = state["step"], Readback(device), "finished"
    try:
        with system.SystemLog(run, device), reporter.bar("training", max_steps, step) as bar:
            while True:
                # Evaluate, now and then; the original first, so that every curve starts at step 0.
                due = step % cfg.eval_every == 0 or step == max_steps
                if (due and state["evaluated"] != step) or steering.evaluation_wanted:
                    log_step(run, reporter, bar, readback.take(), evaluate)
                    with lora.merged(model):
                        domain_wer = evaluate(model, step)
                    steering.evaluation_wanted, state["evaluated"] = False, step
                    rank = [evaluate.over_budget, domain_wer]
                    if step > 0 and (state["best"] is None or rank < state["best"]["rank"]):
                        state |= {"best": {"step": step, "wer": domain_wer, "rank": rank}, "stale": 0}
                    elif step > 0:
                        state["stale"] += 1
                    steering.save_wanted = step > 0
                if steering.save_wanted or (cfg.save_every and step % cfg.save_every == 0 and state["step"] != step):
                    save(step)
                if step == max_steps:
                    break
                if cfg.patience and state["stale"] >= cfg.patience:
                    reason = f"stopped early: no better domain WER in {cfg.patience} evaluations"
                    break
                run.beat(state="training", step=step)
                steering.between_steps()

                # Draw the step's micro-batches; a loss is a sum over tokens, divided once by the tokens of them all,
                # on all ranks.
                started = time.perf_counter()
                (state["position"], _), micro_batches = ranks.together(next, data)
                waited = time.perf_counter() - started
                step_tokens, kl_tokens, clips, audio_seconds, bad = ranks.add_up(
                    sum(batch.targets.count for batch in micro_batches),
                    sum(b.targets.count for b in micro_batches if original and original.applies_to(b)),
                    sum(len(batch.ids) for batch in micro_batches),
                    sum(batch.audio_seconds for batch in micro_batches),
                    [bad for batch in micro_batches for bad in batch.bad],
                )
                for each in bad:
                    reporter.print(f"left out: {each}")
                compute = partial(add_gradients, tokens=step_tokens, kl_tokens=kl_tokens)
                ce, kl = means = ranks.together(parts.run, compute, micro_batches)
                penalty = torch.zeros((), device=device)
                for anchor in anchors:
                    penalty += anchor.add_gradients(scaler.get_scale())
                ranks.sum_gradients(parameters)
                ranks.sum_([means])
                step += 1
                lr = lr_at(step, cfg.lr, cfg.warmup_steps, max_steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                norm = clip_and_step(optimizer, scaler, parameters, cfg.grad_clip)

                # Log; what the device computed is read a step later, and waiting for it belongs to the time of a step.
                log_step(run, reporter, bar, readback.take(), evaluate)
                seconds = time.perf_counter() - started
                state["tokens"] += step_tokens
                state["audio_seconds"] += audio_seconds
                known = {
                    "_step": step,
                    "train/lr": lr,
                    "train/tokens": state["tokens"],
                    "train/audio_seconds": round(state["audio_seconds"], 2),
                    "perf/samples_per_second": round(clips / seconds, 3),
                    "perf/audio_hours_per_hour": round(audio_seconds / seconds, 2),
                    "perf/data_wait": round(waited / seconds, 4),
                    **flops.mfu(model, micro_batches, seconds, precision),
                    **system.gpu_memory(device),
                    **parts.numbers(),
                    "data/bad": len(bad),
                }
                numbers = {"train/loss": ce + kl_weight * kl + penalty, "train/ce": ce, "train/grad_norm": norm}
                numbers |= {"train/kl": kl} if original else {}
                numbers |= {"train/ewc": penalty} if anchors else {}
                readback.put(numbers, known)
        # Under a budget also look between the original and the checkpoints.
        ranks.together(lambda: sweep.choose_for_run(evaluate, device, reporter.stdout) if ranks.is_main else None)
    except Stop as stop:
        log_step(run, reporter, None, readback.take(), evaluate)
        reason = stop.reason
        if step > 0 and state["step"] != step:
            reporter.print(f"{reason}: saving step {step}")
            save(step)
        run.beat(force=True, state="stopped", step=step, exit_reason=reason)
        reporter.print(f"{reason}; continue with: python train.py --resume {run.path}")
        return stop.exit_code
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide why the run failed
            run.beat(force=True, state="failed", exit_reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        mirrors.finish()
    run.beat(force=True, state="finished", step=step, exit_reason=reason)
    reporter.print(reason)
    if ranks.is_main:
        evaluate.summarise(reporter.stdout, state["best"], cfg)
    return 0


def log_step(
    run: RunFolder, reporter: Reporter, bar: TaskID | None, numbers: dict[str, Any] | None, evaluate: Evaluation
) -> None:
    """Write one step's row, say so where its gradient was not finite, and move the progress line."""
    if numbers is None:
        return
    step = numbers.pop("_step")
    run.log_metrics(step, numbers)
    if not torch.tensor(numbers["train/grad_norm"]).isfinite():
        reporter.print(f"step {step}: the gradient is not finite; the update was skipped")
    if bar is not None:
        rate = f"{numbers['perf/samples_per_second']:.1f} clips/s"
        reporter.advance(bar, step, f"loss {numbers['train/loss']:.3f}  {evaluate.one_line()}  {rate}")


if __name__ == "__main__":
    sys.exit(main())
