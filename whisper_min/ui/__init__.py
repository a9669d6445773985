"""The terminal app of `tui.py`: what a run folder holds, read as it grows and drawn with Textual. No torch.

Reading
    tail.py         new bytes of a file that grows, is cut, replaced or deleted
    table.py        rows of JSON lines as numpy columns: one `Series` a metric
    run_view.py     `RunView`, one run as the screens see it; workspace.py all of them; model.py the door to both
    alerts.py       what is wrong with a run;  filters.py  `method=lora lr>=1e-4 state:running`

Without a screen
    once.py, export.py                              the same in plain text, JSON and CSV; cli.py the command line
    metric_names.py, curves.py, smoothing.py        from metrics to curves
    points.py                                       a run between the domain and everything else
    utterances.py, diff.py, spectrogram.py          an utterance: its place in the list, its words, its sound
    axes.py, canvas.py, frame.py, plot.py, frontier_plot.py   braille dots, scales, charts

With one
    app.py          the app, its clock and its keys; tabs.py which tabs there are, opened when they are asked for
    screens/        runs, configuration, system, log, alerts, steering, help
    charts.py       the curves (chart.py one of them, readout.py their numbers, view.py and view_keys.py how to look)
    transcripts.py  the utterances (utterance_list.py, detail.py, sound.py, spectrogram_view.py, play.py, picture.py)
    frontier.py     gain against forgetting
    lines.py, keys.py, words.py, looks.py, themes.py, colourmaps.py, machine.py, state.py   what they share

A tab is a widget with `show(runs, selected)`, called at every tick: `runs` are those marked for comparison, or the
selected one alone; it remembers a run's `version` and does nothing where that is unchanged.
"""
