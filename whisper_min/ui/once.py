"""The list of runs in plain text, JSON or CSV, for scripts, pipes and mail."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from whisper_min.ui import export, words
from whisper_min.ui.alerts import of_run
from whisper_min.ui.filters import Filter
from whisper_min.ui.model import RunView, Workspace


def run(workspace: Workspace, filter_text: str, *, as_json: bool, export_to: Path | None) -> int:
    """Print or write the runs that fit; the exit code: 0, or 2 where none does or nothing can be written."""
    workspace.read_all(() if export_to is None else None)
    accepted = Filter(filter_text)
    runs = [each for _, each in sorted(workspace.runs.items()) if accepted.accepts(each)]
    if not runs:
        print(f"error: no run fits --filter {filter_text!r}; leave it out to see all", file=sys.stderr)
        return 2
    if export_to is not None:
        try:
            for path in export.write(runs, export_to):
                print(path)
        except OSError as error:
            print(f"error: --export {export_to}: {error.strerror or error}; name a folder to write to", file=sys.stderr)
            return 2
    elif as_json:
        json.dump([record(each) for each in runs], sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        # a pipe has no width: a line is as long as it needs to be
        Console(width=None if sys.stdout.isatty() else 200).print(table(runs))
    return 0


def table(runs: list[RunView]) -> Table:
    """What the app's list shows."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("state", "name", "step", "left", "domain WER %", "general WER %", "heard", "alerts"):
        left = column in ("state", "name", "alerts")
        made.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=column == "state")
    for each in runs:
        glyph, _ = words.STATES.get(each.state, ("?", ""))
        made.add_row(
            Text(f"{glyph} {words.printable(each.state)}"),
            Text(words.printable(each.name)),
            words.steps(each.step, each.max_steps),
            words.duration(each.eta),
            words.change(*each.domain_wer),
            words.change(*each.general_wer),
            words.age(each.heartbeat_age),
            Text(", ".join(alert.kind for alert in of_run(each))),
        )
    return made


def record(each: RunView) -> dict[str, Any]:
    """A run's line as JSON: error rates are fractions, times are seconds, null is unknown."""
    (domain_first, domain), (general_first, general) = each.domain_wer, each.general_wer
    return {
        "name": each.name,
        "path": str(each.path),
        "state": each.state,
        "step": each.step,
        "max_steps": each.max_steps,
        "seconds_left": known(each.eta),
        "domain_wer": known(domain),
        "domain_wer_at_start": known(domain_first),
        "general_wer": known(general),
        "general_wer_at_start": known(general_first),
        "heartbeat_age": known(each.heartbeat_age),
        "sets": {
            name: {
                "role": "domain" if name in each.domain_sets else "general",
                "wer": known(each.newest(f"eval/{name}/wer")),
                "wer_at_start": known(each.oldest(f"eval/{name}/wer")),
            }
            for name in each.eval_sets
        },
        "last": {key: known(each.metrics.last(key)) for key in each.metrics if not key.startswith("eval/")},
        "exit_reason": each.status.get("exit_reason"),
        "last_command": each.status.get("last_command"),
        "alerts": [{"kind": alert.kind, "severe": alert.severe, "text": alert.text} for alert in of_run(each)],
    }


def known(value: float | None) -> float | None:
    """A number in JSON: null where it is none. Six digits are what the table of curves holds."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")
