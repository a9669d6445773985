"""How busy the machine was along a run, how fast the run is, and how busy this machine is now."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from whisper_min.ui import words
from whisper_min.ui.machine import Machine
from whisper_min.ui.model import RunView, Series

# What a run says about its own speed: key, title, how it is written.
SPEED = (
    ("perf/samples_per_second", "clips a second", "number"),
    ("perf/audio_hours_per_hour", "audio hours an hour", "number"),
    ("perf/mfu", "model FLOPs use", "share"),
    ("perf/data_wait", "waits for data", "share"),
)
# Key (without the GPU's number), title, how it is written, key of the whole it is a part of.
MACHINE = (
    ("cpu/use", "cpu", "share", ""),
    ("cpu/process", "cores of the run", "number", ""),
    ("memory/used", "memory", "bytes", "memory/total"),
    ("memory/process", "memory of the run", "bytes", "memory/total"),
    ("disk/used", "disk", "bytes", "disk/total"),
    ("gpu/N/use", "gpu N", "share", ""),
    ("gpu/N/memory", "gpu N memory", "bytes", "gpu/N/memory_total"),
    ("gpu/N/power", "gpu N power", "W", ""),
    ("gpu/N/temperature", "gpu N temperature", "°C", ""),
)


def written(value: float, kind: str) -> str:
    """A value in its unit."""
    if not math.isfinite(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    if kind == "bytes":
        return words.size(value)
    return words.number(value) if kind == "number" else f"{value:.0f} {kind}"


def bar(share: float, width: int, full: str, empty: str) -> Text:
    """A share as a line, the rest of it thin."""
    if not math.isfinite(share):
        return Text("")
    cells = round(width * min(1.0, max(0.0, share)))
    return Text().append("━" * cells, full).append("─" * (width - cells), empty)


class SystemPane(VerticalScroll, can_focus=True):
    """Three tables in one: this machine, the run's machine, the run's speed."""

    DEFAULT_CSS = """
    SystemPane { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    SystemPane Static { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__(id="system-pane")
        self._machine: Machine | None = None

    def compose(self) -> ComposeResult:
        """One table."""
        yield Static(id="system-table")

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw anew; the machine is asked while somebody looks."""
        if self._machine is None:
            self._machine = Machine(runs[0].path if runs else Path())
        run = selected if selected in runs or not runs else runs[0]
        self.query_one("#system-table", Static).update(self._table(self._machine.numbers(), run))

    def _table(self, now: Mapping[str, float], run: RunView | None) -> Table:
        colours = self.app.theme_variables
        width = max(8, self.size.width - 52)
        table = Table.grid(padding=(0, 2))
        table.add_column(style=colours["secondary"], no_wrap=True, min_width=18)
        table.add_column(justify="right", no_wrap=True, min_width=9)
        table.add_column(no_wrap=True, min_width=15, style=colours["secondary"])
        table.add_column(no_wrap=True, style=colours["primary"])

        def head(title: str) -> None:
            table.add_row(Text(title, f"bold {colours['foreground']}"))

        head("this machine, now")
        for key, title, kind, whole in numbered(now):
            total = now.get(whole, math.nan)
            share = now[key] if kind == "share" else now[key] / total if total else math.nan
            tone = "error" if share > 0.95 and kind == "bytes" else "primary"
            of = f"of {words.size(total)}" if math.isfinite(total) else ""
            line = bar(share, min(40, width), colours[tone], colours["boost"])
            table.add_row(title, written(now[key], kind), of, line)
        if run is None:
            return table
        for heading, rows in ((f"along {run.name}", self._along(run)), ("its speed", self._speed(run))):
            table.add_row("")
            head(words.printable(heading))
            if not rows:
                table.add_row("nothing was logged")
            for title, series, kind in rows:
                low, high = finite_range(series)
                span = f"{written(low, kind)} – {written(high, kind)}"
                table.add_row(title, written(series.last, kind), span, words.sparkline(series.values, width))
        return table

    def _along(self, run: RunView) -> list[tuple[str, Series, str]]:
        # before a long system.jsonl, the GPUs' memory in metrics.jsonl
        source = run.system if run.system.rows else run.metrics
        return [(title, source[key], kind) for key, title, kind, _ in numbered(dict.fromkeys(source, 0.0))]

    def _speed(self, run: RunView) -> list[tuple[str, Series, str]]:
        return [(title, run.metrics[key], kind) for key, title, kind in SPEED if key in run.metrics]


def numbered(keys: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """The rows of `MACHINE` that are there, each GPU's own."""
    gpus = sorted({int(match[1]) for key in keys if (match := re.match(r"gpu/(\d{1,3})/", key))})
    rows = [row for row in MACHINE if "N" not in row[0]]
    for gpu in gpus:
        for key, title, kind, whole in (row for row in MACHINE if "N" in row[0]):
            rows.append((key.replace("N", str(gpu)), title.replace("N", str(gpu)), kind, whole.replace("N", str(gpu))))
    return [row for row in rows if row[0] in keys]


def finite_range(series: Series) -> tuple[float, float]:
    """Smallest and largest finite value; NaN where there is none."""
    values = series.values[series.values == series.values]
    return (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
