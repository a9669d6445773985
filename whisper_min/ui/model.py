"""Runs as the screens see them; one door to `RunView`, `Workspace`, `Table` and `Series`."""

from whisper_min.ui.run_view import CRASHED, ENDED, STALLED, Deadline, RunView, process_lives, set_name
from whisper_min.ui.table import Series, Table
from whisper_min.ui.workspace import Workspace, find_runs

__all__ = [
    "CRASHED",
    "ENDED",
    "STALLED",
    "Deadline",
    "RunView",
    "Series",
    "Table",
    "Workspace",
    "find_runs",
    "process_lives",
    "set_name",
]
