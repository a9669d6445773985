"""Checkpoints that are whole or absent, and exact resume.

A checkpoint is written beside its place, flushed to disk and renamed; `last` and `best` are links swapped by rename;
older ones go only after the new one is whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from whisper import Whisper

from whisper_min import runs
from whisper_min.config import InputError
from whisper_min.model import lora, weights
from whisper_min.training.sharding import whole

MODEL_FILE, TRAINER_FILE = "model.safetensors", "trainer.pt"


class SaveError(OSError):
    """A checkpoint could not be written; the message says why, what is whole, and what to do. `errno` is the disk's."""


def save(
    run: Path,
    step: int,
    trained: tuple[dict[str, Tensor], dict[str, str]],
    trainer: dict[str, Any],
    config: dict[str, Any],
    card: str,
) -> Path:
    """Write `checkpoints/<step>` whole or not at all, and point `last` at it; SaveError where the disk refuses.

    `trained` is what `what_trained` returns.
    """
    folder = run / "checkpoints"
    final, beside = folder / str(step), folder / f".{step}.partial"
    try:
        folder.mkdir(exist_ok=True)
        _recover(folder)
        for rows in run.glob("*.jsonl"):  # what was logged up to this step is never lost beside it
            runs.sync_file(rows)
        state, metadata = trained
        _check_room(folder, _size((state, trainer)))
        beside.mkdir()
        _write(beside / MODEL_FILE, lambda path: save_file(state, path, metadata=metadata))
        _write(beside / TRAINER_FILE, lambda path: _save_trainer(trainer, path))
        _write(beside / "config.json", lambda path: path.write_text(json.dumps(config, indent=1) + "\n", "utf-8"))
        _write(beside / "README.md", lambda path: path.write_text(card, "utf-8"))
        runs.sync_folder(beside)
        _replace_folder(beside, final)
        point(run, "last", step)
    except Exception as error:  # OSError, and what safetensors and torch make of a full disk
        shutil.rmtree(beside, ignore_errors=True)
        reason = _reason(error)
        refused = SaveError(
            f"step {step} could not be saved to {folder}: {reason.strerror}; {runs.way_on(run, reason)}"
        )
        refused.errno = reason.errno
        raise refused from error
    return final


def what_trained(model: Whisper, origin: weights.Origin) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint: under LoRA the adapters alone, else the model; all ranks call this."""
    if lora.adapted_layers(model):
        state, metadata = lora.adapter_state(model), lora.adapter_metadata(model, origin.name, origin.fingerprint)
    else:
        state, metadata = model.state_dict(), weights.safetensors_metadata(model.dims, origin)
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in state.items()}, metadata


def load(checkpoint: Path | None, model: Whisper) -> dict[str, Any] | None:
    """Give a model, with its adapters attached under LoRA, the weights of a checkpoint; returns its trainer's state."""
    if checkpoint is None:
        return None
    trainer = load_trainer(checkpoint)
    path = checkpoint / MODEL_FILE
    state, metadata = weights.read_safetensors(path)
    with of_this_run(checkpoint):
        if metadata.get("layout") == lora.LAYOUT:
            lora.copy_adapters(model, state, str(path))
        else:
            model.load_state_dict(state)
    return trainer


@contextmanager
def of_this_run(checkpoint: Path) -> Iterator[None]:
    """Raises InputError where what a checkpoint holds does not fit what it is given to."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{checkpoint}: is not a checkpoint of this run ({reason}); {advice(checkpoint)}") from None


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    write(path)
    runs.sync_file(path)


def _size(value: Any) -> int:
    """Bytes of the tensors in a checkpoint's parts; the rest of it is small."""
    if hasattr(value, "__tensor_flatten__"):  # torchao's moments of 8 bits tell the size of what they stand for
        return sum(_size(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    if isinstance(value, Tensor):
        return value.nbytes
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_size, values))


def _check_room(folder: Path, needed: int) -> None:
    """OSError where the disk has no room for so many bytes, before any is written."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        told = f"the disk is full ({needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB free)"
        raise OSError(errno.ENOSPC, told)


def _save_trainer(trainer: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:  # given the path, torch loses what the disk said
        torch.save(trainer, file)


def _reason(error: BaseException) -> OSError:
    """Why a file could not be written: torch leaves the disk's answer in its error's context, safetensors in words."""
    cause: BaseException | None = error
    while cause is not None:
        words = re.search(r"os error (\d+)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(words[1]) if words else None
        if number is not None:
            told = cause.strerror if isinstance(cause, OSError) else os.strerror(number)
            return OSError(number, "the disk is full" if told == os.strerror(errno.ENOSPC) else told)
        cause = cause.__cause__ or cause.__context__
    return OSError(0, str(error))


def _replace_folder(beside: Path, final: Path) -> None:
    """Rename a folder into place; one of the same step, written before a resume, gives way."""
    if final.exists():
        old = final.rename(runs.set_aside(final))
        try:
            beside.rename(final)
        except OSError:
            old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        beside.rename(final)
    runs.sync_folder(final.parent)


def _recover(folder: Path) -> None:
    """Tidy up after a killed process: a step that was set aside returns unless another took its place."""
    for step in [path for path in folder.iterdir() if path.name.isdigit()]:
        shutil.rmtree(runs.set_aside(step), ignore_errors=True)
    for old in folder.glob(".*.old"):
        old.rename(folder / old.name[1 : -len(".old")])
    for beside in folder.glob(".*.partial"):
        if beside.is_dir() and not beside.is_symlink():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink()


def point(run: Path, name: str, step: int) -> None:
    """Make `checkpoints/<name>` a link to a step (a text file where the file system has no links)."""
    folder = run / "checkpoints"
    beside = folder / f".{name}.partial"
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(str(step))
    except OSError:
        beside.write_text(f"{step}\n", encoding="utf-8")
    os.replace(beside, folder / name)
    runs.sync_folder(folder)


def tidy(run: Path, best: dict[str, Any] | None, keep: int) -> None:
    """After a checkpoint: point `best` at the best evaluation's step, and remove what need not be kept.

    The step may be an earlier one, where a run was killed between its checkpoint and this.
    """
    if best and (run / "checkpoints" / str(best["step"])).is_dir():
        point(run, "best", best["step"])
    prune(run, keep)


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, the last and the best, and what a killed process left behind."""
    folder = run / "checkpoints"
    _recover(folder)
    named = {path.name for path in (runs.last_checkpoint(run), runs.best_checkpoint(run)) if path}
    steps = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in steps[:-keep]:
        if path.name not in named:
            shutil.rmtree(path.rename(folder / f".{path.name}.partial"))  # killed here, it leaves no half a step


def advice(checkpoint: Path) -> str:
    """What to do where a run cannot go on from a checkpoint."""
    return (
        f"point {checkpoint.parent / 'last'} at another step beside it, or start a new run from it with "
        f"--model {checkpoint}"
    )


def load_trainer(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state beside a checkpoint's weights; nothing in it can run code."""
    path = checkpoint / TRAINER_FILE
    try:
        state = weights.unpickle(path)
    except Exception as error:  # torch's unpickler stumbles over damaged bytes in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read ({reason}): the checkpoint is cut short or damaged; {advice(checkpoint)}"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no trainer state")
    return state
