"""The list of utterances as a widget: errors beyond the original's, WER, the original's, set, id, what was said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.color import Color

from whisper_min.ui import words
from whisper_min.ui.lines import LineView
from whisper_min.ui.utterances import Key, Utterance

# Widths of the columns; an id is cut at its front, where the names of files are alike.
DAMAGE, RATE, FLAG, LEAST_TEXT = 6, 7, 4, 14
MOST_SET, MOST_ID = 14, 22
ENDING = re.compile(r"\.(wav|flac|mp3|ogg|opus|m4a|sph|webm|aiff?)$", re.IGNORECASE)


class UtteranceList(LineView):
    """One line an utterance."""

    def __init__(self, ascii_only: bool = False) -> None:
        super().__init__(id="utterances")
        self.ascii_only = ascii_only
        self.utterances: list[Utterance] = []
        self._set_width = self._id_width = 0
        self._folders: dict[str, str] = {}

    @property
    def current(self) -> Utterance | None:
        """The utterance at the cursor."""
        return self.utterances[self.cursor] if self.cursor < len(self.utterances) else None

    def fill(self, utterances: Sequence[Utterance], *, top: bool = False) -> None:
        """Show these; the cursor stays on its utterance, where that is gone, at its place, or goes to the top."""
        before = self.current
        self.utterances = list(utterances)
        self._folders = common_folders(utterances)
        self._set_width = max(map(cell_len, self._folders), default=0) + 2 if len(self._folders) > 1 else 0
        self._id_width = min(max((cell_len(self._short(each)) for each in utterances), default=2), MOST_ID) + 2
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
        down = "v" if self.ascii_only else "▾"
        named = {each: each + down if each == order else each for each in ("WER", "id")}
        more = "more" + down if order == "damage" else "more"
        text = more.rjust(DAMAGE) + named["WER"].rjust(RATE) + "orig".rjust(RATE) + " " * FLAG
        of_set, of_id, of_text = self._widths(width)
        text += ("set".ljust(of_set) if of_set else "") + named["id"].ljust(of_id) + ("said" if of_text else "")
        return Text(set_cell_size(text, width), no_wrap=True)

    def _short(self, each: Utterance) -> str:
        """An id without what it shares with its whole set, and without the ending of a file."""
        return ENDING.sub("", each.id.removeprefix(self._folders.get(each.set, "")))

    def _widths(self, width: int) -> tuple[int, int, int]:
        """Cells for the set, the id and what was said; a narrow list shortens the first, then drops the last."""
        left = width - (DAMAGE + 2 * RATE + FLAG)
        of_set = min(self._set_width, MOST_SET + 2 if width >= 60 else 8)
        of_text = left - of_set - self._id_width
        if of_text < LEAST_TEXT:
            return of_set, max(left - of_set, 0), 0
        return of_set, self._id_width, of_text

    def line(self, index: int, width: int) -> Text:
        """One utterance."""
        each = self.utterances[index]
        (of_set, of_id, of_text), faint = self._widths(width), self.colour("secondary")
        tone = "" if not each.damage else self.colour("error" if each.damage > 0 else "success")
        mark = ("L" if self.ascii_only else "↻") if each.loops else ""
        text = Text()
        text.append(signed(each.damage, self.ascii_only).rjust(DAMAGE), f"bold {tone}".strip() if tone else faint)
        text.append(words.percent(each.rate).rjust(RATE))
        text.append(words.percent(each.original_rate).rjust(RATE), faint)
        text.append(f"  {mark}".ljust(FLAG), self.colour("warning"))
        cut = "~" if self.ascii_only else "…"
        text.append(fit(each.set, of_set, cut, front=False), faint)
        text.append(fit(self._short(each), of_id, cut))
        text.append(set_cell_size(each.reference, of_text), faint)
        return text


def signed(damage: int | None, ascii_only: bool = False) -> str:
    """Errors beyond the original's: `+2`, `−1`, `=`, `?` where there is nothing to compare with."""
    if not damage:
        return "?" if damage is None else "="
    return f"+{damage}" if damage > 0 else f"{'-' if ascii_only else '−'}{-damage}"


def common_folders(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Set -> the folder that all its ids are in, with its slash; empty where they are in several, or in none."""
    folders: dict[str, set[str]] = {}
    for each in utterances:
        folders.setdefault(each.set, set()).add(each.id[: each.id.rfind("/") + 1])
    return {name: min(found) if len(found) == 1 else "" for name, found in folders.items()}


def fit(text: str, width: int, cut: str = "…", *, front: bool = True) -> str:
    """Text in a column that ends in a blank or two; what is too long is cut at its front or its end."""
    room = max(width - 2, 0)
    if cell_len(text) > room:
        while text and cell_len(text) > room - 1:
            text = text[1:] if front else text[:-1]
        text = cut + text if front else text + cut
    return set_cell_size(text, width)
