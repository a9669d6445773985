"""`--batch_size auto`: as many clips as memory holds, by the ledger and then by trial."""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import replace

import torch
from rich.console import Console
from whisper import ModelDimensions, Whisper

from whisper_min.audio import SAMPLES_PER_POSITION
from whisper_min.config import Config
from whisper_min.model.forward import decode, encode, project, sum_cross_entropy
from whisper_min.training import memory
from whisper_min.training.optimizer import build_optimizer, choose_trainable
from whisper_min.training.precision import autocast


def choose(
    dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, context_samples: int, console: Console
) -> int:
    """The batch size of `--batch_size auto`: the largest that the ledger allows and, on CUDA, that a trial survives."""
    size = memory.largest_batch_size(dims, cfg, precision, device, context_samples)
    while device.type == "cuda" and size > 1:
        survived = False
        with suppress(torch.OutOfMemoryError):
            try_step(dims, replace(cfg, batch_size=size), precision, device, context_samples)
            survived = True
        gc.collect()
        torch.cuda.empty_cache()  # what the trial took is free again, for the next one and for the run
        if survived:
            break
        size //= 2
    console.print(f"--batch_size auto: {size}", markup=False, highlight=False)
    return size


def try_step(dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, context_samples: int) -> None:
    """Two steps of a random model on noise, with all that a run holds in memory; torch.OutOfMemoryError where it fails.

    The second step has the optimizer's moments beside it. Labels are twice as long as typical ones, for a batch is as
    long as its longest.
    """
    account = memory.ledger(dims, cfg, precision, context_samples, device.type)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        model = Whisper(dims)
        parameters = choose_trainable(model, cfg)
        optimizer = build_optimizer(model, replace(cfg, lr=1e-5))
        held = torch.empty(account.original + account.anchors + account.fisher, dtype=torch.uint8)
        positions, tokens = context_samples // SAMPLES_PER_POSITION, min(2 * memory.TYPICAL_TOKENS, dims.n_text_ctx)
        mel = torch.randn(cfg.clips_per_batch, dims.n_mels, 2 * positions)
        rows = torch.randint(dims.n_vocab, (cfg.clips_per_batch, tokens))
        for _ in range(2):
            with autocast(device, precision):
                with torch.set_grad_enabled(any(p.requires_grad for p in model.encoder.parameters())):
                    features = encode(model, mel, cfg.checkpointing)
                hidden = decode(model, rows, features, cfg.checkpointing)
                logits = project(model, hidden, torch.arange(rows.numel()))
            (sum_cross_entropy(logits, rows) / rows.numel()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        del held
