"""The app as a person uses it: every tab and key at three sizes, steering, what is printed and what is refused."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from fake_run import evaluation_row, make_run, set_status, train_row
from quick_model import ending_whisper, save_openai, write_set
from textual.widgets import Input

from whisper_min.runs import RunFolder, last_checkpoint, read_jsonl
from whisper_min.ui import alerts, cli
from whisper_min.ui.app import WhisperApp
from whisper_min.ui.filters import Filter
from whisper_min.ui.keys import KeyLine
from whisper_min.ui.model import RunView, Workspace
from whisper_min.ui.screens.alerts import AlertLines
from whisper_min.ui.screens.help import HelpScreen
from whisper_min.ui.screens.log import LogLines
from whisper_min.ui.screens.steering import SteerScreen
from whisper_min.ui.tabs import TABS

pytestmark = pytest.mark.slow  # the whole app, again and again

SIZES = [(80, 24), (120, 36), (200, 60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs: one that lives, one that ended, and one that lost general speech and looped."""
    runs = tmp_path / "runs"
    make_run(runs, "alive", 60, state="training", method="lora", lr=2e-4)
    make_run(runs, "ended", 100)
    worse = make_run(runs, "study/worse", 100, max_forgetting=0.05)
    worse.log_metrics(120, {**evaluation_row(120, 0.2, 0.08), "eval/accents/loops": 3})
    worse.log_metrics(121, {"train/loss": float("nan")})
    return runs


def drive(app: WhisperApp, size: tuple[int, int], what: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run the app without a terminal, and do something with it."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await wait(pilot, lambda: bool(app.runs_pane.listed) and not app.workspace.loading)
            await what(pilot)

    asyncio.run(run())


async def wait(pilot: Any, true: Callable[[], bool], seconds: float = 20.0, what: str = "it") -> None:
    """Until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what} did not come:\n{seen(pilot.app)}"
        await pilot.pause(0.05)
    await pilot.pause()


async def open_tab(pilot: Any, tab: str) -> None:
    """Press a tab's number, and wait until it has the keys."""
    app = pilot.app
    await pilot.press(str(list(TABS).index(tab) + 1))
    await wait(pilot, lambda: app._tab == tab and not app._focus_due)


def seen(app: WhisperApp) -> str:
    """The text on the screen."""
    size = app.size
    return "\n".join("".join(s.text for s in line) for line in app.screen._compositor.render_strips(size))


def over_the_edge(app: WhisperApp) -> list[Any]:
    """Widgets that reach beyond the right edge of the screen."""
    return [each for each in app.screen.walk_children() if each.display and each.region.right > app.size.width]


# ---- Every tab, every key.


@pytest.mark.parametrize("size", SIZES)
def test_every_tab_fits(folder: Path, size: tuple[int, int]) -> None:
    app = WhisperApp(folder)
    words = {
        "runs": ["alive", "study/worse", "training"],
        "config": ["method", "lora"],
        "system": ["this machine", "along alive", "gpu 0", "300 W"],
        "log": ["training 60/100", "train.log"],
        "alerts": ["study/worse", "not finite"],
    }

    async def look(pilot: Any) -> None:
        app.runs_pane.selected = "alive"
        app.draw()
        for tab in TABS:
            await open_tab(pilot, tab)
            assert over_the_edge(app) == []
            for word in words.get(tab, []):
                await wait(pilot, lambda word=word: word in seen(app), what=f"{word} in {tab}")
            text = seen(app)
            assert "cannot be shown" not in text
            assert "Help" in text
            assert "Quit" in text
            for width, height in SIZES if size == (80, 24) else ():
                await pilot.resize_terminal(width, height)
                await pilot.pause()
                assert over_the_edge(app) == []
            await pilot.resize_terminal(*size)

    drive(app, size, look)


@pytest.mark.parametrize("size", SIZES)
def test_no_key_breaks_anything(folder: Path, size: tuple[int, int]) -> None:
    """Every key of every tab, one after another, also where it makes no sense."""
    app = WhisperApp(folder)
    skip = {"q", "ctrl+c", "E", "e", "p"}  # leaves, writes files, plays sound

    async def press(pilot: Any) -> None:
        for tab in TABS:
            await open_tab(pilot, tab)
            for node, binding in [(n, b) for n, b, _, _ in app.screen.active_bindings.values()]:
                if binding.key in skip or binding.key.isdigit() or "tab" in binding.key or "ctrl" in binding.key:
                    continue
                await pilot.press(binding.key)
                await pilot.pause()
                while len(app.screen_stack) > 1:
                    await pilot.press("escape")
                    await pilot.pause()
                if isinstance(app.focused, Input):
                    await pilot.press("x", "escape")
                    await pilot.pause()
                assert over_the_edge(app) == [], (node, binding)
        assert app.return_code is None

    drive(app, size, press)


def test_help_names_every_key(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        said = {keys for _, section in app.screen._sections for keys, _ in section}
        shown = " ".join(said)
        for key in ("/", "space", "!", "{", "}", "q", "?", "T", "F", "E", "1", "8", "o", "p"):
            assert key in shown
        await pilot.press("escape")
        assert not isinstance(app.screen, HelpScreen)

    drive(app, (80, 24), look)


def test_the_key_line_keeps_help_and_quit(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        for tab in TABS:
            await open_tab(pilot, tab)
            line = seen(app).split("\n")[-1]
            assert len(line.rstrip()) <= 60
            assert "? Help" in line
            assert "q Quit" in line
        assert app.query_one(KeyLine).region.right == 60

    drive(app, (60, 20), look)


def test_a_small_terminal_says_so_and_comes_back(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        await pilot.resize_terminal(40, 10)
        await pilot.pause()
        assert "too small" in seen(app)
        await pilot.resize_terminal(300, 90)
        await pilot.pause(0.6)
        assert "alive" in seen(app)
        assert over_the_edge(app) == []

    drive(app, (80, 24), look)


# ---- The list.


def test_the_selection_stays_on_its_run(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        assert app.runs_pane.selected == "alive", "the one that lives"
        await pilot.press("down")
        assert app.runs_pane.selected == "ended"
        app.workspace.LIST_SECONDS = 0.0
        for name in ("a-first", "b-second"):
            make_run(folder, name, 40)
        await wait(pilot, lambda: len(app.runs_pane.listed) == 5)
        assert app.runs_pane.selected == "ended"
        view = app.runs_pane.view
        assert app.runs_pane.listed[view.cursor].name == "ended"
        shutil.rmtree(folder / "ended")
        await wait(pilot, lambda: len(app.runs_pane.listed) == 4)
        assert app.runs_pane.selected in app.workspace.runs

    drive(app, (120, 36), look)


def test_filter_sort_mark_and_pin(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        pane = app.runs_pane
        await pilot.press("slash", *"method=lora")
        assert [run.name for run in pane.listed] == ["alive"]
        await pilot.press("enter")
        await pilot.press("escape")
        assert len(pane.listed) == 3
        await pilot.press("slash", *"nothing", "enter")
        await pilot.pause()
        assert "No run fits" in seen(app)
        await pilot.press("escape")
        await pilot.press("home", "space", "space")
        assert pane.marked == ["alive", "ended"]
        assert [run.name for run in app.shown()] == ["alive", "ended"]
        await pilot.press("u")
        assert pane.marked == []
        await pilot.press("G", "p", "home")
        assert pane.listed[0].name == "study/worse", "pinned runs are on top"
        while pane.sort != "domain":
            await pilot.press("o")
        await pilot.press("O")
        rates = [run.domain_wer[1] for run in pane.listed if run.name not in pane.pinned]
        assert rates == sorted(rates, reverse=True)
        await pilot.press("enter")
        await wait(pilot, lambda: app._tab == "curves")

    drive(app, (120, 36), look)


def test_a_set_without_transcripts_shows_its_drift(folder: Path) -> None:
    run = RunFolder(folder / "alive")
    for step, drift in ((0, 0.0), (60, 0.012)):
        run.log_metrics(step, {"eval/untold/drift": drift, "eval/untold/words": 100})
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        app.runs_pane.selected = "alive"
        await wait(pilot, lambda: "untold" in seen(app))
        (line,) = [line for line in seen(app).splitlines() if line.split()[:1] == ["drift"]]
        assert line.split()[1] == "0.0→1.2" and line.split()[-1] == "untold"

    drive(app, (120, 36), look)


def test_follow_goes_to_the_newest(folder: Path) -> None:
    app = WhisperApp(folder, follow=True)

    async def look(pilot: Any) -> None:
        app.workspace.LIST_SECONDS = 0.0
        make_run(folder, "zz-newest", 5, state="training")
        await wait(pilot, lambda: app.runs_pane.selected == "zz-newest")
        await pilot.press("up")
        assert not app.following
        assert app.runs_pane.selected != "zz-newest"

    drive(app, (80, 24), look)


def test_follow_waits_for_the_first_run(tmp_path: Path) -> None:
    app = WhisperApp(tmp_path / "runs", follow=True)

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause(0.2)
            assert "No runs yet" in seen(app)
            app.workspace.LIST_SECONDS = 0.0
            make_run(tmp_path / "runs", "first", 5)
            await wait(pilot, lambda: app.runs_pane.selected == "first")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "alive ended study/worse"),
        ("END", "ended"),
        ("-end", "alive study/worse"),
        ("method=lora lr>=1e-4", "alive"),
        ("lr<1e-4", "ended study/worse"),
        ("lr=0.0002", "alive"),
        ("state:running", "alive"),
        ("state:ended", "ended study/worse"),
        ("state!=finished", "alive"),
        ("-state:running", "ended study/worse"),
        ("step>=100", "ended study/worse"),
        ("domain<0.25", "ended study/worse"),
        ("train/lr<1", "alive ended study/worse"),
        ("device=cpu model:tiny", "alive ended study/worse"),
        ("nothing=5", ""),
        ("method=", "alive ended study/worse"),
        ("method>5", ""),
    ],
)
def test_filters(folder: Path, text: str, names: str) -> None:
    workspace = Workspace(folder)
    workspace.read_all()
    found = [name for name, run in sorted(workspace.runs.items()) if Filter(text).accepts(run)]
    assert found == names.split()


def test_the_view_is_remembered(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state" / "tui.json"
    app = WhisperApp(folder, remember=kept)

    async def change(pilot: Any) -> None:
        await pilot.press("down", "space", "o", "T")
        await open_tab(pilot, "curves")

    drive(app, (120, 36), change)
    again = WhisperApp(folder, remember=kept)

    async def look(pilot: Any) -> None:
        await wait(pilot, lambda: again._tab == "curves")
        assert again.runs_pane.marked == ["ended"]
        assert again.runs_pane.sort == "name"
        assert again.theme == "whisper-light"

    drive(again, (120, 36), look)
    kept.write_text('{"app": [], "folders": 5')
    drive(WhisperApp(folder, remember=kept), (120, 36), lambda pilot: pilot.pause())


# ---- A stranger's run.

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[red]"


def poisoned(folder: Path) -> RunFolder:
    """A run whose every text would steer the terminal: names, transcripts, log, configuration, status."""
    run = make_run(folder, f"run{ESCAPES}", model=ESCAPES, method=ESCAPES, eval_data=[f"{ESCAPES}=dev.jsonl"])
    rows = [{**row, "hypothesis": ESCAPES, "reference": ESCAPES, "set": ESCAPES, "id": ESCAPES + str(number),
             "audio_filepath": f"/{ESCAPES}", "flags": [ESCAPES]}
            for number, row in enumerate(read_jsonl(run.path / "samples.jsonl"))]  # fmt: skip
    run.append("samples.jsonl", rows)
    run.log_metrics(100, {f"eval/{ESCAPES}/wer": 0.3, ESCAPES: 1.0, f"eval/{ESCAPES}/loops": 3})
    run.append("sweep.jsonl", [{"_step": 100, "alpha": 0.5, "set": ESCAPES, "wer": 0.1, "checkpoint": ESCAPES}])
    run.log("system.jsonl", 100, {f"gpu/{ESCAPES}/use": 0.5})
    with open(run.path / "train.log", "a") as log:
        log.write(f"{ESCAPES} Traceback\n")
    set_status(run, state="failed", exit_reason=ESCAPES, last_command=ESCAPES, host=ESCAPES)
    return run


def test_a_stranger_s_run_cannot_steer_the_terminal(tmp_path: Path) -> None:
    poisoned(tmp_path)
    app = WhisperApp(tmp_path)

    async def look(pilot: Any) -> None:
        for tab in TABS:
            await open_tab(pilot, tab)
            await pilot.press("down", "enter")
            await pilot.pause()
            shown = seen(app)
            assert all(line.isprintable() for line in shown.split("\n")), (tab, ascii(shown))
            assert not set("\x1b\x07\x9b\u202e") & set(shown), tab
            await pilot.press("escape")

    drive(app, (120, 36), look)


@pytest.mark.parametrize("words", [["--once"], ["--once", "--json"]])
def test_a_stranger_s_run_is_listed_harmlessly(words: list[str], tmp_path: Path) -> None:
    poisoned(tmp_path)
    command = [sys.executable, str(REPOSITORY / "tui.py"), *words, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    assert "[red]" in done.stdout and (words == ["--once"] or json.loads(done.stdout)[0]["name"] == f"run{ESCAPES}")


# ---- Log, configuration, alerts.


def test_the_log_is_followed_and_searched(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        await open_tab(pilot, "log")
        with open(folder / "alive" / "train.log", "a") as file:
            file.write("a new line with \x1b[31mcolour\nTraceback: error\n")
        await wait(pilot, lambda: "a new line" in seen(app))
        view = app.query_one(LogLines)
        assert "\x1b" not in seen(app)
        await pilot.press("slash", *"step 20", "enter")
        await pilot.pause()
        assert view.here >= 0
        assert "step 20:" in view.lines[view.here]
        await pilot.press("m")
        assert len(view.lines) == 1
        await pilot.press("escape")
        assert len(view.lines) > 60
        await pilot.press("slash", *"(", "escape")

    drive(app, (80, 24), look)


def test_differences_between_runs(folder: Path) -> None:
    app = WhisperApp(folder)

    async def look(pilot: Any) -> None:
        await pilot.press("home", "space", "space")
        await open_tab(pilot, "config")
        text = seen(app)
        assert "method" in text
        assert "lora" in text
        assert "eval_data" not in text, "what is the same is left out"
        await pilot.press("d")
        await pilot.pause()
        assert "eval_data" in seen(app)
        await pilot.press("slash", *"torch", "enter")
        await pilot.pause()
        assert "environment.versions" in seen(app)

    drive(app, (120, 36), look)


def test_alerts(folder: Path) -> None:
    workspace = Workspace(folder)
    workspace.read_all()
    found = {alert.kind: alert for alert in alerts.of_run(workspace.runs["study/worse"])}
    assert set(found) == {"nonfinite train/loss", "forgetting", "loops accents"}
    assert "60 %" in found["forgetting"].text
    assert found["forgetting"].severe
    assert alerts.of_run(workspace.runs["alive"]) == []
    RunFolder(folder / "alive").log_metrics(50, {"train/spike": 12.34})
    workspace.read_all()
    (spike,) = alerts.of_run(workspace.runs["alive"])
    assert spike.text == "spikes of loss or gradient: 1, the latest at step 50, 12.3 times the usual; see spikes.jsonl"


def test_alerts_for_a_run_that_breaks(folder: Path) -> None:
    view = RunView(folder / "alive", "alive")
    workspace = Workspace(folder)
    watch = alerts.Watch(folder)
    workspace.read_all()
    assert watch.look(list(workspace.runs.values())) == [], "what was there before is not news"
    run = RunFolder(folder / "alive")
    for step in range(61, 161):
        run.log_metrics(step, train_row(step, 9.0))
    set_status(run, state="training", pid=2**22 + 1)
    workspace.read_all()
    fresh = {alert.kind for alert in watch.look(list(workspace.runs.values()))}
    assert fresh == {"divergence", "crash"}
    assert watch.look(list(workspace.runs.values())) == []
    view.refresh()
    assert view.state == "crashed"


def test_a_nearly_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert [alert.kind for alert in alerts.of_disk(tmp_path)] == ["disk"]


def test_from_an_alert_to_its_run_and_the_bell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = WhisperApp(folder)
    rung = []
    monkeypatch.setattr(app, "bell", lambda: rung.append(1))

    async def look(pilot: Any) -> None:
        await open_tab(pilot, "alerts")
        await pilot.press("b")
        await pilot.pause()
        assert app.bell_on
        assert len(app.query_one(AlertLines).alerts) == 3
        set_status(RunFolder(folder / "alive"), state="failed", exit_reason="OSError: disk full")
        await wait(pilot, lambda: len(app.query_one(AlertLines).alerts) == 4)
        assert rung
        await pilot.press("enter")
        await wait(pilot, lambda: app._tab == "runs")

    drive(app, (120, 36), look)


# ---- Steering.


def answering(run: RunFolder, over: threading.Event) -> None:
    """A run that does what it is asked."""
    while not over.is_set():
        for command in run.read_commands():
            state = {"pause": "paused", "resume": "training", "stop": "stopped"}.get(command, "training")
            run.beat(force=True, last_command=command, state=state)
        time.sleep(0.02)


@pytest.mark.parametrize(("key", "command"), [("s", "stop"), ("v", "save"), ("e", "eval"), ("p", "pause")])
def test_a_command_is_confirmed_sent_and_acknowledged(folder: Path, key: str, command: str) -> None:
    app = WhisperApp(folder)
    over = threading.Event()
    run = RunFolder(folder / "alive")
    run.beat(force=True, state="training", step=60, max_steps=100)
    told: list[str] = []

    async def steer(pilot: Any) -> None:
        notify = app.notify
        app.notify = lambda text, **more: (told.append(text), notify(text, **more))  # type: ignore[method-assign]
        await pilot.press("exclamation_mark", key)
        await pilot.pause()
        assert isinstance(app.screen, SteerScreen)
        assert not (folder / "alive" / "control").exists(), "nothing is sent before it is confirmed"
        await pilot.press("n")
        assert isinstance(app.screen, SteerScreen)
        await pilot.press(key, "y")
        await pilot.pause()
        assert (folder / "alive" / "control").read_text() == f"{command}\n"
        assert app.sent["alive"].command == command
        thread.start()
        await wait(pilot, lambda: "alive" not in app.sent)
        assert f"{command}: the run heard it" in told[-1]

    thread = threading.Thread(target=answering, args=(run, over))
    try:
        drive(app, (120, 36), steer)
    finally:
        over.set()
        thread.join()


def test_a_run_that_ended_is_not_asked(folder: Path) -> None:
    app = WhisperApp(folder)

    async def steer(pilot: Any) -> None:
        await pilot.press("down", "exclamation_mark", "s", "y")
        await pilot.pause()
        assert "finished" in seen(app)
        assert "--resume" in seen(app)
        assert not (folder / "ended" / "control").exists()
        await pilot.press("escape")
        set_status(RunFolder(folder / "alive"), state="training", pid=2**22 + 1)
        await wait(pilot, lambda: app.workspace.runs["alive"].state == "crashed")
        app.runs_pane.selected = "alive"
        await pilot.press("exclamation_mark", "s", "y")
        await pilot.pause()
        assert "gone" in seen(app)
        assert not (folder / "alive" / "control").exists()

    drive(app, (120, 36), steer)


def test_a_run_on_another_host_is_asked_through_the_folder(folder: Path) -> None:
    set_status(RunFolder(folder / "alive"), state="training", host="far-away", pid=1)
    app = WhisperApp(folder)

    async def steer(pilot: Any) -> None:
        app.runs_pane.selected = "alive"
        await pilot.press("exclamation_mark")
        await pilot.pause()
        assert "far-away" in seen(app)
        await pilot.press("v", "enter")
        assert (folder / "alive" / "control").read_text() == "save\n"

    drive(app, (120, 36), steer)


def test_a_real_training_is_steered(tmp_path: Path) -> None:
    """Paused, resumed, asked to save and to evaluate, and stopped, each by its keys; train.py does it all."""
    model = save_openai(ending_whisper(), tmp_path / "small.pt")
    sets = {name: write_set(tmp_path / name, ["A red fox."], [1.0]) for name in ("learn", "domain", "general")}
    runs_dir = tmp_path / "runs"
    command = [sys.executable, "train.py", "--model", model, "--data", sets["learn"], "--device", "cpu"]
    command += ["--eval_data", f"domain={sets['domain']}", "--retain", f"general={sets['general']}", "--batch_size", 1]
    command += ["--run", "live", "--runs_dir", runs_dir, "--data_dir", tmp_path / "cache", "--precision", "fp32"]
    command += ["--max_steps", 100_000, "--eval_every", 100_000]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(word) for word in command], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
    )
    run = runs_dir / "live"
    app = WhisperApp(runs_dir)
    told: list[str] = []

    def steps() -> list[int]:
        return [row["_step"] for row in read_jsonl(run / "metrics.jsonl") if "train/loss" in row]

    def evaluated() -> set[int]:
        return {row["_step"] for row in read_jsonl(run / "metrics.jsonl") if "eval/domain/wer" in row}

    async def ask(pilot: Any, key: str, word: str) -> None:
        await pilot.press("exclamation_mark", key, "y")
        await wait(pilot, lambda: f"{word}: the run heard it" in "".join(told[-1:]), 60, f"an answer to {word}")

    async def steer(pilot: Any) -> None:
        notify = app.notify
        app.notify = lambda text, **more: (told.append(text), notify(text, **more))  # type: ignore[method-assign]
        view = app.workspace.runs["live"]
        await wait(pilot, lambda: view.state == "training" and len(steps()) > 2, 60, "training")
        await ask(pilot, "p", "pause")
        await wait(pilot, lambda: view.state == "paused", what="the pause")
        before = steps()
        await pilot.pause(0.5)
        assert steps() == before, "a paused run goes on"
        await ask(pilot, "r", "resume")
        await wait(pilot, lambda: len(steps()) > len(before), what="a step after the pause")
        await ask(pilot, "v", "save")
        await wait(pilot, lambda: last_checkpoint(run) is not None, what="a checkpoint")
        assert evaluated() == {0}
        await ask(pilot, "e", "eval")
        await wait(pilot, lambda: len(evaluated()) == 2, what="an evaluation")
        await pilot.press("exclamation_mark", "s", "y")
        await wait(pilot, lambda: view.state == "stopped", 60, "the end")

    try:
        deadline = time.monotonic() + 120
        while not (run / "status.json").exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        drive(app, (120, 36), steer)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None
    assert int(checkpoint.name) == max(steps()), "a stop saves the step that it ends at"


# ---- In plain text; what is refused; the start.


def test_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--once", str(folder)]) == 0
    out = capsys.readouterr().out
    for word in ("alive", "training", "40.0→28.0", "5.0→8.0", "forgetting", "60/100"):
        assert word in out
    assert cli.main(["--json", "--filter", "worse", str(folder)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["name"] == "study/worse"
    assert record["general_wer"] == 0.08
    assert record["last"]["train/loss"] is None
    assert record["sets"]["accents"]["role"] == "domain"


def test_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--export", str(tmp_path / "out"), str(folder)]) == 0
    assert len(capsys.readouterr().out.split()) == 6
    with open(tmp_path / "out" / "study_worse.curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["_step"]) for row in rows] == [*range(101), 120, 121]
    assert float(rows[20]["eval/accents/wer"]) == pytest.approx(0.36)
    assert rows[-1]["train/loss"] == ""
    with open(tmp_path / "out" / "alive.samples.csv", newline="") as file:
        samples = list(csv.DictReader(file))
    assert len(samples) == 4 * 12
    assert samples[0]["reference"] == "The quick brown fox number 0."


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "holds no runs"),
        (lambda path: path.write_text("text"), "is a file"),
    ],
)
@pytest.mark.parametrize("once", [True, False])
def test_what_cannot_be_shown_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], words: str, once: bool
) -> None:
    make(tmp_path / "runs")
    assert cli.main([*["--once"] * once, str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "python t" in error, "it says what to do"


def test_a_pipe_is_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(folder)]) == 2
    assert "--once" in capsys.readouterr().err


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert "permission" in str(cli.fault_of(tmp_path, False))


def test_filters_and_exports_that_fail(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--once", "--filter", "zzz", str(folder)]) == 2
    assert "zzz" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["--export", str(tmp_path / "file"), str(folder)]) == 2
    assert "--export" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        cli.main(["--nonsense"])
    assert wrong.value.code == 2


def test_it_starts_without_torch_and_soon(folder: Path) -> None:
    """Everything that is imported until the app runs, in a fresh interpreter; half a second of the processor's time."""
    code = (
        "import time, sys\n"
        "from pathlib import Path\n"
        "import whisper_min.ui.cli, whisper_min.ui.app\n"
        f"app = whisper_min.ui.app.WhisperApp(Path({str(folder)!r}))\n"
        "print(time.process_time(), sorted({'torch', 'tyro', 'whisper', 'scipy', 'jiwer'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        seconds, modules = done.stdout.split(maxsplit=1)
        assert modules == "[]\n"
        times.append(float(seconds))
    # a busy machine with two threads a core counts up to twice the time
    assert min(times) < 1.0, times


def test_the_app_imports_rank_0_alone() -> None:
    allowed = tuple(f"whisper_min.{name}" for name in ("ui", "runs", "config", "text", "ffmpeg"))
    for path in (REPOSITORY / "whisper_min" / "ui").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] == ["from"] and words[1].startswith("whisper_min"):
                targets = [words[1]] if words[1] != "whisper_min" else [f"whisper_min.{words[3].rstrip(',')}"]
                assert all(target.startswith(allowed) for target in targets), f"{path}: {line}"


# ---- A real terminal.


def test_in_tmux(folder: Path, tmp_path: Path) -> None:
    """Keys and pictures through a real terminal; Ctrl-C leaves."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not here: apt-get install tmux")
    environment = {**os.environ, "LANG": "C.UTF-8", "XDG_STATE_HOME": str(tmp_path), "TEXTUAL_ANIMATIONS": "none"}
    socket = str(tmp_path / "tmux")

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", socket, "-f", "/dev/null", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def screen(wanted: str) -> str:
        end = time.monotonic() + 30
        while wanted not in (text := tmux("capture-pane", "-p", "-t", "t")):
            assert time.monotonic() < end, text
            time.sleep(0.1)
        return text

    start = f"{sys.executable} {REPOSITORY / 'tui.py'} {folder}; echo left with $?; sleep 60"
    tmux("new-session", "-d", "-s", "t", "-x", "120", "-y", "36", start)
    try:
        assert "study/worse" in screen("40.0→28.0")
        tmux("send-keys", "-t", "t", "7")
        screen("train.log,")
        tmux("send-keys", "-t", "t", "?")
        screen("Matches only")
        tmux("send-keys", "-t", "t", "Escape")
        tmux("resize-window", "-t", "t", "-x", "80", "-y", "24")
        screen("train.log,")
        tmux("send-keys", "-t", "t", "C-c")
        screen("left with 0")
    finally:
        tmux("kill-server")
