"""What a transcript got wrong, word by word: an alignment, its counts, and rows of words one below the other.

Colour is never alone: `[missing]` words stand in brackets and struck out, `+added` ones behind a plus and underlined,
substituted ones bold below the word that was said.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.style import Style
from rich.text import Text

Kind = Literal["equal", "substituted", "deleted", "inserted"]

# Longer texts are compared up to here: the table of an alignment has this many cells, squared.
MOST_WORDS = 3000
# Of words added in a row, as loops add them by the hundred, so many are shown at the beginning and at the end.
SHOWN_BEFORE, SHOWN_AFTER = 16, 4

STYLES: Mapping[str, Style] = {
    "equal": Style(),
    "wrong": Style(bold=True),  # a word of the reference that the model did not write
    "substituted": Style(color="yellow", bold=True),
    "deleted": Style(color="red", strike=True),
    "inserted": Style(color="cyan", bold=True, underline=True),
    "label": Style(dim=True),
}


class Edit(NamedTuple):
    """One step of an alignment; the position is None on the side that has no word."""

    kind: Kind
    reference: int | None
    hypothesis: int | None


class Counts(NamedTuple):
    """Errors of one transcript."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def total(self) -> int:
        """All errors."""
        return sum(self)


@dataclass(frozen=True)
class Cell:
    """One word of one row; a row without a word in a column has an empty cell."""

    word: str = ""
    style: str = "equal"

    @property
    def text(self) -> str:
        """The word with the mark that is read without colour."""
        if self.style == "deleted":
            return f"[{self.word}]"
        return f"+{self.word}" if self.style == "inserted" else self.word


def plain(text: object) -> str:
    """Text from a file as it may be shown: nothing that moves the cursor, hides or reorders what is around it."""
    kept = (" " if each.isspace() else each for each in str(text))
    # Cc: escapes; Cf: direction overrides, zero widths (the joiners are needed to write some scripts); Cs: surrogates
    return "".join(each for each in kept if each in "\u200c\u200d" or unicodedata.category(each) not in _UNSHOWN)


_UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn")


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Edit]:
    """The fewest edits from one to the other.

    Where several alignments have as few, the one that jiwer takes is taken (its library's rules, read in
    rapidfuzz-cpp's `recover_alignment`), so that what is shown adds up to the counts in `samples.jsonl`.
    """
    start = 0
    while start < min(len(reference), len(hypothesis)) and reference[start] == hypothesis[start]:
        start += 1
    end = 0
    while end < min(len(reference), len(hypothesis)) - start and reference[-1 - end] == hypothesis[-1 - end]:
        end += 1
    row, column = len(reference) - end, len(hypothesis) - end
    edits = [Edit("equal", row + index, column + index) for index in reversed(range(end))]
    distance = _distances(reference[start:row], hypothesis[start:column])
    i, j = row - start, column - start
    while i or j:
        if not j or (i and distance[i, j] == distance[i - 1, j] + 1):
            i -= 1
            edits.append(Edit("deleted", start + i, None))
        elif not i or (j > 1 and distance[i, j - 1] == distance[i - 1, j - 1] - 1):
            j -= 1
            edits.append(Edit("inserted", None, start + j))
        else:
            i, j = i - 1, j - 1
            same = reference[start + i] == hypothesis[start + j]
            edits.append(Edit("equal" if same else "substituted", start + i, start + j))
    edits += [Edit("equal", index, index) for index in reversed(range(start))]
    return edits[::-1]


def _distances(reference: Sequence[str], hypothesis: Sequence[str]) -> np.ndarray:
    """Edit distances of all beginnings, (R + 1, H + 1): a row at a time, for loops of thousands of words."""
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for word in hypothesis], np.int32)
    places = np.arange(len(hypothesis) + 1, dtype=np.int16)
    table = np.empty((len(reference) + 1, len(hypothesis) + 1), np.int16)
    table[0] = places
    for index, word in enumerate(reference):
        above, here = table[index], table[index + 1]
        here[0] = index + 1
        here[1:] = np.minimum(above[1:] + 1, above[:-1] + (words != numbers.get(word, -1)))
        # insertions run along the row: the least of everything to the left, plus the way from there
        here[:] = np.minimum.accumulate(here - places) + places
    return table


def count(edits: Iterable[Edit]) -> Counts:
    """Substitutions, deletions and insertions of an alignment."""
    kinds = [edit.kind for edit in edits]
    return Counts(kinds.count("substituted"), kinds.count("deleted"), kinds.count("inserted"))


def compare(reference: str, hypotheses: Sequence[str]) -> tuple[list[tuple[Cell, ...]], list[Counts]]:
    """Columns of cells, the reference's first and then each hypothesis's, and the counts of each hypothesis.

    Words that hypotheses add at the same place share columns.
    """
    texts = [plain(text).split()[:MOST_WORDS] for text in (reference, *hypotheses)]
    words, others = texts[0], texts[1:]
    alignments = [align(words, other) for other in others]
    under: list[list[Cell]] = [[Cell()] * len(words) for _ in others]
    added: list[list[list[Cell]]] = [[[] for _ in range(len(words) + 1)] for _ in others]
    for row, (other, edits) in enumerate(zip(others, alignments, strict=True)):
        place = 0
        for kind, here, there in edits:
            if here is None:
                assert there is not None
                added[row][place].append(Cell(other[there], kind))
                continue
            under[row][here] = Cell(words[here] if there is None else other[there], kind)
            place = here + 1
    columns: list[tuple[Cell, ...]] = []
    for place in range(len(words) + 1):
        new = [row[place] for row in added]
        for index in range(max(map(len, new), default=0)):
            columns.append((Cell(), *(cells[index] if index < len(cells) else Cell() for cells in new)))
        if place < len(words):
            below = [row[place] for row in under]
            # bold where the first of them, the model, has something else
            right = not below or below[0].style == "equal"
            columns.append((Cell(words[place], "equal" if right else "wrong"), *below))
    return columns, [count(edits) for edits in alignments]


def render(
    columns: Sequence[tuple[Cell, ...]],
    labels: Sequence[str],
    width: int,
    styles: Mapping[str, Style | str] | Mapping[str, Style] = STYLES,
) -> list[Text]:
    """Lines of at most `width` cells: blocks of rows, one word below the other, a blank line between blocks."""
    gutter = max(map(cell_len, labels), default=0) + 2
    lines: list[Text] = []
    for block in _blocks(_shorten(columns), max(width - gutter, 1)):
        if lines:
            lines.append(Text())
        for row, label in enumerate(labels):
            # a row that has no word here is a loop's other rows: only the last block's silence is worth a line
            if len(columns) > len(block) and not any(each[row][0] for each, _ in block):
                continue
            line = Text(no_wrap=True)
            line.append(set_cell_size(label, gutter), styles["label"])
            for pieces, wide in block:
                text, style = pieces[row]
                line.append(text, styles[style])
                line.append(" " * (wide - cell_len(text) + 1))
            line.rstrip()
            lines.append(line)
    return lines


def _shorten(columns: Sequence[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """Columns without the middle of long runs of added words; a cell in its place says how many."""
    shown: list[tuple[Cell, ...]] = []
    for is_added, run in itertools.groupby(columns, lambda column: not column[0].word):
        these = list(run)
        middle = these[SHOWN_BEFORE:-SHOWN_AFTER]
        if is_added and len(middle) > 1:
            more = [sum(bool(column[row].word) for column in middle) for row in range(len(these[0]))]
            said = tuple(Cell(f"({number} more)" if number else "", "label") for number in more)
            these = [*these[:SHOWN_BEFORE], said, *these[-SHOWN_AFTER:]]
        shown += these
    return shown


def _blocks(columns: Sequence[tuple[Cell, ...]], room: int) -> list[list[tuple[list[tuple[str, str]], int]]]:
    """Columns by the block that holds them, each with its width; what is wider than a block goes on in the next."""
    blocks: list[list[tuple[list[tuple[str, str]], int]]] = []
    left = -1
    for column in columns:
        chopped = [chop_cells(cell.text, room) or [""] for cell in column]
        for index in range(max(map(len, chopped))):
            pieces = [
                (each[index] if index < len(each) else "", cell.style)
                for each, cell in zip(chopped, column, strict=True)
            ]
            wide = max(cell_len(text) for text, _ in pieces)
            if wide > left:
                blocks.append([])
                left = room
            blocks[-1].append((pieces, wide))
            left -= wide + 1
    return blocks
