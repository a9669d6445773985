"""Checkpoints are whole or absent: whatever the disk does, the previous one can be resumed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_model import Attack, same_weights, small_whisper
from whisper import Whisper

from whisper_min import runs
from whisper_min.config import InputError
from whisper_min.model import weights
from whisper_min.training import checkpoint
from whisper_min.training.checkpoint import SaveError, load_trainer, point, prune, tidy

ORIGIN = weights.Origin("tiny.en", "somewhere", "0" * 64, [[0, 0]])
TRAINER: dict[str, Any] = {"step": 1, "best": {"step": 1, "wer": 0.5}, "rng": torch.get_rng_state()}


def save(run: Path, step: int, model: Whisper | None = None) -> Path:
    """A checkpoint of a small model whose weights depend on the step."""
    trainer = {**TRAINER, "step": step}
    trained = checkpoint.what_trained(model or small_whisper(seed=step), ORIGIN)
    return checkpoint.save(run, step, trained, trainer, {"seed": step}, f"card {step}")


def digests(folder: Path) -> dict[str, str]:
    """Every file's content."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def assert_whole(run: Path, step: int) -> None:
    """The last checkpoint is this one, and everything in it can be read."""
    last = runs.last_checkpoint(run)
    assert last is not None
    assert last.name == str(step)
    model, _ = weights.load(str(last))
    assert same_weights(model, small_whisper(seed=step))
    assert load_trainer(last)["step"] == step
    assert json.loads((last / "config.json").read_text()) == {"seed": step}
    assert (last / "README.md").read_text() == f"card {step}"


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Weights, heads, trainer, options and card; no other files; `last` follows."""
    path = save(tmp_path, 1)
    assert sorted(each.name for each in path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "trainer.pt",
    ]
    assert_whole(tmp_path, 1)
    _, origin = weights.load(str(tmp_path))
    assert origin.alignment_heads == ORIGIN.alignment_heads
    state = load_trainer(path)
    assert state["best"] == TRAINER["best"]
    assert torch.equal(state["rng"], TRAINER["rng"])
    save(tmp_path, 2)
    assert_whole(tmp_path, 2)
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    """After a resume a step may be written a second time."""
    save(tmp_path, 1, small_whisper(seed=9))
    save(tmp_path, 1)
    assert_whole(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "last"]


# ---- The disk is full.


def no_space(*args: object, **kwargs: object) -> None:
    """What a full disk answers."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writer", ["model", "trainer", "fsync"])
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Whichever file meets it: the error says so, the older step is untouched, nothing half is left."""
    before = digests(save(tmp_path, 1))
    owner, name = {"model": (checkpoint, "save_file"), "trainer": (torch, "save"), "fsync": (os, "fsync")}[writer]
    monkeypatch.setattr(owner, name, no_space)
    with pytest.raises(SaveError) as caught:
        save(tmp_path, 2)
    monkeypatch.undo()
    message = str(caught.value)
    assert message.startswith("step 2 could not be saved")
    assert str(tmp_path / "checkpoints") in message
    assert "the disk is full" in message
    assert "the checkpoint of step 1 is whole" in message
    assert f"--resume {tmp_path}" in message
    assert digests(tmp_path / "checkpoints" / "1") == before
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "last"]
    assert_whole(tmp_path, 1)
    save(tmp_path, 2)  # there is room again
    assert_whole(tmp_path, 2)


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to fall back on, and that is said."""
    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(SaveError, match=r"the disk is full; there is no earlier checkpoint"):
        save(tmp_path, 1)
    assert runs.last_checkpoint(tmp_path) is None


def test_room_is_looked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte less than the tensors take is refused, with both sizes; as many are enough to begin."""
    save(tmp_path, 1)
    tensors = sum(each.nbytes for each in small_whisper().state_dict().values()) + TRAINER["rng"].nbytes
    usage = shutil.disk_usage(tmp_path)
    written: list[object] = []
    monkeypatch.setattr(checkpoint, "save_file", lambda *args, **kwargs: written.append(args))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=tensors - 1))
    with pytest.raises(
        SaveError, match=r"the disk is full \(\d+ MB are needed, \d+ MB free\); the checkpoint of"
    ) as caught:
        save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert not written
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=tensors))
    with pytest.raises(SaveError):  # no file came of what was caught above
        save(tmp_path, 2)
    assert written


def test_a_checkpoint_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    """What to do is said; nothing is made in its place."""
    run = tmp_path / "run"
    with pytest.raises(SaveError, match=rf"{run} is not there any more: bring it back and run .* --resume"):
        save(run, 1)
    assert not run.exists()


def test_rows_are_flushed_before_the_checkpoint_that_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is no checkpoint whose steps are not in metrics.jsonl."""
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    flushed: list[str] = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        flush(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor is open on is told by Linux's /proc alone")
    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 1)
    assert flushed[0] == "metrics.jsonl"
    assert flushed[1:6] == ["model.safetensors", "trainer.pt", "config.json", "README.md", ".1.partial"]
    assert set(flushed[6:]) == {"checkpoints"}


def test_whichever_flush_fails_one_step_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing the first, second, … flush to disk until none is left to fail: `last` always names a whole step."""
    save(tmp_path, 1)
    flush = os.fsync
    for failing in range(1, 20):
        count = 0

        def fsync(descriptor: int, failing: int = failing) -> None:
            nonlocal count
            count += 1
            if count == failing:
                no_space()
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            save(tmp_path, 2)
        except SaveError:
            last = runs.last_checkpoint(tmp_path)
            assert last is not None
            assert_whole(tmp_path, int(last.name))
            assert not list((tmp_path / "checkpoints").glob(".2.partial"))
        else:
            break
    assert failing > 5, "fewer flushes than files: something was not flushed"
    assert_whole(tmp_path, 2)


def test_a_step_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old folder has made way and the new one cannot take its place: the old one returns."""
    save(tmp_path, 1)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".1.partial":
            no_space()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SaveError, match="the checkpoint of step 1 is whole"):
        save(tmp_path, 1, small_whisper(seed=9))
    assert_whole(tmp_path, 1)


@pytest.mark.parametrize("cut", ["model.safetensors", "trainer.pt"])
def test_a_file_size_limit_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """A real refusal by the kernel in the middle of a file: neither a half checkpoint nor a killed process."""
    resource = pytest.importorskip("resource")
    weights_size = (save(tmp_path, 1) / "model.safetensors").stat().st_size
    monkeypatch.setitem(TRAINER, "moments", torch.zeros(weights_size))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 100_000 if cut == "model.safetensors" else 2 * weights_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(SaveError, match=r"step 2 could not be saved .*: File too large; the checkpoint of step 1"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_whole(tmp_path, 1)
    assert not list((tmp_path / "checkpoints").glob(".*"))


# ---- The process is killed.


class Killed(BaseException):
    """No code of ours gets to see it, as it would not see a SIGKILL."""


# All that changes what is on disk, by name of the module or class and the function.
ACTS = [
    *[(checkpoint, "save_file"), (torch, "save"), (shutil, "rmtree"), (os, "fsync"), (os, "replace")],
    *[(Path, "rename"), (Path, "mkdir"), (Path, "write_text"), (Path, "symlink_to"), (Path, "unlink")],
]


def kill_before(act: int, patch: pytest.MonkeyPatch) -> None:
    """Let so many acts pass and die at the next one; half done where that is a folder's removal."""
    acts = 0

    def guard(perform: Callable[..., Any], name: str) -> Callable[..., Any]:
        def perform_or_die(*args: Any, **options: Any) -> Any:
            nonlocal acts
            acts += 1
            if acts > act:
                if name == "rmtree" and Path(args[0]).is_dir():
                    next(Path(args[0]).iterdir()).unlink()
                raise Killed(name)
            return perform(*args, **options)

        return perform_or_die

    for owner, name in ACTS:
        patch.setattr(owner, name, guard(getattr(owner, name), name))


@pytest.mark.parametrize("links", [True, False], ids=["links", "text files"])
def test_killed_at_any_point_a_run_can_be_resumed_and_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Step 2 is written a second time and dies at its first, second, … act until none is left: a whole one stays."""
    if not links:
        monkeypatch.setattr(Path, "symlink_to", no_space)
    first, second = small_whisper(seed=9), small_whisper(seed=2)
    (tmp_path / "before").mkdir()
    save(tmp_path / "before", 1)
    save(tmp_path / "before", 2, first)
    deaths: list[str] = []
    found: set[str] = set()
    for act in range(100):
        run = tmp_path / f"killed-{act}"
        shutil.copytree(tmp_path / "before", run, symlinks=True)
        with monkeypatch.context() as patch:
            kill_before(act, patch)
            try:
                save(run, 2)
                prune(run, keep=1)
            except Killed as killed:
                deaths.append(str(killed))
            else:
                break
        last = runs.last_checkpoint(run)
        assert last is not None, deaths
        found.add(last.name)
        model, _ = weights.load(str(last))
        assert same_weights(model, first) or same_weights(model, second), deaths
        assert load_trainer(last)["step"] == 2
        save(run, 3)
        assert_whole(run, 3)
        model, _ = weights.load(str(run / "checkpoints" / "2"))
        assert same_weights(model, first) or same_weights(model, second), deaths
        prune(run, keep=2)
        left = {path.name for path in (run / "checkpoints").iterdir()}
        assert left == {"2", "3", "last"}
        shutil.rmtree(run)
    assert {"rename", "rmtree", "fsync", "save", "save_file", "replace"} <= set(deaths)
    assert found == {"2", ".2.old"}, "one of the deaths is between the two renames"


def test_a_full_disk_after_a_kill_leaves_the_step_that_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed run cannot save either: it still names the step by its number."""
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / "1").rename(folder / ".1.old")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", no_space)
        with pytest.raises(SaveError, match="the checkpoint of step 1 is whole"):
            save(tmp_path, 2)
    assert_whole(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "last"]


# ---- Links and tidying.


def test_best_and_last_are_links(tmp_path: Path) -> None:
    """Relative, so that a run folder can be moved."""
    (tmp_path / "run").mkdir()
    save(tmp_path / "run", 1)
    point(tmp_path / "run", "best", 1)
    folder = tmp_path / "run" / "checkpoints"
    assert os.readlink(folder / "best") == os.readlink(folder / "last") == "1"
    (tmp_path / "run").rename(tmp_path / "moved")
    best = runs.best_checkpoint(tmp_path / "moved")
    assert best is not None
    assert best.name == "1"
    assert_whole(tmp_path / "moved", 1)


def test_without_links_a_text_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems such as FAT know none; a link from before gives way to the file."""
    save(tmp_path, 1)

    def no_links(self: Path, target: str) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    save(tmp_path, 2)
    assert not (tmp_path / "checkpoints" / "last").is_symlink()
    assert (tmp_path / "checkpoints" / "last").read_text() == "2\n"
    assert_whole(tmp_path, 2)
    prune(tmp_path, keep=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "last"]


def test_a_best_step_that_was_not_pointed_at_is_kept(tmp_path: Path) -> None:
    """Killed between the links `last` and `best`: the next save makes up for it, before it removes anything."""
    save(tmp_path, 1)
    tidy(tmp_path, {"step": 1}, keep=1)
    save(tmp_path, 2)  # the best, and here the process was killed
    save(tmp_path, 3)
    tidy(tmp_path, {"step": 2}, keep=1)
    best = runs.best_checkpoint(tmp_path)
    assert best is not None
    assert best.name == "2"
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3", "best", "last"}


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, {4}), (1, 2, {2, 4}), (2, 2, {2, 3, 4}), (2, 4, {3, 4}), (9, 1, {1, 2, 3, 4})],
)
def test_prune_keeps_the_newest_and_the_best(tmp_path: Path, keep: int, best: int | None, left: set[int]) -> None:
    """Steps by number, not by name: 10 is newer than 9."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    steps = {1: 1, 2: 9, 3: 10, 4: 100}
    for step in steps.values():
        (folder / str(step)).mkdir()
    point(tmp_path, "last", 100)
    if best is not None:
        point(tmp_path, "best", steps[best])
    prune(tmp_path, keep)
    assert {int(path.name) for path in folder.iterdir() if path.name.isdigit()} == {steps[each] for each in left}


def test_prune_never_takes_the_last(tmp_path: Path) -> None:
    """Resumed from an older step, `last` is not the highest number for a while."""
    folder = tmp_path / "checkpoints"
    for step in (3, 5):
        (folder / str(step)).mkdir(parents=True)
    point(tmp_path, "last", 3)
    prune(tmp_path, keep=1)
    assert (folder / "3").is_dir()


# ---- Damaged files.


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.95, 0.9999, None])
@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, share: float | None) -> None:
    """Cut short or removed by hand: never a model of half weights, never a traceback.

    Without the trainer's state the weights still start a new run, and the message says how.
    """
    path = save(tmp_path, 1) / name
    whole = path.read_bytes()
    path.unlink() if share is None else path.write_bytes(whole[: int(share * len(whole))])
    read, other = (load_trainer, weights.load) if name == "trainer.pt" else (weights.load, load_trainer)
    with pytest.raises(InputError) as caught:
        read(path.parent if read is load_trainer else str(tmp_path))
    told = str(caught.value)
    assert str(path.parent) in told
    assert re.search(rf"{name}: cannot be read .*cut short|{name}: .*No such file|holds no {name}", told)
    assert share is None or f"{path}: cannot be read" in told
    other(path.parent if other is load_trainer else str(path.parent))
    if name == "trainer.pt":
        assert f"--model {path.parent}" in told
        model, _ = weights.load(str(path.parent))
        assert same_weights(model, small_whisper(seed=1))


def test_a_trainer_file_cannot_run_code(tmp_path: Path) -> None:
    """A checkpoint from a stranger is refused before it does anything."""
    torch.save({"step": Attack(tmp_path / "attacked")}, tmp_path / "trainer.pt")
    with pytest.raises(InputError, match=r"trainer\.pt: cannot be read"):
        load_trainer(tmp_path)
    assert not (tmp_path / "attacked").exists()
    torch.save([1, 2], tmp_path / "trainer.pt")
    with pytest.raises(InputError, match=r"trainer\.pt: holds no trainer state"):
        load_trainer(tmp_path)
