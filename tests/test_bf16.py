"""Weights in bf16, and the same numbers in fp32."""

from __future__ import annotations

import pytest
import torch
from conftest import random_whisper
from torch import nn
from whisper.model import LayerNorm

from whisper_min.model import lora
from whisper_min.model.bf16 import in_fp32, to_bf16


def test_what_is_multiplied_is_bf16_and_layer_norms_are_not() -> None:
    """Rounded to the nearest, everywhere but in LayerNorm and the positions."""
    model, original = random_whisper(), random_whisper()
    to_bf16(model)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            whole = original.get_submodule(name).get_parameter(key)
            stays = isinstance(module, LayerNorm) or key == "positional_embedding"
            assert torch.equal(parameter, whole if stays else whole.bfloat16())
    assert sum(isinstance(module, nn.Linear) for module in model.modules()) == 16


def test_in_fp32_and_back_changes_nothing() -> None:
    """The numbers are the same in the context and after it, also where something fails within."""
    model = random_whisper()
    to_bf16(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), in_fp32(model):
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, before[name].float())
        raise ZeroDivisionError
    assert all(tensor.dtype == before[name].dtype for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_adapters_beside_bf16_weights_merge_in_fp32() -> None:
    """A difference far smaller than a step of bf16 is there while merged, and the weights come back to the bit."""
    model = random_whisper()
    to_bf16(model)
    lora.attach(model, lora.Adapters(2, 2.0, "all"))
    layers = lora.adapted_layers(model)
    for layer in layers.values():
        assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
        nn.init.normal_(layer.lora_B, std=1e-6)
    stored = [layer.weight.detach().clone() for layer in layers.values()]
    expected = [layer.weight.float() + layer.delta() for layer in layers.values()]
    with in_fp32(model), lora.merged(model):
        assert all(torch.equal(layer.weight, sum_) for layer, sum_ in zip(layers.values(), expected, strict=True))
    for layer, before, moved in zip(layers.values(), stored, expected, strict=True):
        assert torch.equal(layer.weight, before)
        assert not torch.equal(moved, before.float())
        assert (moved.bfloat16() == before).float().mean() > 0.9  # of the difference bf16 would have kept nothing
