"""All options of a run, or only what differs between the marked ones; and where they ran."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from whisper_min.config import Config
from whisper_min.ui import words
from whisper_min.ui.model import RunView
from whisper_min.ui.themes import run_colour

MISSING = "–"
# A column narrower than this shows nothing of a value.
LEAST_COLUMN = 14
# How every run tells its name and place; they differ always and say nothing.
OWN = ("run", "runs_dir", "resume")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of everything in a config.json; inner ones as `environment.versions.torch`."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, f"{name}.")
        else:
            yield name, as_text(value)


def as_text(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return words.printable(" ".join(value)) or "none"
    return words.printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def defaults() -> dict[str, str]:
    """What every option is when nobody says otherwise."""
    made = {}
    for field in dataclasses.fields(Config):
        if field.default is not dataclasses.MISSING:
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            made[field.name] = as_text(value if isinstance(value, (list, int, float, bool, type(None))) else str(value))
    return made


class ConfigurationPane(Vertical):
    """A table of options; with several runs, a column for each."""

    DEFAULT_CSS = """
    ConfigurationPane { height: 1fr; }
    ConfigurationPane #config-search { display: none; border: none; height: 1; padding: 0 1; background: $panel; }
    ConfigurationPane #config-search.shown { display: block; }
    ConfigurationPane VerticalScroll { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    ConfigurationPane #config-table { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("d", "differences", "Differences/all"),
        Binding("c", "changed", "Changed from defaults"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("g", "scroll(-100000)", "First", show=False),
        Binding("G", "scroll(100000)", "Last", show=False),
        Binding("escape", "clear", "Clear the search", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="config-pane")
        self._all = False
        self._changed_only = False
        self._word = ""
        self._drawn: tuple[object, ...] = ()
        self._shown: tuple[Sequence[RunView], RunView | None] = ((), None)
        self._defaults = defaults()

    def compose(self) -> ComposeResult:
        """Search and table."""
        yield Input(placeholder="an option or a value", id="config-search", compact=True)
        with VerticalScroll(can_focus=True):
            yield Static(id="config-table")

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Draw where something changed."""
        self._shown = (runs, selected)
        # the newest values do not matter here: only config.json does
        state = (
            [(run.name, id(run.config)) for run in runs],
            (self._all, self._changed_only, self._word, self.app.theme, self.size.width),
        )
        if state != self._drawn:
            self._drawn = state
            self.query_one("#config-table", Static).update(self._table(runs))

    def _table(self, runs: Sequence[RunView]) -> Table | Text:
        colours = self.app.theme_variables
        room = max(1, (self.size.width - 28) // LEAST_COLUMN)
        left_out, runs = len(runs) - room, runs[:room]
        columns = [dict(flatten(run.config)) for run in runs]
        if not any(columns):
            return Text("No config.json here.", colours["secondary"])
        comparing = len(runs) > 1
        names = list(dict.fromkeys(name for column in columns for name in column))
        # options first, then the weights and the environment
        names.sort(key=lambda name: (name not in self._defaults, "." in name))
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="bold")
        table.add_column("option", style=colours["secondary"], no_wrap=True, max_width=26, overflow="ellipsis")
        for run in runs:
            colour = run_colour(run.number, self.app.theme, self.app.current_theme.dark)
            table.add_column(Text(words.printable(run.name), colour), ratio=1, overflow="fold")
        count = 0
        for name in names:
            values = [column.get(name, MISSING) for column in columns]
            if comparing and not self._all and (len(set(values)) == 1 or name in OWN):
                continue
            if self._changed_only and name in self._defaults and set(values) == {self._defaults[name]}:
                continue
            if self._word and self._word.lower() not in f"{name} {' '.join(values)}".lower():
                continue
            count += 1
            table.add_row(name, *(self._cell(name, value, values) for value in values))
        if not count:
            table.add_row("", Text("nothing differs" if comparing and not self._word else "nothing fits"))
        what = "differences; d shows all" if comparing and not self._all else "bold: not the default"
        more = f"; {left_out} more runs do not fit" if left_out > 0 else ""
        table.caption, table.caption_justify = Text(f"{what}{more}", colours["secondary"]), "left"
        return table

    def _cell(self, name: str, value: str, values: Sequence[str]) -> Text:
        colours = self.app.theme_variables
        if value == MISSING:
            return Text(value, colours["secondary"])
        default = self._defaults.get(name)
        changed = default is not None and value != default and name not in OWN
        style = f"bold {colours['warning']}" if len(set(values)) > 1 else f"bold {colours['foreground']}"
        return Text(value, style if changed or len(set(values)) > 1 else "")

    # ---- Keys.

    def _again(self) -> None:
        self._drawn = ()
        self.show(*self._shown)

    @on(Input.Changed, "#config-search")
    def _typed(self, event: Input.Changed) -> None:
        self._word = event.value.strip()
        self._again()

    @on(Input.Submitted, "#config-search")
    def _submitted(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_search(self) -> None:
        """Type what to look for."""
        field = self.query_one("#config-search", Input)
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        """Forget the search."""
        field = self.query_one("#config-search", Input)
        field.value = ""
        field.remove_class("shown")
        self.query_one(VerticalScroll).focus()

    def action_differences(self) -> None:
        """Between marked runs: what differs, or everything."""
        self._all = not self._all
        self._again()

    def action_changed(self) -> None:
        """Only what is not the default, or everything."""
        self._changed_only = not self._changed_only
        self._again()

    def action_scroll(self, by: int) -> None:
        """With vi's keys, too."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)
