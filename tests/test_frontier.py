"""The frontier: which points there are, where they are drawn, the budget, the choice, and the list below."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from whisper_min.runs import append_jsonl, write_atomic
from whisper_min.ui import themes
from whisper_min.ui.frontier import FrontierPane, FrontierPlot, PointList
from whisper_min.ui.frontier_plot import FrontierDrawing
from whisper_min.ui.looks import Look
from whisper_min.ui.model import Workspace
from whisper_min.ui.plot import Colours
from whisper_min.ui.points import Point, Track, pool, sweeps_of, track_of

PLAIN = Colours(*[Style()] * 7)
LOOKS = {"a": Look("#ff0000", "●"), "b": Look("#00ff00", "■")}


def sweep_rows(step: int, points: dict[float, tuple[float, float]], lines: float | None = None) -> list[dict[str, Any]]:
    """As a sweep writes them: alpha -> (domain, general)."""
    return [
        {"_step": step, "alpha": alpha, "lines": lines, "set": name, "role": role, "wer": wer, "words": words}
        for alpha, (domain, general) in points.items()
        for name, role, wer, words in (("accents", "domain", domain, 50), ("general", "general", general, 100))
    ]


def choice(step: int | None, alpha: float | None, chosen: bool = True) -> dict[str, Any]:
    return {"chosen": chosen, "_step": step, "alpha": alpha, "lines": None, "answer": "chosen", "reason": "because"}


def write_run(folder: Path, sweep: bool = True) -> None:
    """Evaluations at 0, 50 and 100; two general sets of different sizes; a sweep of the last checkpoint."""
    folder.mkdir(parents=True)
    config = '{"eval_data": ["accents=a.jsonl"], "retain": ["general=g.jsonl", "more=m.jsonl"], "max_forgetting": 0.05}'
    write_atomic(folder / "config.json", config)
    rows: list[dict[str, Any]] = []
    for step in (0, 50, 100):
        row: dict[str, Any] = {"_step": step, "_runtime": float(step)}
        for name, wer, words in (("accents", 0.5 - 0.003 * step, 50), ("general", 0.1, 100), ("more", 0.1, 300)):
            row |= {f"eval/{name}/wer": wer + (0.0002 * step if name == "more" else 0), f"eval/{name}/words": words}
        rows.append(row)
    append_jsonl(folder / "metrics.jsonl", rows)
    if sweep:
        points = {0.0: (0.5, 0.1), 0.5: (0.3, 0.104), 1.0: (0.2, 0.115)}
        append_jsonl(folder / "sweep.jsonl", [*sweep_rows(100, points), choice(100, 0.5)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with a sweep and one without."""
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", sweep=False)
    return tmp_path


# ---- Points.


def test_evaluations_and_sweeps_become_points(folder: Path) -> None:
    workspace = Workspace(folder)
    workspace.read_all()
    track = track_of(workspace.runs["one"])
    assert [(point.step, point.label) for point in track.evaluations] == [
        (0, "original"),
        (50, "step 50"),
        (100, "step 100"),
    ]
    last = track.evaluations[-1]
    assert last.domain == pytest.approx(0.2, abs=1e-6)
    assert last.general == pytest.approx((0.1 * 100 + 0.12 * 300) / 400, abs=1e-6), "pooled by words"
    assert last.loss == pytest.approx(0.15, abs=1e-5)
    assert [point.label for point in track.sweeps[0]] == ["original", "α 0.5", "α 1"]
    assert [point.chosen for point in track.sweeps[0]] == [False, True, False]
    assert track.budget == 0.05 and track.original is track.evaluations[0]


def test_the_newest_choice_counts_and_a_row_written_again_replaces_the_first() -> None:
    rows = [*sweep_rows(100, {0.5: (0.3, 0.1), 1.0: (0.2, 0.1)}), choice(100, 0.5)]
    assert [point.chosen for point in sweeps_of("a", rows)[0]] == [True, False]
    again = [*rows, *sweep_rows(100, {0.5: (0.25, 0.1)}), choice(100, 1)]
    assert [(point.domain, point.chosen) for point in sweeps_of("a", again)[0]] == [(0.25, False), (0.2, True)]
    nothing = [*rows, choice(None, None, chosen=False)]
    assert not any(point.chosen for point in sweeps_of("a", nothing)[0])


def test_checkpoints_and_layerwise_sweeps_are_lines_of_their_own() -> None:
    rows = [
        *sweep_rows(50, {0.5: (0.3, 0.1)}),
        *sweep_rows(100, {0.5: (0.3, 0.1)}),
        *sweep_rows(100, {0.5: (0.3, 0.1)}, 0.8),
    ]
    assert [[point.step for point in sweep] for sweep in sweeps_of("a", rows)] == [[50], [100], [100]]


@given(st.lists(st.dictionaries(
    st.sampled_from(["_step", "alpha", "lines", "set", "role", "wer", "words", "chosen"]),
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.sampled_from(["domain", "general", ""]),
              st.lists(st.integers(), max_size=2)),
), max_size=12))  # fmt: skip
def test_foreign_rows_are_left_out(rows: list[dict[str, Any]]) -> None:
    for sweep in sweeps_of("a", rows, ["general"]):
        assert all(math.isfinite(point.domain) and math.isfinite(point.general) for point in sweep)


def test_pooling_counts_errors() -> None:
    assert pool([(0.1, 100), (0.5, 300)]) == pytest.approx(0.4)
    assert pool([(0.1, None), (0.3, "many")]) == pytest.approx(0.2)


# ---- The drawing.


def tracks() -> list[Track]:
    """Two runs: one within the budget, one far beyond it."""
    a = [
        Point("a", 0, None, 0.5, 0.1, 0.0),
        Point("a", 50, None, 0.3, 0.102, 0.02),
        Point("a", 100, None, 0.2, 0.11, 0.1),
    ]
    between = [Point("a", 100, 0.5, 0.32, 0.104, 0.04, chosen=True), Point("a", 100, 0.9, 0.22, 0.108, 0.08)]
    b = [Point("b", 0, None, 0.5, 0.1, 0.0), Point("b", 80, None, 0.15, 0.125, 0.25)]
    return [Track("a", a, [between], 0.05), Track("b", b, [], 0.05)]


def drawn(size: tuple[int, int] = (64, 16), **how: Any) -> FrontierDrawing:
    return FrontierDrawing(size, how.pop("tracks", tracks()), LOOKS, PLAIN, **how)


def test_the_frontier_as_text() -> None:
    assert [row.rstrip() for row in drawn().canvas.rows()] == [
        "domain WER ↑  relative loss in general →                ↙ better",
        "      │    original ┊budget +5.0%╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "   50%┤   ◎⠑⠢⢄⣀     ┊╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │    ⢇   ⠉⠒⠤⢄⡀┊╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │    ⠸⡀      ⠈⠑⠢⠤⣀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "   40%┤     ⢣       ┊╱╱╱⠉⠒⠢⢄⡀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │     ⠈⡆      ┊╱╱╱╱╱╱╱⠈⠉⠒⠤⣀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │      ⠸⡀   ★ ┊╱╱╱╱╱╱╱╱╱╱╱╱⠉⠑⠢⢄⣀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "   30%┤    50 ●⠢⢄⣀ chosen α 0.5╱╱╱╱╱╱╱⠉⠒⠤⣀⡀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │           ⠉⠑⠢⠤⠐⡀⡀╱╱α 0.9╱╱╱╱╱╱╱╱╱╱⠈⠑⠢⠤⣀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      │             ┊╱╱⠈⠑⠂∙⣀⡀╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱⠉⠒⠢⢄⡀╱╱╱╱╱╱╱╱╱╱╱╱",
        "   20%┤             ┊╱╱╱╱╱╱╱⠉⠑●╱100╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱⠈⠑⠒⠤⣀╱╱╱╱╱80╱",
        "      │             ┊╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱⠉⠑⠢⢄■╱╱╱",
        "      │             ┊╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱╱",
        "      └───┴───────────────────┴───────────────────┴─────────────",
        "         0%                 +10%                +20%",
    ]


def test_every_point_lies_in_its_cell_and_the_budget_between_the_points() -> None:
    drawing = drawn((100, 30))
    rows = drawing.canvas.rows()
    glyphs = {}
    for point in drawing.points:
        column, row = drawing.cell(point)
        glyphs[point.run, point.label] = rows[row][column]
    assert glyphs["a", "original"] == glyphs["b", "original"] == "◎"
    assert glyphs["a", "α 0.5"] == "★" and glyphs["a", "α 0.9"] == "∙"
    assert glyphs["a", "step 100"] == "●" and glyphs["b", "step 80"] == "■"
    line = {row.index("┊") for row in rows if "┊" in row}
    chosen, beyond = (drawing.cell(tracks()[0].points[index])[0] for index in (3, 2))
    assert len(line) == 1 and chosen < line.pop() < beyond


def test_by_general_wer_the_budget_moves_along() -> None:
    drawing = drawn(by_loss=False)
    assert drawing.budgets == [pytest.approx(0.105)]
    assert "budget 10.5%" in "\n".join(drawing.canvas.rows()) and "general WER" in drawing.canvas.rows()[0]


def test_names_lie_on_no_other_point_and_the_choice_is_named_in_any_case() -> None:
    crowd = [Point("a", step, None, 0.3 + 0.001 * step, 0.1, 0.001 * step) for step in range(1, 60)]
    chosen = [Point("a", 100, 0.5, 0.33, 0.1, 0.03, chosen=True)]
    drawing = drawn((80, 24), tracks=[Track("a", crowd, [chosen], None)])
    text = "\n".join(drawing.canvas.rows())
    assert "chosen α 0.5" in text and "┊" not in text
    column, row = drawing.cell(chosen[0])
    assert drawing.canvas.rows()[row][column] == "★"


def test_what_is_picked_is_bright() -> None:
    picked = tracks()[0].evaluations[1]
    bright = Style(color="white", bold=True)
    colours = replace(PLAIN, title=bright)
    strips = FrontierDrawing((64, 16), tracks(), LOOKS, colours, picked=picked).canvas.strips()
    texts = [segment.text.strip() for strip in strips[1:] for segment in strip if segment.style == bright]
    assert sorted(texts) == ["50 ●", "original", "◎"]


@pytest.mark.parametrize("size", [(0, 0), (5, 2), (14, 5), (40, 10), (300, 90)])
@pytest.mark.parametrize(
    "made", [[], [Track("a", [], [], 0.1)], [Track("a", [Point("a", 5, None, 0.2, 0.1)], [], None)]]
)
def test_any_size_and_few_points(size: tuple[int, int], made: list[Track]) -> None:
    for by_loss in (False, True):
        rows = drawn(size, tracks=made, by_loss=by_loss).canvas.rows()
        assert [len(row) for row in rows] == [size[0]] * size[1]


def test_ascii_is_ascii() -> None:
    assert all(
        row.isascii() for row in FrontierDrawing((80, 20), tracks(), ASCII_LOOKS, PLAIN, ascii_only=True).canvas.rows()
    )


ASCII_LOOKS = {"a": Look("#ff0000", "o"), "b": Look("#00ff00", "x")}


# ---- The pane.


class Shown(App[None]):
    """The pane alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.workspace, self.frontier = Workspace(folder), FrontierPane()
        self.names: list[str] | None = None

    def compose(self) -> ComposeResult:
        """The pane."""
        yield self.frontier

    def on_mount(self) -> None:
        """The first look."""
        for theme in themes.THEMES:
            self.register_theme(theme)
        self.tick()
        self.frontier.focus()

    def tick(self) -> None:
        """What the app does now and then."""
        self.workspace.read_all()
        runs = [run for run in self.workspace.runs.values() if self.names is None or run.name in self.names]
        self.frontier.show(runs, runs[0] if runs else None)

    def rows(self) -> list[str]:
        """The list as text."""
        points = self.query_one(PointList)
        return [points.line(index, points.size.width).plain for index in range(points.count)]


def seen(folder: Path, act: Callable[[Shown, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (120, 36)) -> None:
    """Run the app on a folder and act."""

    async def run() -> None:
        app = Shown(folder)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await pilot.pause()
            await act(app, pilot)

    asyncio.run(run())


def test_the_list_says_the_numbers(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        rows = [row.split() for row in app.rows()]
        assert rows[0] == ["◎", "original", "50.0%", "10.0%"]
        assert rows[1] == ["★", "one", "α", "0.5", "30.0%", "-20.0%", "10.4%", "+4.0%", "within"]
        assert ["●", "one", "step", "100", "20.0%", "-30.0%", "11.5%", "+15.0%", "over"] in rows
        assert ["■", "two", "step", "50", "35.0%", "-15.0%", "10.7%", "+7.5%", "over"] in rows

    seen(folder, act)


def test_the_point_under_the_cursor_is_marked_and_stays_so(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        plot, points = app.query_one(FrontierPlot), app.query_one(PointList)
        await pilot.press("down")
        assert plot.picked is not None and plot.picked.chosen
        append_jsonl(folder / "two" / "sweep.jsonl", sweep_rows(100, {0.3: (0.4, 0.1)}))
        app.tick()
        await pilot.pause()
        assert points.points[points.cursor][0] == plot.picked
        await pilot.press("x")
        assert not plot.by_loss and app.frontier.to_json() == {"by_loss": False}

    seen(folder, act)


def test_runs_may_go_and_nothing_is_said_in_words(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        app.names = []
        app.tick()
        await pilot.pause()
        plot = app.query_one(FrontierPlot)
        text = "\n".join(plot.render_line(row).text for row in range(plot.size.height))
        assert "no run here was evaluated" in text and app.rows() == []
        await pilot.press("down", "x")

    seen(folder, act)


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60), (40, 12), (300, 90)])
def test_every_size_is_filled_and_not_overrun(folder: Path, size: tuple[int, int]) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        for widget in app.screen.walk_children():
            if widget.display and widget.region:
                assert widget.region.right <= size[0] and widget.region.bottom <= size[1]
        plot = app.query_one(FrontierPlot)
        assert "domain WER" in plot.render_line(0).text

    seen(folder, act, size)
