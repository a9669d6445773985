"""Reads every entry before a training starts, and says all that is wrong with them at once.

What a file holds is cached by its path, size and time of change. Above 50 h headers are read and a sample is decoded.
Of tars that are streamed every header and text is read, and a sample of the recordings is decoded.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from operator import itemgetter
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from whisper.audio import CHUNK_LENGTH, SAMPLE_RATE

from whisper_min import audio, runs, text
from whisper_min.config import Config, timestamps_share
from whisper_min.data import shards
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.normalizer import normalizer
from whisper_min.data.progress import progress
from whisper_min.data.tokens import Label, Tokens, language_code, written_language

# Above so many hours only headers are read, and so many entries decoded.
DECODE_ALL_HOURS = 50
DECODED_SAMPLE = 1_000
# A sample of this size counts as clipped; a clip with more than this share of them is reported.
CLIPPED_AT, CLIPPED_SHARE = 0.999, 0.001
SILENT_BELOW_DB = -60.0
# Characters per second that speech can plausibly have.
PLAUSIBLE_SPEED = (2.0, 30.0)
# A manifest's duration may differ from the file's by so many seconds.
DURATION_TOLERANCE = 0.5
# Roles whose clips a model is trained on.
TRAINED = ("data", "replay")
# Tars that a stream's decoded sample is taken from, at most; remote ones stay on the disk as long as the sample.
SAMPLED_SHARDS, SAMPLED_REMOTE_SHARDS = 20, 2
# Faults of one tar that are kept; the rest is counted.
FAULTS_OF_A_SHARD = 100
# Faults printed in full; the rest is counted.
FAULTS_SHOWN = 20


@dataclass(frozen=True)
class Facts:
    """What one entry's audio is."""

    error: str | None = None
    seconds: float = 0.0
    sample_rate: int = 0
    decoded: bool = False
    clipped: float = 0.0
    """Share of samples at full scale."""
    level_db: float = 0.0
    """Root mean square, in dB of full scale."""
    finite: bool = True
    digest: str = ""
    """Of the decoded samples: equal for equal recordings."""


@dataclass(frozen=True)
class Totals:
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

    def with_lengths(self, sampled: Sequence[float]) -> Totals:
        """The same with lengths that no entry tells: the mean of the sampled ones, and the longest allowed."""
        untold = self.entries - self.timed
        seconds = self.seconds + untold * (float(np.mean(sampled)) if sampled else 0.0)
        return replace(self, seconds=seconds, longest=float(CHUNK_LENGTH) if untold else self.longest)


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


Cached = TypeVar("Cached", Facts, ShardFacts)


class Cache(Generic[Cached]):
    """What was found out about files, a line each; the empty key stands for what cannot be told apart."""

    def __init__(self, path: Path, kind: type[Cached]) -> None:
        self.path = path
        self.kind: type[Cached] = kind
        self.rows = {row.pop("key"): row for row in runs.read_jsonl(path) if "key" in row}

    def known(self, key: str) -> Cached | None:
        """What is known of a file; None where nothing is, or another version has written it."""
        row = self.rows.get(key, {})
        return self.kind(**row) if row.keys() == {each.name for each in fields(self.kind)} else None

    def add(self, found: Sequence[tuple[str, Cached]], what: str) -> list[str]:
        """Write down what was found out; returns a note where that cannot be."""
        rows = [{"key": key, **asdict(its)} for key, its in found if key]
        try:
            if rows:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                runs.append_jsonl(self.path, rows)
        except OSError as error:
            return [f"{what} could not be cached in {self.path} ({error.strerror})"]
        return []


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
    totals: Totals | None = None
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

    @property
    def fingerprint(self) -> str:
        """What tells the entries that are trained on from any others, in their order: texts, places and recordings."""
        parts = [
            [each.role, each.speech.share, each.entries, each.speech.shards]
            + [[facts.seconds, facts.digest] for facts in each.facts]
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


def run(sets: Sequence[tuple[str, SpeechSet]], cfg: Config, tokens: Tokens, console: Console) -> Report:
    """Check all sets of a training or an evaluation: (role, set) pairs, roles as the options are named."""
    report = Report()
    sets = [
        (role, replace(speech, examples=sample_shards(speech, cfg.seed)) if speech.shards else speech)
        for role, speech in sets
    ]
    entries = [(example, speech.name) for _, speech in sets for example in speech.examples]
    facts = iter(inspect_all([example for example, _ in entries], cfg, console, report))
    checked = [(role, speech, [next(facts) for _ in speech.examples]) for role, speech in sets]
    evaluated = {
        digest: speech.name for role, speech, known in checked if role not in TRAINED for digest in _digests(known)
    }
    trained = {digest for role, _, known in checked if role == "data" for digest in _digests(known)}
    for role, speech, known in checked:
        # audio that is only lent to EWC needs no labels, unless its Fisher information is taken from them
        is_read = role != "replay" or speech.share > 0 or (cfg.ewc > 0 and cfg.fisher == "labels")
        self_label = role == "replay" and is_read and (cfg.self_label or not speech.has_text)
        style = _style(role, speech, cfg) if is_read and not self_label else "keep"
        keep: list[int] = []
        faults = list(speech.faults)
        for index, (example, its) in enumerate(zip(speech.examples, known, strict=True)):
            wrong = list(_entry_faults(example, its, role, cfg))
            if is_read and not self_label and its.error is None:
                wrong += _text_faults(example, speech, style, tokens)
            if role in TRAINED and its.digest in evaluated:
                kind = "training" if role == "data" else "replay"
                wrong.append(f"is in the {kind} set and in the evaluation set {evaluated[its.digest]}; remove one")
            faults += [f"{example.where}: {fault}" for fault in wrong]
            if not wrong:
                keep.append(index)
        totals = None
        if speech.shards:
            unused = frozenset(speech.examples[index].where for index in set(range(len(known))) - set(keep))
            totals, found = survey(speech, style, cfg, tokens, console, report)
            totals = replace(totals.with_lengths([known[index].seconds for index in keep]), left_out=unused)
            faults = list(dict.fromkeys(found + faults))
            if not (totals.entries or faults):
                faults = [f"--{role} {speech.source}: holds no entries"]
        if role in ("data", "eval_data") and speech.examples and not speech.has_text and not speech.held_out:
            faults = [f"--{role} {speech.source}: has no transcripts; only --retain and --replay take sets without"]
            report.faults += faults
        elif faults and cfg.skip_bad and keep and (totals is None or totals.entries):
            report.skipped += faults
            speech = replace(speech, examples=[speech.examples[index] for index in keep], skipped=faults)
            known = [known[index] for index in keep]
        else:
            report.faults += faults
        report.sets.append(CheckedSet(role, speech, known, style, self_label, totals=totals))
        report.notes += list(_set_notes(report.sets[-1], cfg, tokens))
        if role == "replay" and (both := sum(each.digest in trained for each in known)):
            report.notes.append(f"replay {speech.name}: {both} of {len(known)} recordings are in --data, too")
        if role not in TRAINED:
            wordless, notes = _without_words(report.sets[-1], cfg)
            report.faults, report.notes = report.faults + wordless, report.notes + notes
    if report.faults and not cfg.skip_bad and any(" …" not in fault for fault in report.faults):
        report.notes.append("--skip_bad leaves out entries with faults, and lists and counts them")
    return report


def stream_faults(entry: Example | str, speech: SpeechSet, style: str, cfg: Config, tokens: Tokens) -> list[str]:
    """What is wrong with one entry of a stream, as far as its header and text tell."""
    if isinstance(entry, str):
        return [entry]
    # comparisons with a length that nobody has told are false
    facts = Facts(seconds=entry.duration or math.nan)
    wrong = [*_entry_faults(entry, facts, "data", cfg), *_text_faults(entry, speech, style, tokens)]
    return [f"{entry.where}: {fault}" for fault in wrong]


def sample_shards(speech: SpeechSet, seed: int) -> list[Example]:
    """A seeded sample of a stream's entries to decode: a few of each of at most `SAMPLED_SHARDS` tars."""
    generator, names = random.Random(seed), speech.shards
    most = SAMPLED_REMOTE_SHARDS if any(map(shards.is_remote, names)) else SAMPLED_SHARDS
    chosen = sorted(generator.sample(range(len(names)), min(most, len(names))))
    sample: list[Example] = []
    for place, shard in enumerate(chosen):
        wanted = math.ceil((DECODED_SAMPLE - len(sample)) / (len(chosen) - place))
        drawn: list[tuple[int, Example]] = []
        with suppress(shards.ShardError):  # the survey says so
            whole = (entry for entry in shards.entries(names[shard], speech.columns) if isinstance(entry, Example))
            for seen, entry in enumerate(whole):  # reservoir sampling (Vitter, 1985)
                if seen < wanted:
                    drawn.append((seen, entry))
                elif (index := generator.randrange(seen + 1)) < wanted:
                    drawn[index] = (seen, entry)
        sample += [entry for _, entry in sorted(drawn, key=itemgetter(0))]
    return sample


def survey(
    speech: SpeechSet, style: str, cfg: Config, tokens: Tokens, console: Console, report: Report
) -> tuple[Totals, list[str]]:
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
                its = _survey_shard(name, speech, style, cfg, tokens)
                report.notes += cache.add([(key, its)], f"what {name} holds")
            found.append(its)
    damaged = [each.damage for each in found if each.damage is not None]
    return Totals(
        sum(each.entries for each in found),
        sum(each.timed for each in found),
        sum(each.seconds for each in found),
        max((each.longest for each in found), default=0.0),
        len(damaged),
    ), [*damaged, *(fault for each in found for fault in each.faults)]


def _survey_shard(name: str, speech: SpeechSet, style: str, cfg: Config, tokens: Tokens) -> ShardFacts:
    entries = timed = wrong = 0
    seconds = longest = 0.0
    faults: list[str] = []
    damage = None
    try:
        for entry in shards.entries(name, speech.columns):
            if found := stream_faults(entry, speech, style, cfg, tokens):
                wrong += 1
                faults += found if wrong <= FAULTS_OF_A_SHARD else []
                continue
            assert isinstance(entry, Example)
            entries += 1
            timed += entry.duration is not None
            seconds += entry.duration or 0.0
            longest = max(longest, entry.duration or 0.0)
    except shards.ShardError as error:
        damage = str(error)
    if wrong > FAULTS_OF_A_SHARD:
        faults.append(f"{name}: {wrong - FAULTS_OF_A_SHARD} more entries have faults")
    return ShardFacts(entries, timed, seconds, longest, faults, damage)


def _style(role: str, speech: SpeechSet, cfg: Config) -> str:
    """The label style of a set; evaluation sets, of which only a loss is computed, do not wait for the original."""
    waits = cfg.label_style == "original" and role not in TRAINED
    return text.resolve_style("auto" if waits else cfg.label_style, [example.text for example in speech.examples])


def _digests(facts: Sequence[Facts]) -> set[str]:
    return {each.digest for each in facts if each.digest}


def recording_faults(example: Example, facts: Facts) -> Iterator[str]:
    """What makes a recording unusable for anything."""
    if facts.error is not None:
        yield f"{example.audio_name}: {facts.error}"
    elif facts.seconds <= 0:
        yield f"{example.audio_name}: {audio.NO_SAMPLES}"
    if not facts.finite:
        yield f"{example.audio_name}: {audio.NOT_FINITE}"


def _entry_faults(example: Example, facts: Facts, role: str, cfg: Config) -> Iterator[str]:
    """What makes one entry unusable whatever its text is, each with its fix."""
    yield from recording_faults(example, facts)
    if facts.error is not None:
        return
    if role in TRAINED and facts.seconds > CHUNK_LENGTH:
        yield (
            f"{example.audio_name}: {facts.seconds:.1f} s, but Whisper hears {CHUNK_LENGTH} s; split it into "
            "segments (offset and duration in the manifest)"
        )
    last = example.segments[-1] if example.segments else None
    if last and (last.end > facts.seconds + DURATION_TOLERANCE or last.start >= facts.seconds):
        yield (
            f"{example.audio_name}: the last segment goes from {last.start:.2f} to {last.end:.2f} s, the clip ends at "
            f"{facts.seconds:.2f} s; correct the segments' times"
        )
    if example.language and language_code(example.language) not in (None, language_code(cfg.language)):
        yield (
            f"{example.audio_name}: is in {example.language!r}, but --language is {cfg.language!r}; "
            "train one language at a time"
        )
    if example.offset is None and example.duration and abs(example.duration - facts.seconds) > DURATION_TOLERANCE:
        yield (
            f"{example.audio_name}: is {facts.seconds:.2f} s long, the manifest says {example.duration:.2f} s; "
            "correct the duration, or add an offset (0 for the start) if a part of the file is meant"
        )


def _text_faults(example: Example, speech: SpeechSet, style: str, tokens: Tokens) -> Iterator[str]:
    """What is wrong with an entry's text, each with its fix."""
    if not example.text and (speech.has_text or speech.held_out):
        yield f"{example.audio_name}: has an empty text; write what is said, or remove the entry"
    if text.NON_SPEECH in example.text and example.text != text.NON_SPEECH:
        yield (
            f"{example.audio_name}: has {text.NON_SPEECH} beside words; it is for clips in which nobody speaks at all: "
            "remove it"
        )
    # much like what the original's transcript will make of it
    label = text.restyle(example.text, "sentence" if style == "original" else style)
    for segments, of in (((), "its text has"), (example.segments, "with its timestamps, its text has")):
        if not tokens.fits(label, segments):
            yield (
                f"{example.audio_name}: {of} {len(tokens.sequence(Label(label, segments))[0]) - 1} tokens, but the "
                f"decoder reads {tokens.text_context}; split the clip"
            )
            break


def _without_words(checked: CheckedSet, cfg: Config) -> tuple[list[str], list[str]]:
    """(faults, notes) about references of which the normaliser leaves nothing: a set of such has no word error rate."""
    name, normalize = normalizer(written_language(cfg.language, cfg.task))
    examples = [example for example in checked.speech.examples if example.text]
    empty = [example for example in examples if not normalize(example.text).split()]
    if not empty:
        return [], []
    if len(empty) < len(examples):
        return [], [
            f"{checked.role} {checked.speech.name}: {len(empty)} of {len(examples)} references hold no word after "
            f"{name}, such as {empty[0].text!r} of {empty[0].id}: whatever is heard there counts as insertions"
        ]
    fix = "leave the set out" if checked.role == "eval_data" else "remove the texts, to score drift"
    return [
        f"{empty[0].where}: {empty[0].text!r} holds no word after {name}, nor does another reference of "
        f"{checked.speech.name}: the set has no word error rate; write what is said, or {fix}"
    ], []


def _set_notes(checked: CheckedSet, cfg: Config, tokens: Tokens) -> Iterator[str]:
    """What is worth knowing about a set and stops nothing."""
    speech, name = checked.speech, f"{checked.role} {checked.speech.name}"
    count = len(speech.examples)
    yield from (f"{name}: {note}" for note in speech.notes)
    if checked.totals:
        untold = checked.totals.entries - checked.totals.timed
        yield (
            f"{name}: {checked.totals.entries} entries in {len(speech.shards)} tars, streamed; {count} were decoded: "
            "what is said of recordings, and whether one is in an evaluation set, is said of these"
        )
        if untold:
            yield (
                f"{name}: {untold} entries do not tell their duration: the hours are estimated, and every epoch reads "
                "the lengths again; python -m whisper_min.data pack writes them"
            )
        if checked.totals.damaged:
            yield f"{name}: damaged tars, read as far as that goes: {checked.totals.damaged} of {len(speech.shards)}"
    rates = Counter(facts.sample_rate for facts in checked.facts if facts.sample_rate not in (0, SAMPLE_RATE))
    for rate, number in sorted(rates.items()):
        yield f"{name}: {number} of {count} files are at {rate} Hz and are resampled to {SAMPLE_RATE} Hz"
    clipped = [example.id for example, facts in zip(speech.examples, checked.facts, strict=True)
               if facts.clipped > CLIPPED_SHARE]  # fmt: skip
    if clipped:
        yield f"{name}: {len(clipped)} clips are clipped, such as {clipped[0]}"
    silent = [example.id for example, facts in zip(speech.examples, checked.facts, strict=True)
              if facts.decoded and facts.level_db < SILENT_BELOW_DB]  # fmt: skip
    if silent:
        yield f"{name}: {len(silent)} clips are silent (below {SILENT_BELOW_DB:.0f} dB), such as {silent[0]}"
    low, high = PLAUSIBLE_SPEED
    strange = [
        f"{example.id} ({len(example.text) / facts.seconds:.1f})"
        for example, facts in zip(speech.examples, checked.facts, strict=True)
        if facts.seconds
        and example.text not in ("", text.NON_SPEECH)
        and not low <= len(example.text) / facts.seconds <= high
    ]
    if strange:
        yield (
            f"{name}: {len(strange)} texts do not fit their audio (outside {low:.0f} to {high:.0f} characters per "
            f"second), such as {strange[0]}"
        )
    repeated = sum(number - 1 for digest, number in Counter(each.digest for each in checked.facts).items() if digest)
    if repeated:
        yield f"{name}: {repeated} recordings are there more than once"
    if checked.role == "retain" and speech.source == "demo" and not cfg.demo:
        yield (
            f"{name}: {count} clean English clips shipped with the package are few to see what is forgotten; "
            "give general speech of your own with --retain"
        )
    if checked.role in TRAINED:
        yield from _label_notes(checked, cfg, tokens)
    if checked.self_label:
        yield f"{name}: the original model writes its labels when the training starts"
    elif checked.role in TRAINED:
        description = text.describe_style([example.text for example in speech.examples])
        if cfg.label_style == "auto" and checked.style != "keep":
            yield (
                f"{name}: references are {description}; they are written in {checked.style} case, because training on "
                "them as they are makes Whisper forget case, punctuation and words (--label_style keep leaves them)"
            )
        elif checked.style == "original":
            yield (
                f"{name}: references are {description}; when the training starts, they get case and punctuation from "
                "what the original model hears"
            )
        elif cfg.label_style == "keep" and description not in ("cased", "no text"):
            yield (
                f"{name}: references are {description}: Whisper will write like that everywhere, and get words wrong "
                "that it knew; --label_style sentence mends it"
            )


def _label_notes(checked: CheckedSet, cfg: Config, tokens: Tokens) -> Iterator[str]:
    """What is in the labels of a training set beside text."""
    examples, name = checked.speech.examples, f"{checked.role} {checked.speech.name}"
    if silent := sum(example.text == text.NON_SPEECH for example in examples):
        yield f"{name}: in {silent} of {len(examples)} clips nobody speaks; they teach the token {text.NON_SPEECH}"
    if prompts := [example.prompt for example in examples if example.prompt]:
        yield f"{name}: {len(prompts)} of {len(examples)} clips have a prompt; it is read in {100 * cfg.prompts:g} %"
        if long := sum(len(tokens.words(prompt)) > tokens.longest_prompt for prompt in prompts):
            yield f"{name}: of {long} prompts the last {tokens.longest_prompt} tokens are read, as Whisper does"
    timed = [(example, label) for example, label in zip(examples, checked.labels, strict=True) if example.segments]
    if timed:
        share = 100 * timestamps_share(cfg)
        yield f"{name}: {len(timed)} of {len(examples)} clips have segments; their labels carry times in {share:g} %"
    parts = [(label, [segment.text for segment in example.segments]) for example, label in timed]
    if lost := sum(text.cut_like(label, its) is None for label, its in parts):
        yield f"{name}: {lost} clips train without times: their label has not the words of their segments"


def inspect_all(
    examples: Sequence[Example], cfg: Config, console: Console, report: Report, decode_all: bool = False
) -> list[Facts]:
    """Facts of every example, from the cache where its file has not changed; a sample of many hours, or `decode_all`.

    What could not be looked at is said in the report's notes.
    """
    cache = Cache(cfg.data_dir / "preflight.jsonl", Facts)
    keys = [file_key(example) for example in examples]
    info = functools.cache(audio.info)  # many entries may be parts of one recording, and not every format has a header
    headers = [cache.known(key) or _header(example, info) for example, key in zip(examples, keys, strict=True)]
    hours = sum(facts.seconds for facts in headers) / 3600
    to_decode = [index for index, facts in enumerate(headers) if facts.error is None and not facts.decoded]
    if hours > DECODE_ALL_HOURS and len(to_decode) > DECODED_SAMPLE and not decode_all:
        report.notes.append(
            f"{hours:.0f} h: read the headers of all {len(examples)} files and decoded {DECODED_SAMPLE}; bad audio in "
            "the others is met, and counted or refused, in training"
        )
        to_decode = sorted(random.Random(cfg.seed).sample(to_decode, DECODED_SAMPLE))
    new = []
    with progress("checking audio", console) as bars, ThreadPoolExecutor() as pool:
        work = pool.map(inspect, [examples[index] for index in to_decode], [headers[index] for index in to_decode])
        try:
            for index, facts in zip(to_decode, bars.track(work, total=len(to_decode)), strict=True):
                headers[index] = facts
                if facts.error is None:
                    new.append((keys[index], facts))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a signal does not wait for all that is left
    report.notes += cache.add(new, "the preflight's results")
    return headers


def file_key(example: Example) -> str:
    """What tells an entry's audio from any other without decoding it; empty where the file is not there."""
    try:
        stat = example.audio_filepath.stat()
    except OSError:
        return ""
    duration = example.duration if example.offset is not None else None
    place = [example.member.start] if example.member else []
    path = str(example.audio_filepath.resolve())
    return json.dumps([path, stat.st_size, stat.st_mtime_ns, example.offset, duration, *place])


def _header(example: Example, info: Callable[[Path], audio.AudioInfo]) -> Facts:
    """Length and rate as the header says."""
    if not example.audio_filepath.is_file():
        return Facts(error="does not exist; correct the path (it is relative to the manifest) or remove the entry")
    try:
        with example.file() as path:
            found = info(path)
    except audio.AudioError as error:
        return Facts(error=str(error))
    seconds = found.seconds
    if example.offset is not None:
        if example.offset >= found.seconds:
            return Facts(error=f"offset {example.offset:g} s lies beyond its end at {found.seconds:.2f} s")
        seconds = min(example.duration or found.seconds, found.seconds - example.offset)
        if example.duration and seconds < example.duration - DURATION_TOLERANCE:
            wanted = example.offset + example.duration
            return Facts(error=f"ends at {found.seconds:.2f} s, the entry goes to {wanted:.2f} s")
    return Facts(seconds=seconds, sample_rate=found.sample_rate)


def inspect(example: Example, header: Facts) -> Facts:
    """Decode one example and look at its samples."""
    try:
        waveform = example.read()
    except audio.AudioError as error:
        return replace(header, error=str(error))
    if len(waveform) == 0:
        return replace(header, seconds=0.0, decoded=True)
    magnitude = np.abs(waveform)
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return Facts(
        seconds=len(waveform) / SAMPLE_RATE,
        sample_rate=header.sample_rate,
        decoded=True,
        clipped=float(np.mean(magnitude >= CLIPPED_AT)),
        level_db=10 * float(np.log10(max(power, 1e-12))) if np.isfinite(power) else 0.0,
        finite=bool(np.isfinite(magnitude).all()),
        digest=hashlib.blake2b(waveform.tobytes(), digest_size=16).hexdigest(),
    )


def table(report: Report) -> Table:
    """The sets in one table."""
    made = Table(title="Preflight", title_justify="left")
    for column in ("option", "set", "entries", "hours", "speakers", "references"):
        made.add_column(column, justify="right" if column in ("entries", "hours", "speakers") else "left")
    for each in report.sets:
        examples = each.speech.examples
        speakers = len({example.speaker for example in examples if example.speaker})
        style = text.describe_style([example.text for example in examples])
        if each.self_label:
            style += " → the original's"
        elif each.role in TRAINED and each.style != "keep":
            style += f" → {each.style}"
        hours = f"{(each.totals.seconds if each.totals else sum(each.seconds)) / 3600:.2f}"
        hours = f"≈ {hours}" if each.totals and each.totals.timed < each.totals.entries else hours
        option = f"--{each.role}" + (f" {100 * each.speech.share:g} %" if each.role == "replay" else "")
        made.add_row(
            option, each.speech.name, str(each.entries), hours, "?" if each.totals else str(speakers or "?"), style
        )
    return made


def show(report: Report, out: Console) -> None:
    """Print the sets, what is worth knowing about them, and what was left out."""
    out.print(table(report))
    for line in [*(f"note: {note}" for note in report.notes), *(f"left out: {fault}" for fault in report.skipped)]:
        out.print(text.visible(line), markup=False, highlight=False, soft_wrap=True)


def batch_table(inputs: Sequence[int], targets: Sequence[int], tokens: Tokens, title: str) -> Table:
    """One row of a batch, token by token: what is read, what should be predicted, whether the loss counts it."""
    made = Table(title=Text(text.visible(title)), title_justify="left")
    for column in ("position", "decoder reads", "should predict", "in the loss"):
        made.add_column(column, justify="right" if column == "position" else "left")
    for position, (read, predicted) in enumerate(zip(inputs, targets, strict=True)):
        counted = "yes" if predicted >= 0 else "no"
        cells = f"{read} {tokens.name(read)}", tokens.name(predicted)
        made.add_row(str(position), *map(Text, cells), counted)
    return made


def write_lists(folder: Path, report: Report) -> None:
    """List held-out entries and skipped ones in the run folder."""
    held = [each for each in report.sets if each.speech.held_out]
    for each in held:
        rows = [{"id": example.id, "where": example.where} for example in each.speech.examples]
        runs.write_atomic(folder / "held_out.jsonl", "".join(map(runs.to_json_line, rows)))
    if report.skipped:
        runs.write_atomic(folder / "skipped.txt", "\n".join(report.skipped) + "\n")
