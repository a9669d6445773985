"""The sound of an utterance: read in the background, drawn, played, exported."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static
from textual.worker import get_current_worker

from whisper_min.ui import colourmaps, diff, picture
from whisper_min.ui.play import Player, PlayError, over_ssh
from whisper_min.ui.spectrogram import Clip, ClipError, Source, read_clip
from whisper_min.ui.spectrogram_view import SpectrogramView

# Waiting before a file is read, so that a held key reads only where it stops; and before an old picture is taken away.
STILL_SECONDS, OLD_SECONDS = 0.06, 0.25
# Clips kept, in seconds of sound: about 0.1 MB each.
KEPT_SECONDS = 300.0


class ClipRead(Message):
    """A worker has read a clip, or says why not."""

    def __init__(self, source: Source, clip: Clip | None, said: str) -> None:
        self.source, self.clip, self.said = source, clip, said
        super().__init__()


class Exported(Message):
    """A worker has written pictures, or says why not."""

    def __init__(self, said: str, failed: bool) -> None:
        self.said, self.failed = said, failed
        super().__init__()


class Sound(Vertical):
    """A line about the clip, and its spectrogram."""

    def __init__(self) -> None:
        super().__init__(id="sound")
        self.player = Player()
        self._wanted: Source | None = None
        self._clips: OrderedDict[Source, Clip] = OrderedDict()
        self._waits: list[Timer] = []
        self._started = 0.0

    def compose(self) -> ComposeResult:
        """The line and the picture."""
        yield Static(id="heard", classes="bar")
        yield SpectrogramView()

    @property
    def view(self) -> SpectrogramView:
        """The picture."""
        return self.query_one(SpectrogramView)

    def on_mount(self) -> None:
        """While a clip plays, a mark goes along the time axis."""
        self._clock = self.set_interval(0.1, self._follow, pause=True)

    def _follow(self) -> None:
        playing = self.player.playing
        self.view.mark(time.monotonic() - self._started if playing else None)
        if not playing:
            self._clock.pause()
            self.player.stop()

    # ---- Reading.

    def want(self, source: Source | None, otherwise: str = "") -> None:
        """Show this clip as soon as it is read, the newest wish wins; None shows a sentence."""
        if source is not None and source == self._wanted:
            return
        self._wanted = source
        self.player.stop()
        self._stop_waiting()
        if source is None:
            self._show(None, otherwise)
        elif source in self._clips:
            self._clips.move_to_end(source)
            self._show(self._clips[source])
        elif not source.path:
            self._show(None, "The run does not say where this utterance's audio is.")
        else:
            self._waits = [
                self.set_timer(STILL_SECONDS, lambda: self._read(source)),
                self.set_timer(OLD_SECONDS, self._say_reading),
            ]

    def _say_reading(self) -> None:
        # a timer that is stopped as it goes off still calls back
        if self._waits:
            self._show(None, "Reading ...")

    def _stop_waiting(self) -> None:
        for timer in self._waits:
            timer.stop()
        self._waits = []

    @work(thread=True, exclusive=True, group="clip", exit_on_error=False)
    def _read(self, source: Source) -> None:
        # a thread cannot be ended from outside: what nobody wants any more is at least not begun
        if get_current_worker().is_cancelled:
            return
        clip, said = None, ""
        try:
            clip = read_clip(source)
        except ClipError as error:
            said = str(error)
        except Exception as error:  # a foreign file may break a decoder in any way: that is no reason to end the app
            said = f"The audio cannot be drawn ({type(error).__name__}: {diff.plain(error)[:200]})."
        self.post_message(ClipRead(source, clip, said))

    @on(ClipRead)
    def _take(self, event: ClipRead) -> None:
        if event.clip is not None:
            self._clips[event.source] = event.clip
            while len(self._clips) > 1 and sum(clip.seconds for clip in self._clips.values()) > KEPT_SECONDS:
                self._clips.popitem(last=False)
        if event.source == self._wanted:
            self._stop_waiting()
            self._show(event.clip, event.said)

    def _show(self, clip: Clip | None, said: str = "") -> None:
        self.view.show(clip, said)
        self._describe()

    def _describe(self) -> None:
        clip = self.view.clip
        about = ["no sound"]
        if clip is not None:
            about = [f"{clip.seconds:.1f} s", *clip.notes, f"log-mel of {len(clip.mel)} bins", self.view.colours]
        self.query_one("#heard", Static).update(Text(", ".join(about), no_wrap=True, overflow="ellipsis"))

    # ---- What keys do.

    def next_colours(self) -> None:
        """The next colour map."""
        names = colourmaps.NAMES
        self.view.redraw(colours=names[(names.index(self.view.colours) + 1) % len(names)])
        self._describe()

    def play(self) -> None:
        """Play the clip, or stop it."""
        clip = self.view.clip
        if self.player.playing:
            self.player.stop()
            return
        if clip is None:
            self.notify("There is no sound to play.", severity="warning")
            return
        try:
            name = self.player.start(clip.waveform)
        except PlayError as error:
            self.notify(str(error), severity="warning", markup=False)
        else:
            self._started = time.monotonic()
            self._clock.resume()
            where = ", heard where the app runs" if over_ssh() else ""
            self.notify(f"{name} plays {clip.seconds:.1f} s{where}; p stops it.", timeout=3, markup=False)

    def export(self, title: str, lines: list[Text], run: Path, name: str) -> None:
        """Write what is seen as SVG and PNG, in the background."""
        if self.view.clip is None:
            self.notify("There is no picture to export.", severity="warning")
        else:
            self._export(self.view.clip, self.view.colours, title, lines, run, name)

    @work(thread=True, group="export", exit_on_error=False)
    def _export(self, clip: Clip, colours: str, title: str, lines: list[Text], run: Path, name: str) -> None:
        try:
            path = picture.export(clip, colours, title, lines, run, name)
            said = Exported(f"{diff.plain(path)} and .png are written.", failed=False)
        except OSError as error:
            said = Exported(f"The picture cannot be written: {diff.plain(error)}.", failed=True)
        self.post_message(said)

    @on(Exported)
    def _tell(self, event: Exported) -> None:
        self.notify(event.said, severity="error" if event.failed else "information", markup=False)

    # ---- Leaving.

    def on_hide(self) -> None:
        """Nobody looks any more: be quiet."""
        self.player.stop()

    def on_unmount(self) -> None:
        """Leave nothing playing."""
        self.player.stop()
