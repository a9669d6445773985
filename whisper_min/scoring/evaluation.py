"""One way to score, for train.py and evaluate.py alike: decode a set, count its errors, keep every utterance."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from whisper import Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio
from whisper_min.data.checked import CheckedSet
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens
from whisper_min.model.forward import sum_cross_entropy
from whisper_min.scoring import decode, health, significance, wer
from whisper_min.text import NON_SPEECH
from whisper_min.training.ranks import ALONE, Ranks

NON_SPEECH_SECONDS = 150.0


@dataclass(frozen=True)
class Utterance:
    """One utterance as the model heard it, with its counts."""

    example: Example
    seconds: float
    reference: str
    hypothesis: str
    reference_normalized: str
    hypothesis_normalized: str
    words: wer.Errors
    raw_words: wer.Errors
    characters: wer.Errors
    loop: bool
    ended: bool

    @property
    def flags(self) -> list[str]:
        """What is wrong with the transcript beyond its words."""
        return ["loop"] * self.loop + ["no_end"] * (not self.ended)


@dataclass(frozen=True)
class SetResult:
    """A model's transcripts of one set, in the set's order."""

    name: str
    utterances: list[Utterance]
    decode_seconds: float
    loss: float | None
    """Teacher-forced cross-entropy, nats per token; None for sets without text and files over 30 s."""
    is_drift: bool = False
    """Whether the references are what the original wrote: the set has no transcripts."""

    @property
    def words(self) -> wer.Errors:
        """Word errors, micro-averaged."""
        return wer.add_up(utterance.words for utterance in self.utterances)

    @property
    def raw_words(self) -> wer.Errors:
        """The same without the normaliser: case and punctuation count."""
        return wer.add_up(utterance.raw_words for utterance in self.utterances)

    def summary(self) -> dict[str, Any]:
        """The numbers of `evaluate.py --json` but for intervals; rates are fractions."""
        words = self.words
        seconds = sum(utterance.seconds for utterance in self.utterances)
        without_loops = wer.add_up(utterance.words for utterance in self.utterances if not utterance.loop)
        rate = "drift" if self.is_drift else "wer"
        numbers: dict[str, Any] = {
            "utterances": len(self.utterances),
            "words": words.units,
            "audio_seconds": round(seconds, 2),
            rate: words.rate,
            "cer": wer.add_up(utterance.characters for utterance in self.utterances).rate,
            f"raw_{rate}": self.raw_words.rate,
            f"{rate}_without_loops": without_loops.rate,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "loops": sum(utterance.loop for utterance in self.utterances),
            "no_end": sum(not utterance.ended for utterance in self.utterances),
            "decode_seconds": round(self.decode_seconds, 3),
            "rtfx": round(seconds / self.decode_seconds, 2) if self.decode_seconds else None,
        }
        if self.loss is not None:
            numbers["loss"] = self.loss
        return numbers

    def units(self, others: Sequence[SetResult] = ()) -> significance.Units:
        """What the bootstrap resamples: this result and others of the same set, paired."""
        systems = [self, *others]
        return significance.units(
            [[utterance.words.total for utterance in each.utterances] for each in systems],
            [utterance.words.units for utterance in self.utterances],
            [utterance.example.speaker for utterance in self.utterances],
        )


@dataclass(frozen=True)
class Scorer:
    """How to decode and score; the same for every model that is compared.

    `autocast` wraps the encoder alone: the decoder always runs in fp32, where a tie is rarest.
    """

    tokens: Tokens
    language: str
    """Of the references: it chooses the normaliser."""
    batch_size: int = 16
    normalize: bool = False
    beam_size: int | None = None
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    tick: Callable[[int], None] = lambda clips: None
    """Called with the number of clips done after each batch; may raise to stop."""
    ranks: Ranks = ALONE
    """Who shares the decoding of a set, batch by batch; all of them call `decode_set` then."""

    def decode_set(self, model: Whisper, checked: CheckedSet) -> tuple[list[decode.Hypothesis], float | None, float]:
        """(hypotheses in the set's order, loss, seconds taken)."""
        started = time.perf_counter()
        shares = self.ranks.gather(lambda: self._decode_share(model, checked))
        hypotheses = {index: each for share, _, _ in shares for index, each in share.items()}
        loss, count = sum(loss for _, loss, _ in shares), sum(count for _, _, count in shares)
        mean = loss / count if count else None
        return [hypotheses[index] for index in range(len(hypotheses))], mean, time.perf_counter() - started

    def _decode_share(self, model: Whisper, checked: CheckedSet) -> tuple[dict[int, decode.Hypothesis], float, int]:
        """This rank's hypotheses by their places in the set, and the sum and the number of what its loss is made of."""
        examples, seconds, labels = checked.speech.examples, checked.seconds, checked.labels
        # clips of a length end together, so that no row of a batch waits for another
        order = sorted(range(len(examples)), key=lambda index: seconds[index])
        short = [index for index in order if not decode.is_long(seconds[index])]
        hypotheses: dict[int, decode.Hypothesis] = {}
        device = next(model.parameters()).device
        loss, count = torch.zeros((), device=device), 0
        for first in self.ranks.mine(range(0, len(short), self.batch_size)):
            batch = short[first : first + self.batch_size]
            waveforms = [examples[index].read(self.normalize) for index in batch]
            mel = audio.log_mel(audio.pad(waveforms, N_SAMPLES).to(device), model.dims.n_mels)  # (B, M, F)
            with torch.inference_mode():
                with self.autocast():
                    features = decode.encode_windows(model, mel)  # (B, A, C)
                if checked.speech.has_text:
                    targets = self.tokens.teacher_forcing([labels[index] for index in batch])
                    logits = model.decoder(targets.inputs.to(device), features)  # (B, T, V)
                    loss += sum_cross_entropy(logits, targets.targets.to(device))
                    count += targets.count
                    del logits
            if self.beam_size is None:
                written = decode.greedy(model, features, self.tokens)
            else:
                written = decode.beam(model, features, self.tokens, self.beam_size)
            hypotheses.update(zip(batch, written, strict=True))
            self.tick(len(batch))
        for index in self.ranks.mine(order[len(short) :]):
            waveform = torch.from_numpy(examples[index].read(self.normalize))
            hypotheses[index] = decode.transcribe_long(model, waveform, self.tokens)
            self.tick(1)
        return hypotheses, float(loss), count

    def score(
        self,
        checked: CheckedSet,
        hypotheses: Sequence[decode.Hypothesis],
        loss: float | None,
        seconds: float,
        original: Sequence[str] | None = None,
    ) -> SetResult:
        """Count errors against the references, or, in a set without text, against what the original wrote."""
        examples = checked.speech.examples
        is_drift = not checked.speech.has_text
        if is_drift:
            references = list(original) if original is not None else [hypothesis.text for hypothesis in hypotheses]
        else:
            references = ["" if example.text == NON_SPEECH else example.text for example in examples]
        _, normalize = wer.normalizer(self.language)
        texts = [hypothesis.text for hypothesis in hypotheses]
        normal_references, normal_texts = [normalize(each) for each in references], [normalize(each) for each in texts]
        rows = zip(
            *(examples, checked.seconds, references, texts, normal_references, normal_texts),
            wer.word_errors(normal_references, normal_texts),
            wer.word_errors(references, texts),
            wer.character_errors(normal_references, normal_texts),
            [health.is_loop(each) for each in texts],
            [hypothesis.ended for hypothesis in hypotheses],
            strict=True,
        )
        return SetResult(checked.speech.name, [Utterance(*row) for row in rows], seconds, loss, is_drift)

    def evaluate(self, model: Whisper, checked: CheckedSet, original: Sequence[str] | None = None) -> SetResult:
        """Decode and score one set."""
        return self.score(checked, *self.decode_set(model, checked), original=original)

    def words_on_non_speech(self, model: Whisper, seconds: float = NON_SPEECH_SECONDS) -> dict[str, float]:
        """Words per minute that the model writes where nobody speaks, by kind of sound, and over all of them."""
        _, normalize = wer.normalizer(self.language)
        device = next(model.parameters()).device
        kinds, mels = _non_speech(seconds, model.dims.n_mels)
        counts: list[int] = []
        for mel in mels.split(self.batch_size):
            with torch.inference_mode(), self.autocast():
                features = decode.encode_windows(model, mel.to(device))
            written = decode.greedy(model, features, self.tokens)
            counts += [len(normalize(each.text).split()) for each in written]
            self.tick(0)
        words = {}
        for kind in dict.fromkeys(kinds):
            mean = statistics.fmean(count for its, count in zip(kinds, counts, strict=True) if its == kind)
            words[kind] = mean / (audio.NON_SPEECH_CLIP_SECONDS / 60)
        return {**words, "all": sum(words.values()) / len(words)}


@functools.cache
def _non_speech(seconds: float, n_mels: int) -> tuple[list[str], Tensor]:
    """What each clip without words is, and the log-mels of all (B, M, F); made once, heard in every evaluation."""
    sounds = audio.silence_and_noise(seconds)
    mels = [audio.log_mel(audio.pad([waveform]), n_mels) for its in sounds.values() for waveform in its]
    return [kind for kind, its in sounds.items() for _ in its], torch.cat(mels)
