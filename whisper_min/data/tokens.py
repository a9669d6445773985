"""Tokens, built by hand and shown.

A training sequence is

    <|startoftranscript|> [<|language|> <|task|>] <|notimestamps|>  text…  <|endoftext|>
    └──────────────── prefix, given ────────────────────────────┘  └── predicted ──┘

Language and task stand there on multilingual models only. The decoder reads all but the last token and predicts all but
the first (teacher forcing); the loss counts the text and the end, never the prefix, never padding.

Three variations are Whisper's own (arXiv:2212.04356, figure 1). With timestamps each segment's text stands between its
times, and <|notimestamps|> is left out. A prompt, <|startofprev|> and what was said before, may come first, given as
the prefix is. And where nobody speaks, <|nospeech|> and the end follow the start at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from whisper import ModelDimensions
from whisper.audio import CHUNK_LENGTH
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_tokenizer

from whisper_min.config import InputError
from whisper_min.data.examples import TIMESTAMP_SECONDS, Segment
from whisper_min.text import NON_SPEECH

# What the cross-entropy leaves out (torch's default ignore_index).
IGNORED = -100


# large-v3's, whose tokens are those of every multilingual model and know every language; the rest is of no matter.
EVERY_LANGUAGE = ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32)


def language_code(language: str) -> str | None:
    """Whisper's code of a language given by code or name; None where Whisper does not know it."""
    language = language.lower()
    return language if language in LANGUAGES else TO_LANGUAGE_CODE.get(language)


def written_language(language: str, task: str) -> str:
    """Code of the language that is written: English where speech is translated."""
    return "en" if task == "translate" else language_code(language) or "en"


def unknown_language(language: str) -> str:
    """The fault of a --language that has no code."""
    return f"--language {language}: Whisper does not know it; give a code such as en, de or zh"


@dataclass(frozen=True)
class Label:
    """What the model should write for one row of a batch."""

    text: str
    """`text.NON_SPEECH` where nobody speaks."""
    segments: tuple[Segment, ...] = ()
    """The text with its times; () writes it without."""
    prompt: str = ""
    """What was said before, for the decoder to read."""


@dataclass(frozen=True)
class Targets:
    """Token rows of a batch, trimmed to its longest: what the decoder reads and what it should predict."""

    inputs: Tensor
    """(B, T), int64; padded with the end token, which no unpadded position can attend to (the mask is causal)."""
    targets: Tensor
    """(B, T), int64; `IGNORED` at the prefix and at padding."""

    @property
    def positions(self) -> Tensor:
        """Indices into the flattened (B, T) that the loss counts: (N,), in order."""
        return (self.targets.flatten() != IGNORED).nonzero()[:, 0]

    @property
    def count(self) -> int:
        """Tokens that the loss counts."""
        return int((self.targets != IGNORED).sum())


class Tokens:
    """Encodes transcripts for one model, language and task.

    Parameters
    ----------
    dims : ModelDimensions
        give the vocabulary (English-only or multilingual, 99 or 100 languages) and the text context (448)
    language, task : str
        as in Whisper; ignored by English-only models, which have no such tokens
    """

    def __init__(self, dims: ModelDimensions, language: str = "en", task: str = "transcribe") -> None:
        multilingual = dims.n_vocab >= 51865  # whisper/model.py, is_multilingual and num_languages
        languages = dims.n_vocab - 51765 - int(multilingual)
        if multilingual and language_code(language) not in tuple(LANGUAGES)[:languages]:
            raise InputError(
                f"--language {language}: is not among the {languages} languages of this model; give another one, or "
                "--model large-v3 or turbo, which know one more (Cantonese)"
            )
        self.tokenizer: Tokenizer = get_tokenizer(
            multilingual,
            num_languages=languages,
            language=language_code(language) if multilingual else None,
            task=task if multilingual else None,
        )
        self.text_context: int = dims.n_text_ctx
        self.special: dict[str, int] = self.tokenizer.special_tokens
        self.prefix: list[int] = [self.special["<|startoftranscript|>"]]
        if multilingual:
            self.prefix += [self.special[f"<|{language_code(language)}|>"], self.special[f"<|{task}|>"]]
        self.prefix += [self.special["<|notimestamps|>"]]
        self.end: int = self.tokenizer.eot

    def words(self, text: str) -> list[int]:
        """A text with its leading space (Whisper's words begin with one)."""
        # a text that spells a special token is text all the same
        return list(self.tokenizer.encode(" " + text.strip(), disallowed_special=()))

    def encode(self, text: str) -> list[int]:
        """Prefix, text and end token: the plain sequence."""
        return [*self.prefix, *self.words(text), self.end]

    def timestamp(self, seconds: float) -> int:
        """The token of a time from 0 to 30 s, in Whisper's steps of 0.02 s."""
        steps = round(seconds / TIMESTAMP_SECONDS)
        return self.tokenizer.timestamp_begin + min(max(steps, 0), round(CHUNK_LENGTH / TIMESTAMP_SECONDS))

    def sequence(self, label: Label) -> tuple[list[int], int]:
        """(the whole sequence of a label, how many of its tokens are given).

        A prompt keeps its end where it is too long: half the text context as Whisper's own decoding does, and what
        the label leaves of it.
        """
        if label.text == NON_SPEECH:
            given, predicted = self.prefix[:1], [self.special[NON_SPEECH]]
        elif label.segments:
            given = self.prefix[:-1]
            predicted = [
                token
                for segment in label.segments
                for token in (self.timestamp(segment.start), *self.words(segment.text), self.timestamp(segment.end))
            ]
        else:
            given, predicted = self.prefix, self.words(label.text)
        room = self.text_context - len(given) - len(predicted) - 1
        room = min(room, self.longest_prompt)
        if label.prompt and room > 0:
            given = [self.special["<|startofprev|>"], *self.words(label.prompt)[-room:], *given]
        return [*given, *predicted, self.end], len(given)

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt that are read (whisper/decoding.py, _get_initial_tokens)."""
        return self.sample_limit - 1

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of predicted tokens, special ones left out, as `whisper.decode` writes it."""
        return str(self.tokenizer.decode([token for token in tokens if token < self.end])).strip()

    @property
    def sample_limit(self) -> int:
        """Tokens that a transcript has at most, as whisper writes it: half the text context, 224."""
        return self.text_context // 2

    def fits(self, text: str, segments: tuple[Segment, ...] = ()) -> bool:
        """Whether the decoder can read the whole sequence: its inputs are one token shorter than the sequence."""
        # a token is a byte or more
        most = len(self.prefix) + len(f" {text.strip()}".encode("utf-8", "surrogatepass")) + 4 * len(segments)
        return most <= self.text_context or len(self.sequence(Label(text, segments))[0]) - 1 <= self.text_context

    def teacher_forcing(self, labels: Sequence[Label | str]) -> Targets:
        """Shifted inputs and targets of a batch, trimmed to its longest sequence: (B, T) each."""
        rows = [self.sequence(label if isinstance(label, Label) else Label(label)) for label in labels]
        length = max(len(row) for row, _ in rows) - 1
        inputs = torch.full((len(rows), length), self.end)
        targets = torch.full((len(rows), length), IGNORED)
        for index, (row, given) in enumerate(rows):
            inputs[index, : len(row) - 1] = torch.tensor(row[:-1])
            # position i predicts token i + 1: the last token that is given predicts the first of the text
            targets[index, given - 1 : len(row) - 1] = torch.tensor(row[given:])
        return Targets(inputs, targets)

    def name(self, token: int) -> str:
        """A token as people read it: special tokens by name, others as text in quotes."""
        if token == IGNORED:
            return "·"
        if token >= self.end:
            return str(self.tokenizer.decode_with_timestamps([token])) or str(token)
        return repr(self.tokenizer.decode([token]))
