"""A card of the selected run: what it is, each set's word error rate, and its loss as a line of blocks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

from whisper_min.ui import words
from whisper_min.ui.model import RunView


class RunCard(Static):
    """Drawn anew where the run's version or the width changed."""

    LEAST = 8
    DEFAULT_CSS = """
    RunCard { height: 1fr; border-top: solid $panel; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__(id="card")
        self._drawn: tuple[object, ...] = ()

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw the selected run."""
        if selected is None:
            return
        state = (selected.name, selected.version, selected.state, self.app.theme, self.app.size)
        if state != self._drawn:
            self._drawn = state
            self.update(self._draw(selected, max(40, self.app.size.width - 4)))

    def _draw(self, run: RunView, width: int) -> Table:
        colours = self.app.theme_variables
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style=colours["secondary"], no_wrap=True)
        grid.add_column(overflow="ellipsis", no_wrap=True)
        title = Text(words.printable(run.name), "bold")
        for words_of_it in (describe(run), reason(run)):
            if words_of_it:
                title.append(f"  {words_of_it}", colours["secondary"])
        grid.add_row("run", title)
        room = max(10, width - 64)
        for name in [*run.domain_sets, *run.general_sets]:
            kind = "domain" if name in run.domain_sets else "general"
            key = f"eval/{name}/wer"
            if f"eval/{name}/drift" in run.metrics:  # no transcripts: what changed against the original's own
                kind, key = "drift", f"eval/{name}/drift"
            first, now = run.oldest(key), run.newest(key)
            line = Text(f"{words.change(first, now):>13}  ")
            if first > 0 and now == now:
                better = now <= first
                line.append(f"{100 * (now / first - 1):+7.1f} %  ", colours["success" if better else "error"])
            else:
                line.append(" " * 11)
            series = run.metrics.get(key)
            if series is not None:
                line.append(words.sparkline(series.values, room), colours["primary"])
            line.append(f"  {words.printable(name)}")
            grid.add_row(kind, line)
        for key in ("train/loss", "train/kl", "train/ewc"):
            series = run.metrics.get(key)
            if series is not None and len(series):
                line = Text(f"{words.number(run.newest(key)):>13}  ")
                line.append(words.sparkline(series.values, room + 11), colours["primary"])
                grid.add_row(key.removeprefix("train/"), line)
        pace, speed = run.seconds_per_step, run.newest("perf/audio_hours_per_hour")
        if pace is not None:
            text = f"{words.number(pace)} s a step" if pace >= 0.1 else f"{1000 * pace:.1f} ms a step"
            grid.add_row("pace", text + (f", {words.number(speed)} h of audio an hour" if speed == speed else ""))
        return grid


def describe(run: RunView) -> str:
    """Model, method and learning rate, as far as config.json says."""
    config = run.config
    parts = [config.get("model"), config.get("method")]
    if isinstance(config.get("lr"), (int, float)):
        parts.append(f"lr {config['lr']:g}")
    environment = config.get("environment")
    if isinstance(environment, dict):
        parts.append(environment.get("device"))
    host = run.status.get("host")
    parts.append(f"on {host}" if host else None)
    return words.printable("  ".join(str(part) for part in parts if part))


def reason(run: RunView) -> str:
    """Why it ended, where that is more than its state."""
    said = run.status.get("exit_reason")
    if run.state == "crashed":
        return "its process is gone" if run.on_this_host else "not heard of for long"
    return words.printable(str(said)) if said and said != run.state else ""
