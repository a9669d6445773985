"""Whether a model still writes timestamps when it is asked for them.

Whisper's own decoding leaves no choice: its rules force a timestamp first, pairs, and an order, so that a model that
has forgotten them looks well. Here the rules are off, but for the one that turns a model's wish into a token, and what
it writes by itself is checked. tiny.en, which knows them, writes the same either way (tests/test_timestamps.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from whisper import Whisper
from whisper.audio import CHUNK_LENGTH
from whisper.decoding import ApplyTimestampRules
from whisper.tokenizer import Tokenizer

from whisper_min.data.examples import TIMESTAMP_SECONDS
from whisper_min.data.tokens import Tokens
from whisper_min.scoring import decode

# A timestamp may lie so many seconds behind the clip's end: tiny.en overshoots by up to 0.1 s on clean speech, while a
# model that has lost its hold on time writes 30 s after clips of five.
END_TOLERANCE = 0.5
# Segments: a start, text, an end; again and again.
_SEGMENTS = re.compile("(?:tw+t)+")


@dataclass(frozen=True)
class Timestamps:
    """Shares of clips; a clip without any timestamp fails all of them."""

    clips: int
    written: float
    """Any timestamp at all."""
    starts: float
    """The first token is one."""
    paired: float
    """Nothing but segments of a start, text and an end."""
    in_range: float
    """None behind the clip's end (and `END_TOLERANCE`) or Whisper's window."""
    monotone: float
    """They never decrease."""
    valid: float
    """All of these together."""
    times: tuple[tuple[float, ...], ...] = ()
    """Those of each clip, in seconds; none where they are not valid."""


class OwnChoice:
    """A filter of whisper's decoder: a timestamp is written where all together are likelier than any word.

    Without it a timestamp loses to a word that is less likely, because its own probability is spread over neighbours.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.begin: int = tokenizer.timestamp_begin
        self.without: int = tokenizer.no_timestamps

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        """Mask the logits (B, V) in place."""
        logits[:, self.without] = -torch.inf  # they were asked for
        together = logits[:, self.begin :].logsumexp(-1)  # (B,)
        likeliest_word = logits[:, : self.begin].amax(-1)
        logits[:, : self.begin].masked_fill_((together > likeliest_word)[:, None], -torch.inf)


def write(model: Whisper, features: Tensor, tokens: Tokens) -> list[list[int]]:
    """What the model writes for features (B, A, C) when asked for timestamps: tokens without prefix and end."""
    task = decode.timestamp_task(model, tokens)
    own = OwnChoice(tokens.tokenizer)
    task.logit_filters = [own if isinstance(each, ApplyTimestampRules) else each for each in task.logit_filters]
    return [list(result.tokens) for result in task.run(features.float())]


def judge(rows: Sequence[Sequence[int]], seconds: Sequence[float], begin: int) -> Timestamps:
    """Shares over clips of these tokens and lengths; `begin` is the token of 0 s. ValueError without a clip."""
    if not rows:
        raise ValueError("no clip to judge timestamps by")
    verdicts = [_verdict(row, length, begin) for row, length in zip(rows, seconds, strict=True)]
    columns = [*zip(*verdicts, strict=True), [all(verdict) for verdict in verdicts]]
    times = tuple(tuple(_times(row, begin)) if all(its) else () for row, its in zip(rows, verdicts, strict=True))
    written, starts, paired, in_range, monotone, valid = (sum(column) / len(rows) for column in columns)
    return Timestamps(len(rows), written, starts, paired, in_range, monotone, valid, times)


def drift(own: Timestamps, original: Timestamps) -> tuple[float | None, int]:
    """(mean distance in seconds of a model's times from the original's, clips compared).

    Compared are clips for which both wrote valid times, and equally many; None where there is none.
    """
    distances = [
        sum(abs(a - b) for a, b in zip(mine, theirs, strict=True)) / len(mine)
        for mine, theirs in zip(own.times, original.times, strict=True)
        if mine and len(mine) == len(theirs)
    ]
    return (sum(distances) / len(distances) if distances else None), len(distances)


def _times(row: Sequence[int], begin: int) -> list[float]:
    return [(token - begin) * TIMESTAMP_SECONDS for token in row if token >= begin]


def _verdict(row: Sequence[int], seconds: float, begin: int) -> tuple[bool, bool, bool, bool, bool]:
    """(written, starts, paired, in range, monotone) of one clip."""
    times = _times(row, begin)
    if not times:
        return False, False, False, False, False
    shape = "".join("t" if token >= begin else "w" for token in row)
    latest = min(CHUNK_LENGTH, seconds + END_TOLERANCE)
    in_range = max(times) < latest or math.isclose(max(times), latest)
    return True, shape[0] == "t", bool(_SEGMENTS.fullmatch(shape)), in_range, times == sorted(times)
