"""The list of evaluated utterances: what each cost, which of them are shown, and in which order. No screen involved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whisper_min.ui.diff import plain

Key = tuple[str, str]
Row = Mapping[str, Any]

ORDERS = ("damage", "WER", "id")


@dataclass(frozen=True)
class Utterance:
    """One utterance at its newest evaluation."""

    key: Key
    """(set, id) as in the file."""
    set: str
    id: str
    reference: str
    rate: float
    """WER as a fraction; NaN where nobody said anything, or nobody knows."""
    original_rate: float
    errors: int
    original_errors: int | None
    flags: tuple[str, ...]
    text: str
    """What a search looks through, in lower case."""

    @property
    def damage(self) -> int | None:
        """Errors that the model makes beyond the original's; fewer than none where it got better."""
        return None if self.original_errors is None else self.errors - self.original_errors

    @property
    def loops(self) -> bool:
        """Whether the transcript repeats itself or finds no end."""
        return bool(self.flags)


def utterance(key: Key, row: Row) -> Utterance:
    """Read a row of `samples.jsonl`; what is missing or of another kind counts as not there."""
    words = len(said(row, "reference_normalized").split())
    rate, original_rate = number(row.get("wer")), number(row.get("original_wer"))
    original: int | None = None
    if math.isfinite(original_rate) and words:
        original = round(original_rate * words)
    elif isinstance(row.get("original_normalized"), str) and not words:
        original = len(row["original_normalized"].split())  # against an empty reference every word is an insertion
    flags = row.get("flags")
    reference, texts = said(row, "reference"), ("reference", "hypothesis", "original")
    return Utterance(
        key=key,
        set=plain(key[0]),
        id=plain(key[1]),
        reference=plain(reference),
        rate=rate,
        original_rate=original_rate,
        errors=sum(int(number(row.get(kind), 0.0)) for kind in ("substitutions", "deletions", "insertions")),
        original_errors=original,
        flags=tuple(plain(flag) for flag in flags) if isinstance(flags, list) else (),
        text=plain("\n".join([*key, *(said(row, name) for name in texts)])).lower(),
    )


def number(value: object, otherwise: float = math.nan) -> float:
    """A finite number from a file, else what stands for none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else otherwise  # type: ignore[arg-type]


def said(row: Row, name: str) -> str:
    """A text of a row; empty where there is none."""
    value = row.get(name)
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class View:
    """Which utterances are shown, in which order."""

    order: str = ORDERS[0]
    wrong: bool = False
    worse: bool = False
    loops: bool = False
    set: str | None = None
    search: str = ""

    def apply(self, utterances: Iterable[Utterance]) -> list[Utterance]:
        """What passes every filter, sorted; ties by set and id, so that nothing jumps between evaluations."""
        words = self.search.lower().split()
        shown = [
            each
            for each in utterances
            if not (self.wrong and not each.errors)
            and not (self.worse and (each.damage or 0) <= 0)
            and not (self.loops and not each.loops)
            and self.set in (None, each.key[0])
            and all(word in each.text for word in words)
        ]
        return sorted(shown, key=self._place)

    def _place(self, each: Utterance) -> tuple[Any, ...]:
        if self.order == "id":
            return each.key
        rate = each.rate if math.isfinite(each.rate) else math.inf if each.errors else -1.0
        damage = each.damage if each.damage is not None else -math.inf
        return (-damage, -rate, *each.key) if self.order == "damage" else (-rate, -damage, *each.key)

    def next_order(self) -> View:
        """The next way to sort."""
        return replace(self, order=ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)])

    def toggle(self, name: str) -> View:
        """One of the filters `wrong`, `worse`, `loops` on, or off where it is on."""
        return View(**{**vars(self), name: not getattr(self, name)})

    def next_set(self, sets: Sequence[str]) -> View:
        """The next set alone; after the last one, all of them."""
        names = [None, *sets]
        at = names.index(self.set) if self.set in names else 0
        return replace(self, set=names[(at + 1) % len(names)])

    def describe(self) -> str:
        """The filters in words; empty without any."""
        parts = ["wrong"] * self.wrong + ["worse than the original"] * self.worse + ["loops"] * self.loops
        parts += [plain(self.set)] if self.set is not None else []
        parts += [f"“{self.search.strip()}”"] if self.search.strip() else []
        return ", ".join(parts)
