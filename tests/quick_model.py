"""Random Whispers that end their transcripts, so that decoding them is quick, and what tests do with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import babble, hash_of, random_whisper
from rich.console import Console
from torch import Tensor
from whisper import ModelDimensions, Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio
from whisper_min.config import Config
from whisper_min.data import preflight, sources
from whisper_min.data.checked import CheckedSet
from whisper_min.data.tokens import Tokens
from whisper_min.model import lora


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for torch in a module that imports this: in such small products a second one only waits, and on a
    busy machine for minutes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ending_whisper(text_tokens: int = 5, multilingual: bool = False, seed: int = 0) -> Whisper:
    """A random Whisper whose transcripts have so many tokens.

    The shared random Whisper never ends, so that each of its transcripts costs 224 decoding steps.
    """
    model = random_whisper(multilingual, seed=seed)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=1.0)  # another token at each position
    _end_after(model, text_tokens, 4.0, 0.5, before=-1.5)
    return model


def lively_whisper(multilingual: bool = False, n_mels: int = 80, seed: int = 0) -> Whisper:
    """A random Whisper of two layers whose transcripts differ from clip to clip and end after at most 24 tokens."""
    model = random_whisper(multilingual, n_mels, layers=2, seed=seed)
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=1.0)
        model.decoder.token_embedding.weight.normal_(std=0.3)
        model.decoder.token_embedding.weight[Tokens(model.dims).end] *= 5
        for block in model.decoder.blocks:
            # what the layers add must outweigh the token itself, or the tied embedding repeats it for ever
            block.mlp[2].weight *= 10
            block.cross_attn.out.weight *= 4
    _end_after(model, 24, 30.0, 0.3)
    return model


def listening_whisper(seed: int = 2) -> Whisper:
    """A lively Whisper that hears: what its encoder makes of silence is taken away, the rest made large."""
    model = lively_whisper(seed=seed)
    with torch.no_grad():
        silence = model.encoder(audio.log_mel(torch.zeros(1, N_SAMPLES), model.dims.n_mels)).mean((0, 1))
        model.encoder.ln_post.weight *= 50
        model.encoder.ln_post.bias -= 50 * silence
    return model


def _end_after(model: Whisper, text_tokens: int, strength: float, share: float, before: float = 0.0) -> None:
    """Let the positions after so many text tokens, and a share of the end token's embedding, point the same way."""
    tokens = Tokens(model.dims)
    direction = torch.ones(model.dims.n_text_state)
    direction[::2] = -1  # LayerNorm takes a constant away
    with torch.no_grad():
        last = len(tokens.prefix) - 1 + text_tokens  # the position of the last text token, which the end follows
        model.decoder.positional_embedding[:last] += before * direction
        model.decoder.positional_embedding[last:] += strength * direction
        model.decoder.token_embedding.weight[tokens.end] += share * direction


def random_features(model: Whisper, clips: int, seed: int = 0) -> Tensor:
    """What an encoder could have written for clips that differ: (B, A, C)."""
    generator = torch.Generator().manual_seed(seed)
    dims = model.dims
    clip = torch.randn(clips, 1, dims.n_audio_state, generator=generator)
    return clip + torch.randn(clips, dims.n_audio_ctx, dims.n_audio_state, generator=generator)


def small_whisper(seed: int = 0, layers: int = 1, width: int = 64) -> Whisper:
    """A Whisper with short contexts and a vocabulary of 100: a few hundred kilobytes, for tests of files."""
    torch.manual_seed(seed)
    model = Whisper(ModelDimensions(80, 12, width, width // 64, layers, 100, 8, width, width // 64, layers))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
    return model.eval()


def save_openai(model: Whisper, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a .pt in OpenAI's layout."""
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    torch.save({"dims": asdict(model.dims), "model_state_dict": state}, path)
    return path


def scale_adapters(model: Whisper, share: float) -> None:
    """Take the adapters to a share of their way from the original: B is linear in what they add."""
    with torch.no_grad():
        for layer in lora.adapted_layers(model).values():
            layer.lora_B *= share


class Attack:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def same_weights(one: Whisper, other: Whisper) -> bool:
    """Whether two models hold the same numbers, to the bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def checked_set(manifest: Path, tokens: Tokens, cache: Path, role: str = "evaluate") -> CheckedSet:
    """A manifest as the preflight hands it to the scorer, named after its folder; fails where it finds a fault."""
    (speech,) = sources.load_sets([f"{manifest.parent.name}={manifest}"], "data", cache)
    report = preflight.run([(role, speech)], Config(data_dir=cache), tokens, Console(stderr=True))
    assert not report.faults, report.faults
    return report.sets[0]


def write_set(folder: Path, texts: Sequence[str], seconds: Sequence[float], **extra: object) -> Path:
    """What `make_set` does, for fixtures that live longer than a test: a manifest and its recordings."""
    folder.mkdir(parents=True)
    rows = []
    for index, (text, length) in enumerate(zip(texts, seconds, strict=True)):
        soundfile.write(folder / f"{index}.wav", babble(length, seed=hash_of(folder.name, index)), 16_000)
        rows.append({"audio_filepath": f"{index}.wav", "text": text, "duration": length, **extra})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest
