"""The terminal app of `tui.py`: what a run folder holds, read as it grows and drawn with Textual. No torch.

tail.py     new bytes of a file that grows, is cut, replaced or deleted
table.py    rows of JSON lines as numpy columns: one `Series` a metric
model.py    `RunView` (run_view.py) and `Workspace` (workspace.py): runs as the screens see them
filters.py  `method=lora lr>=1e-4 state:running`
alerts.py   what is wrong with a run
app.py      the app; its tabs live in screens/, charts.py, transcripts.py and frontier.py
once.py     the same in plain text; export.py writes CSV

A tab is a widget with `show(runs, selected)`, called at every tick: `runs` are those marked for comparison, or the
selected one alone; it remembers a run's `version` and does nothing where that is unchanged.
"""
