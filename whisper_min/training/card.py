"""What lies beside the weights: the record of how they came to be, and a model card."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import whisper

from whisper_min import runs
from whisper_min.config import Config, to_record
from whisper_min.model.weights import Origin
from whisper_min.training.flops import peak_flops
from whisper_min.training.launch import launch_id
from whisper_min.training.ranks import ALONE, Ranks

PACKAGES = ("torch", "openai-whisper", "torchaudio", "numpy", "soundfile", "jiwer", "safetensors")


def run_record(
    cfg: Config, origin: Origin, device: torch.device, precision: str, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """config.json: every option as used, and what the run stood on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        **to_record(cfg),
        "weights_fingerprint": origin.fingerprint,
        "weights_found": origin.found,
        "environment": {
            "versions": {package: version(package) for package in PACKAGES},
            "python": platform.python_version(),
            "git_commit": _git_commit(),
            "device": str(device),
            "device_name": name,
            "precision": precision,
            "peak_flops": peak_flops(name, precision) if device.type == "cuda" else None,  # None: no perf/mfu
            "ranks": ranks.world_size,
            "launch": launch_id(),
            "threads": torch.get_num_threads(),
            "deterministic": deterministic(cfg, device),
            "switches": switches(device),
        },
    }


def deterministic(cfg: Config, device: torch.device) -> str:
    """How far the same options, data and versions give the same run.

    On CUDA the gradients of embeddings, convolutions and fused attention add by atomics
    (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if device.type != "cpu":
        return "up to CUDA kernels that add in any order"
    return "up to what is compiled for the first batches' sizes" if cfg.compile else "bit for bit"


def switches(device: torch.device) -> dict[str, Any]:
    """Torch's switches that decide how far a run on CUDA can be repeated; other devices have none."""
    if device.type != "cuda":
        return {}
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this program's checkout, `+` where it has changes; None outside git."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "") if commit.returncode == 0 else None


def point_results(run: Path, point: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    """What a run's folder knows of one of its points, as `model_card` takes it: results, and the step they are of.

    `point` has `checkpoint`, `alpha` and `lines` as in sweep.jsonl. Of a checkpoint itself these are the training's
    evaluations; of a point between it and the original a sweep's, and none where no sweep has scored it.
    """
    step = int(Path(point["checkpoint"]).name)
    steps = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl"))
    evaluated = {each: rates for each, row in steps.items() if each <= step and (rates := _rates(row))}
    sweep = [row for row in runs.read_jsonl(run / "sweep.jsonl") if row.get("wer") is not None]
    original = {row["set"]: row["wer"] for row in sweep if row["alpha"] == 0} | _rates(steps.get(0, {}))
    if point["alpha"] == 1 and point["lines"] in (None, 1):
        step = max(evaluated, default=step)
        found = evaluated.get(step, {})
    else:
        names = ("checkpoint", "alpha", "lines")
        found = {row["set"]: row["wer"] for row in sweep if all(row.get(key) == point[key] for key in names)}
    return {name: {"wer": wer, "original_wer": original.get(name)} for name, wer in found.items()}, step


def _rates(row: dict[str, Any]) -> dict[str, float]:
    """Set name -> WER, from a row of metrics.jsonl."""
    return {
        key.removeprefix("eval/").removesuffix("/wer"): value
        for key, value in row.items()
        if key.startswith("eval/") and key.endswith("/wer") and value is not None
    }


def model_card(
    cfg: Config, step: int, results: dict[str, dict[str, Any]], evaluated: int, normalizer: str, exported: str = ""
) -> str:
    """README.md of a checkpoint or an export, with a `model-index` that hubs read.

    Parameters
    ----------
    results : dict
        set name -> its summary, with `original_wer` beside `wer`
    evaluated : int
        the step that they are of
    exported : str
        what was made of the checkpoint; without it the card says how to export
    """
    # drift is no WER, and a set whose references hold no words has none
    results = {name: its for name, its in results.items() if math.isfinite(its.get("wer", math.nan))}
    metrics = [
        {
            "task": {"type": "automatic-speech-recognition"},
            "dataset": {"name": name, "type": name},
            "metrics": [{"type": "wer", "value": round(100 * its["wer"], 2), "name": f"WER ({normalizer})"}],
        }
        for name, its in results.items()
    ]
    name = cfg.run or "whisper-min"
    index = [{"name": name, "results": metrics}]
    # JSON is YAML: nothing in a set's name can break out of it
    head = {"base_model": cfg.model, "language": cfg.language, "tags": ["whisper"], "model-index": index}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    rows = "\n".join(
        f"| {name} | {100 * its['original_wer']:.1f} % | {100 * its['wer']:.1f} % |"
        for name, its in results.items()
        if its.get("original_wer") is not None
    )
    opened = "`whisper.load_model` opens what `python -m whisper_min.export RUN --to openai model.pt` writes."
    if cfg.model in whisper.available_models():  # the table has no entry for a path
        opened += (
            " For word timestamps give it the alignment heads of the original, which a .pt cannot hold: "
            f"`model.set_alignment_heads(whisper._ALIGNMENT_HEADS[{cfg.model!r}])`."
        )
    return (
        f"---\n{front}\n---\n\n# {name}\n\nWhisper `{cfg.model}` fine-tuned for {step} steps with whisper-min.\n\n"
        f"| set | original WER | this model |\n|---|---|---|\n{rows}\n\n"
        f"WER at step {evaluated} with the normaliser {normalizer}, greedy, no timestamps, clips padded to 30 s.\n\n"
        f"{exported or opened}\n"
    )
