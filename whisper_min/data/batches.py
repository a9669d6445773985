"""Examples become batches: seeded, resumable order; one context length a batch; log-mels by the device."""

from __future__ import annotations

import functools
import itertools
import math
import os
import random
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from whisper.audio import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE

from whisper_min import audio
from whisper_min.config import Config, timestamps_share
from whisper_min.data import augment
from whisper_min.data.examples import Example, Segment
from whisper_min.data.tokens import Label, Targets, Tokens
from whisper_min.text import NON_SPEECH, cut_like, join

T = TypeVar("T")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Window:
    """What one row of a batch holds: one example, or several joined under `pack`, and its context in samples."""

    examples: tuple[Example, ...]
    texts: tuple[str, ...]
    context: int
    role: str = "domain"
    """`domain`, or `replay` for general speech that is mixed in."""
    visit: int = 0
    """How often it was read before: what augmentation makes of it differs each time."""

    @property
    def text(self) -> str:
        """The label of the row."""
        return join(self.texts)

    @property
    def name(self) -> str:
        """The utterances' ids, joined."""
        return " + ".join(example.id for example in self.examples)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this window's audio from every other one's."""
        return tuple(example.where for example in self.examples)


class Clip(NamedTuple):
    """An utterance with its final label and its length in samples."""

    example: Example
    text: str
    samples: int


class OnDevice(NamedTuple):
    """A batch's tensors on the device that computes."""

    mel: Tensor
    """(B, M, F)"""
    inputs: Tensor
    """(B, T), what the decoder reads"""
    counted: Tensor
    """(N,), indices into the flattened (B, T) that the loss counts, found on the host: the device need not wait"""
    labels: Tensor
    """(N,), what should be predicted there"""


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads."""

    windows: tuple[Window, ...]
    waveforms: Tensor
    """(B, samples), float32, padded to the context; (B, 0) where the encoder's output is remembered for every window"""
    targets: Targets
    audio_seconds: float
    """Seconds of speech, padding not counted."""
    bad: list[str]
    """Windows left out because a file could not be decoded (only under --skip_bad)."""
    n_mels: int
    masks: tuple[augment.Masks, ...]
    """SpecAugment's for each window."""

    @property
    def ids(self) -> list[str]:
        """Every utterance in the batch."""
        return [example.id for window in self.windows for example in window.examples]

    @property
    def role(self) -> str:
        """`domain` or `replay`: a batch holds windows of one role."""
        return self.windows[0].role

    def split(self, parts: int) -> list[Batch]:
        """The batch in so many parts, as even as can be, and at most one a window; seconds are divided alike."""
        if parts == 1:
            return [self]
        size = math.ceil(len(self.windows) / parts)
        return [
            Batch(
                tuple(self.windows[row] for row in rows),
                self.waveforms[rows],
                Targets(self.targets.inputs[rows], self.targets.targets[rows]),
                self.audio_seconds * len(rows) / len(self.windows),
                [],
                self.n_mels,
                tuple(self.masks[row] for row in rows),
            )
            for rows in split_evenly(range(len(self.windows)), size)
        ]

    def on(self, device: torch.device) -> OnDevice:
        """The tensors on a device, which also computes the log-mels."""
        counted = self.targets.positions
        labels = self.targets.targets.flatten()[counted]
        others = (each.to(device, non_blocking=True) for each in (self.targets.inputs, counted, labels))
        return OnDevice(self.log_mel(device), *others)

    def log_mel(self, device: torch.device) -> Tensor:
        """(B, M, F), with its masks; (B, M, 0) where there are no waveforms."""
        if self.waveforms.shape[1] == 0:
            return torch.empty(len(self.windows), self.n_mels, 0, device=device)
        mel = audio.log_mel(self.waveforms.to(device, non_blocking=True), self.n_mels)
        for row, masks in zip(mel, self.masks, strict=True):
            masks.hide(row)
        return mel


class Order(Protocol):
    """What a training asks of the order of its data."""

    def steps_per_epoch(self, accumulate: int) -> int:
        """Optimizer steps in an epoch."""

    def from_position(self, epoch: int, batch: int) -> Iterator[tuple[tuple[int, int], list[Window]]]:
        """Endless batches from a position on, each with the position that follows it."""


class Schedule:
    """The order of the training data: a function of seed and epoch alone, so that a position is two numbers.

    Parameters
    ----------
    examples, texts, seconds
        utterances with their labels in the final style and their lengths
    audio_context : str
        `full`, `trim` or `pack`
    batch_size : int
        windows in a batch
    tokens : Tokens
        for the length of joined labels under `pack`
    """

    def __init__(
        self,
        examples: Sequence[Example],
        texts: Sequence[str],
        seconds: Sequence[float],
        audio_context: str,
        batch_size: int,
        tokens: Tokens,
        seed: int,
    ) -> None:
        self.clips = [
            Clip(example, text, math.ceil(length * SAMPLE_RATE))
            for example, text, length in zip(examples, texts, seconds, strict=True)
        ]
        self.audio_context = audio_context
        self.batch_size = batch_size
        self.tokens = tokens
        self.seed = seed
        self._epoch: tuple[int, list[list[Window]]] = (-1, [])

    def epoch(self, epoch: int) -> list[list[Window]]:
        """The batches of one epoch, in order. Each example is in it exactly once."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1]

    def _order(self, epoch: int) -> list[list[Window]]:
        generator = random.Random(f"{self.seed} {epoch}")
        order = list(self.clips)
        generator.shuffle(order)
        windows = list(make_windows(order, self.audio_context, self.tokens, visit=epoch))
        batches: list[list[Window]] = []
        for context in sorted({window.context for window in windows}):
            batches += split_evenly([window for window in windows if window.context == context], self.batch_size)
        generator.shuffle(batches)
        return batches

    def steps_per_epoch(self, accumulate: int) -> int:
        """Optimizer steps in the first epoch (under `pack` later ones may differ by a window or two)."""
        return max(1, math.ceil(len(self.epoch(0)) / accumulate))

    def from_position(self, epoch: int, batch: int) -> Iterator[tuple[tuple[int, int], list[Window]]]:
        """Endless batches from a position on, each with the position that follows it."""
        while True:
            batches = self.epoch(epoch)
            for index in range(batch, len(batches)):
                yield (epoch, index + 1), batches[index]
            epoch, batch = epoch + 1, 0


def make_windows(clips: Iterable[Clip], audio_context: str, tokens: Tokens, visit: int = 0) -> Iterator[Window]:
    """Rows of batches from clips in the order given: `full`, `trim` or `pack`, as `--audio_context` says."""
    if audio_context == "pack":
        for joined in fill_windows(clips, tokens):
            examples, texts, _ = zip(*joined, strict=True)
            yield Window(examples, texts, N_SAMPLES, visit=visit)
        return
    for example, text, samples in clips:
        context = audio.context_samples(samples) if audio_context == "trim" else N_SAMPLES
        yield Window((example,), (text,), context, visit=visit)


def fill_windows(clips: Iterable[Clip], tokens: Tokens) -> Iterator[list[Clip]]:
    """Join clips, in the order given, into windows of at most 30 s and the text context's length."""
    window: list[Clip] = []
    for clip in clips:
        joined = [*window, clip]
        text = join([each.text for each in joined])
        segments = tuple(segment for each in joined for segment in each.example.segments)
        too_long = sum(each.samples for each in joined) > N_SAMPLES
        if window and (too_long or not tokens.fits(text) or not tokens.fits(text, segments)):
            yield window
            joined = [clip]
        window = joined
    if window:
        yield window


class Replay:
    """General speech, mixed in as a share of every step's clips, in an endless seeded order.

    The domain's batches are left as they are: clips are added to each step until the share is met, to the clip, over
    the steps so far. Which ones is a function of the seed and of the domain's clips so far alone.

    Parameters
    ----------
    examples, texts, seconds
        utterances with their labels in the final style and their lengths
    share, domain_share : float
        of all clips, this set's and the domain's
    audio_context : str
        `trim` gives each clip its own context; else the window is 30 s
    batch_size : int
        clips in a micro-batch, at most
    """

    def __init__(
        self,
        examples: Sequence[Example],
        texts: Sequence[str],
        seconds: Sequence[float],
        share: float,
        domain_share: float,
        audio_context: str,
        batch_size: int,
        seed: str,
    ) -> None:
        self.windows = [
            Window(
                (example,),
                (label,),
                audio.context_samples(math.ceil(length * SAMPLE_RATE)) if audio_context == "trim" else N_SAMPLES,
                "replay",
            )
            for example, label, length in zip(examples, texts, seconds, strict=True)
        ]
        self.rate = share / domain_share
        self.batch_size = batch_size
        self.seed = seed

    def window(self, position: int) -> Window:
        """The window at a position of the endless order: every clip once, shuffled, and again."""
        epoch, index = divmod(position, len(self.windows))
        return replace(self._order(epoch)[index], visit=epoch)

    @functools.lru_cache(maxsize=2)  # noqa: B019  # lives as long as the run
    def _order(self, epoch: int) -> list[Window]:
        order = list(self.windows)
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return order

    def due(self, domain_clips: int) -> int:
        """How many clips were due after so many of the domain."""
        return math.floor(domain_clips * self.rate + 1e-9)

    def between(self, before: int, after: int) -> list[list[Window]]:
        """Micro-batches of one context each, for the step in which the domain's clips went from `before` to `after`."""
        due = [self.window(position) for position in range(self.due(before), self.due(after))]
        batches: list[list[Window]] = []
        for context in sorted({window.context for window in due}):
            batches += split_evenly([window for window in due if window.context == context], self.batch_size)
        return batches


# Where a run stands in its data: epoch (of a stream the block), batch of it, and clips of the domain so far.
Position = tuple[int, int, int]


def steps(
    schedule: Order, replays: Sequence[Replay], accumulate: int, position: Position
) -> Iterator[tuple[Position, list[list[Window]]]]:
    """Endless steps from a position on: the micro-batches of each, and the position that follows it."""
    epoch, batch, clips = position
    order = schedule.from_position(epoch, batch)
    while True:
        micro_batches: list[list[Window]] = []
        for _ in range(accumulate):
            (epoch, batch), windows = next(order)
            micro_batches.append(windows)
        before = clips
        clips += sum(len(window.examples) for windows in micro_batches for window in windows)
        for replay in replays:
            micro_batches += replay.between(before, clips)
        yield (epoch, batch, clips), micro_batches


def split_evenly(items: Sequence[T], size: int) -> list[list[T]]:
    """Split into runs of at most `size` that differ by one at the most: 17 by 8 is 6, 6, 5 and never 8, 8, 1."""
    runs = math.ceil(len(items) / size)
    bounds = [round(index * len(items) / runs) for index in range(runs + 1)] if runs else []
    return [list(items[start:stop]) for start, stop in itertools.pairwise(bounds)]


def collate(
    windows: Sequence[Window], tokens: Tokens, n_mels: int, cfg: Config, encoded: Container[tuple[str, ...]] = ()
) -> Batch:
    """Read, pad and tokenise one batch of windows that share a context; no audio where all are `encoded` already.

    A file that cannot be decoded raises audio.AudioError with its name; under --skip_bad its window is left out and
    listed in `Batch.bad`, as long as another one is left. So is one that is longer than its window, whose length was
    told wrongly: nothing is cut.
    """
    read: list[tuple[Window, audio.Waveform]] = []
    masks: list[augment.Masks] = []
    labels: list[Label] = []
    bad: list[str] = []
    for window in windows:
        try:
            parts = [example.read(cfg.normalize) for example in window.examples]
            waveform = np.concatenate(parts)
            if len(waveform) > window.context + audio.CUT_SECONDS * SAMPLE_RATE:
                told, heard = window.context / SAMPLE_RATE, len(waveform) / SAMPLE_RATE
                raise audio.AudioError(f"{heard:.2f} s, more than the {told:g} s of its window; correct its duration")
            effects = augment.of_role(cfg, window.role)
            its = effects.draw(window.name, window.visit)
            waveform = effects.on_waveform(waveform, its, max(len(waveform), audio.room_samples(window.context)))
        except audio.AudioError as error:
            bad.append(f"{' + '.join(example.where for example in window.examples)}: {error}")
            continue
        read.append((window, waveform))
        masks.append(effects.masks(its, n_mels, len(waveform) // HOP_LENGTH))
        labels.append(label(window, [len(part) / SAMPLE_RATE for part in parts], len(waveform) / SAMPLE_RATE, cfg))
    if bad and not (cfg.skip_bad and read):
        raise audio.AudioError("; ".join(bad))
    kept = tuple(window for window, _ in read)
    waveforms = [waveform for _, waveform in read]
    known = all(window.key in encoded and not augment.of_role(cfg, window.role).effects for window in kept)
    padded = torch.empty(len(kept), 0) if known else audio.pad(waveforms, windows[0].context)  # (B, samples)
    seconds = sum(map(len, waveforms)) / SAMPLE_RATE
    return Batch(kept, padded, tokens.teacher_forcing(labels), seconds, bad, n_mels, tuple(masks))


def label(window: Window, seconds: Sequence[float], heard: float, cfg: Config) -> Label:
    """What the model should write for a window: whether with timestamps and a prompt is drawn at every visit.

    Parameters
    ----------
    seconds : sequence of float
        lengths of the window's clips
    heard : float
        length of the window after augmentation, which may play it faster or slower
    """
    # a name may hold half characters: of a file's name that is not UTF-8, or of JSON
    drawn = random.Random(f"{cfg.seed} {window.visit} label {window.name}".encode("utf-8", "surrogatepass"))
    with_prompt, with_timestamps = drawn.random() < cfg.prompts, drawn.random() < timestamps_share(cfg)
    prompt = (window.examples[0].prompt or "") if with_prompt else ""
    segments = timed(window, seconds, heard / sum(seconds)) if with_timestamps else ()
    return Label(window.text, segments, prompt)


def timed(window: Window, seconds: Sequence[float], stretch: float = 1.0) -> tuple[Segment, ...]:
    """The segments of a window in its texts' style, their times from its start; () unless every clip has its own.

    One in which nobody speaks needs none.
    """
    made: list[Segment] = []
    start = 0.0
    for example, text, length in zip(window.examples, window.texts, seconds, strict=True):
        if text == NON_SPEECH:
            start += length
            continue
        parts = cut_like(text, [segment.text for segment in example.segments])
        if not example.segments or parts is None:
            return ()
        for segment, part in zip(example.segments, parts, strict=True):
            its_start, its_end = ((start + min(time, length)) * stretch for time in (segment.start, segment.end))
            made.append(Segment(its_start, its_end, part))
        start += length
    return tuple(made)


def default_workers(device_type: str) -> int:
    """Threads that read ahead: none on a CPU, where they would take the cores from the model, else up to eight."""
    return 0 if device_type == "cpu" else min(8, max(1, (os.cpu_count() or 2) - 1))


def read_ahead(items: Iterator[T], work: Callable[[T], Done], workers: int) -> Iterator[tuple[T, Done]]:
    """(item, work(item)) in order, computed by threads two items a worker ahead; in place with no workers."""
    if workers == 0:
        for item in items:
            yield item, work(item)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="batch") as pool:
        waiting: deque[tuple[T, Future[Done]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > 2 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
