"""The diagonal Fisher information of general speech: how much each weight's value matters to what Whisper writes.

F = E_x E_y [(∂ log p(y | x) / ∂θ)²], one utterance at a time with its log-probabilities summed: squares of batch means
would shrink it with the batch (arXiv:2502.11756). The true Fisher samples y from the model itself; the empirical one
takes the labels.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from whisper import Whisper

from whisper_min import audio, runs
from whisper_min.config import InputError
from whisper_min.data.batches import Window
from whisper_min.data.tokens import Label, Tokens
from whisper_min.model.cached_decoder import CachedDecoder
from whisper_min.model.forward import decode, encode, project, sum_cross_entropy
from whisper_min.model.weights import read_safetensors


def sum_squares(parameters: Mapping[str, Tensor], log_likelihoods: Iterable[Tensor]) -> dict[str, Tensor]:
    """Sum of the squared gradients of each log-likelihood (scalar tensors), one at a time."""
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for log_likelihood in log_likelihoods:
        gradients = torch.autograd.grad(log_likelihood, list(parameters.values()), allow_unused=True)
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square.addcmul_(gradient, gradient)
    return squares


def rescale(squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of squares as the diagonal, scaled to mean 1 over all weights: λ means the same for every model and set.

    Raises ValueError where all are zero, or of no utterance: such a Fisher protects nothing.
    """
    mean = sum(float(each.double().sum()) for each in squares.values()) / sum(each.numel() for each in squares.values())
    if mean == 0:
        raise ValueError("the Fisher information is zero everywhere")
    return {name: each / mean for name, each in squares.items()}


@torch.no_grad()
def sample(model: Whisper, features: Tensor, tokens: Tokens, generator: torch.Generator) -> list[int]:
    """A text drawn token by token from the model's own predictions, at most 224 long, as whisper writes.

    Parameters
    ----------
    features : Tensor, shape = (1, A, C)

    Returns
    -------
    list of int
        the whole sequence: prefix, text and, where it was drawn, the end token
    """
    decoder = CachedDecoder(model, features, len(tokens.prefix) + tokens.sample_limit)
    sequence = list(tokens.prefix)
    following = torch.tensor([tokens.prefix], device=features.device)
    for _ in range(tokens.sample_limit):
        probabilities = decoder(following)[0].softmax(-1).cpu()  # (V,)
        drawn = int(torch.multinomial(probabilities, 1, generator=generator))
        sequence.append(drawn)
        if drawn == tokens.end:
            break
        following = torch.tensor([[drawn]], device=features.device)
    return sequence


def log_likelihoods(
    model: Whisper,
    windows: Sequence[Window],
    tokens: Tokens,
    sampled: bool,
    normalize: bool,
    seed: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Iterator[Tensor]:
    """log p(y | x) of one utterance after another, with y taken from the labels or sampled from the model.

    What is sampled depends on the seed and the utterance alone, not on the others, which another rank may have.
    """
    device = next(model.parameters()).device
    for window in windows:
        own = random.Random(f"{seed} fisher {window.name}".encode("utf-8", "surrogatepass"))
        generator = torch.Generator().manual_seed(own.getrandbits(63))
        waveform = window.examples[0].read(normalize)
        mel = audio.log_mel(audio.pad([waveform], window.context).to(device), model.dims.n_mels)  # (1, M, F)
        with autocast():
            features = encode(model, mel)  # (1, A, C)
        if sampled:
            row, given = sample(model, features, tokens, generator), len(tokens.prefix)
        else:
            row, given = tokens.sequence(Label(window.text))
        inputs = torch.tensor([row[:-1]], device=device)  # (1, T)
        counted = torch.arange(given - 1, len(row) - 1, device=device)
        targets = torch.tensor(row[given:], device=device)
        with autocast():
            logits = project(model, decode(model, inputs, features), counted)  # (N, V)
        yield -sum_cross_entropy(logits, targets)


def cache_key(
    fingerprint: str, names: Iterable[str], windows: Sequence[Window], digests: Sequence[str], kind: str
) -> str:
    """What the Fisher information depends on: the base weights, which of them, the audio, and how it was estimated."""
    parts = [fingerprint, kind, *names]
    parts += [f"{digest} {window.context} {window.text}" for window, digest in zip(windows, digests, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(path: Path, fingerprint: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Fisher kept on disk; InputError where it is of other weights, or protects nothing."""
    fisher, metadata = read_safetensors(path)
    if metadata.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path}: the Fisher information of other weights ({metadata.get('fingerprint', '?')[:12]}…, not "
            f"{fingerprint[:12]}…); remove the file, and it is estimated again"
        )
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if {name: each.shape for name, each in fisher.items()} != shapes or not any(each.any() for each in fisher.values()):
        raise InputError(f"{path}: is empty, zero, or of other parameters; remove it, and it is estimated again")
    return fisher


def save(path: Path, fisher: dict[str, Tensor], fingerprint: str) -> None:
    """Keep a Fisher on disk, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    save_file({name: each.cpu() for name, each in fisher.items()}, beside, metadata={"fingerprint": fingerprint})
    runs.sync_file(beside)
    beside.replace(path)
    runs.sync_folder(path.parent)
