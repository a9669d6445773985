"""Run folders as train.py writes them, made up and quick: for the readers' tests."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from whisper_min.runs import RunFolder

SETS = {"accents": "domain", "general-dev": "general"}


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A config.json with a domain and a general set."""
    record = {
        "model": "tiny.en",
        "data": ["accents-train=train.jsonl"],
        "eval_data": ["accents=dev.jsonl"],
        "retain": ["general-dev=general.jsonl"],
        "method": "full",
        "lr": 1e-5,
        "max_steps": 100,
        "eval_every": 20,
        "run": name,
        "environment": {"device": "cpu", "versions": {"torch": "2.13.0"}},
    }
    return record | changes


def train_row(step: int, loss: float | None = None) -> dict[str, Any]:
    """What a step logs."""
    loss = 2 * math.exp(-step / 50) + 0.5 if loss is None else loss
    return {
        "train/loss": loss,
        "train/ce": loss,
        "train/grad_norm": 3.0,
        "train/lr": 1e-5,
        "train/tokens": 100 * step,
        "train/audio_seconds": 8.0 * step,
        "perf/samples_per_second": 4.0,
        "perf/data_wait": 0.01,
    }


def evaluation_row(step: int, domain: float, general: float) -> dict[str, Any]:
    """What an evaluation logs."""
    row: dict[str, Any] = {}
    for name, wer in (("accents", domain), ("general-dev", general)):
        row |= {f"eval/{name}/wer": wer, f"eval/{name}/words": 200, f"eval/{name}/loops": 0}
        row |= {f"eval/{name}/loss": 1.0, f"eval/{name}/decode_seconds": 2.0}
    return row | {"eval/non_speech/words_per_minute": 1.5}


def samples(step: int, count: int = 6) -> list[dict[str, Any]]:
    """What an evaluation writes of each utterance."""
    rows = []
    for name in SETS:
        for index in range(count):
            wrong = index % 2 and step < 60
            text = f"the quick brown fox number {index}"
            heard = text.replace("quick", "thick") if wrong else text
            first = text.replace("quick", "thick") if index % 2 else text
            rows.append(
                {
                    "_step": step,
                    "set": name,
                    "id": f"{name}-{index}",
                    "audio_filepath": f"/nowhere/{index}.wav",
                    "offset": None,
                    "duration": 2.0,
                    "reference": text.capitalize() + ".",
                    "hypothesis": heard.capitalize() + ".",
                    "original": first.capitalize() + ".",
                    "reference_normalized": text,
                    "hypothesis_normalized": heard,
                    "original_normalized": first,
                    "wer": 1 / 6 if wrong else 0.0,
                    "original_wer": 1 / 6 if index % 2 else 0.0,
                    "substitutions": int(bool(wrong)),
                    "deletions": 0,
                    "insertions": 0,
                    "flags": [],
                }
            )
    return rows


def make_run(folder: Path, name: str, steps: int = 100, *, state: str = "finished", **changes: Any) -> RunFolder:
    """A run that got this far; `changes` go into its config.json."""
    run = RunFolder.create(folder / name)
    run.write_config(config(name, **changes))
    with open(run.path / "train.log", "w", encoding="utf-8") as log:
        for step in range(steps + 1):
            if step:
                run.log_metrics(step, train_row(step))
                log.write(f"training {step}/100  loss {train_row(step)['train/loss']:.3f}\n")
            if step % 20 == 0:
                run.log_metrics(step, evaluation_row(step, 0.4 - 0.002 * step, 0.05 + 0.00004 * step))
                run.append("samples.jsonl", samples(step))
                log.write(f"step {step}: accents {40 - 0.2 * step:.1f} %, general-dev 5.0 %\n")
    for second in range(5):
        row = {"cpu/use": 0.5, "memory/used": 4e9, "memory/total": 16e9, "gpu/0/use": 0.9, "gpu/0/power": 300.0}
        run.log("system.jsonl", steps, {**row, "cpu/process": second / 5})
    run.append(
        "sweep.jsonl",
        [
            {"_step": steps, "alpha": alpha, "set": name, "wer": 0.4 - 0.2 * alpha, "words": 200}
            for alpha in (0.5, 1.0)
            for name in SETS
        ],
    )
    reason = state if state in ("finished", "stopped") else None
    run.beat(force=True, state=state, step=steps, max_steps=100, exit_reason=reason)
    return run


def set_status(run: RunFolder, **changes: Any) -> None:
    """Change status.json as another process would; the heartbeat goes on unless it is given."""
    beat = changes.pop("heartbeat", None)
    run.beat(force=True, **changes)
    if beat is not None:
        path = run.path / "status.json"
        text = path.read_text().replace(str(run.status["heartbeat"]), str(beat))
        beside = path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, path)


def here() -> dict[str, Any]:
    """Status of a process that lives: this one."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "heartbeat": time.time()}
