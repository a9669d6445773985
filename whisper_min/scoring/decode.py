"""Batched greedy decoding, token for token what `whisper.decode` writes.

Against whisper's own loop: keys and values of the audio are computed once, those of the text go into a cache of fixed
size, rows that have ended leave the batch, and the device is asked whether all have ended every few tokens only. On
CUDA a token is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from whisper import DecodingOptions, Whisper
from whisper.audio import CHUNK_LENGTH
from whisper.decoding import DecodingTask

from whisper_min.data.tokens import Tokens
from whisper_min.model.cached_decoder import CachedDecoder, FixedStep
from whisper_min.model.forward import encode

# Tokens between two looks at whether all rows have ended: looking is free on a CPU and a stall on a GPU.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 8
# Devices on which a token is read by `FixedStep`.
FIXED_ON = {"cuda"}
# Clips encoded together on a CPU: more fall out of its caches.
CPU_ENCODER_BATCH = 1


@dataclass(frozen=True)
class Hypothesis:
    """What the model wrote for one clip."""

    tokens: list[int]
    """Text tokens without prefix and end."""
    text: str
    ended: bool
    """Whether the model wrote the end token within the limit."""
    avg_logprob: float | None = None
    """Nats per token, the end's included, as whisper.decode gives it; None where nobody asked."""


def options(tokens: Tokens, beam_size: int | None = None) -> DecodingOptions:
    """The one way to decode, everywhere: no timestamps, no temperature, whisper's suppression lists, 224 tokens."""
    return DecodingOptions(
        task=tokens.tokenizer.task or "transcribe",
        language=tokens.tokenizer.language or "en",
        temperature=0.0,
        sample_len=tokens.sample_limit,
        beam_size=beam_size,
        suppress_tokens="-1",
        suppress_blank=True,
        without_timestamps=True,
        fp16=False,
    )


def suppressed(model: Whisper, tokens: Tokens) -> list[int]:
    """Tokens that are never written: whisper's own list of special ones and of signs that no speech has."""
    return list(DecodingTask(model, options(tokens))._get_suppress_tokens())


def encode_windows(model: Whisper, mel: Tensor) -> Tensor:
    """Encode log-mels (B, M, F) to features (B, A, C), a few at a time on a CPU."""
    parts = mel.split(CPU_ENCODER_BATCH if mel.device.type == "cpu" else len(mel))
    return torch.cat([encode(model, part) for part in parts])


@torch.inference_mode()
def greedy(model: Whisper, features: Tensor, tokens: Tokens, with_logprob: bool = False) -> list[Hypothesis]:
    """Write the most likely token again and again, for every clip of a batch.

    Parameters
    ----------
    features : Tensor, shape = (B, A, C)
        what the encoder wrote; the decoder works in fp32, with keys and values of the audio in the features' dtype
    with_logprob : bool
        fill in `Hypothesis.avg_logprob`, which costs a pass over the logits for every token
    """
    batch, device, limit = features.shape[0], features.device, tokens.sample_limit
    never = torch.tensor(suppressed(model, tokens), device=device)
    blank = torch.tensor([*tokens.tokenizer.encode(" "), tokens.end], device=device)
    look_every = LOOK_EVERY.get(device.type, LOOK_EVERY_ELSEWHERE)

    decoder = CachedDecoder(model, features, len(tokens.prefix) + limit)
    written = torch.full((batch, limit), tokens.end, device=device)
    rows = torch.arange(batch, device=device)  # where in `written` each row of the shrinking batch belongs
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    logprobs = torch.zeros(batch, device=device)
    following = torch.tensor([tokens.prefix], device=device).repeat(batch, 1)
    read: Callable[[Tensor], Tensor] = decoder
    for position in range(limit):
        logits = read(following)  # (B, V)
        logits[:, never] = -torch.inf
        if position == 0:
            logits[:, blank] = -torch.inf
        if with_logprob:
            logprobs[rows] += (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).masked_fill(ended, 0)
        best = logits.argmax(dim=-1).masked_fill(ended, tokens.end)
        written[rows, position] = best
        ended |= best == tokens.end
        following = best[:, None]
        batch_is_new = position == 0
        if position % look_every == look_every - 1:
            alive = (~ended).nonzero()[:, 0]
            if len(alive) == 0:
                break
            if 2 * len(alive) <= len(rows):
                decoder.keep(alive)
                rows, ended, following = rows[alive], ended[alive], following[alive]
                batch_is_new = True
        if batch_is_new and device.type in FIXED_ON:
            read = FixedStep(decoder, following)
    sums = logprobs.tolist() if with_logprob else [None] * batch
    return [_hypothesis(row, its, tokens) for row, its in zip(written.tolist(), sums, strict=True)]


def _hypothesis(row: Sequence[int], logprob: float | None, tokens: Tokens) -> Hypothesis:
    ended = tokens.end in row
    text = list(row[: row.index(tokens.end)] if ended else row)
    average = None if logprob is None else logprob / (len(text) + 1)
    return Hypothesis(text, str(tokens.tokenizer.decode(text)).strip(), ended, average)


def beam(model: Whisper, features: Tensor, tokens: Tokens, beam_size: int) -> list[Hypothesis]:
    """Beam search through whisper's own decoder, clip by clip: it repeats the text by beam, but not the audio."""
    results = [model.decode(each, options(tokens, beam_size)) for each in features.float()]
    return [Hypothesis(result.tokens, result.text, len(result.tokens) < tokens.sample_limit) for result in results]


def timestamp_task(model: Whisper, tokens: Tokens) -> DecodingTask:
    """whisper's own decoder, asked for timestamps."""
    return DecodingTask(model, replace(options(tokens), without_timestamps=False))


@torch.inference_mode()
def with_timestamps(model: Whisper, features: Tensor, tokens: Tokens) -> list[Hypothesis]:
    """Greedy with timestamps, by whisper's own decoder and its rules for them; `text` spells them as `<|0.00|>`."""
    return [
        Hypothesis(
            result.tokens,
            tokens.tokenizer.decode_with_timestamps(result.tokens),
            len(result.tokens) < tokens.sample_limit,
            result.avg_logprob,
        )
        for result in timestamp_task(model, tokens).run(features.float())
    ]


def transcribe_long(model: Whisper, waveform: Tensor, tokens: Tokens) -> Hypothesis:
    """Clips over 30 s: whisper's `transcribe`, greedy, window after window, without temperature fallback."""
    result = model.transcribe(
        waveform,
        language=tokens.tokenizer.language or "en",
        task=tokens.tokenizer.task or "transcribe",
        temperature=0.0,
        condition_on_previous_text=False,
        fp16=False,
        verbose=None,
    )
    written = [token for segment in result["segments"] for token in segment["tokens"] if token < tokens.end]
    return Hypothesis(written, result["text"].strip(), True)


def is_long(seconds: float) -> bool:
    """Whether a clip goes beyond Whisper's window."""
    return seconds > CHUNK_LENGTH
