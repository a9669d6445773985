"""The transcripts screen: every key, at three sizes, with runs that grow, and with sound that is not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import babble
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Footer, Static

from whisper_min.runs import append_jsonl
from whisper_min.ui import sound, utterances
from whisper_min.ui.detail import Detail
from whisper_min.ui.model import Workspace
from whisper_min.ui.spectrogram import Clip, Source
from whisper_min.ui.transcripts import TranscriptsPane
from whisper_min.ui.utterances import View, utterance

pytestmark = pytest.mark.slow  # the whole app, again and again

SIZES = [(80, 24), (120, 36), (200, 60)]
# id -> reference, what the original wrote, what the model wrote at step 10 and 20
TEXTS = {
    "a/one.wav": ("no i do not own them", "no i do not own them", "no i do own them", "no i do not all them"),
    "a/two.wav": ("good morning", "good evening", "good morning", "good morning"),
    "a/three.wav": ("we go", "we go", "we go", "we " + "the city of " * 60),
    "a/four.wav": ("it is late", "it was late", "it was late", "it was late"),
}


def row(step: int, name: str, id_: str, texts: Sequence[str], at: int, audio: Path) -> dict[str, Any]:
    """A line of samples.jsonl."""
    reference, original, hypothesis = texts[0], texts[1], texts[at]
    words = reference.split()

    def errors(text: str) -> int:
        same = sum(a == b for a, b in zip(words, text.split(), strict=False))
        return max(len(words), len(text.split())) - same

    return {
        "_step": step,
        "set": name,
        "id": id_,
        "audio_filepath": str(audio / Path(id_).name),
        "offset": None,
        "duration": 1.0,
        "reference": reference.upper(),
        "hypothesis": hypothesis.capitalize() + ".",
        "original": original.capitalize() + ".",
        "reference_normalized": reference,
        "hypothesis_normalized": hypothesis,
        "original_normalized": original,
        "wer": errors(hypothesis) / len(words),
        "original_wer": errors(original) / len(words),
        "substitutions": errors(hypothesis),
        "deletions": 0,
        "insertions": 0,
        "flags": ["loop"] if len(hypothesis) > 200 else [],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three evaluations of two sets; every clip but `three` has its sound."""
    folder, audio = tmp_path / "runs" / "mine", tmp_path / "audio"
    folder.mkdir(parents=True)
    audio.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": "tiny.en"}))
    (folder / "metrics.jsonl").touch()
    for seed, name in enumerate(("one.wav", "two.wav", "four.wav")):
        soundfile.write(audio / name, babble(1.0 + seed, seed=seed), 16_000)
    for step, at in ((0, 1), (10, 2), (20, 3)):
        append_jsonl(folder / "samples.jsonl", (row(step, "dev", each, TEXTS[each], at, audio) for each in TEXTS))
    append_jsonl(folder / "samples.jsonl", [row(20, "general", "z.wav", TEXTS["a/two.wav"], 2, audio)])
    return folder


class Host(App[None]):
    """An app that holds the pane alone, as the real one does."""

    def __init__(self, folder: Path, ascii_only: bool = False) -> None:
        super().__init__()
        self.pane = TranscriptsPane()
        self.pane.ascii_only = ascii_only
        self.workspace = Workspace(folder)

    def compose(self) -> ComposeResult:
        yield self.pane
        yield Footer()

    def tick(self) -> None:
        """Read and draw, whatever was drawn when."""
        self.workspace.read_all()
        selected = self.workspace.runs.get("mine")
        self.pane._next_look = 0.0
        self.pane.show([selected] if selected else [], selected)


def drive(
    folder: Path,
    steps: Callable[[Host, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (120, 36),
    ascii_only: bool = False,
) -> None:
    """Open the pane on a folder of runs, and do something with it."""

    async def main() -> None:
        host = Host(folder, ascii_only)
        async with host.run_test(size=size) as pilot:
            await pilot.pause()
            host.pane.listing.focus()
            host.tick()
            await pilot.pause()
            await steps(host, pilot)

    asyncio.run(main())


def ids(host: Host) -> list[str]:
    """What is listed, in order."""
    return [each.id for each in host.pane.listing.utterances]


def text(host: Host, selector: str) -> str:
    """What a line says."""
    return str(host.pane.query_one(selector, Static).render())


def picture(host: Host) -> str:
    """The sound's part of the screen."""
    view = host.pane.sound.view
    return "\n".join(view.render_line(y).text for y in range(view.size.height))


async def until(pilot: Pilot[None], found: Callable[[], object]) -> None:
    """Wait for a worker, ten seconds at most."""
    for _ in range(200):
        if found():
            return
        await pilot.pause(0.05)
    host: Any = pilot.app
    raise AssertionError(f"it never came; {host.pane.sound._wanted} is wanted, {picture(host)!r} is shown")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_everything_is_seen_at_every_size(run: Path, size: tuple[int, int], ascii_only: bool) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        await until(pilot, lambda: host.pane.sound.view.clip)
        for width, height in (size, (80, 24), (300, 90), size):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            shown = [each for each in host.screen.walk_children() if each.display and each.region.area]
            assert not [each for each in shown if each.region.right > width or each.region.bottom > height]
        lines = [host.pane.listing.render_line(y).text for y in range(3)]
        assert "+180" in lines[0]
        assert "one" in lines[1]
        assert "model 16.7 %  1S 0D 0I   original 0.0 %  0S 0D 0I" in str(host.pane.query_one(Detail).render())
        assert "no i do not own them" in str(host.pane.query_one(Detail).render())
        assert "8k" in picture(host) and "-80" in picture(host)
        if ascii_only:
            assert picture(host).isascii()
            assert all(line.isascii() for line in lines)

    drive(run.parent, steps, size, ascii_only)


def test_sorting_and_filters(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        assert ids(host) == ["a/three.wav", "a/one.wav", "a/four.wav", "a/two.wav", "z.wav"]
        assert "5: 3 wrong, 2 worse, 2 better, 1 loop" in text(host, "#summary")
        await pilot.press("w")
        assert ids(host) == ["a/three.wav", "a/one.wav", "a/four.wav"]
        assert text(host, "#summary") == "3 of 5: wrong"
        await pilot.press("d")
        assert ids(host) == ["a/three.wav", "a/one.wav"]
        await pilot.press("l")
        assert ids(host) == ["a/three.wav"]
        await pilot.press("escape")
        assert len(ids(host)) == 5
        await pilot.press("t", "t")
        assert ids(host) == ["z.wav"]
        await pilot.press("t")
        assert len(ids(host)) == 5
        await pilot.press("o", "o")
        assert ids(host) == sorted(ids(host))
        assert "id▾" in text(host, "#titles")

    drive(run.parent, steps)


def test_search(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"EVENING", "enter")
        assert sorted(ids(host)) == ["a/two.wav", "z.wav"]
        assert host.pane.listing.has_focus
        await pilot.press("slash", *"xyz", "enter")
        assert ids(host) == []
        assert "Nothing fits; Esc shows all" in str(host.pane.query_one(Detail).render())
        for key in ("j", "k", "left_square_bracket", "e", "p", "c"):
            await pilot.press(key)  # with nothing listed
        await pilot.press("escape")
        assert len(ids(host)) == 5

    drive(run.parent, steps)


def test_an_utterance_through_the_run(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")

        def shown() -> str:
            return str(host.pane.query_one(Detail).render())

        assert "step 20 (3 of 3)" in text(host, "#utterance")
        assert "0: 0.0 %" in shown() and "20: 16.7 %" in shown()
        assert "No i do not all them." in shown()
        await pilot.press("left_square_bracket")
        assert "step 10 (2 of 3)" in text(host, "#utterance")
        assert "[not]" in shown()
        await pilot.press("down")
        assert "step 10 (2 of 3)" in text(host, "#utterance")  # the step stays from one utterance to the next
        await pilot.press("up", "left_square_bracket", "left_square_bracket")
        assert "step 0 (1 of 3)" in text(host, "#utterance")
        await pilot.press(*["right_square_bracket"] * 5)
        assert "step 20 (3 of 3)" in text(host, "#utterance")

    drive(run.parent, steps)


def test_a_run_that_grows_keeps_the_cursor_on_its_utterance(run: Path, tmp_path: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        assert host.pane.listing.current and host.pane.listing.current.id == "a/one.wav"
        better = [TEXTS["a/one.wav"][0]] * 2
        append_jsonl(run / "samples.jsonl", [row(30, "dev", "a/one.wav", better, 1, tmp_path / "audio")])
        host.tick()
        await pilot.pause()
        assert host.pane.listing.current.id == "a/one.wav"
        assert ids(host)[0] == "a/three.wav" and ids(host).index("a/one.wav") > 1
        assert "step 30 (4 of 4)" in text(host, "#utterance")
        (run / "samples.jsonl").unlink()
        host.tick()
        await pilot.pause()
        assert "Nothing is transcribed yet" in text(host, "#empty")
        host.pane.show([], None)
        await pilot.pause()
        assert "No run is selected" in text(host, "#empty")

    drive(run.parent, steps)


def test_sound_that_is_not_there_is_said(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "three.wav is not in" in picture(host))
        await pilot.press("p", "e")
        await pilot.pause()
        assert {each.message for each in host._notifications} == {
            "There is no sound to play.",
            "There is no picture to export.",
        }

    drive(run.parent, steps)


def test_the_newest_wish_wins_and_clips_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def slow(source: Source) -> Clip:
        read.append(Path(source.path).name)
        return whole(source)

    whole = sound.read_clip
    monkeypatch.setattr(sound, "read_clip", slow)

    async def steps(host: Host, pilot: Pilot[None]) -> None:
        host.pane.listing.action_move(1)
        host.pane.listing.action_move(1)
        host.pane.listing.action_move(1)
        await until(pilot, lambda: host.pane.sound.view.clip)
        assert host.pane.listing.current and host.pane.listing.current.id == "a/two.wav"
        assert host.pane.sound.view.clip and host.pane.sound.view.clip.seconds == 2.0
        assert "two.wav" in read
        assert not {"one.wav", "four.wav"} & set(read)  # what a held key passed over
        await pilot.press("k")
        await until(pilot, lambda: host.pane.sound.view.clip and host.pane.sound.view.clip.seconds == 3.0)
        await pilot.press("j")
        assert host.pane.sound.view.clip.seconds == 2.0
        assert read[-2:] == ["two.wav", "four.wav"]

    drive(run.parent, steps)


def test_a_decoder_that_breaks_ends_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Source) -> Clip:
        raise MemoryError("\x1b[31mno")

    monkeypatch.setattr(sound, "read_clip", broken)

    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "cannot be drawn (MemoryError: [31mno)" in picture(host))

    drive(run.parent, steps)


def test_colours_letters_and_size(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        await until(pilot, lambda: "magma" in text(host, "#heard"))
        await pilot.press("c")
        assert "viridis" in text(host, "#heard")
        assert "▀" in picture(host)
        await pilot.press("a")
        assert picture(host).isascii()
        await pilot.press("a", "z")
        await pilot.pause()
        assert not host.pane.query_one("#left").display
        kept = host.pane.to_json()
        json.dumps(kept)
        host.pane.from_json({"colours": "no such", "order": 3, "wrong": "yes"})
        assert host.pane.view == View()
        host.pane.from_json({**kept, "loops": True})
        assert ids(host) == ["a/three.wav"]
        host.theme = "textual-light"
        await pilot.pause()

    drive(run.parent, steps)


def test_pictures_are_exported(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        await until(pilot, lambda: host.pane.sound.view.clip)
        await pilot.press("left_square_bracket", "e")
        written = run / "exports" / "dev_a-one.wav_step-10.svg"
        await until(pilot, lambda: written.exists() and host._notifications)
        assert "[not]" in written.read_text(encoding="utf-8")
        assert written.with_suffix(".png").exists()
        assert str(written) in next(iter(host._notifications)).message

    drive(run.parent, steps)


def test_playing_ends_with_the_utterance(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        player, calls = host.pane.sound.player, []
        monkeypatch.setattr(player, "start", lambda waveform: calls.append(len(waveform)) or "aplay")
        monkeypatch.setattr(player, "stop", lambda: calls.append("stop"))
        await pilot.press("j")
        await until(pilot, lambda: host.pane.sound.view.clip)
        calls.clear()
        await pilot.press("p")
        assert calls == [16_000]
        await pilot.press("j")
        assert "stop" in calls[1:]

    drive(run.parent, steps)


def test_what_is_heard_is_marked_on_the_axis(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        view = host.pane.sound.view
        await pilot.press("j")
        await until(pilot, lambda: view.clip)
        view.mark(0.5)
        axis = view.render_line(view.size.height - 1).text
        assert len(axis) == view.size.width
        assert axis.index("▲") == pytest.approx(view.size.width / 2, abs=3)
        view.mark(None)
        assert "▲" not in picture(host)

    drive(run.parent, steps)


def test_marked_runs_stand_beside_the_selected_one(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "\x1b[1mother-run-of-long-name"
    other.mkdir()
    (other / "metrics.jsonl").touch()
    texts = ["no i do not own them", "no i do not own them", "no i do not own him"]
    append_jsonl(other / "samples.jsonl", [row(20, "dev", "a/one.wav", texts, 2, tmp_path)])

    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        mine = host.workspace.runs["mine"]
        host.pane.show([*host.workspace.runs.values()], mine)
        await pilot.press("o", "o", "home", "j")
        shown = str(host.pane.query_one(Detail).render())
        assert "mine 16.7 %  1S 0D 0I   original 0.0 %  0S 0D 0I" in shown
        assert "[1mother-run-o 16.7 %  1S 0D 0I" in shown
        assert "No i do not own him." in shown

    drive(run.parent, steps)


def test_a_click_chooses(run: Path) -> None:
    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.click(host.pane.listing, offset=(5, 2))
        assert host.pane.listing.current and host.pane.listing.current.id == "a/four.wav"

    drive(run.parent, steps)


def test_rows_of_another_kind() -> None:
    odd = utterance(("s\x1b[1m", "\x07id"), {"wer": None, "original_wer": "x", "flags": "loop", "reference": 5})
    assert (odd.set, odd.id, odd.errors, odd.damage, odd.flags) == ("s[1m", "id", 0, None, ())
    silent = utterance(
        ("s", "i"),
        {"wer": None, "insertions": 3, "reference_normalized": "", "original_normalized": "you you", "original": "You"},
    )
    assert (silent.errors, silent.damage) == (3, 1)
    assert utterances.number(True) != utterances.number(True)  # NaN
    every = [odd, silent]
    for order in utterances.ORDERS:
        assert len(View(order).apply(every)) == 2


def test_markup_in_a_file_is_text(run: Path, tmp_path: Path) -> None:
    texts = ["[bold]x[/bold] [/] [@click=app.quit]y[/]"] * 2
    append_jsonl(run / "samples.jsonl", [row(20, "[red]", "[b]\x1b[2J", texts, 1, tmp_path)])

    async def steps(host: Host, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"click", "enter")
        assert ids(host) == ["[b][2J"]
        assert "[bold]x[/bold] [/]" in str(host.pane.query_one(Detail).render())
        assert "[b][2J" in text(host, "#utterance")

    drive(run.parent, steps)
