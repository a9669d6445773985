"""Weights, gradients and optimizer split among the ranks (`--shard`, FSDP2), for models that do not fit one device.

torch's `fully_shard` (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html) gathers a module's
weights before its forward and backward pass, and adds up and splits its gradients after the latter. It hooks into
`forward`: a block's is here what `model/forward.py` computes of it, the model's is whatever a micro-batch computes.

Weights alone fit each device: evaluations take a copy that holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from whisper import Whisper

from whisper_min.config import Config
from whisper_min.model.forward import decoder_block, encoder_block

T = TypeVar("T")


def trained_parameters(model: Whisper, cfg: Config) -> list[nn.Parameter]:
    """What trains of a model; under `--shard` it is split among the ranks first."""
    if cfg.shard:
        shard(model)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def shard(model: Whisper) -> None:
    """Split a model among the ranks, a frozen encoder aside; from here on its parameters are DTensors."""
    encoder_trains = any(parameter.requires_grad for parameter in model.encoder.parameters())
    sides: list[tuple[Any, Any]] = [
        (decoder_block, model.decoder.blocks),
        (encoder_block, model.encoder.blocks if encoder_trains else ()),
    ]
    for layer, blocks in sides:
        for block in blocks:
            block.forward = partial(layer, block)
            fully_shard(block)
    model.forward = _run
    fully_shard(model, ignored_params=set() if encoder_trains else set(model.encoder.parameters()))
    for module in _sharded(model):
        # losses are divided by the tokens of all ranks: gradients are added up, not averaged
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def run(model: Whisper, work: Callable[[], T]) -> T:
    """What `work()` computes with the model, with gradients; under sharding all ranks call this equally often."""
    sharded = isinstance(model, FSDPModule)
    result: T = model(work) if sharded else work()
    return result


def padded(items: Sequence[T], count: int) -> Iterator[tuple[T, float]]:
    """Items with weight 1, and up to `count` the last again with weight 0, for a rank that has fewer than others."""
    for index in range(max(count, len(items))):
        yield items[min(index, len(items) - 1)], float(index < len(items))


def whole_model(model: Whisper) -> Whisper:
    """A model to evaluate: itself, or of a sharded one a copy with all weights; all ranks call this."""
    sharded = isinstance(model, FSDPModule)
    if not sharded:
        return model
    state = {name: whole(tensor.detach()) for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):  # what a new model draws is no part of the training
        made = Whisper(model.dims)
    made.load_state_dict(state, assign=True)
    return made.train(model.training).requires_grad_(False).to(state["decoder.token_embedding.weight"].device)


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one rank would hold it; all ranks call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state as one rank would hold it, gathered on the CPU; all ranks call this."""
    state = optimizer.state_dict()
    return {**state, "state": {key: _each(its, _whole_on_cpu) for key, its in state["state"].items()}}


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the state of one on any number of ranks."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def split(key: int, tensor: Tensor) -> Tensor:
        own = parameters[key]
        if isinstance(own, DTensor) and tensor.shape == own.shape:
            return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements)
        return tensor

    split_state = {key: _each(its, partial(split, key)) for key, its in state["state"].items()}
    optimizer.load_state_dict({**state, "state": split_state})


def _whole_on_cpu(tensor: Tensor) -> Tensor:
    return whole(tensor).cpu() if isinstance(tensor, DTensor) else tensor


def _each(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: change(tensor) for name, tensor in tensors.items()}


def _sharded(model: Whisper) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _run(work: Callable[[], T]) -> T:
    return work()
