"""Tokens, built by hand and shown.

A training sequence is

    <|startoftranscript|> [<|language|> <|task|>] <|notimestamps|>  text…  <|endoftext|>
    └──────────────── prefix, given ────────────────────────────┘  └── predicted ──┘

Language and task stand there on multilingual models only. The decoder reads all but the last token and predicts all but
the first (teacher forcing); the loss counts the text and the end, never the prefix, never padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from whisper import ModelDimensions
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_tokenizer

from whisper_min.config import InputError

# What the cross-entropy leaves out (torch's default ignore_index).
IGNORED = -100


def language_code(language: str) -> str | None:
    """Whisper's code of a language given by code or name; None where Whisper does not know it."""
    language = language.lower()
    return language if language in LANGUAGES else TO_LANGUAGE_CODE.get(language)


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
        special = self.tokenizer.special_tokens
        self.prefix: list[int] = [special["<|startoftranscript|>"]]
        if multilingual:
            self.prefix += [special[f"<|{language_code(language)}|>"], special[f"<|{task}|>"]]
        self.prefix += [special["<|notimestamps|>"]]
        self.end: int = self.tokenizer.eot

    def encode(self, text: str) -> list[int]:
        """Prefix, text with its leading space (Whisper's words begin with one), end token."""
        # a text that spells a special token is text all the same
        return [*self.prefix, *self.tokenizer.encode(" " + text.strip(), disallowed_special=()), self.end]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of predicted tokens, special ones left out, as `whisper.decode` writes it."""
        return str(self.tokenizer.decode([token for token in tokens if token < self.end])).strip()

    def fits(self, text: str) -> bool:
        """Whether the decoder can read the whole sequence: its inputs are one token shorter than the sequence."""
        most = len(self.prefix) + len(f" {text.strip()}".encode("utf-8", "surrogatepass"))  # a token is a byte or more
        return most <= self.text_context or len(self.encode(text)) - 1 <= self.text_context

    def teacher_forcing(self, texts: Sequence[str]) -> Targets:
        """Shifted inputs and targets of a batch, trimmed to its longest text: (B, T) each."""
        rows = [self.encode(text) for text in texts]
        length = max(map(len, rows)) - 1
        inputs = torch.full((len(rows), length), self.end)
        targets = torch.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            inputs[index, : len(row) - 1] = torch.tensor(row[:-1])
            # position i predicts token i + 1: the last prefix token predicts the first of the text
            predicted = torch.tensor(row[len(self.prefix) :])
            targets[index, len(self.prefix) - 1 : len(row) - 1] = predicted
        return Targets(inputs, targets)

    def name(self, token: int) -> str:
        """A token as people read it: special tokens by name, others as text in quotes."""
        if token == IGNORED:
            return "·"
        if token >= self.end:
            return str(self.tokenizer.decode_with_timestamps([token])) or str(token)
        return repr(self.tokenizer.decode([token]))
