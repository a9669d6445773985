"""Parts of a set for training and evaluation that share no recording and, where speakers are known, no speaker."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence

from whisper_min.config import InputError
from whisper_min.data.examples import Example


def divide(
    examples: Sequence[Example], counts: Sequence[int], seed: int, recordings: Sequence[str] = ()
) -> list[list[Example]]:
    """Draw a part of about each count, the same for the same seed and entries; InputError where there are too few.

    Whole speakers are drawn where every one is known and there are more of them than parts to draw, else utterances.

    Parameters
    ----------
    recordings : Sequence[str]
        for every entry what is equal for equal recordings, which stay together; without it no two are equal

    Returns
    -------
    list
        what is left, then a part for each count, all in the order of the entries
    """
    recordings = recordings or [str(index) for index in range(len(examples))]
    speakers = [example.speaker for example in examples if example.speaker is not None]
    groups = _together(speakers, recordings) if len(speakers) == len(examples) else {}
    by_speaker = len(groups) > len(counts)
    if not by_speaker:
        groups = _together(recordings, recordings)
    if len(groups) <= len(counts):
        raise InputError(
            f"{len(examples)} entries hold {len(groups)} different recordings, too few for {len(counts) + 1} parts"
        )
    generator = random.Random(seed)
    left = [groups[name] for name in sorted(groups)] if by_speaker else list(groups.values())
    if by_speaker:
        generator.shuffle(left)
    parts: list[list[Example]] = []

    def flat(groups: Sequence[list[int]]) -> list[Example]:
        return [examples[index] for index in sorted(itertools.chain.from_iterable(groups))]

    for number, count in enumerate(counts):
        most = len(left) - (len(counts) - number)  # a group each for the parts that follow, and for what is left
        drawn: list[list[int]] = []
        drawn_entries = 0
        for group in left[:most] if by_speaker else generator.sample(left, min(count, most)):
            if drawn_entries >= count:
                break
            drawn.append(group)
            drawn_entries += len(group)
        taken = {group[0] for group in drawn}
        left = [group for group in left if group[0] not in taken]
        parts.append(flat(drawn))
    return [flat(left), *parts]


def _together(names: Sequence[str], recordings: Sequence[str]) -> dict[str, list[int]]:
    """Indices of entries of one name; names that share a recording are one, the first of them in the alphabet."""
    leaders: dict[str, str] = {}

    def leader(name: str) -> str:
        while leaders.setdefault(name, name) != name:
            name = leaders[name]
        return name

    known: dict[str, str] = {}
    for name, recording in zip(names, recordings, strict=True):
        first, second = sorted([leader(name), leader(known.setdefault(recording, name))])
        leaders[second] = first
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        groups[leader(name)].append(index)
    return dict(groups)
