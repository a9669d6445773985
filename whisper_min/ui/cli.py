"""The command line of tui.py, and what it says to input that it cannot use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from whisper_min.ui.model import Workspace

MAKE_ONE = "make one with: python train.py --demo"
LEAST_WIDTH, LEAST_HEIGHT = 60, 16


def parser() -> argparse.ArgumentParser:
    """What the command line takes. Not tyro: it would take a fifth of the start."""
    made = argparse.ArgumentParser("tui.py", description="Watch, read, compare and steer runs in the terminal.")
    made.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="the folder of runs, or one run")
    made.add_argument("--once", action="store_true", help="print a table and end")
    made.add_argument("--json", action="store_true", help="with --once: print JSON")
    made.add_argument("--export", type=Path, metavar="DIR", help="write curves and samples as CSV and end")
    made.add_argument("--filter", default="", metavar="TEXT", help="runs to list: method=lora lr>=1e-4 state:running")
    made.add_argument("--follow", action="store_true", help="stay on the newest run; waits where there is none yet")
    made.add_argument("--ascii", action="store_true", help="draw with plain characters alone")
    return made


def fault_of(folder: Path, follow: bool) -> str | None:
    """Why runs cannot be read there, and what to do; None where they can."""
    if not folder.exists():
        if follow and folder.parent.is_dir():
            return None
        return f"{folder}: no such folder; {MAKE_ONE}, or name another: python tui.py FOLDER"
    if not folder.is_dir():
        return f"{folder}: is a file; name the folder of runs: python tui.py FOLDER"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder}: may not be read; ask its owner for permission (chmod a+rX {folder})"
    return None


def fault_of_terminal() -> str | None:
    """Why no app can be shown; None where it can."""
    # Textual draws on stderr and reads keys from stdin
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.__stderr__ is not None and sys.__stderr__.isatty()):
        return "not a terminal; for a pipe or a file use: python tui.py --once (and --json)"
    width, height = os.get_terminal_size(sys.__stderr__.fileno())
    if 0 < width < LEAST_WIDTH or 0 < height < LEAST_HEIGHT:
        return f"the terminal is {width}×{height}; make it {LEAST_WIDTH}×{LEAST_HEIGHT} at least, or use --once"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Show the app, or print and write as asked; the exit code: 0, or 2 for input that cannot be used."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(words)
    folder: Path = options.folder
    printing = options.once or options.json or options.export is not None
    fault = fault_of(folder, options.follow and not printing)
    if fault is None and not (options.follow and not printing):
        workspace = Workspace(folder)
        workspace.tick(0.0)
        if not workspace.runs:
            fault = f"{folder}: holds no runs; {MAKE_ONE}, or wait for the first with --follow"
    if fault is None and not printing:
        fault = fault_of_terminal()
    if fault is not None:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    if printing:
        from whisper_min.ui import once

        return once.run(workspace, options.filter, as_json=options.json, export_to=options.export)
    return show(options)


def show(options: argparse.Namespace) -> int:
    """Run the app until it is left."""
    # fifteen frames a second are calm and cheap over ssh; the user's own wish counts
    os.environ.setdefault("TEXTUAL_FPS", "15")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    from whisper_min.ui import state
    from whisper_min.ui.app import WhisperApp

    app = WhisperApp(
        options.folder,
        follow=options.follow,
        ascii_only=options.ascii,
        filter_text=options.filter,
        remember=state.state_file(),
    )
    app.run()
    return app.return_code or 0
