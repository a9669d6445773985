"""The list of utterances as a widget: errors beyond the original's, WER, the original's, set, id, what was said."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.color import Color

from whisper_min.ui import words
from whisper_min.ui.lines import LineView
from whisper_min.ui.utterances import Key, Utterance

# Widths of the columns; an id is cut at its front, where the names of files are alike.
DAMAGE, RATE, FLAG, MOST_SET, MOST_ID, LEAST_TEXT = 6, 7, 4, 14, 32, 14
TITLES = {"damage": "more", "WER": "WER", "id": "id"}


class UtteranceList(LineView):
    """One line an utterance."""

    def __init__(self, ascii_only: bool = False) -> None:
        super().__init__(id="utterances")
        self.ascii_only = ascii_only
        self.utterances: list[Utterance] = []
        self._set_width = self._id_width = 0

    @property
    def current(self) -> Utterance | None:
        """The utterance at the cursor."""
        return self.utterances[self.cursor] if self.cursor < len(self.utterances) else None

    def fill(self, utterances: Sequence[Utterance], *, top: bool = False) -> None:
        """Show these; the cursor stays on its utterance, where that is gone, at its place, or goes to the top."""
        before = self.current
        self.utterances = list(utterances)
        sets = {each.set for each in utterances}
        self._set_width = min(max(map(cell_len, sets), default=0), MOST_SET) + 2 if len(sets) > 1 else 0
        self._id_width = min(max((cell_len(each.id) for each in utterances), default=0), MOST_ID) + 2
        places: dict[Key, int] = {each.key: index for index, each in enumerate(utterances)}
        place = 0 if top or before is None else places.get(before.key, self.cursor)
        self.set_count(len(utterances))
        self.move_to(place, tell=False)

    def colour(self, name: str) -> str:
        """A colour of the theme, laid over the background where it lets that through: rich knows none that do."""
        colour = Color.parse(super().colour(name) or "transparent")
        return colour.hex if colour.a == 1 else (self.background_colors[1] + colour).hex6

    def titles(self, width: int, order: str) -> Text:
        """The names of the columns, the one that is sorted by with its arrow."""
        arrow = {"v" if self.ascii_only else "▾": order}
        down = next(iter(arrow))
        named = {each: each + down if each == order else each for each in ("WER", "id")}
        more = "more" + down if order == "damage" else "more"
        text = more.rjust(DAMAGE) + named["WER"].rjust(RATE) + "orig".rjust(RATE) + " " * FLAG
        text += "set".ljust(self._set_width) if self._set_width else ""
        text += named["id"].ljust(self._id_width) + ("said" if self._room_for_text(width) else "")
        return Text(set_cell_size(text, width), no_wrap=True)

    def _room_for_text(self, width: int) -> int:
        """Cells for what was said, right of everything else."""
        left = width - (DAMAGE + 2 * RATE + FLAG + self._set_width + self._id_width)
        return left if left >= LEAST_TEXT else 0

    def line(self, index: int, width: int) -> Text:
        """One utterance."""
        each = self.utterances[index]
        room, faint = self._room_for_text(width), self.colour("secondary")
        tone = "" if not each.damage else self.colour("error" if each.damage > 0 else "success")
        mark = ("L" if self.ascii_only else "↻") if each.loops else ""
        text = Text()
        text.append(signed(each.damage, self.ascii_only).rjust(DAMAGE), f"bold {tone}".strip() if tone else faint)
        text.append(words.percent(each.rate).rjust(RATE))
        text.append(words.percent(each.original_rate).rjust(RATE), faint)
        text.append(f"  {mark}".ljust(FLAG), self.colour("warning"))
        text.append(fit(each.set, self._set_width), faint)
        left = width - cell_len(text.plain)
        text.append(fit(each.id, self._id_width if room else left, "~" if self.ascii_only else "…"))
        text.append(set_cell_size(each.reference, room), faint)
        return text


def signed(damage: int | None, ascii_only: bool = False) -> str:
    """Errors beyond the original's: `+2`, `−1`, `=`, `?` where there is nothing to compare with."""
    if not damage:
        return "?" if damage is None else "="
    return f"+{damage}" if damage > 0 else f"{'-' if ascii_only else '−'}{-damage}"


def fit(text: str, width: int, mark: str = "…") -> str:
    """Text in a column that ends in two blanks, cut at its front."""
    room = max(width - 2, 0)
    if cell_len(text) > room:
        while text and cell_len(text) > room - 1:
            text = text[1:]
        text = mark + text
    return set_cell_size(text, width)
