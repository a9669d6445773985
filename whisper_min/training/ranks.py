"""Many processes, one training: what torchrun started, and the few things that its ranks say to each other.

Every rank holds the whole model and goes through the same order of the data. Of a step's micro-batches each computes
its own share; then gradients are added up, once a step, and all ranks step alike. The main rank alone decides, prints
and writes the run folder.

Why not DistributedDataParallel: it hooks into one module's `forward`, and here a step calls encode, decode and project,
takes a micro-batch in parts where memory runs out, and divides by tokens, not by ranks. One sum after the last
backward pass needs no hooks, no `no_sync` while gradients accumulate, and works for ranks that have fewer
micro-batches than others. What is given up: the sum does not overlap with the backward pass.
"""

from __future__ import annotations

import functools
import operator
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from whisper_min.config import InputError

T = TypeVar("T")
P = ParamSpec("P")

# What torchrun tells each process.
ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How long a rank waits for another one, which may be reading 100,000 hours for the first time. A rank that died is
# noticed at once: its connections close, and torchrun ends the others.
TIMEOUT = timedelta(days=2)
# Elements that are added up in one go: large enough for the network's full speed, small beside any model.
BUCKET = 1 << 25


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Of the processes on this host: the index of its GPU."""

    @classmethod
    def start(cls) -> Ranks:
        """Join the processes that torchrun started; alone where it started none. InputError where that is half said."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        missing = [name for name in ENVIRONMENT if name not in os.environ]
        if missing:
            raise InputError(
                f"WORLD_SIZE asks for several ranks, and {', '.join(missing)} is not set; start with torchrun"
            )
        rank, local_rank, world_size = (int(os.environ[name]) for name in ENVIRONMENT[:3])
        if local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, store=_store(), rank=rank, world_size=world_size)
        return cls(rank, world_size, local_rank)

    def finish(self) -> None:
        """Leave the other processes."""
        if self.world_size > 1:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that decides, prints and writes."""
        return self.rank == 0

    def speaks_of(self, error: BaseException) -> bool:
        """Whether this rank prints an error: the main one does for all of them, others what they alone know of."""
        return self.is_main or not hasattr(error, "of_all_ranks")

    def device(self, wanted: str) -> str:
        """What `--device` means here: with several ranks each has its own GPU. InputError for what cannot be shared."""
        if self.world_size == 1 or wanted == "cpu":
            return wanted
        if wanted == "mps" or wanted.startswith("cuda:"):
            raise InputError(
                f"--device {wanted}: {self.world_size} ranks cannot share it; give cuda (a GPU each) or cpu"
            )
        return f"cuda:{self.local_rank}" if wanted == "cuda" or torch.cuda.is_available() else "cpu"

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share of what all ranks have before them: every n-th."""
        return items[self.rank :: self.world_size]

    # ---- Objects, over the host's network: no device waits for them.

    def gather(self, work: Callable[[], T]) -> list[T]:
        """What `work()` gives on each rank, by rank. Where it fails on one rank, all raise that rank's exception."""
        if self.world_size == 1:
            return [work()]
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except (Exception, SystemExit) as error:
            failure = error
        outcomes: list[Any] = [None] * self.world_size
        dist.all_gather_object(outcomes, (result, failure and _sendable(failure)))
        for rank, (_, sent) in enumerate(outcomes):
            if sent is not None:
                raised = failure if rank == self.rank and failure is not None else sent
                vars(raised)["of_all_ranks"] = True
                raise raised
        return [result for result, _ in outcomes]

    def together(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same where each rank keeps its own result, which need not be sent; exceptions are raised on all."""
        made: list[T] = []
        self.gather(lambda: made.append(work(*args, **kwargs)))
        return made[0]

    def on_main(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the main rank, or its exception, on all; the others wait for it."""
        return self.gather(lambda: work(*args, **kwargs) if self.is_main else _nothing())[0]

    def main_first(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Each rank's own result, made on the main rank first: it leaves files that spare the others most of it."""
        made: list[T] = []
        for turn in (True, False):
            self.gather(lambda: made.append(work(*args, **kwargs)) if self.is_main == turn else None)  # noqa: B023
        return made[0]

    def add_up(self, *values: Any) -> list[Any]:
        """Sums over the ranks, of numbers; of lists, one after the other."""
        rows = self.gather(lambda: values)
        return [functools.reduce(operator.add, column) for column in zip(*rows, strict=True)]

    def check_same(self, value: str, what: str) -> None:
        """Raises InputError where the ranks do not agree on a value."""
        if len(set(self.gather(lambda: value))) > 1:
            raise InputError(f"{what} is not the same on all {self.world_size} ranks; give all hosts the same files")

    # ---- Tensors, over the fastest network that their device has.

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the ranks; one that a rank lacks counts as zeros.

        Those of sharded parameters (`sharding.py`) have been added up in the backward pass.
        """
        if self.world_size == 1:
            return
        gradients = []
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.sum_(gradients)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype, on one device, by their sums over the ranks, some together in each message."""
        if self.world_size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))


ALONE = Ranks()


def _store() -> Store | None:
    """Where ranks find each other; None for torch's own way.

    The store that torchrun shares outlives the ranks, and so do the addresses of those that died
    (https://github.com/pytorch/pytorch/issues/167288): each start gets keys of its own, by a count that hosts may not
    agree on (https://github.com/pytorch/pytorch/issues/135712).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0":
        return None
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        raise InputError(
            "torchrun --max-restarts: on several hosts restarted ranks may look for dead ones; "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on each host before torchrun"
        )
    shared, *_ = next(rendezvous("env://"))
    return PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", shared)


def _nothing() -> Any:
    return None


def _sendable(error: BaseException) -> BaseException:
    """An exception that another process can read; in words where it is made of what cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours together, up to `BUCKET` elements; a larger tensor is a bucket of its own."""
    buckets: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if not buckets or tensor.numel() > room:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(tensor)
        room -= tensor.numel()
    return buckets
