"""Launches that go on: torchrun starts all ranks again where one died, a scheduler a job that it had pre-empted.

What starts again has the words of the first start. It knows the run that it began by the launch's id, which torchrun
tells each process (https://docs.pytorch.org/docs/stable/elastic/run.html) and config.json keeps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from whisper_min import config
from whisper_min.config import Config, InputError


def launch_id() -> str | None:
    """What torchrun calls the launch that this process belongs to; None without one, or without a name of its own."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # what torchrun says where several hosts give no --rdzv-id
    return None if name == "none" else name


def options(argv: Sequence[str]) -> Config:
    """The command line as a Config, with `--resume RUN` where this very launch has begun that run.

    Without `--run` the newest run of a launch is meant, and only where torchrun counts a restart.
    """
    cfg = config.parse(argv)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # not counted where a host joined or left
    if launch_id() is not None and cfg.resume is None and (cfg.run or restarted):
        begun = [run for run in cfg.runs_dir.glob(cfg.run or "*") if _is_of_this_launch(run)]
        if begun:
            newest = max(begun, key=lambda run: (run / "config.json").stat().st_mtime)
            cfg = config.parse([*argv, "--resume", str(newest)])
    return config.resolve(cfg)


def _is_of_this_launch(run: Path) -> bool:
    with suppress(InputError, LookupError, TypeError):  # no run, or a damaged record
        return bool(config.recorded(run)["environment"]["launch"] == launch_id())
    return False
