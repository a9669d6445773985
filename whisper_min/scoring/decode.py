"""Batched greedy decoding, token for token what `whisper.decode` writes.

Against whisper's own loop: keys and values of the audio are computed once, those of the text go into a cache of fixed
size, rows that have ended leave the batch, and the device is asked whether all have ended every few tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from whisper import DecodingOptions, Whisper
from whisper.audio import CHUNK_LENGTH
from whisper.decoding import DecodingTask
from whisper.model import MultiHeadAttention

from whisper_min.data.tokens import Tokens
from whisper_min.model.forward import attend, encode, keys, mlp, values

# Tokens between two looks at whether all rows have ended: looking is free on a CPU and a stall on a GPU.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 8
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


def options(tokens: Tokens, beam_size: int | None = None) -> DecodingOptions:
    """The one way to decode, everywhere: no timestamps, no temperature, whisper's suppression lists, 224 tokens."""
    return DecodingOptions(
        task=tokens.tokenizer.task or "transcribe",
        language=tokens.tokenizer.language or "en",
        temperature=0.0,
        sample_len=tokens.text_context // 2,
        beam_size=beam_size,
        suppress_tokens="-1",
        suppress_blank=True,
        without_timestamps=True,
        fp16=False,
    )


def encode_windows(model: Whisper, mel: Tensor) -> Tensor:
    """Encode log-mels (B, M, F) to features (B, A, C), a few at a time on a CPU."""
    parts = mel.split(CPU_ENCODER_BATCH if mel.device.type == "cpu" else len(mel))
    return torch.cat([encode(model, part) for part in parts])


class CachedDecoder:
    """The decoder with its caches, for one batch.

    Parameters
    ----------
    model : Whisper
    features : Tensor, shape = (B, A, C)
        what the encoder wrote
    capacity : int
        tokens that the cache holds: prefix and all that may be written
    """

    def __init__(self, model: Whisper, features: Tensor, capacity: int) -> None:
        self.decoder = model.decoder
        self.position = 0
        self.audio: list[tuple[Tensor, Tensor]] = []
        self.text: list[tuple[Tensor, Tensor]] = []
        embedding = self.decoder.token_embedding.weight
        for block in self.decoder.blocks:
            # contiguous by head: they are read again for every token
            cross: MultiHeadAttention = block.cross_attn
            self.audio.append((keys(cross, features).contiguous(), values(cross, features).contiguous()))
            heads = block.attn.n_head
            shape = (features.shape[0], heads, capacity, embedding.shape[1] // heads)
            self.text.append((embedding.new_zeros(shape), embedding.new_zeros(shape)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read the next tokens (B, T) and return the logits that follow the last: (B, V)."""
        start, stop = self.position, self.position + tokens.shape[1]
        x = self.decoder.token_embedding(tokens) + self.decoder.positional_embedding[start:stop]  # (B, T, C)
        for block, (audio_k, audio_v), (text_k, text_v) in zip(self.decoder.blocks, self.audio, self.text, strict=True):
            normed = block.attn_ln(x)
            text_k[:, :, start:stop] = keys(block.attn, normed)
            text_v[:, :, start:stop] = values(block.attn, normed)
            # several tokens come only at the start, where causal means what it says; one token sees all before it
            x = x + attend(block.attn, normed, text_k[:, :, :stop], text_v[:, :, :stop], causal=tokens.shape[1] > 1)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), audio_k, audio_v)
            x = x + mlp(block, block.mlp_ln(x))
        self.position = stop
        last = self.decoder.ln(x[:, -1])  # (B, C)
        # the long side first: on a CPU this product is twice as fast as last @ embedding.T
        return (self.decoder.token_embedding.weight @ last.T).T.float()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these (int64 indices)."""
        self.audio = [(k[rows], v[rows]) for k, v in self.audio]
        self.text = [(k[rows], v[rows]) for k, v in self.text]


@torch.inference_mode()
def greedy(model: Whisper, features: Tensor, tokens: Tokens) -> list[Hypothesis]:
    """Write the most likely token again and again, for every clip of a batch.

    Parameters
    ----------
    features : Tensor, shape = (B, A, C)
        what the encoder wrote; the decoder works in fp32, with keys and values of the audio in the features' dtype
    """
    task = DecodingTask(model, options(tokens))  # for whisper's own limit and suppression lists
    batch, device, limit = features.shape[0], features.device, task.sample_len
    suppressed = torch.tensor(task._get_suppress_tokens(), device=device)
    blank = torch.tensor([*tokens.tokenizer.encode(" "), tokens.end], device=device)
    look_every = LOOK_EVERY.get(device.type, LOOK_EVERY_ELSEWHERE)

    decoder = CachedDecoder(model, features, len(tokens.prefix) + limit)
    written = torch.full((batch, limit), tokens.end, device=device)
    rows = torch.arange(batch, device=device)  # where in `written` each row of the shrinking batch belongs
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    following = torch.tensor([tokens.prefix], device=device).repeat(batch, 1)
    for position in range(limit):
        logits = decoder(following)  # (B, V)
        logits[:, suppressed] = -torch.inf
        if position == 0:
            logits[:, blank] = -torch.inf
        best = logits.argmax(dim=-1).masked_fill(ended, tokens.end)
        written[rows, position] = best
        ended |= best == tokens.end
        following = best[:, None]
        if position % look_every == look_every - 1:
            alive = (~ended).nonzero()[:, 0]
            if len(alive) == 0:
                break
            if 2 * len(alive) <= len(rows):
                decoder.keep(alive)
                rows, ended, following = rows[alive], ended[alive], following[alive]
    return [_hypothesis(row, tokens) for row in written.tolist()]


def _hypothesis(row: Sequence[int], tokens: Tokens) -> Hypothesis:
    ended = tokens.end in row
    text = list(row[: row.index(tokens.end)] if ended else row)
    return Hypothesis(text, str(tokens.tokenizer.decode(text)).strip(), ended)


def beam(model: Whisper, features: Tensor, tokens: Tokens, beam_size: int) -> list[Hypothesis]:
    """Beam search through whisper's own decoder, clip by clip: it repeats the text by beam, but not the audio."""
    results = [model.decode(each, options(tokens, beam_size)) for each in features.float()]
    limit = tokens.text_context // 2
    return [Hypothesis(result.tokens, result.text, len(result.tokens) < limit) for result in results]


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
