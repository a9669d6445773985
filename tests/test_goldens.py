"""What every tab shows of the same runs at the same moment, letter by letter.

After a change that is meant: WHISPER_MIN_GOLDENS=write python -m pytest tests/test_goldens.py, then git diff.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import textual
from fake_run import make_run

from whisper_min.ui.app import WhisperApp
from whisper_min.ui.tabs import TABS

GOLDENS = Path(__file__).parent / "goldens"
START, NOW = 1.7e9, 1.7e9 + 60.0
SIZES = [(80, 24), (120, 36)]
# The machine's own meters are never the same twice.
STILL_TABS = [tab for tab in TABS if tab != "system"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs of another host, one of them alive, whose clocks are set."""
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"), "alive", 60, state="training", method="lora", lr=2e-4, max_forgetting=0.05)
    make_run(Path("runs"), "study/ended", 100)
    for path in Path("runs").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if "_timestamp" in row:
                row |= {"_timestamp": START + row["_step"] / 2, "_runtime": row["_step"] / 2}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in Path("runs").rglob("status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "far", "pid": 7, "heartbeat": NOW - 2}))
    return Path("runs")


def seen(app: WhisperApp) -> str:
    """The text on the screen, without the spaces at the ends of its lines."""
    lines = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines) + "\n"


async def still(pilot: Any) -> str:
    """The screen once it has stopped changing."""
    before, since, end = "", time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < 1.0:
        await pilot.pause(0.1)
        now = seen(pilot.app)
        if now != before:
            before, since = now, time.monotonic()
        assert time.monotonic() < end, f"the screen does not come to rest:\n{now}"
    return before


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_tab_shows_what_it_showed(folder: Path, size: tuple[int, int]) -> None:
    writing, drawn_by = os.environ.get("WHISPER_MIN_GOLDENS") == "write", GOLDENS / "textual.txt"
    if not writing and drawn_by.read_text().strip() != textual.__version__:
        pytest.skip(f"textual is {textual.__version__}; {drawn_by.read_text().strip()} draws the lines of the tabs")
    screens: dict[str, str] = {}

    async def look() -> None:
        app = WhisperApp(folder, clock=lambda: NOW)
        async with app.run_test(size=size) as pilot:
            for tab in STILL_TABS:
                await pilot.press(str(list(TABS).index(tab) + 1))
                screens[f"{tab}-{size[0]}x{size[1]}.txt"] = await still(pilot)

    asyncio.run(look())
    if writing:
        GOLDENS.mkdir(exist_ok=True)
        drawn_by.write_text(f"{textual.__version__}\n")
        for name, text in screens.items():
            (GOLDENS / name).write_text(text, encoding="utf-8")
    for name, text in screens.items():
        assert text == (GOLDENS / name).read_text(encoding="utf-8"), f"{name} has changed to:\n{text}"
