"""Streamed tars before a training: every header and text is read, a sample is drawn for `recordings.py` to decode."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter

from rich.console import Console

from whisper_min.config import Config
from whisper_min.data import faults, shards
from whisper_min.data.checked import StreamTotals
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.progress import progress
from whisper_min.data.recordings import DECODED_SAMPLE, Cache, Facts
from whisper_min.data.tokens import Tokens

# Tars that a stream's decoded sample is taken from, at most; remote ones stay on the disk as long as the sample.
SAMPLED_SHARDS, SAMPLED_REMOTE_SHARDS = 20, 2
# Faults of one tar that are kept; the rest is counted.
FAULTS_OF_A_SHARD = 100


@dataclass(frozen=True)
class ShardFacts:
    """What one tar of a stream holds."""

    entries: int = 0
    """Without those that have faults."""
    timed: int = 0
    """Entries that tell their duration."""
    seconds: float = 0.0
    """Of these."""
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)
    damage: str | None = None
    """What makes the tar unreadable from some place on."""


def take(
    speech: SpeechSet, style: str, cfg: Config, tokens: Tokens, console: Console, notes: list[str]
) -> tuple[StreamTotals, list[str]]:
    """Read every header and text of a stream's tars, one entry at a time; what has not changed comes from the cache.

    Returns what they add up to and their faults.
    """
    cache = Cache(cfg.data_dir / "shards.jsonl", ShardFacts)
    how = [cfg.language, cfg.task, style, tokens.prefix, speech.has_text, speech.columns.text]
    found: list[ShardFacts] = []
    with progress("reading shards", console) as bars:
        for name in bars.track(speech.shards):
            key = f"{version} {how}" if (version := shards.version_key(name)) else ""
            its = cache.known(key)
            if its is None:
                its = survey_shard(name, speech, style, cfg, tokens)
                notes += cache.add([(key, its)], f"what {name} holds")
            found.append(its)
    damaged = [each.damage for each in found if each.damage is not None]
    return StreamTotals(
        sum(each.entries for each in found),
        sum(each.timed for each in found),
        sum(each.seconds for each in found),
        max((each.longest for each in found), default=0.0),
        len(damaged),
    ), [*damaged, *(fault for each in found for fault in each.faults)]


def survey_shard(name: str, speech: SpeechSet, style: str, cfg: Config, tokens: Tokens) -> ShardFacts:
    """Read one tar's headers and texts."""
    entries = timed = wrong = 0
    seconds = longest = 0.0
    kept: list[str] = []
    damage = None
    try:
        for entry in shards.entries(name, speech.columns):
            if found := entry_faults(entry, speech, style, cfg, tokens):
                wrong += 1
                kept += found if wrong <= FAULTS_OF_A_SHARD else []
                continue
            assert isinstance(entry, Example)
            entries += 1
            timed += entry.duration is not None
            seconds += entry.duration or 0.0
            longest = max(longest, entry.duration or 0.0)
    except shards.ShardError as error:
        damage = str(error)
    if wrong > FAULTS_OF_A_SHARD:
        kept.append(f"{name}: {wrong - FAULTS_OF_A_SHARD} more entries have faults")
    return ShardFacts(entries, timed, seconds, longest, kept, damage)


def entry_faults(entry: Example | str, speech: SpeechSet, style: str, cfg: Config, tokens: Tokens) -> list[str]:
    """What is wrong with one entry of a stream, as far as its header and text tell."""
    if isinstance(entry, str):
        return [entry]
    # comparisons with a length that nobody has told are false
    facts = Facts(seconds=entry.duration or math.nan)
    wrong = [*faults.of_entry(entry, facts, "data", cfg), *faults.of_text(entry, speech, style, tokens)]
    return [f"{entry.where}: {fault}" for fault in wrong]


def sample(speech: SpeechSet, seed: int) -> list[Example]:
    """A seeded sample of a stream's entries to decode: a few of each of at most `SAMPLED_SHARDS` tars."""
    generator, names = random.Random(seed), speech.shards
    most = SAMPLED_REMOTE_SHARDS if any(map(shards.is_remote, names)) else SAMPLED_SHARDS
    chosen = sorted(generator.sample(range(len(names)), min(most, len(names))))
    found: list[Example] = []
    for place, shard in enumerate(chosen):
        wanted = math.ceil((DECODED_SAMPLE - len(found)) / (len(chosen) - place))
        drawn: list[tuple[int, Example]] = []
        with suppress(shards.ShardError):  # the survey says so
            whole = (entry for entry in shards.entries(names[shard], speech.columns) if isinstance(entry, Example))
            for seen, entry in enumerate(whole):  # reservoir sampling (Vitter, 1985)
                if seen < wanted:
                    drawn.append((seen, entry))
                elif (index := generator.randrange(seen + 1)) < wanted:
                    drawn[index] = (seen, entry)
        found += [entry for _, entry in sorted(drawn, key=itemgetter(0))]
    return found
