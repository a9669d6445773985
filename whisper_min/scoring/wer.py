"""Word and character error rates, with Whisper's normaliser and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jiwer

from whisper_min.data.normalizer import normalizer as normalizer  # its home is where the preflight finds it


@dataclass(frozen=True)
class Errors:
    """Edit counts of one or many utterances; they add up."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0
    """Words (or characters) in the reference."""

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.units + other.units,
        )

    @property
    def total(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors by reference units; not a number without any."""
        return self.total / self.units if self.units else float("nan")


def add_up(errors: Iterable[Errors]) -> Errors:
    """Micro-average: all counts added."""
    return sum(errors, Errors())


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Counts of each pair by jiwer's alignment; against an empty reference every word is an insertion."""
    return _errors(references, hypotheses, jiwer.process_words, str.split, " ")


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The same, by character."""
    return _errors(references, hypotheses, jiwer.process_characters, lambda text: list(text.strip()), "")


def _errors(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[..., jiwer.WordOutput | jiwer.CharacterOutput],
    split: Callable[[str], list[str]],
    joint: str,
) -> list[Errors]:
    counted: list[Errors] = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        units = split(reference)
        if not units:  # jiwer takes no empty reference
            counted.append(Errors(insertions=len(split(hypothesis))))
            continue
        # joined again: jiwer separates at spaces only, not at tabs or line breaks
        output = process(joint.join(units), joint.join(split(hypothesis)))
        counted.append(Errors(output.substitutions, output.deletions, output.insertions, len(units)))
    return counted
