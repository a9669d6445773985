"""Sets as the preflight leaves them, and its report: what a training, an evaluation and their tables are made of."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from whisper.audio import CHUNK_LENGTH

from whisper_min import text
from whisper_min.data.examples import SpeechSet
from whisper_min.data.recordings import Facts, file_key

# Roles whose clips a model is trained on.
TRAINED = ("data", "replay")
# Faults printed in full; the rest is counted.
FAULTS_SHOWN = 20


@dataclass(frozen=True)
class StreamTotals:
    """What is known of a streamed set, of which only a sample is held."""

    entries: int
    """Without those that have faults."""
    timed: int
    """Entries that tell their duration."""
    seconds: float
    longest: float
    damaged: int
    """Tars that cannot be read to their end."""
    left_out: frozenset[str] = frozenset()
    """Where the entries of the sample stand that cannot be used for what was heard in them."""

    def with_lengths(self, sampled: Sequence[float]) -> StreamTotals:
        """The same with lengths that no entry tells: the mean of the sampled ones, and the longest allowed."""
        untold = self.entries - self.timed
        seconds = self.seconds + untold * (float(np.mean(sampled)) if sampled else 0.0)
        return replace(self, seconds=seconds, longest=float(CHUNK_LENGTH) if untold else self.longest)


@dataclass(frozen=True)
class CheckedSet:
    """A set with what the preflight learnt, bad entries left out where `--skip_bad` allows it."""

    role: str
    speech: SpeechSet
    facts: list[Facts]
    style: str
    """Label style that its texts get in training."""
    self_label: bool = False
    """Whether the original writes its labels, because it has no texts or because they are not wanted."""
    written: list[str] | None = None
    """The final labels, once the original has had its part in them."""
    totals: StreamTotals | None = None
    """Of a stream, whose `speech` and `facts` are a sample."""

    @property
    def seconds(self) -> list[float]:
        """Length of every entry."""
        return [facts.seconds for facts in self.facts]

    @property
    def recordings(self) -> list[str]:
        """What tells each recording from every other one: its samples, else its file, else where it is named."""
        pairs = zip(self.speech.examples, self.facts, strict=True)
        return [facts.digest or file_key(example) or example.where for example, facts in pairs]

    @property
    def entries(self) -> int:
        """How many there are, of a stream also those that are not held."""
        return self.totals.entries if self.totals else len(self.speech.examples)

    @property
    def longest(self) -> float:
        """Length of the longest entry; of a stream that does not tell, the longest allowed."""
        return self.totals.longest if self.totals else max(self.seconds, default=0.0)

    @property
    def labels(self) -> list[str]:
        """The texts in the set's label style; as they stand where that waits for the original."""
        if self.written is not None:
            return self.written
        return [text.restyle(example.text, self.style) for example in self.speech.examples]

    @property
    def needs_original(self) -> bool:
        """Whether its labels are made with the help of the original's transcripts."""
        return self.self_label or self.style == "original"


@dataclass
class Report:
    """All that the preflight found."""

    sets: list[CheckedSet] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Faults of entries that were left out, under --skip_bad or because the original could not label them."""
    all_decoded: bool = True
    """Not of many hours, of which a sample is."""

    @property
    def fingerprint(self) -> str:
        """What tells the entries that are trained on from any others, in their order: texts, places and recordings.

        Of recordings that are not all decoded the lengths count alone: another run may have looked at more of them.
        """
        parts = [
            [each.role, each.speech.share, each.entries, each.speech.shards]
            + [[facts.seconds, facts.digest if self.all_decoded else ""] for facts in each.facts]
            + [[example.id, example.text, example.offset, example.duration] for example in each.speech.examples]
            for each in self.sets
            if each.role in TRAINED
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def role(self, role: str) -> list[CheckedSet]:
        """The sets of one role: `data`, `eval_data`, `retain` or `replay`."""
        return [each for each in self.sets if each.role == role]

    def shown_faults(self) -> list[str]:
        """The faults, a long list cut with the number that was left out."""
        shown = self.faults[:FAULTS_SHOWN]
        if len(self.faults) > len(shown):
            kinds = Counter(fault.rpartition(": ")[2].split(";")[0][:60] for fault in self.faults[len(shown) :])
            shown.append(f"… and {len(self.faults) - len(shown)} more, such as {kinds.most_common(1)[0][0]!r}")
        return shown
