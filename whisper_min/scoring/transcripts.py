"""What the original model writes for a set, kept on disk so that it is written once, and the labels made of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from whisper import Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio, runs
from whisper_min.config import Config, InputError
from whisper_min.data.checked import TRAINED, CheckedSet, Report
from whisper_min.data.examples import Segment
from whisper_min.data.tokens import Tokens, written_language
from whisper_min.scoring import decode, health, wer
from whisper_min.scoring.timestamps import END_TOLERANCE
from whisper_min.text import cut_like, restyle_like
from whisper_min.training.precision import autocast
from whisper_min.training.reporter import Reporter

# whisper/transcribe.py: a transcript of a lower average log-probability is not trusted.
UNSURE_BELOW = -1.0
# A segment as whisper's tokenizer spells it.
_TIMED = re.compile(r"<\|(\d+\.\d+)\|>(.+?)<\|(\d+\.\d+)\|>", re.DOTALL)


@dataclass(frozen=True)
class Transcript:
    """What the original wrote for one clip."""

    text: str
    ended: bool
    """Whether it wrote the end token within the limit."""
    avg_logprob: float
    """Nats per token, the end's included."""

    @property
    def flaw(self) -> str | None:
        """What makes it no label, in a word; None where nothing does."""
        if not any(character.isalnum() for character in self.text):
            return "empty"
        if health.is_loop(self.text):
            return "looping"
        if not self.ended:
            return "endless"
        return "unsure" if self.avg_logprob < UNSURE_BELOW else None


@dataclass(frozen=True)
class Transcriber:
    """The original model as a writer of transcripts, greedy and in 30 s windows as everywhere.

    They are kept in `data_dir/transcripts`, a file for each model and way to decode, a row for each recording, written
    batch by batch: an interrupted run, a second one, and a set that has grown only do what is left.
    """

    cfg: Config
    original: Callable[[], Whisper]
    """Gives the original on its device; called only where a transcript is missing."""
    tokens: Tokens
    fingerprint: str
    """Of the original's weights."""
    precision: str
    """Of the encoder."""
    reporter: Reporter
    with_times: bool = False
    """Write timestamps, by whisper's own rules; the texts hold them as `<|0.00|>`."""

    @cached_property
    def path(self) -> Path:
        """Where the transcripts are kept."""
        how = "greedy with timestamps" if self.with_times else "greedy"
        parts = [how, self.fingerprint, self.tokens.prefix, self.precision, self.cfg.normalize]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.cfg.data_dir / "transcripts" / f"{key}.jsonl"

    def transcripts(self, checked: CheckedSet) -> list[Transcript]:
        """What the original writes for each clip (30 s at the most) of a set, in its order.

        A file that cannot be decoded raises audio.AudioError with its name; under --skip_bad it is said, and its
        transcript is empty.
        """
        keys = checked.recordings
        known = _read(self.path)
        missing = {key: index for index, key in enumerate(keys) if key not in known}  # equal recordings once
        if missing:
            known |= self._write(checked, missing)
        return [known[key] for key in keys]

    def label(self, report: Report) -> Report:
        """Make the labels that need the original: case and punctuation (--label_style original), and whole texts.

        Returns a report whose sets hold them. Clips without a usable label are left out, and counted in a note:
        transcripts that are empty, loop, have no end or are unsure, and labels too long for the decoder. InputError
        where nothing is left of a set.
        """
        labelled = replace(report, sets=[], notes=list(report.notes), skipped=list(report.skipped))
        faults: list[str] = []
        for checked in report.sets:
            if not checked.needs_original:
                labelled.sets.append(checked)
                continue
            labels, flaws = self._labels(checked)
            speech, total = checked.speech, len(labels)
            kept = [index for index, flaw in enumerate(flaws) if flaw is None]
            why = ", ".join(f"{number} {flaw}" for flaw, number in Counter(filter(None, flaws)).most_common())
            name = f"{checked.role} {speech.name}"
            if not kept:
                faults.append(f"--{name}: the original has a usable label for none of its {total} clips ({why}); give "
                              "another set, or transcripts of it")  # fmt: skip
            elif why:
                labelled.notes.append(f"{name}: {total - len(kept)} of {total} clips left out ({why})")
            labelled.skipped += [
                f"{example.where}: the original's label is {flaw}"
                for example, flaw in zip(speech.examples, flaws, strict=True)
                if flaw is not None
            ]
            labelled.sets.append(
                replace(
                    checked,
                    speech=replace(speech, examples=[speech.examples[index] for index in kept]),
                    facts=[checked.facts[index] for index in kept],
                    written=[labels[index] for index in kept],
                )
            )
        if faults:
            raise InputError(faults)
        return labelled

    def timestamp(self, report: Report) -> Report:
        """Give training clips without segments the original's times, where it hears the words of their labels.

        Whether Whisper can still tell when something is said is lost where it is never asked (--timestamps): clips
        that carry the original's own answer keep it. How many do is noted.
        """
        hearing = replace(self, with_times=True)
        timed = replace(report, sets=[], notes=list(report.notes))
        for checked in report.sets:
            examples, without = checked.speech.examples, sum(not each.segments for each in checked.speech.examples)
            if checked.totals and without:
                timed.notes.append(
                    f"{checked.role} {checked.speech.name}: streamed; only clips with segments carry times"
                )
            elif checked.role in TRAINED and without:
                rows = zip(examples, hearing.transcripts(checked), checked.labels, checked.seconds, strict=True)
                examples = [
                    example
                    if example.segments
                    else replace(example, segments=times_like(label, heard, seconds, self._normalize))
                    for example, heard, label, seconds in rows
                ]
                got = sum(bool(each.segments) for each in examples) - (len(examples) - without)
                timed.notes.append(
                    f"{checked.role} {checked.speech.name}: {got} of {without} clips without segments get the times "
                    "that the original writes; in the others it hears other words"
                )
            timed.sets.append(replace(checked, speech=replace(checked.speech, examples=examples)))
        return timed

    @cached_property
    def _normalize(self) -> Callable[[str], str]:
        """The normaliser of the references' language, which remembers: most of what it is asked for are words."""
        language = written_language(self.cfg.language, self.cfg.task)
        return lru_cache(maxsize=100_000)(wer.normalizer(language)[1])

    def _labels(self, checked: CheckedSet) -> tuple[list[str], list[str | None]]:
        """The label of each clip of a set, and what makes it none."""
        transcripts = self.transcripts(checked)
        if checked.self_label:
            return [each.text for each in transcripts], [each.flaw for each in transcripts]
        pairs = zip(checked.speech.examples, transcripts, strict=True)
        labels = [restyle_like(example.text, transcript.text, self._normalize) for example, transcript in pairs]
        return labels, [None if self.tokens.fits(label) else "too long" for label in labels]

    def _write(self, checked: CheckedSet, missing: dict[str, int]) -> dict[str, Transcript]:
        """Transcribe the clips at these indices and append what is written to the file."""
        model = self.original()
        device = next(model.parameters()).device
        # clips of a length end together, so that no row of a batch waits for another
        waiting = sorted(missing, key=lambda key: checked.seconds[missing[key]])
        made: dict[str, Transcript] = {}
        keeping = True
        with self.reporter.bar(f"the original hears {checked.speech.name}", len(waiting)) as bar:
            for first in range(0, len(waiting), self.cfg.eval_batch_size):
                waveforms: dict[str, audio.Waveform] = {}
                for key in waiting[first : first + self.cfg.eval_batch_size]:
                    example = checked.speech.examples[missing[key]]
                    try:
                        waveforms[key] = example.read(self.cfg.normalize)
                    except audio.AudioError as error:
                        message = f"{example.where}: {error}"
                        if not self.cfg.skip_bad:
                            raise audio.AudioError(message) from None
                        self.reporter.print(message)
                        made[key] = Transcript("", True, 0.0)
                if not waveforms:
                    continue
                mel = audio.log_mel(audio.pad(list(waveforms.values()), N_SAMPLES).to(device), model.dims.n_mels)
                with torch.inference_mode(), autocast(device, self.precision):
                    features = decode.encode_windows(model, mel)  # (B, A, C)
                    if self.with_times:
                        written = decode.with_timestamps(model, features, self.tokens)
                    else:
                        written = decode.greedy(model, features, self.tokens, with_logprob=True)
                new = {
                    key: Transcript(each.text, each.ended, each.avg_logprob or 0.0)
                    for key, each in zip(waveforms, written, strict=True)
                }
                keeping = keeping and self._keep(new)
                made |= new
                self.reporter.advance(bar, len(made))
        return made

    def _keep(self, new: dict[str, Transcript]) -> bool:
        """Append to the file; where that fails, say so."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            runs.append_jsonl(self.path, ({"recording": key, **vars(each)} for key, each in new.items()))
        except OSError as error:
            self.reporter.print(f"transcripts could not be kept in {self.path} ({error.strerror}); going on without")
            return False
        return True


def times_like(label: str, heard: Transcript, seconds: float, normalize: Callable[[str], str]) -> tuple[Segment, ...]:
    """A label's segments, with the times of a transcript that holds the same words; () where it does not.

    Times that are no times, such as some beyond the clip's end, are none either.
    """
    found = [(float(start), text.strip(), float(end)) for start, text, end in _TIMED.findall(heard.text)]
    times = [time for start, _, end in found for time in (start, end)]
    texts = [text for _, text, _ in found]
    if not found or not heard.ended or times != sorted(times) or times[-1] > seconds + END_TOLERANCE:
        return ()
    if normalize(" ".join(texts)) != normalize(label):
        return ()
    parts = cut_like(label, texts)
    if parts is None or not all(start < end for start, _, end in found):
        return ()
    return tuple(Segment(start, end, part) for (start, _, end), part in zip(found, parts, strict=True))


def _read(path: Path) -> dict[str, Transcript]:
    """Recording -> transcript; rows that are not what this version writes are passed over, and made again."""
    found: dict[str, Transcript] = {}
    for row in runs.read_jsonl(path):
        match row:
            case {"recording": str(key), "text": str(text), "ended": bool(ended), "avg_logprob": float(average)}:
                found[key] = Transcript(text, ended, average)
    return found
