"""The transcripts: every evaluated utterance, what was said and what was written, and the sound below it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.containers import Container, Vertical, VerticalScroll
from textual.events import Resize
from textual.widgets import Input, Static

from whisper_min.ui import colourmaps, diff, picture
from whisper_min.ui.detail import Detail, describe
from whisper_min.ui.lines import LineView
from whisper_min.ui.model import RunView
from whisper_min.ui.sound import Sound
from whisper_min.ui.spectrogram import Source, bins_of
from whisper_min.ui.utterance_list import UtteranceList
from whisper_min.ui.utterances import ORDERS, Key, Row, Utterance, View, number, utterance

# Above this width the list stands beside the texts.
WIDE = 100
# Other runs whose transcripts are shown beside the selected one's.
MOST_OTHERS = 4


class Titles(Static):
    """The names of the list's columns, as wide as the list is when they are drawn."""

    def render(self) -> Text:
        """See UtteranceList.titles."""
        pane = self.query_ancestor(TranscriptsPane)
        return pane.listing.titles(pane.listing.scrollable_content_region.width, pane.view.order)


class TranscriptsPane(Vertical):
    """List, texts, spectrogram."""

    DEFAULT_CSS = """
    TranscriptsPane { height: 1fr; }
    TranscriptsPane #search { display: none; border: none; height: 1; padding: 0 1; background: $panel; }
    TranscriptsPane #search.shown { display: block; }
    TranscriptsPane .bar { height: 1; background: $panel; color: $secondary; padding: 0 1; }
    TranscriptsPane #titles { height: 1; color: $secondary; }
    TranscriptsPane #both { height: 1fr; layout: vertical; }
    TranscriptsPane #left { height: 1fr; }
    TranscriptsPane #right { height: 1fr; }
    TranscriptsPane #texts { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    TranscriptsPane #sound { height: 40%; min-height: 4; }
    TranscriptsPane #empty { display: none; height: 1fr; padding: 1 2; color: $secondary; }
    TranscriptsPane.wide #both { layout: horizontal; height: 1fr; }
    TranscriptsPane.wide #left { width: 5fr; height: 1fr; max-width: 90; }
    TranscriptsPane.wide #right { width: 7fr; height: 1fr; }
    TranscriptsPane.wide #sound { height: 52%; }
    TranscriptsPane.large #left { display: none; }
    TranscriptsPane.nothing #both, TranscriptsPane.nothing #sound { display: none; }
    TranscriptsPane.nothing #empty { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("o", "order", "Sort"),
        Binding("w", "only('wrong')", "Wrong"),
        Binding("d", "only('worse')", "Worse"),
        Binding("l", "only('loops')", "Loops", show=False),
        Binding("t", "set", "Next set", show=False),
        Binding("left_square_bracket", "step(-1)", "Step", key_display="[ ]"),
        Binding("right_square_bracket", "step(1)", "Later step", show=False, key_display="]"),
        Binding("p", "play", "Play"),
        Binding("e", "export", "Export"),
        Binding("c", "colours", "Colours", show=False),
        Binding("z", "large", "Large", show=False),
        Binding("a", "ascii", "ASCII", show=False),
        Binding("escape", "clear", "All utterances", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="transcripts-pane", classes="nothing")
        self.run: RunView | None = None
        self.others: Sequence[RunView] = ()
        """Runs that are marked beside it: what they wrote is shown, too."""
        self.view = View()
        self.ascii_only = False
        self.step: int | None = None
        """The evaluation looked at; None for the newest."""
        self._utterances: dict[Key, tuple[Row, Utterance]] = {}
        self._seen: tuple[object, ...] = ()
        self._next_look = 0.0

    def compose(self) -> ComposeResult:
        """Search, list, texts, sound."""
        yield Input(placeholder="words of a text, an id or a set", id="search", compact=True)
        yield Static("No run is selected.", id="empty")
        with Container(id="both"):
            with Vertical(id="left"):
                yield Static(id="summary", classes="bar")
                yield Titles(id="titles")
                yield UtteranceList()
            with Vertical(id="right"):
                yield Static(id="utterance", classes="bar")
                with VerticalScroll(id="texts", can_focus=False):
                    yield Detail()
        yield Sound()

    def on_mount(self) -> None:
        """Letters alone where the app was started so; colours follow the theme."""
        self._draw_letters()
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw_texts())

    @property
    def listing(self) -> UtteranceList:
        """The list."""
        return self.query_one(UtteranceList)

    @property
    def sound(self) -> Sound:
        """The spectrogram and what belongs to it."""
        return self.query_one(Sound)

    # ---- What is shown.

    def show(self, runs: Sequence[RunView], selected: RunView | None) -> None:
        """Take up what is new in the selected run; called at every tick."""
        self.others = [run for run in runs if run is not selected][:MOST_OTHERS]
        seen = (selected, *((run.path, run.samples_version) for run in runs))
        if seen == self._seen or (selected is self.run and time.monotonic() < self._next_look):
            return
        started = time.monotonic()
        self._seen = seen
        other = selected is not self.run
        if other:
            self.run, self.step, self._utterances = selected, None, {}
            self.sound.player.stop()
        self._read()
        self._list(top=other)
        # a long file comes in pieces: reading it again and again must not take more than a tenth of the time
        self._next_look = time.monotonic() + 10 * (time.monotonic() - started)

    def _read(self) -> None:
        """The newest row of every utterance; those that are known are not read again."""
        found: dict[Key, tuple[Row, Utterance]] = {}
        for key, rows in self.run.samples.items() if self.run else ():
            known = self._utterances.get(key)
            found[key] = known if known and known[0] is rows[-1] else (rows[-1], utterance(key, rows[-1]))
        self._utterances = found

    def _list(self, *, top: bool = False) -> None:
        """Filter, sort, and draw everything."""
        everything = [each for _, each in self._utterances.values()]
        if not everything:
            said = "No run is selected."
            if self.run:
                said = (
                    f"Nothing is transcribed yet: {diff.plain(self.run.name)} writes its first transcripts at step 0."
                )
            self._say_nothing(said)
            return
        self.remove_class("nothing")
        shown = self.view.apply(everything)
        self.listing.fill(shown, top=top)
        self.query_one(Titles).refresh()
        total, wrong = len(everything), sum(each.errors > 0 for each in everything)
        worse = sum((each.damage or 0) > 0 for each in everything)
        better = sum((each.damage or 0) < 0 for each in everything)
        loops = sum(each.loops for each in everything)
        said = f"{total}: {wrong} wrong, {worse} worse, {better} better, {loops} loop{'s' * (loops != 1)}"
        if filters := self.view.describe():
            said = f"{len(shown)} of {total}: {filters}"
        self.query_one("#summary", Static).update(Text(said, no_wrap=True, overflow="ellipsis"))
        self._draw_utterance()

    def _say_nothing(self, said: str) -> None:
        self.add_class("nothing")
        self.query_one("#empty", Static).update(Text(said))
        self.sound.want(None)

    @property
    def rows(self) -> Sequence[Row]:
        """The evaluations of the utterance at the cursor."""
        current = self.listing.current
        return self.run.samples.get(current.key, []) if self.run and current else []

    @property
    def place(self) -> int:
        """Which of `rows` is looked at: the newest one up to the step."""
        steps = [row["_step"] for row in self.rows]
        return max(sum(self.step is None or step <= self.step for step in steps) - 1, 0)

    def _draw_utterance(self) -> None:
        """The utterance at the cursor: its texts and its sound."""
        self._draw_texts()
        rows = self.rows
        if not rows or not self.run:
            self.sound.want(None)
            return
        row = rows[-1]
        offset, duration = number(row.get("offset"), -1.0), number(row.get("duration"), -1.0)
        source = Source(
            path=str(row.get("audio_filepath") or ""),
            offset=offset if offset >= 0 else None,
            duration=duration if duration > 0 else None,
            n_mels=bins_of(self.run.config.get("model")),
            beside=self.run.path / "audio",
        )
        self.sound.want(source)

    def _draw_texts(self) -> None:
        current, rows = self.listing.current, self.rows
        detail, which = self.query_one(Detail), self.query_one("#utterance", Static)
        if not current or not rows:
            which.update("")
            detail.say("Nothing fits; Esc shows all utterances.")
            return
        at = self.place
        said = Text(f"{current.id}  step {rows[at]['_step']}", no_wrap=True, overflow="ellipsis")
        said.append(f" ({at + 1} of {len(rows)})")
        which.update(said)
        others = [(run.name, its[-1]) for run in self.others if (its := run.samples.get(current.key))]
        # beside others the model goes by its run's name, too
        name = self.run.name if self.run and others else "model"
        detail.show(rows, at, [(name, rows[at]), *others], self._styles())

    def _styles(self) -> dict[str, Style | str]:
        """The diff's marks in the theme's colours."""
        made = dict(diff.STYLES)
        for kind, name in (
            ("substituted", "warning"),
            ("deleted", "error"),
            ("inserted", "primary"),
            ("label", "secondary"),
        ):
            colour = Color.parse(self.app.theme_variables[name]).rich_color
            made[kind] = diff.STYLES[kind] + Style(color=colour, dim=False)
        return {**made}

    # ---- Keys.

    @on(LineView.Moved)
    def _moved(self) -> None:
        self._draw_utterance()

    def action_order(self) -> None:
        """Sort by something else."""
        self.view = self.view.next_order()
        self._list(top=True)

    def action_only(self, name: str) -> None:
        """Turn a filter on or off: wrong, worse, loops."""
        self.view = self.view.toggle(name)
        self._list()

    def action_set(self) -> None:
        """One set after the other, then all."""
        self.view = self.view.next_set(list(dict.fromkeys(name for name, _ in self._utterances)))
        self._list()

    def action_search(self) -> None:
        """Type words to look for."""
        field = self.query_one("#search", Input)
        field.add_class("shown")
        field.focus()

    @on(Input.Changed, "#search")
    def _search_typed(self, event: Input.Changed) -> None:
        self.view = replace(self.view, search=event.value)
        self._list(top=True)

    @on(Input.Submitted, "#search")
    def _search_done(self) -> None:
        self.query_one("#search").set_class(bool(self.view.search), "shown")
        self.listing.focus()

    def action_clear(self) -> None:
        """Show all utterances again."""
        field = self.query_one("#search", Input)
        field.remove_class("shown")
        self.view = View(self.view.order)
        field.value = ""
        self._list()
        self.listing.focus()

    def action_step(self, by: int) -> None:
        """To the evaluation before or after; the newest one is followed."""
        rows = self.rows
        at = max(0, min(self.place + by, len(rows) - 1))
        self.step = rows[at]["_step"] if rows and at < len(rows) - 1 else None
        self._draw_texts()

    def action_large(self) -> None:
        """More room for the texts: without the list."""
        self.toggle_class("large")

    def action_colours(self) -> None:
        """The next colour map."""
        self.sound.next_colours()

    def action_ascii(self) -> None:
        """Letters instead of blocks and colours."""
        self.ascii_only = not self.ascii_only
        self._draw_letters()
        self._list()

    def _draw_letters(self) -> None:
        self.listing.ascii_only = self.query_one(Detail).ascii_only = self.ascii_only
        self.sound.view.redraw(ascii_only=self.ascii_only)

    def action_play(self) -> None:
        """Play the clip, or stop it."""
        self.sound.play()

    def action_export(self) -> None:
        """Write the picture, with its texts, as SVG and PNG."""
        rows, current = self.rows, self.listing.current
        if not rows or current is None or self.run is None:
            self.notify("There is no picture to export.", severity="warning")
            return
        row = rows[self.place]
        title = f"{current.set} · {current.id} · {diff.plain(self.run.name)}, step {row['_step']}"
        names: dict[str, Style | str] = {kind: kind for kind in diff.STYLES}
        lines = describe(row, picture.CHARACTERS, names, self.app.console)
        name = picture.file_name(current.set, current.id, f"step-{row['_step']}")
        self.sound.export(title, lines, self.run.path, name)

    # ---- Size and memory.

    def on_resize(self, event: Resize) -> None:
        """The list stands beside the texts where there is room."""
        self.set_class(event.size.width >= WIDE, "wide")

    def to_json(self) -> dict[str, Any]:
        """What a later start takes up: order, filters, colours."""
        kept = {name: getattr(self.view, name) for name in ("order", "wrong", "worse", "loops")}
        return {**kept, "colours": self.sound.view.colours}

    def from_json(self, kept: dict[str, Any]) -> None:
        """Take up what `to_json` gave; what is not known is passed over."""
        order = kept.get("order")
        wrong, worse, loops = (kept.get(name) is True for name in ("wrong", "worse", "loops"))
        self.view = View(order if order in ORDERS else ORDERS[0], wrong, worse, loops)
        if kept.get("colours") in colourmaps.NAMES:
            self.sound.view.colours = kept["colours"]
        self._list()
