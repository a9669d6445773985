"""Ranks: what they say to each other, and that two of them train as one does with twice the micro-batches (gloo)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from quick_model import ending_whisper, one_thread, save_openai, write_set  # noqa: F401
from safetensors.torch import load_file

import train
from whisper_min import runs
from whisper_min.config import Config, InputError
from whisper_min.model import weights
from whisper_min.training import ranks as module
from whisper_min.training import setup
from whisper_min.training.ranks import Ranks

STEPS = 8
CODE = """
import sys, torch
from whisper_min.config import InputError
from whisper_min.training import ranks as module
from whisper_min.training.ranks import Ranks
class Unsendable(Exception):
    def __init__(self, *, reason): super().__init__(reason)
def fail(error):
    if ranks.rank == 1: raise error
module.BUCKET = 5  # the gradients below take several messages
ranks = Ranks.start()
names = ranks.gather(lambda: f"rank {ranks.rank}")
assert names == ["rank 0", "rank 1"], names
assert ranks.together(int, ranks.rank) == ranks.rank and ranks.on_main(lambda: ranks.rank) == 0
assert ranks.add_up(1 + ranks.rank, 0.5, [ranks.rank]) == [3, 1.0, [0, 1]]
for error, expected in ((InputError("wrong"), InputError), (Unsendable(reason="lost"), RuntimeError)):
    try: ranks.together(fail, error)
    except (InputError, RuntimeError, Unsendable) as caught:
        told = caught
    assert isinstance(told, expected if ranks.is_main else type(error)), told
    assert str(error) in str(told) and ranks.speaks_of(told) == ranks.is_main
parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (7,), ())]
for index, parameter in enumerate(parameters[:-1] if ranks.is_main else parameters[1:]):
    parameter.grad = torch.full_like(parameter, 10.0 ** index)
ranks.sum_gradients(parameters)
sums = [1, 10 + 1, 100 + 10, 100]
for parameter, expected in zip(parameters, sums):
    assert parameter.grad.shape == parameter.shape and (parameter.grad == expected).all(), parameter.grad
try: ranks.check_same(names[ranks.rank], "the data")
except InputError as error: assert "the data is not the same on all 2 ranks" in str(error)
else: raise AssertionError
ranks.check_same("equal", "the data")
ranks.finish()
"""


@dataclass(frozen=True)
class Workshop:
    """A model and sets, and how to train with them."""

    root: Path
    model: Path

    def argv(self, run: str, *options: str) -> list[str]:
        """All weights, in two micro-batches a step on one rank, with replay, KL, EWC and L2-SP; later options win."""
        return [
            *("--model", str(self.model), "--data", f"small={self.root / 'small/manifest.jsonl'}"),
            *("--eval_data", f"domain={self.root / 'domain/manifest.jsonl'}"),
            *("--retain", f"silent={self.root / 'silent/manifest.jsonl'}"),
            *("--replay", f"general={self.root / 'general/manifest.jsonl'}@0.3", "--method", "full", "--kl", "1"),
            *("--l2sp", "0.1", "--ewc", "0.1", "--label_style", "keep", "--replay_augment", "none"),
            *("--run", run, "--runs_dir", str(self.root / "runs"), "--data_dir", str(self.root / "cache")),
            *("--device", "cpu", "--precision", "fp32", "--batch_size", "2", "--lr", "1e-4", "--warmup_steps", "2"),
            *("--max_steps", str(STEPS), "--eval_every", str(STEPS), *options),
        ]

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.root / "runs" / name


@pytest.fixture(scope="module")
def workshop(module_folder: Path, one_thread: None) -> Workshop:  # noqa: F811
    """Seven clips to train on, three general ones, and sets to evaluate on, one of them without text."""
    root = module_folder
    texts = [
        "A red fox.",
        "It goes on and on.",
        "Leaves fall.",
        "Dogs chase cats, mostly.",
        "The end.",
        "No.",
        "Why not?",
    ]
    write_set(root / "small", texts, [1.0, 2.5, 1.5, 6.0, 2.0, 0.8, 5.5])  # two contexts
    write_set(root / "general", ["Birds sing.", "It rains.", "Winds blow."], [1.1, 1.6, 5.2])
    write_set(root / "domain", ["A grey fox.", "Leaves fell.", "Stop."], [1.2, 1.7, 0.9])
    write_set(root / "silent", ["", ""], [1.3, 1.4])
    return Workshop(root, save_openai(ending_whisper(), root / "small.pt"))


@pytest.fixture(scope="module")
def alone(workshop: Workshop) -> Path:
    """The run of one rank that all others must equal."""
    assert train.main(workshop.argv("alone", "--accumulate", "2")) == 0
    return workshop.run("alone")


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A process whose output is kept."""
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*argv: str) -> list[subprocess.Popen[str]]:
    """Two ranks as torchrun would start them, whose exit codes are their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start([sys.executable, *argv], **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes, and all that each printed."""
    try:
        printed = ["".join(process.communicate(timeout=240)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], printed


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl."""
    return list(runs.read_jsonl(run / "metrics.jsonl"))


def assert_like(run: Path, alone: Path, norms_within: float = 1e-5) -> None:
    """The same losses, counts, transcripts, weights."""
    rows, expected = runs.merge_steps(rows_of(run)), runs.merge_steps(rows_of(alone))
    assert rows.keys() == expected.keys() == set(range(STEPS + 1))
    for step in range(1, STEPS + 1):
        assert rows[step].keys() == expected[step].keys()
        for key in {"train/loss", "train/ce", "train/kl", "train/ewc", "train/grad_norm", "train/lr"} & rows[
            step
        ].keys():
            # KL is a small difference of large numbers
            within = norms_within if key == "train/grad_norm" else 1e-5
            close = pytest.approx(expected[step][key], rel=within, abs=1e-6)
            assert rows[step][key] == close, (step, key)
        for key in ("train/tokens", "data/bad"):
            assert rows[step][key] == expected[step][key], (step, key)
    for step in (0, STEPS):
        for key in expected[step]:
            if key.startswith("eval/") and not key.endswith(("seconds", "rtfx")):
                assert rows[step][key] == pytest.approx(expected[step][key], rel=1e-5), (step, key)
    transcripts = [
        {(row["_step"], row["set"], row["id"]): row["hypothesis"] for row in runs.read_jsonl(each / "samples.jsonl")}
        for each in (run, alone)
    ]
    assert transcripts[0] == transcripts[1]
    trained, other = (weights.load(str(each / "checkpoints" / str(STEPS)))[0].state_dict() for each in (run, alone))
    original = weights.load(json.loads((alone / "config.json").read_text())["model"])[0].state_dict()
    for name, tensor in other.items():
        assert (trained[name] - tensor).norm() <= 1e-3 * (tensor - original[name]).norm() + 1e-7, name


@pytest.mark.slow
def test_ranks_talk() -> None:
    """Results by rank, errors on all, sums of gradients that some ranks lack, and what is not the same."""
    codes, printed = end(start_two("-c", CODE))
    assert codes == [0, 0], printed


def torchrun(*argv: str) -> list[str]:
    """A command with two ranks."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *argv]


def wait_for_step(run: Path, step: int, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Until a run has logged a step, or one of its processes has ended."""
    deadline = time.monotonic() + 240
    while not any(row["_step"] >= step for row in rows_of(run)) and time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.01)


@pytest.mark.slow
def test_two_ranks_under_torchrun_train_as_one(workshop: Workshop, alone: Path) -> None:
    """Twice the micro-batches on one rank: the same losses, weights and transcripts, written once."""
    done = subprocess.run(
        [*torchrun("--", "train.py"), *workshop.argv("two", "--data_dir", str(workshop.root / "own-cache"))],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = workshop.run("two")
    assert_like(run, alone)
    trained = [row["_step"] for row in rows_of(run) if "train/loss" in row]
    assert trained == list(range(1, STEPS + 1))
    samples = [(row["_step"], row["set"], row["id"]) for row in runs.read_jsonl(run / "samples.jsonl")]
    assert len(samples) == len(set(samples))
    assert done.stderr.count(f"{STEPS} steps, lr") == 1
    assert done.stdout.count("Next:") == 1
    assert json.loads((run / "config.json").read_text())["environment"]["ranks"] == 2
    (found,), (expected,) = ((workshop.root / cache / "fisher").iterdir() for cache in ("own-cache", "cache"))
    squares, expected_squares = load_file(found), load_file(expected)
    assert found.name == expected.name
    assert any(bool(its.any()) for its in expected_squares.values())
    torch.testing.assert_close(squares, expected_squares, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_rank(workshop: Workshop, alone: Path) -> None:
    """The one that writes is killed: torchrun starts both again, and they go on from the run's last checkpoint."""
    options = workshop.argv("killed", "--save_every", "2")
    process = start([*torchrun("--max-restarts", "1", "--", "train.py"), *options])
    run = workshop.run("killed")
    wait_for_step(run, 3, [process])
    os.kill(json.loads((run / "status.json").read_text())["pid"], signal.SIGKILL)
    codes, printed = end([process])
    assert codes == [0], printed
    assert_like(run, alone)
    again = [row["_step"] for row in rows_of(run) if row["_attempt"] == 2 and "train/loss" in row]
    assert again == list(range(again[0], STEPS + 1))
    assert again[0] in (3, 5, 7)  # behind a checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, [1]), (signal.SIGUSR1, [0, 1])])
def test_a_signal_saves_once_and_another_number_of_ranks_goes_on(
    workshop: Workshop, alone: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, told: list[int]
) -> None:
    """One rank is told, or all; both end with 143; one rank alone continues as if nothing had been."""
    name = f"stopped-by-{number.name}"
    processes = start_two("train.py", *workshop.argv(name))
    run = workshop.run(name)
    wait_for_step(run, 1, processes)
    for rank in told:
        processes[rank].send_signal(number)
    codes, printed = end(processes)
    assert codes == [143, 143], printed
    assert printed[1] == ""
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_reason"]) == ("stopped", number.name)
    last = runs.last_checkpoint(run)
    assert last is not None
    assert 1 <= int(last.name) == status["step"] < STEPS

    assert train.main(["--resume", str(run)]) == 2
    assert "a step had 2 micro-batches (--accumulate 1 on 2 ranks); on 1 give --accumulate 2" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--accumulate", "2"]) == 0
    assert_like(run, alone)


@pytest.mark.slow
def test_wrong_input_ends_all_ranks_with_2(workshop: Workshop) -> None:
    """Every fault once, said by the main rank, and no run folder."""
    codes, printed = end(start_two("train.py", *workshop.argv("wrong", "--keep", "0", "--device", "cuda:1")))
    assert codes == [2, 2], printed
    assert "--keep 0" in printed[0]
    assert "--device cuda:1: 2 ranks cannot share it; give cuda (a GPU each) or cpu" in printed[0]
    assert printed[1] == ""
    assert not workshop.run("wrong").exists()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if torch saw GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield


def test_each_rank_has_its_own_gpu(two_gpus: None) -> None:
    """By its number on the host; a CPU where that is asked for."""
    rank = Ranks(rank=5, world_size=8, local_rank=1)
    assert [rank.device(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert [Ranks().device(wanted) for wanted in ("auto", "cuda:1", "mps")] == ["auto", "cuda:1", "mps"]
    for wanted in ("cuda:0", "mps"):
        with pytest.raises(InputError, match=f"--device {wanted}: 8 ranks"):
            rank.device(wanted)


def test_a_step_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    """A resumed run's steps stay what they were, unless the ranks did and --accumulate is changed on purpose."""
    (tmp_path / "config.json").write_text(json.dumps({"accumulate": 3, "environment": {"ranks": 2}}))
    found = {
        (world_size, accumulate): setup.check_micro_batches(
            Config(resume=tmp_path, accumulate=accumulate), Ranks(0, world_size)
        )
        for world_size, accumulate in [(2, 3), (2, 1), (6, 1), (3, 3), (4, 3)]
    }
    assert [found[2, 3], found[2, 1], found[6, 1]] == [[], [], []]
    assert found[3, 3][0].endswith("had 6 micro-batches (--accumulate 3 on 2 ranks); on 3 give --accumulate 2")
    assert found[4, 3][0].endswith("which 4 ranks cannot share; start a number of ranks that divides 6")


@pytest.mark.parametrize("items", [0, 1, 7, 8, 30])
def test_shares_are_everything_once(items: int) -> None:
    """And differ by one at the most."""
    shares = [list(Ranks(rank, 8).mine(range(items))) for rank in range(8)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than waiting for ranks that never come."""
    for name in module.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert Ranks.start() == module.ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set; start with torchrun"):
        Ranks.start()


def test_restarts_on_several_hosts_need_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's shared one keeps the addresses of dead ranks, and hosts count restarts differently."""
    for name, value in [("USE_AGENT_STORE", "True"), ("MAX_RESTARTS", "1"), ("RESTART_COUNT", "1")]:
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in dict.fromkeys(module.ENVIRONMENT, "2").items() | {("GROUP_WORLD_SIZE", "2")}:
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        Ranks.start()
