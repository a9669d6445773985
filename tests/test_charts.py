"""The curves: what is drawn as text, what keys and mouse do, at every size, and that idle charts are left alone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input

from whisper_min.runs import append_jsonl, write_atomic
from whisper_min.ui import themes
from whisper_min.ui.chart import Chart
from whisper_min.ui.charts import CurvesPane, grid_for
from whisper_min.ui.curves import x_values
from whisper_min.ui.looks import Look
from whisper_min.ui.metric_names import in_order, kind_of
from whisper_min.ui.model import Workspace
from whisper_min.ui.plot import Colours, Curve, Setting, draw
from whisper_min.ui.view import AXES, WEIGHTS, View

SIZES = [(80, 24), (120, 36), (200, 60)]
PLAIN = Colours(*[Style()] * 7)
LOOK = Look("#ff0000", "●")


def write_run(folder: Path, steps: int = 100, every: int = 25, shift: float = 0.0) -> None:
    """A run of noisy but fixed numbers; `train/loss` is not finite at step 50."""
    rng = np.random.default_rng(steps)
    folder.mkdir(parents=True)
    write_atomic(folder / "config.json", '{"eval_data": ["accents=a.jsonl"], "retain": ["general=g.jsonl"]}')
    rows: list[dict[str, Any]] = []
    for step in range(steps + 1):
        head = {"_step": step, "_timestamp": 1e9 + step, "_runtime": 2.0 * step, "_attempt": 1}
        if step:
            loss = math.nan if step == 50 else 2 * math.exp(-step / 30) + shift + 0.1 * rng.standard_normal()
            numbers = {"train/loss": loss, "train/lr": 1e-5 * step, "train/audio_seconds": 36.0 * step}
            rows.append({**head, **numbers, "train/grad_norm": 1.0 + rng.random(), "perf/data_wait": 0.01})
        if step % every == 0:
            for name, rate in (("accents", 0.5 - 0.003 * step), ("general", 0.1 + 0.0002 * step + shift)):
                rows.append({**head, f"eval/{name}/wer": rate, f"eval/{name}/words": 100, f"eval/{name}/cer": rate / 2})
    append_jsonl(folder / "metrics.jsonl", rows)


class Shown(App[None]):
    """The pane alone."""

    def __init__(self, folder: Path, names: Sequence[str] | None = None, ascii_only: bool = False) -> None:
        super().__init__()
        self.workspace, self.names = Workspace(folder), names
        self.workspace.read_all()
        self.curves = CurvesPane(ascii_only=ascii_only)

    def compose(self) -> ComposeResult:
        """The pane."""
        yield self.curves

    def on_mount(self) -> None:
        """Themes, and the first look."""
        for theme in themes.THEMES:
            self.register_theme(theme)
        self.theme = "whisper-dark"
        self.tick()
        self.curves.focus()

    def tick(self) -> None:
        """What the app does now and then."""
        self.workspace.read_all()
        runs = [run for run in self.workspace.runs.values() if self.names is None or run.name in self.names]
        self.curves.show(runs, runs[0] if runs else None)

    def charts(self) -> list[Chart]:
        """Those that are seen."""
        return [chart for chart in self.query(Chart) if chart.display]

    def rows(self, widget: Chart) -> list[str]:
        """What a chart looks like."""
        return [widget.render_line(row).text for row in range(widget.size.height)]


def seen(
    folder: Path, act: Callable[[Shown, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (120, 36), **how: Any
) -> None:
    """Run the app on a folder and act."""

    async def run() -> None:
        app = Shown(folder, **how)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await pilot.pause()
            await act(app, pilot)

    asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs."""
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", steps=60, every=20, shift=0.05)
    return tmp_path


# ---- One chart as text.


def rows_of(curves: list[Curve], width: int = 40, height: int = 10, **how: Any) -> list[str]:
    """A chart's rows without blanks at the end."""
    return [row.rstrip() for row in draw(width, height, curves, Setting(**how), PLAIN).canvas.rows()]


def curve(x: Sequence[float], y: Sequence[float], **more: Any) -> Curve:
    return Curve(np.array(x, float), np.array(y, float), LOOK, **more)


WER = {"title": "eval/a/wer", "kind": "percent", "x_range": (0, 400)}


def test_a_chart_of_evaluations() -> None:
    rows = rows_of([curve([0, 100, 200, 400], [0.5, 0.3, math.nan, 0.2], base=0.5)], **WER)
    assert rows == [
        "eval/a/wer                        ●20.0%",
        "      │●⡀⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂⠐⠂",
        "      │ ⠈⠢⡀",
        "   40%┤┈┈┈⠈⠢⡀┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈",
        "      │     ⠘⢄",
        "      │       ⠑●",
        "      │",
        "   20%┤┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈×┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈●",
        "      └┴───────────────┴───────────────┴",
        "       0              200            400",
    ]


def test_the_same_in_ascii() -> None:
    rows = rows_of([curve([0, 100, 200, 400], [0.5, 0.3, math.nan, 0.2], base=0.5)], ascii_only=True, **WER)
    assert rows == [
        "eval/a/wer                        ●20.0%",
        "      |●.'''''''''''''''''''''''''''''''",
        "      | '-.",
        "   40%+   '-.",
        "      |     '\\",
        "      |       \\●",
        "      |",
        "   20%+                !               ●",
        "      ++---------------+---------------+",
        "       0              200            400",
    ]


def test_the_crosshair_reads_the_nearest_value_and_nothing_beside_the_run() -> None:
    one = curve([0, 100, 200, 400], [0.5, 0.3, 0.25, 0.2])
    for at, said in ((140, "30.0%"), (160, "25.0%"), (400, "20.0%")):
        rows = rows_of([one], cursor=at, **WER)
        assert rows[0].endswith(f"●{said}")
        assert sum("│" in row[8:] for row in rows) >= 5
    assert rows_of([one], cursor=401, **WER)[0].endswith("●–")


def test_two_runs_in_one_chart_keep_their_markers_and_the_selected_one_its_value() -> None:
    other = Curve(np.array([0.0, 400.0]), np.array([0.4, 0.1]), Look("#00ff00", "■"))
    wide, narrow = (rows_of([other, curve([0, 400], [0.5, 0.2])], width=width, **WER)[0] for width in (40, 20))
    assert wide.endswith("■10.0% ●20.0%") and wide.startswith("eval/a/wer")
    assert narrow.endswith("●20.0%") and "■" not in narrow


def test_gaps_are_gaps_and_marked_on_the_floor() -> None:
    values = np.sin(np.arange(1000) / 50)
    values[400:600] = math.nan
    rows = rows_of([curve(np.arange(1000), values)], title="m", x_range=(0, 999))
    assert "×" in rows[7]
    gap = [row[21:25] for row in rows[1:7]]
    assert not any("⠀" < char <= "⣿" for row in gap for char in row)


def test_a_logarithmic_axis_leaves_out_what_is_not_positive() -> None:
    rows = rows_of([curve([1, 2, 3, 4], [0, 1, 100, 10000])], title="m", x_range=(1, 4), log_y=True)
    assert any("10k┤" in row for row in rows) and any("  1┤" in row for row in rows)


def test_raw_values_lie_dimmed_behind_the_smoothed_ones() -> None:
    raw, smoothed = np.tile([0.0, 2.0], 300), np.ones(600)
    both = Curve(np.arange(600.0), raw, LOOK, smoothed)
    strips = draw(40, 10, [both], Setting(title="m", x_range=(0, 599)), PLAIN).canvas.strips()
    styles = [[segment.style for segment in strip if segment.style is not None] for strip in strips]
    colours = [{style.color.name for style in row if style.color is not None} for row in styles]
    dim = LOOK.dimmed(PLAIN.background).color
    assert dim is not None
    assert [("#ff0000" in each, dim.name in each) for each in colours[1:8]].count((True, False)) == 1
    assert sum(dim.name in each and "#ff0000" not in each for each in colours[1:8]) == 6


def test_without_outliers_the_rest_fills_the_chart() -> None:
    values = np.concatenate([[1000.0], np.linspace(1, 2, 500)])
    assert "1000┤" in "".join(rows_of([curve(np.arange(501), values)], title="m", x_range=(0, 500)))
    assert "1000" not in "".join(rows_of([curve(np.arange(501), values)], title="m", x_range=(0, 500), clip=True)[1:8])


@pytest.mark.parametrize("values", [[], [math.nan] * 5, [0.0] * 5, [1e308, -1e308, 5.0], [5e-324, 1e-300], [7.0]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_and_any_size_can_be_drawn(values: list[float], log: bool) -> None:
    one = curve(range(len(values)), values)
    for width, height in ((0, 0), (1, 1), (13, 4), (14, 5), (40, 10), (300, 90)):
        drawn = draw(width, height, [one], Setting("train/loss", x_range=(0, 4), log_x=log, log_y=log, cursor=2), PLAIN)
        assert [len(row) for row in drawn.canvas.rows()] == [width] * height


@given(st.integers(20, 200), st.integers(0, 199))
def test_a_column_under_the_mouse_is_the_value_that_is_drawn_there(width: int, column: int) -> None:
    drawing = draw(width, 8, [], Setting("m", x_range=(0, 1000)), PLAIN)
    x = drawing.x_at(column)
    assert (x is None) == (not drawing.left <= column < width)
    if x is not None:
        assert 0 <= x <= 1000
        dot = float(drawing.x.at(x, drawing.columns * 2))
        assert round(dot - 0.01) // 2 == column - drawing.left


# ---- The settings.


def test_zooming_keeps_the_crosshair_where_it_is_and_stays_inside() -> None:
    view = View(cursor=25.0)
    view.zoom(0.5, None, (0, 100))
    assert view.x_range == pytest.approx((12.5, 62.5))
    view.pan(10, (0, 100))
    assert view.x_range == pytest.approx((50, 100)) and view.at_end
    assert view.range_within((0, 120)) == pytest.approx((70, 120)), "moves on with the run"
    view.zoom(8, None, (0, 120))
    assert view.x_range is None


@given(st.lists(st.tuples(st.sampled_from(["zoom", "pan", "cursor"]), st.floats(-3, 3)), max_size=12), st.booleans())
def test_no_keys_lead_out_of_the_data(keys: list[tuple[str, float]], log: bool) -> None:
    view, data = View(log_x=log), (0.0, 2000.0)
    for what, number in keys:
        if what == "zoom":
            view.zoom(2**number, None, data)
        elif what == "pan":
            view.pan(number, data)
        else:
            view.move_cursor(number, data)
        low, high = view.range_within(data)
        assert -1e-6 <= low < high <= 2000 * (1 + 1e-9)
        assert view.cursor is None or -1e-6 <= view.cursor <= 2000 * (1 + 1e-9)


def test_the_crosshair_stands_on_whole_steps_and_never_stands_still() -> None:
    view, data = View(), (0.0, 5.0)
    view.point(2.4)
    assert view.cursor == 2
    for expected in (3, 4, 5, 5):
        view.move_cursor(0.01, data)
        assert view.cursor == expected
    view.axis = "audio"
    view.point(2.4)
    view.move_cursor(-0.1, data)
    assert view.cursor == pytest.approx(1.9)


def test_a_view_is_remembered_and_nonsense_is_not() -> None:
    view, again = View(), View()
    view.next_axis()
    view.smooth(1)
    view.log_y = {"train/lr"}
    again.from_json(view.to_json())
    assert (again.axis, again.weight, again.log_y) == (AXES[1], WEIGHTS[5], {"train/lr"})
    again.from_json({"axis": "sideways", "weight": "heavy", "log_y": 5, "clip": None})
    assert again.to_json() == view.to_json()


def test_metrics_in_the_order_of_what_they_tell() -> None:
    keys = "perf/mfu train/lr eval/g/wer eval/a/wer train/loss eval/pooled_general/relative_loss eval/a/words train/kl"
    expected = "train/loss eval/a/wer eval/g/wer eval/pooled_general/relative_loss train/lr train/kl perf/mfu"
    assert in_order(keys.split(), ["g"]) == expected.split()
    assert in_order(keys.split(), ["g"], "WORDS a") == ["eval/a/words"]
    assert (kind_of("eval/a/wer"), kind_of("eval/pooled_general/relative_loss"), kind_of("train/lr")) == (
        "percent",
        "signed",
        "number",
    )


def test_the_grid_fits_and_has_no_empty_rows() -> None:
    assert grid_for(80, 20, 30) == (2, 2)
    assert grid_for(120, 33, 30) == (3, 3)
    assert grid_for(200, 56, 30) == (5, 5)
    assert grid_for(200, 56, 4) == (2, 2)
    assert grid_for(10, 3, 30) == grid_for(300, 90, 0) == (1, 1)


# ---- The pane.


@pytest.mark.parametrize("size", [*SIZES, (40, 12), (300, 90)])
def test_every_size_is_filled_and_not_overrun(folder: Path, size: tuple[int, int]) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        for _ in range(2):
            charts = app.charts()
            assert charts
            for widget in app.screen.walk_children():
                if widget.display and widget.region:
                    assert widget.region.right <= size[0] and widget.region.bottom <= size[1]
            assert all(len(row) == chart.size.width for chart in charts for row in app.rows(chart))
            await pilot.press("enter")
            await pilot.pause()
        assert len(app.charts()) > 1 or size[0] < 80

    seen(folder, act, size)


def test_keys_go_from_chart_to_chart_and_over_the_pages_edge(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        pane = app.curves
        assert pane.active_key == "train/loss" and len(app.charts()) == 4
        await pilot.press("right", "down")
        assert (pane.active, pane.active_key) == (3, pane.keys[3])
        await pilot.press("l")
        await pilot.pause()
        assert pane.active == 4 and app.charts()[0].setting.title == pane.keys[4]
        await pilot.press("pageup", "left", "left", "left", "left", "left")
        assert pane.active == 0
        await pilot.press("enter")
        await pilot.pause()
        assert len(app.charts()) == 1
        await pilot.press("j")
        assert pane.active == 1 and pane.full
        await pilot.press("escape")
        await pilot.pause()
        assert len(app.charts()) == 4 and not pane.full

    seen(folder, act, (80, 24))


def test_smoothing_axes_and_logarithms(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        view, loss = app.curves.view, app.charts()[0]
        assert loss.curves[-1].smoothed is not None
        await pilot.press(*["S"] * 8)
        assert view.weight == 0 and loss.curves[-1].smoothed is None
        await pilot.press("s")
        assert view.weight == WEIGHTS[1] and loss.curves[-1].smoothed is not None
        assert app.charts()[1].curves[-1].smoothed is None, "evaluations are never smoothed"
        ends = {}
        for _ in AXES:
            ends[view.axis] = loss.setting.x_range
            await pilot.press("x")
        assert view.axis == "step"
        assert ends["step"] == (0, 100) and ends["time"] == (0, 200) and ends["audio"] == pytest.approx((0, 1))
        await pilot.press("y", "X")
        assert loss.setting.log_y and loss.setting.log_x and not app.charts()[1].setting.log_y

    seen(folder, act)


def test_the_crosshair_is_shared_and_its_values_are_read_out(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        await pilot.press("full_stop")
        assert app.curves.view.cursor == pytest.approx(50, abs=1)
        assert {chart.setting.cursor for chart in app.charts()} == {app.curves.view.cursor}
        await pilot.press("greater_than_sign")
        assert app.curves.view.cursor == pytest.approx(60, abs=1)
        wer = app.charts()[1]
        assert app.rows(wer)[0].rstrip().endswith("●35.0%"), "the nearest evaluation is the one at step 50"
        assert "step 60" in str(app.curves.query_one("#curves-head").render())
        await pilot.hover(wer, offset=(wer.size.width - 1, 3))
        await pilot.pause()
        assert app.curves.view.cursor == pytest.approx(100, abs=2)
        await pilot.press("0")
        assert app.curves.view.cursor is None

    seen(folder, act)


def test_the_mouse_zooms_selects_and_opens(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        chart = app.charts()[0]
        chart.post_message(Chart.Zoomed(50.0, 0.5))
        await pilot.pause()
        assert chart.setting.x_range == pytest.approx((25, 75), abs=0.5)
        await pilot.press("escape")
        assert chart.setting.x_range == (0, 100)
        await pilot.mouse_down(chart, offset=(10, 3))
        await pilot.mouse_up(chart, offset=(20, 3))
        await pilot.pause()
        assert chart.setting.x_range == pytest.approx((chart.x_at(7), chart.x_at(chart.size.width - 1)), abs=0.3)
        assert chart.setting.x_range[1] - chart.setting.x_range[0] < 50
        await pilot.click(chart, offset=(10, 3), times=2)
        await pilot.pause()
        assert app.curves.full

    seen(folder, act)


def test_a_metric_is_found_by_name(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        pane = app.curves
        await pilot.press("slash", *"cer gen")
        await pilot.pause()
        assert pane.keys == ["eval/general/cer"]
        await pilot.press("enter")
        await pilot.pause()
        assert not pane.query_one(Input).display and [chart.setting.title for chart in app.charts()] == pane.keys
        await pilot.press("escape")
        await pilot.pause()
        assert len(pane.keys) > 4
        await pilot.press("slash", *"zz", "enter")
        await pilot.pause()
        assert "no metric is called zz" in str(pane.query_one("#curves-head").render())
        await pilot.press("enter", "x", "y", "full_stop", "plus", "left", "pagedown", "o", "0", "escape")

    seen(folder, act)


def test_only_what_changed_is_drawn_again(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        await pilot.pause()
        before = {chart: chart.draws for chart in app.charts()}
        for _ in range(3):
            app.tick()
            await pilot.pause()
        assert all(chart.draws == draws for chart, draws in before.items())
        append_jsonl(folder / "one" / "metrics.jsonl", [{"_step": 100, "train/loss": 9.0, "_runtime": 200.0}])
        app.tick()
        await pilot.pause()
        drawn = [chart.setting.title for chart, draws in before.items() if chart.draws > draws]
        assert drawn == ["train/loss"]
        assert app.charts()[0].curves[-1].y[-1] == 9.0, "the last value of a step counts"

    seen(folder, act)


def test_runs_may_come_go_and_be_none(folder: Path, tmp_path: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        legend = app.curves.query_one("#curves-legend")
        assert "one" in str(legend.render()) and "two" in str(legend.render())
        app.names = ["two"]
        app.tick()
        await pilot.pause()
        assert "one" not in str(legend.render()) and all(len(chart.curves) == 1 for chart in app.charts())
        app.names = []
        app.tick()
        await pilot.pause()
        assert app.charts() == [] and "no metrics yet" in str(app.curves.query_one("#curves-head").render())
        await pilot.press("enter", "right")

    seen(folder, act)


def test_colours_and_markers_stay_with_their_runs_in_every_theme(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        looks = {run.name: app.curves._look(run) for run in app.workspace.runs.values()}
        assert len({look.colour for look in looks.values()}) == len({look.marker for look in looks.values()}) == 2
        app.names = ["two"]
        app.tick()
        assert app.charts()[0].curves[0].look == looks["two"]
        app.theme = "whisper-light"
        app.tick()
        await pilot.pause()
        assert app.charts()[0].curves[0].look.colour != looks["two"].colour
        assert app.charts()[0].curves[0].look.marker == looks["two"].marker

    seen(folder, act)


def test_without_colours_markers_tell_the_runs_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def act(app: Shown, pilot: Pilot[None]) -> None:
        text = "".join(app.rows(app.charts()[0])[1:])
        assert text.count("●") >= 4 and text.count("■") >= 4

    seen(folder, act)


def test_ascii_is_ascii(folder: Path) -> None:
    async def act(app: Shown, pilot: Pilot[None]) -> None:
        await pilot.press("full_stop")
        assert all(row.replace("–", "-").isascii() for chart in app.charts() for row in app.rows(chart))

    seen(folder, act, ascii_only=True)


def test_a_view_outlives_the_app(folder: Path) -> None:
    known: dict[str, Any] = {}

    async def leave(app: Shown, pilot: Pilot[None]) -> None:
        await pilot.press("x", "right", "enter")
        known.update(app.curves.to_json())

    async def come_back(app: Shown, pilot: Pilot[None]) -> None:
        app.curves.from_json(known)
        app.tick()
        await pilot.pause()
        assert app.curves.full and app.curves.view.axis == "relative" and app.curves.active_key == "eval/accents/wer"

    seen(folder, leave)
    seen(folder, come_back)


def test_x_never_falls_and_knows_what_was_heard(folder: Path) -> None:
    workspace = Workspace(folder)
    workspace.read_all()
    run = workspace.runs["one"]
    wer = run.metrics["eval/accents/wer"]
    audio = run.metrics["train/audio_seconds"]
    np.testing.assert_allclose(x_values(run, wer, "audio", audio), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(x_values(run, wer, "time", None), [0, 50, 100, 150, 200])
    assert not np.isfinite(x_values(run, wer, "audio", None)).any()


def test_a_grid_of_long_curves_is_drawn_fast() -> None:
    """Twelve charts of 100,000 points in less than 30 ms; ten times that here, as other processes may be running."""
    rng = np.random.default_rng(0)
    x = np.arange(100_000.0)
    curves = [Curve(x, rng.standard_normal(len(x)), LOOK, rng.standard_normal(len(x))) for _ in range(12)]
    started = time.process_time()
    for each in curves:
        draw(50, 11, [each], Setting("train/loss", x_range=(0, 99_999)), PLAIN).canvas.strips()
    assert time.process_time() - started < 0.3
