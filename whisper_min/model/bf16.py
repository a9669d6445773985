"""Weights in bf16: half the memory of fp32, with 8 significant bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from whisper import Whisper


def to_bf16(model: Whisper) -> None:
    """Store what is multiplied in bf16, in place; LayerNorm computes in fp32 and stays, and so do positions."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            module.bfloat16()


@contextmanager
def in_fp32(model: Whisper) -> Iterator[None]:
    """The same numbers in fp32, for as long as the context lasts: what a checkpoint of the model is loaded as.

    Decoding computes in fp32, and the difference that an adapter makes can be smaller than a step of bf16.
    """
    stored = [parameter for parameter in model.parameters() if parameter.dtype == torch.bfloat16]
    for parameter in stored:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter in stored:
            parameter.data = parameter.data.bfloat16()
