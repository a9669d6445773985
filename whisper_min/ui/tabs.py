"""The tabs, and how their widgets are had: late, so that the app starts without what nobody opened yet."""

from __future__ import annotations

import importlib

from textual.widget import Widget
from textual.widgets import Static

# id -> title, module, class. A tab is imported when it is opened first.
TABS = {
    "runs": ("Runs", "screens.runs", "RunsPane"),
    "curves": ("Curves", "charts", "CurvesPane"),
    "transcripts": ("Transcripts", "transcripts", "TranscriptsPane"),
    "frontier": ("Frontier", "frontier", "FrontierPane"),
    "config": ("Config", "screens.configuration", "ConfigurationPane"),
    "system": ("System", "screens.system", "SystemPane"),
    "log": ("Log", "screens.log", "LogPane"),
    "alerts": ("Alerts", "screens.alerts", "AlertsPane"),
}


def make_pane(tab: str, ascii_only: bool = False) -> Widget:
    """The widget of a tab; what is wrong, in words, where it cannot be had."""
    title, module, name = TABS[tab]
    try:
        pane: Widget = getattr(importlib.import_module(f"whisper_min.ui.{module}"), name)()
    except (ImportError, AttributeError) as error:
        return Static(f"{title} cannot be shown: {error}", classes="missing", markup=False)
    if hasattr(pane, "ascii_only"):
        pane.ascii_only = ascii_only
    return pane
