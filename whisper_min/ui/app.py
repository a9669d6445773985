"""The app: tabs over one workspace, one clock that reads and draws, keys that work everywhere."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static, TabbedContent, TabPane

from whisper_min.ui import state, words
from whisper_min.ui.alerts import Watch
from whisper_min.ui.keys import KeyLine
from whisper_min.ui.looks import look_of
from whisper_min.ui.model import RunView, Workspace
from whisper_min.ui.screens.alerts import AlertsPane
from whisper_min.ui.screens.help import HelpScreen
from whisper_min.ui.screens.run_list import COLUMNS
from whisper_min.ui.screens.runs import RunsPane
from whisper_min.ui.screens.steering import Sent, SteerScreen
from whisper_min.ui.tabs import TABS, make_pane
from whisper_min.ui.themes import THEMES

LEAST_WIDTH, LEAST_HEIGHT = 60, 16
TICK_SECONDS, LOADING_SECONDS = 0.5, 0.04
# What a tick may spend on reading; more while the first curves are not there yet.
READ_SECONDS, FIRST_READ_SECONDS = 0.015, 0.12
# Drawing while the rest is read in the background need not be oftener than at rest.
DRAW_SECONDS = 0.45
# Runs drawn over each other, at most.
MOST_MARKED = 10


class WhisperApp(App[None]):
    """Watch, read, compare and steer the runs below a folder."""

    TITLE = "whisper-min"
    CSS = """
    #top { height: 1; background: $panel; }
    #which { height: 1; padding: 0 1; }
    TabbedContent { height: 1fr; width: 1fr; }
    TabbedContent ContentTabs { height: 2; }
    ContentTabs Tab { padding: 0 1; }
    TabPane { padding: 0; }
    .missing { padding: 1 2; color: $secondary; }
    #small { display: none; height: 1fr; content-align: center middle; text-align: center; }
    .too-small #body, .too-small #top, .too-small KeyLine { display: none; }
    .too-small #small { display: block; }
    #body { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *[
            Binding(str(number), f"tab('{tab}')", title, show=False)
            for number, (tab, (title, _, _)) in enumerate(TABS.items(), 1)
        ],
        Binding("left_curly_bracket", "neighbour(-1)", "Previous run", show=False, key_display="{"),
        Binding("right_curly_bracket", "neighbour(1)", "Next run", show=False, key_display="}"),
        Binding("exclamation_mark", "steer", "Steer", key_display="!"),
        Binding("F", "follow", "Follow the newest run", show=False),
        Binding("E", "export", "Export CSV", show=False),
        Binding("T", "theme", "Theme", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        folder: Path,
        *,
        follow: bool = False,
        ascii_only: bool = False,
        filter_text: str = "",
        remember: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.folder, self.following, self.ascii_only = folder, follow, ascii_only
        self.bell_on = False
        self.workspace = Workspace(folder, clock)
        self.guard = Watch(folder)
        self.sent: dict[str, Sent] = {}
        self.top, self.small = Static(id="top"), Static(id="small")
        self.tabs, self.runs_pane = TabbedContent(initial="runs", id="tabs"), RunsPane()
        self._opened_panes: dict[str, Widget] = {"runs": self.runs_pane}
        self._filter_text, self._remember = filter_text, remember
        self._known = state.load(remember, folder) if remember else {"app": {}, "folder": {}}
        self._drawn = 0.0
        self._tab, self._focus_due = "runs", True
        self._top_line = Text()
        self._fitted = (0, 0)
        for theme in THEMES:
            self.register_theme(theme)

    # ---- Start and end.

    def compose(self) -> ComposeResult:
        """A line on top, the tabs, the keys."""
        yield self.top
        with Container(id="body"), self.tabs:
            for tab, (title, _, _) in TABS.items():
                with TabPane(title, id=tab):
                    if tab == "runs":
                        yield self.runs_pane
        yield self.small
        yield KeyLine()

    def on_mount(self) -> None:
        """Remember, read a first slice, and start the clock."""
        self._restore()
        self._fit()
        self.workspace.tick(0.0)
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        tab = str(self._known["app"].get("tab", "runs"))
        if tab in TABS and tab != "runs":
            self.action_tab(tab)
        self._tick()
        # what was imported stays: looking through it all again would stop the garbage collector, and us, for 50 ms
        gc.freeze()

    def _restore(self) -> None:
        app, folder, pane = self._known["app"], self._known["folder"], self.runs_pane
        theme = app.get("theme")
        self.theme = theme if theme in self.available_themes else THEMES[0].name
        self.bell_on = app.get("bell") is True
        if app.get("sort") in COLUMNS:
            pane.sort, pane.descending = app["sort"], app.get("descending") is True
        for names, key in ((pane.marked, "marked"), (pane.pinned, "pinned")):
            names += [name for name in folder.get(key, []) if isinstance(name, str)]
        if isinstance(folder.get("selected"), str):
            pane.selected = folder["selected"]
        pane.start_with(self._filter_text)

    def on_unmount(self) -> None:
        """Remember the view."""
        if self._remember is None:
            return
        pane = self.runs_pane
        app: dict[str, Any] = {"theme": self.theme, "tab": self._tab, "sort": pane.sort, "descending": pane.descending}
        app |= {key: value for key, value in self._known["app"].items() if key.startswith("view ")}
        app["bell"] = self.bell_on
        for tab, widget in self._opened_panes.items():
            if hasattr(widget, "to_json"):
                app[f"view {tab}"] = widget.to_json()
        folder = {"marked": pane.marked, "pinned": pane.pinned, "selected": pane.selected}
        state.save(self._remember, self.folder, app, folder)

    # ---- The clock.

    def _tick(self) -> None:
        """Read for a little while, draw what changed, and come back soon while there is more to read."""
        watched = [run.name for run in {*self.shown(), self.selected} if run is not None]
        first = any(self.workspace.runs[name].loading for name in watched) or not self._drawn
        now = time.monotonic()
        due = now - self._drawn >= DRAW_SECONDS or not self._drawn
        if first or not due or not self.workspace.loading:  # in the background reading and drawing take turns
            self.workspace.tick(FIRST_READ_SECONDS if first else READ_SECONDS, watched)
        if due:
            self._drawn = now
            self.draw()
        self.set_timer(LOADING_SECONDS if self.workspace.loading else TICK_SECONDS, self._tick)

    def draw(self) -> None:
        """Show what is known now; only the tab that is seen draws."""
        if not self.is_running or not self.runs_pane.is_attached:
            return
        self._fit()
        runs = list(self.workspace.runs.values())
        pane = self.runs_pane
        if self.following and runs:
            pane.selected = max(runs, key=started).name
        elif pane.selected is None and runs:
            pane.selected = max(runs, key=lambda run: (run.alive, started(run))).name
        pane.list_runs(runs)
        for alert in self.guard.look(runs):
            if self.bell_on:
                self.bell()
            self.notify(alert.text, title=alert.run, severity="error" if alert.severe else "warning", markup=False)
        self._acknowledge()
        self._draw_top(runs)
        widget = self._pane(self._tab)
        if isinstance(widget, AlertsPane):
            widget.alerts, widget.bell_on = self.guard.alerts, self.bell_on
        if widget is not None and not self.has_class("too-small"):
            widget.show(self.shown(), self.selected)  # type: ignore[attr-defined]
        if self._focus_due:
            self.call_after_refresh(self._focus_tab)

    def _draw_top(self, runs: list[RunView]) -> None:
        alerts, selected = self.guard.alerts, self.selected
        colours = self.theme_variables
        left = Text(no_wrap=True, overflow="ellipsis")
        left.append(" whisper-min ", f"bold {colours['primary']}")
        alive = sum(run.alive for run in runs)
        left.append(f" {len(runs)} run{'s' if len(runs) != 1 else ''}, {alive} alive", colours["secondary"])
        if self.workspace.loading:
            left.append("  reading…", colours["secondary"])
        if self.following:
            left.append("  following", colours["warning"])
        if selected is not None and self._tab != "runs":
            for run in self.shown():
                look = look_of(run.number, self, ascii_only=self.ascii_only)
                left.append(f"  {look.marker} ", look.style)
                left.append(words.printable(run.name), "bold" if run is selected else "")
        right = Text(f"⚠ {len(alerts)} " if alerts else "", colours["error" if _severe(alerts) else "warning"])
        left.truncate(max(0, self.size.width - right.cell_len), overflow="ellipsis", pad=True)
        line = left + right
        if line != self._top_line:
            self._top_line = line
            self.top.update(line, layout=False)
        title = f"Alerts {len(alerts)}" if alerts else "Alerts"
        tab = self.tabs.get_tab("alerts")
        if tab.label_text != title:
            tab.label = title

    def _acknowledge(self) -> None:
        """Say which commands were heard."""
        for name, sent in list(self.sent.items()):
            run = self.workspace.runs.get(name)
            answer = sent.answer(run)
            if answer is not None:
                self.notify(answer.text, title=name, severity=answer.severity, markup=False)
                if answer.final:
                    del self.sent[name]

    # ---- Which runs.

    @property
    def selected(self) -> RunView | None:
        """The run under the cursor."""
        return self.workspace.runs.get(self.runs_pane.selected or "")

    def shown(self) -> list[RunView]:
        """The runs that are compared: those marked, or else the selected one."""
        names = [name for name in self.runs_pane.marked if name in self.workspace.runs][:MOST_MARKED]
        if not names and self.selected is not None:
            names = [self.selected.name]
        return [self.workspace.runs[name] for name in names]

    def _pane(self, tab: str) -> Widget | None:
        """The widget of a tab, if it was opened and can show runs."""
        pane = self._opened_panes.get(tab)
        return pane if hasattr(pane, "show") else None

    # ---- What happens.

    @on(TabbedContent.TabActivated)
    async def _opened(self, event: TabbedContent.TabActivated) -> None:
        tab = event.pane.id or "runs"
        self._tab = tab
        if tab not in self._opened_panes:
            pane = self._opened_panes[tab] = make_pane(tab, self.ascii_only)
            await event.pane.mount(pane)
            known = self._known["app"].get(f"view {tab}")
            if isinstance(known, dict) and hasattr(pane, "from_json"):
                pane.from_json(known)
        self._focus_due = True
        self.call_after_refresh(self.draw)

    def _focus_tab(self) -> None:
        """Give the keys to the open tab; some have nothing to take them before they have drawn."""
        pane = self._pane(self._tab)
        if pane is None or self.screen is not self.screen_stack[0]:
            return
        if not pane.has_focus_within:
            parts = [pane, *pane.query("*")]
            target = next((each for each in parts if each.focusable and not isinstance(each, Input)), None)
            if target is None:
                return
            target.focus()
        self._focus_due = False

    @on(RunsPane.Changed)
    def _changed(self) -> None:
        if self.following and self.selected is not None:
            self.following = self.selected is max(self.workspace.runs.values(), key=started)
        self.draw()

    @on(RunsPane.Open)
    def _open(self) -> None:
        self.action_tab("curves")

    @on(AlertsPane.Go)
    def _go(self, event: AlertsPane.Go) -> None:
        self.runs_pane.selected, self.following = event.run, False
        self.action_tab("runs")

    @on(AlertsPane.Bell)
    def _ring(self) -> None:
        self.bell_on = not self.bell_on
        self.draw()

    def on_resize(self, event: events.Resize) -> None:
        """A terminal may become too small, and large again."""
        self._fit()
        if self._drawn:
            self.call_after_refresh(self.draw)

    def _fit(self) -> None:
        width, height = self.size
        if (width, height) == self._fitted:
            return
        self._fitted = (width, height)
        self.set_class(width < LEAST_WIDTH or height < LEAST_HEIGHT, "too-small")
        text = f"{width}×{height} is too small; {LEAST_WIDTH}×{LEAST_HEIGHT} is enough"
        self.small.update(text)

    # ---- Keys.

    def action_tab(self, tab: str) -> None:
        """Open a tab. What has the keys lets them go: hidden, it would give them to its neighbour and come back."""
        if tab != self._tab:
            self._focus_due = False
            self.screen_stack[0].set_focus(None)
        self.tabs.active = tab

    def action_neighbour(self, by: int) -> None:
        """The previous or next run of the list, from any tab."""
        names = [run.name for run in self.runs_pane.listed]
        if names:
            at = names.index(self.runs_pane.selected) if self.runs_pane.selected in names else 0
            self.runs_pane.selected = names[(at + by) % len(names)]
            self.following = False
            self.draw()

    def action_follow(self) -> None:
        """Stay on the run that started last, or stop doing so."""
        self.following = not self.following
        self.draw()

    def action_theme(self) -> None:
        """Dark, light, for the colour-blind."""
        names = [theme.name for theme in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]
        self.notify(self.theme, timeout=1)
        self.call_after_refresh(self.draw)

    def action_help(self) -> None:
        """Every key."""
        self.push_screen(HelpScreen(self, self._tab, self._pane(self._tab)))

    def action_steer(self) -> None:
        """Ask the selected run for something."""
        if self.selected is not None:
            self.push_screen(SteerScreen(self.selected), self._steered)

    def _steered(self, sent: Sent | None) -> None:
        if sent is not None:
            self.sent[sent.run] = sent

    def action_export(self) -> None:
        """Write the shown runs as CSV below the working folder."""
        from whisper_min.ui import export

        try:
            written = export.write(self.shown(), Path("export"))
        except OSError as error:
            self.notify(f"not exported: {error}", severity="error", markup=False)
            return
        self.notify(f"{len(written)} files in {Path('export').resolve()}", title="exported", markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterator[SystemCommand]:
        """What the command palette offers: the tabs, the keys that work everywhere, and the themes."""
        for tab, (title, _, _) in TABS.items():
            yield SystemCommand(f"Open {title}", f"the tab {title}", lambda tab=tab: self.action_tab(tab))
        yield SystemCommand("Steer", "stop, save, evaluate, pause or resume the selected run", self.action_steer)
        yield SystemCommand("Follow", "stay on the newest run", self.action_follow)
        yield SystemCommand("Export", "curves and samples of the shown runs as CSV", self.action_export)
        yield SystemCommand("Help", "every key", self.action_help)
        for theme in THEMES:
            yield SystemCommand(f"Theme {theme.name}", "colours", lambda name=theme.name: setattr(self, "theme", name))
        yield SystemCommand("Quit", "leave; runs go on", self.exit)


def started(run: RunView) -> float:
    """When a run began, as far as anybody knows: to find the newest."""
    series = run.metrics.get("train/loss")
    if series is not None and len(series) and series.timestamps[0] == series.timestamps[0]:
        return float(series.timestamps[0])
    try:
        return os.stat(run.path / "config.json").st_mtime
    except OSError:
        return 0.0


def _severe(alerts: list[Any]) -> bool:
    return any(alert.severe for alert in alerts)
