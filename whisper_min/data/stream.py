"""Training data that is never held: tars read in a seeded order, a shuffle buffer, batches of one context length."""

from __future__ import annotations

import math
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from whisper.audio import N_SAMPLES, SAMPLE_RATE

from whisper_min import audio, text
from whisper_min.config import Config
from whisper_min.data import shards, survey
from whisper_min.data.batches import Clip, Window, make_windows, split_evenly
from whisper_min.data.checked import CheckedSet
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens

T = TypeVar("T")

# Entries (no audio) that wait in the shuffle buffer, about 1 kB each.
BUFFER = 10_000
# Entries of a block, about: what a resume reads again at most, in a few seconds.
BLOCK = 30_000
# What is added to a length told by a .json before clips are joined to 30 s: people write two decimals.
ROUNDING_SECONDS = 0.01


class Stream:
    """The order of streamed training data: a function of seed and epoch alone, so that a position is two numbers.

    In an epoch the shards come in a shuffled order, and some of them at a time are a block: their entries pass a
    shuffle buffer and gather by context length, or fill windows under `pack`, and every full batch goes out. At the
    block's end what is left is flushed, so that a resume begins with its block, however long the epoch is.
    Resuming replays the order: headers and transcripts are read again, and no audio is decoded. That is so where the
    entries tell their `duration`, as `python -m whisper_min.data pack` writes it; for others a length is read from the
    recording's own header each time (about 0.3 ms, though not under `full`).

    Parameters
    ----------
    sets : sequence of CheckedSet
        those of --data; one that holds its entries counts as one more shard
    buffer : int
        entries that are shuffled together
    block : int
        entries that a resume may have to read again, about: a block holds whole parts
    """

    def __init__(
        self, sets: Sequence[CheckedSet], cfg: Config, tokens: Tokens, buffer: int = BUFFER, block: int = BLOCK
    ) -> None:
        self.sets, self.cfg, self.tokens, self.buffer = sets, cfg, tokens, buffer
        self.parts = [(checked, shard) for checked in sets for shard in checked.speech.shards or [None]]
        self.block_parts = max(1, block * len(self.parts) // max(1, sum(checked.entries for checked in sets)))
        self.blocks = math.ceil(len(self.parts) / self.block_parts)
        self._said = {fault for each in sets for fault in each.speech.skipped}

    def steps_per_epoch(self, accumulate: int) -> int:
        """Optimizer steps in an epoch, about: the windows of a sample are counted under `pack`, leftovers never."""
        windows = 0.0
        for checked in self.sets:
            entries = checked.entries
            if self.cfg.audio_context == "pack" and checked.seconds:
                sample = [
                    Clip(example, label, math.ceil(seconds * SAMPLE_RATE))
                    for example, label, seconds in zip(
                        checked.speech.examples, checked.labels, checked.seconds, strict=True
                    )
                ]
                windows += entries * len(list(make_windows(sample, "pack", self.tokens))) / len(sample)
            else:
                windows += entries
        return max(1, math.ceil(windows / self.cfg.clips_per_batch / accumulate))

    def from_position(self, block: int, batch: int) -> Iterator[tuple[tuple[int, int], list[Window]]]:
        """Endless batches from a position on, each with the position that follows it; blocks are counted over epochs.

        Raises audio.AudioError where a shard cannot be read any more, or holds what the preflight would have refused.
        """
        empty = 0
        while empty < self.blocks:
            index = -1
            for index, windows in enumerate(self._batches(block)):
                if index >= batch:
                    yield (block, index + 1), windows
            empty = empty + 1 if index < 0 else 0
            block, batch = block + 1, 0
        raise audio.AudioError("--data: not one entry of the shards can be used any more")

    def _batches(self, block: int) -> Iterator[list[Window]]:
        """The batches of one block. One more is held back of each context, to share with what is left at the end."""
        size = self.cfg.clips_per_batch
        waiting: defaultdict[int, list[Window]] = defaultdict(list)
        visit = block // self.blocks
        for window in make_windows(self._clips(block), self.cfg.audio_context, self.tokens, visit=visit):
            same = waiting[window.context]
            same.append(window)
            if len(same) == 2 * size:
                yield same[:size]
                del same[:size]
        for context in sorted(waiting):
            yield from split_evenly(waiting[context], size)

    def _clips(self, block: int) -> Iterator[Clip]:
        """One block's clips, shuffled, each with its label and length."""
        generator = random.Random(f"{self.cfg.seed} block {block}")
        read = (clip for checked, shard in self.parts_of(block) for clip in self._read(checked, shard, generator))
        for example, label, seconds in shuffled(read, self.buffer, generator):
            yield Clip(example, label, self._samples(example, seconds))

    def parts_of(self, block: int) -> list[tuple[CheckedSet, str | None]]:
        """What a block reads, in order: (set, tar), or (set, None) for all of a set that is no stream."""
        epoch, index = divmod(block, self.blocks)
        order = list(self.parts)
        random.Random(f"{self.cfg.seed} {epoch}").shuffle(order)
        return split_evenly(order, self.block_parts)[index]

    def _read(
        self, checked: CheckedSet, shard: str | None, generator: random.Random
    ) -> Iterator[tuple[Example, str, float | None]]:
        """(example, label, seconds if known) of a tar's entries, or of all of a set that is no stream."""
        if shard is None:
            known = list(zip(checked.speech.examples, checked.labels, checked.seconds, strict=True))
            generator.shuffle(known)
            yield from known
            return
        for example in self._entries(checked, shard):
            yield example, text.restyle(example.text, checked.style), example.duration

    def _entries(self, checked: CheckedSet, shard: str) -> Iterator[Example]:
        """The entries of a tar that have no fault; one that has is refused, or passed over under --skip_bad."""
        left_out = checked.totals.left_out if checked.totals else frozenset()
        try:
            for entry in shards.entries(shard, checked.speech.columns):
                faults = survey.entry_faults(entry, checked.speech, checked.style, self.cfg, self.tokens)
                if faults and not self.cfg.skip_bad:
                    raise audio.AudioError("; ".join(faults))
                if isinstance(entry, Example) and not faults and entry.where not in left_out:
                    yield entry
        except shards.ShardError as error:
            if not self.cfg.skip_bad:
                raise audio.AudioError(str(error)) from None
            if str(error) not in self._said:  # it was whole when the preflight read it
                self._said.add(str(error))
                print(f"left out: {text.visible(str(error))}", file=sys.stderr)

    def _samples(self, example: Example, seconds: float | None) -> int:
        """A clip's length; of one that nothing tells the length of, a whole window: decoding it says what is wrong."""
        if self.cfg.audio_context == "full":
            return N_SAMPLES
        if seconds is None:
            try:
                with example.file() as path:
                    seconds = audio.info(path).seconds - (example.offset or 0.0)
            except audio.AudioError:
                return N_SAMPLES
        elif example.member is not None and self.cfg.audio_context == "pack":
            seconds += ROUNDING_SECONDS
        return math.ceil(seconds * SAMPLE_RATE)


def shuffled(items: Iterable[T], size: int, generator: random.Random) -> Iterator[T]:
    """Each item once, drawn from a buffer of so many that is filled up as they go."""
    buffer: list[T] = []
    for item in items:
        buffer.append(item)
        if len(buffer) >= size:
            chosen = generator.randrange(size)
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            yield buffer.pop()
    generator.shuffle(buffer)
    yield from buffer
