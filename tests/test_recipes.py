"""The recipes for clusters: their words are understood, and Slurm's saves and queues itself again before its limit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from torch.distributed.run import get_args_parser

from whisper_min import config

SLURM, SKYPILOT = REPOSITORY / "runs/slurm.sh", REPOSITORY / "runs/skypilot.yaml"
ENVIRONMENT = {
    "SLURM_NNODES": "2",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "a,b",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_NODE_IPS": "a\nb",
    "SKYPILOT_TASK_ID": "7",
    "OPTIONS": "--run big",
}
# What stands in for the commands: torchrun writes down its words, one a line, and saves where it is told to end.
COMMANDS = {
    "srun": 'exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "a\\nb\\n"; else echo "$*" >>"$SEEN/scontrol"; fi',
    "scancel": 'echo "$*" >>"$SEEN/scancel"; kill -TERM "$(cat "$SEEN/pid")"',
    "torchrun": 'trap "sleep 0.3; touch $SEEN/saved; exit 143" TERM; printf "%s\\n" "$@" >"$SEEN/words"\n'
    'echo $$ >"$SEEN/pid"; [ -z "$LIMIT" ] || kill -USR1 $PPID; [ -z "$LIMIT" ] || while :; do sleep 0.05; done',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A place where the cluster's commands are stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in COMMANDS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, **ENVIRONMENT, "PATH": path, "SEEN": str(tmp_path), "LIMIT": ""}


def check_words(words: list[str]) -> None:
    """Torchrun and train.py both take their part; the run goes on because launch and run have names."""
    torchrun = get_args_parser().parse_args(words)
    assert torchrun.training_script == "train.py"
    assert (torchrun.nnodes, torchrun.max_restarts, torchrun.rdzv_id) == ("2", 3, "7")
    assert (torchrun.rdzv_backend, torchrun.rdzv_endpoint) == ("c10d", "a:29500")
    assert config.parse(torchrun.training_script_args).run == "big"


def test_slurm_starts_a_rank_on_each_gpu(environment: dict[str, str], tmp_path: Path) -> None:
    """And ends as the training does."""
    subprocess.run(["bash", SLURM, "--run", "big"], env=environment, check=True)
    check_words((tmp_path / "words").read_text().splitlines())
    assert not (tmp_path / "scontrol").exists()
    options = re.findall(r"^#SBATCH --([\w-]+)", SLURM.read_text(), re.MULTILINE)
    assert {"nodes", "gpus-per-node", "time", "signal", "requeue"} <= set(options)


def test_slurm_saves_and_queues_again_before_its_limit(environment: dict[str, str], tmp_path: Path) -> None:
    """The training is told, waited for, and the job queued once it has ended."""
    subprocess.run(["bash", SLURM, "--run", "big"], env={**environment, "LIMIT": "near"}, timeout=60)
    assert (tmp_path / "scancel").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"


def test_skypilot_starts_a_rank_on_each_gpu(environment: dict[str, str], tmp_path: Path) -> None:
    """Its file is YAML, and what it runs is understood."""
    task = yaml.safe_load(SKYPILOT.read_text(encoding="utf-8"))
    assert set(task["envs"]) == {"BUCKET", "OPTIONS"}
    assert task["num_nodes"] == 2
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/torchrun").symlink_to(tmp_path / "bin/torchrun")
    subprocess.run(["bash", "-euo", "pipefail", "-c", task["run"]], cwd=tmp_path, env=environment, check=True)
    words = (tmp_path / "words").read_text().splitlines()
    check_words(words)
    assert "--runs_dir" in words


def test_the_readme_shows_how_to_use_them() -> None:
    """With options that exist."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^sbatch runs/slurm\.sh (.*?)(?:  +#.*)?$", readme, re.MULTILINE)
    assert config.parse(shlex.split(line)).run is not None
    assert "sky jobs launch runs/skypilot.yaml" in readme
