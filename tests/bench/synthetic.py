"""Training steps and decoding of a Whisper with random weights on noise, for benchmarks that need no data.

Never zeros: products of zeros take less power, and run faster.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import common  # first: it makes the checkout importable
import torch
from torch import Tensor
from whisper import ModelDimensions, Whisper
from whisper.audio import SAMPLE_RATE

from whisper_min import audio
from whisper_min.config import Config
from whisper_min.data.tokens import Tokens
from whisper_min.engines import huggingface
from whisper_min.model import forward
from whisper_min.scoring import decode
from whisper_min.training import flops
from whisper_min.training.optimizer import build_optimizer, choose_trainable, clip_and_step
from whisper_min.training.precision import autocast, loss_scaler


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_model(dims: ModelDimensions, device: torch.device) -> Whisper:
    """Weights as whisper's modules draw them."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Whisper(dims)
        torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01)  # whisper leaves it as the memory was
    return model


def train(
    dims: ModelDimensions,
    cfg: Config,
    precision: str,
    device: torch.device,
    samples: int,
    tokens: int,
    warmup: int,
    steps: int,
    peer: bool = False,
) -> common.Result:
    """Seconds and memory of training steps of our pieces, or of transformers in a plain loop (`peer`).

    Parameters
    ----------
    cfg : Config
        what trains, `batch_size`, `checkpointing`, `compile`, `lean`
    samples, tokens : int
        of each clip's context, and of its label
    """
    clips, positions = cfg.clips_per_batch, samples // audio.SAMPLES_PER_POSITION
    started = time.perf_counter()
    model: Any = random_transformers(dims, cfg, device) if peer else random_model(dims, device)
    parameters = [*model.parameters()] if peer else choose_trainable(model, cfg)
    if cfg.compile:
        forward.compile_blocks(model)
    optimizer, scaler = build_optimizer(model, cfg), loss_scaler(device, precision)
    mel = torch.randn(clips, dims.n_mels, 2 * positions, device=device)
    rows = torch.randint(dims.n_vocab, (clips, tokens + 1), device=device)
    inputs, labels, counted = rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.arange(clips * tokens)
    counted = counted.to(device)

    def loss_of() -> Tensor:
        if peer:
            return model(input_features=mel, decoder_input_ids=inputs, labels=labels).loss
        hidden = forward.decode(model, inputs, forward.encode(model, mel, cfg.checkpointing), cfg.checkpointing)
        return forward.sum_cross_entropy(forward.project(model, hidden, counted), labels) / labels.numel()

    def step() -> None:
        with autocast(device, precision):
            loss = loss_of()
        scaler.scale(loss).backward()
        clip_and_step(optimizer, scaler, parameters, cfg.grad_clip)

    step()
    wait(device)
    first = time.perf_counter() - started
    for _ in range(warmup):
        step()
    wait(device)
    begun = common.now()
    for _ in range(steps):
        step()
    wait(device)
    wall, cpu = (common.now() - begun) / steps
    gradients = flops.Gradients.of_config(cfg)
    operations = flops.batch_flops(dims, gradients, clips, positions, tokens, clips * tokens)
    on_cuda = device.type == "cuda"
    peak = flops.peak_flops(torch.cuda.get_device_name(device), precision) if on_cuda else None
    held = torch.cuda.max_memory_allocated(device) / 1e6 if on_cuda else common.peak_megabytes()
    found = {"step": wall, "cpu": cpu, "rate": clips / wall, "first": first, "peak": held, "operations": operations}
    return {**found, "mfu": operations / wall / peak if peak else None}


def random_transformers(dims: ModelDimensions, cfg: Config, device: torch.device) -> Any:
    """transformers' Whisper of the same dimensions, ready to train."""
    transformers = huggingface.load_transformers()
    settings = huggingface.configuration(dims, Tokens(dims).tokenizer)
    settings.use_cache = False
    with torch.device(device):
        model = transformers.WhisperForConditionalGeneration(settings)
    if cfg.checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def transcribe(
    dims: ModelDimensions, precision: str, device: torch.device, clips: int, seconds: float, count: int, rounds: int
) -> common.Result:
    """Seconds of decoding clips in 30 s windows, log-mel included; each writes exactly so many tokens."""
    model, waveforms = random_model(dims, device).eval(), torch.randn(clips, round(seconds * SAMPLE_RATE)).numpy()

    class Forced(Tokens):
        sample_limit = count

    tokens = Forced(dims)
    never = [*decode.suppressed(model, tokens), tokens.end]

    def once() -> None:
        mel = audio.log_mel(audio.pad(list(waveforms)), dims.n_mels).to(device)  # (B, M, 3000)
        with torch.inference_mode(), autocast(device, precision):
            features = decode.encode_windows(model, mel)
        written = decode.greedy(model, features, tokens)
        assert {len(each.tokens) for each in written} == {count}

    # random weights would end at random, if at all
    with mock.patch.object(decode, "suppressed", lambda *_: never):
        once()
        wait(device)
        begun = common.now()
        for _ in range(rounds):
            once()
        wait(device)
    wall, cpu = (common.now() - begun) / rounds
    held = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else common.peak_megabytes()
    return {"step": wall, "cpu": cpu, "rtfx": clips * seconds / wall, "peak": held}
