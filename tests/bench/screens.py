"""The README's pictures of the terminal: tui.py on a folder of runs, its screens written as SVG.

python tests/bench/screens.py runs --mark one two
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

# the checkout is drawn, whatever is installed
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from whisper_min.ui.app import WhisperApp

# What is pressed before a picture is taken.
SCREENS = {"runs": "", "transcripts": "3", "frontier": "4"}
SIZE = (120, 34)


async def draw(folder: Path, out: Path, mark: list[str]) -> None:
    """One picture a screen, of the marked runs where there are any."""
    for name, keys in SCREENS.items():
        app = WhisperApp(folder)
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause(3.0)  # the runs are read
            if unknown := [run for run in mark if run not in app.workspace.runs]:
                sys.exit(f"error: --mark {' '.join(unknown)}: not among the runs of {folder}")
            app.runs_pane.marked, app.runs_pane.selected = list(mark), mark[-1] if mark else app.runs_pane.selected
            for key in keys:
                await pilot.press(key)
            await pilot.pause(2.0)  # the screen is filled, the spectrogram computed
            path = out / f"screen-{name}.svg"
            path.write_text(app.export_screenshot(title=f"python tui.py {folder.name}/"), encoding="utf-8")
            print(path)


def main() -> None:
    """Draw all screens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures")
    parser.add_argument("--mark", nargs="*", default=[], help="runs to compare, the last of them selected")
    options = parser.parse_args()
    asyncio.run(draw(options.folder, options.out, options.mark))


if __name__ == "__main__":
    main()
