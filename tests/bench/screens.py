"""The README's pictures of the terminal: tui.py on a folder of runs, its screens written as SVG.

python tests/bench/screens.py runs --out tests/bench/figures
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
SCREENS = {"runs": "", "curves": "2", "transcripts": "3"}
SIZE = (120, 34)


async def draw(folder: Path, out: Path) -> None:
    """One picture a screen."""
    for name, keys in SCREENS.items():
        app = WhisperApp(folder)
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause(2.0)  # the runs are read
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
    options = parser.parse_args()
    asyncio.run(draw(options.folder, options.out))


if __name__ == "__main__":
    main()
