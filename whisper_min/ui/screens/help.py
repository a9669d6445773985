"""Every key, read from the bindings themselves, so that it cannot be out of date."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.table import Table
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static


class HelpScreen(ModalScreen[None]):
    """Keys of the open tab, then those that work everywhere."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll {
        width: 72; max-width: 100%; height: auto; max-height: 100%;
        background: $surface; border: round $primary; padding: 0 2;
    }
    HelpScreen Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close", key_display="esc"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("pagedown,space", "scroll(15)", "Page down", show=False),
        Binding("pageup", "scroll(-15)", "Page up", show=False),
    ]

    def __init__(self, app: App[None], tab: str, pane: Widget | None) -> None:
        super().__init__()
        self._sections = [("everywhere", bindings_of([app]))]
        if pane is not None:
            inner = [pane, *pane.query("*")]
            self._sections.insert(0, (tab, bindings_of(inner)))

    def compose(self) -> ComposeResult:
        """The keys in two columns."""
        with VerticalScroll() as scroll:
            scroll.border_title = "keys"
            scroll.border_subtitle = "esc closes, ↑↓ scrolls"
            yield Static(self._table())

    def _table(self) -> Table:
        colours = self.app.theme_variables
        table = Table.grid(padding=(0, 2))
        table.add_column(style=f"bold {colours['primary']}", justify="right", min_width=16)
        table.add_column()
        for title, bindings in self._sections:
            table.add_row("", "")
            table.add_row("", f"[bold {colours['secondary']}]{title.upper()}")
            for keys, text in bindings:
                table.add_row(keys, text)
        table.add_row("tab, ctrl+p", "next part of the screen, command palette")
        table.add_row("mouse", "click chooses, a second click opens, the wheel scrolls, titles sort")
        return table

    def action_scroll(self, by: int) -> None:
        """Move through a long help."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


def bindings_of(widgets: Iterable[Widget | App[None]]) -> list[tuple[str, str]]:
    """(keys, what they do) of the bindings that these widgets' own classes of this project declare, each once."""
    found: dict[str, list[str]] = {}
    for widget in widgets:
        for kind in type(widget).__mro__:
            if not kind.__module__.startswith("whisper_min"):
                continue
            for binding in vars(kind).get("BINDINGS", ()):
                made = binding if isinstance(binding, Binding) else Binding(*binding)
                if made.description:
                    keys = made.key_display or ", ".join(map(readable, made.key.split(",")))
                    line = found.setdefault(made.description, [])
                    if keys not in line:
                        line.append(keys)
    return [(", ".join(keys), text) for text, keys in found.items()]


def readable(key: str) -> str:
    """A key's name as people write it."""
    names = {"slash": "/", "question_mark": "?", "left_square_bracket": "[", "right_square_bracket": "]"}
    names |= {"comma": ",", "full_stop": ".", "less_than_sign": "<", "greater_than_sign": ">", "equals_sign": "="}
    arrows = {"up": "↑", "down": "↓", "left": "←", "right": "→", "escape": "esc", "plus": "+", "minus": "-"}
    return {**names, **arrows}.get(key.strip(), key.strip())
