"""One utterance's texts: reference, model and original word below word, their counts, and the WER over the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual.widgets import Static

from whisper_min.ui import diff, words
from whisper_min.ui.utterances import Row, number, said

Styles = Mapping[str, Style | str]
LONGEST = 600  # characters shown of a text as it was written: loops go on
LABEL = 14  # cells of a run's name


@dataclass(frozen=True)
class Voice:
    """Who wrote a transcript: the model, the original, or another run that is marked."""

    label: str
    scored: str
    written: str
    rate: float


def voices(written: Sequence[tuple[str, Row]]) -> list[Voice]:
    """Those who wrote these rows, by their names, and after the first of them, where it is known, the original."""
    found = []
    for name, row in written:
        label = set_cell_size(diff.plain(name), LABEL).rstrip()
        texts = said(row, "hypothesis_normalized"), said(row, "hypothesis")
        found.append(Voice(label, *texts, number(row.get("wer"))))
    first = written[0][1]
    if isinstance(first.get("original"), str):
        texts = said(first, "original_normalized"), said(first, "original")
        found.insert(1, Voice("original", *texts, number(first.get("original_wer"))))
    return found


class Detail(Static):
    """Redrawn for another utterance, step or width."""

    DEFAULT_CSS = "Detail { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self.ascii_only = False
        self._shown: tuple[Sequence[Row], int, Sequence[tuple[str, Row]], Styles] | None = None
        self._width = 0

    def show(self, rows: Sequence[Row], at: int, written: Sequence[tuple[str, Row]], styles: Styles) -> None:
        """Show one of an utterance's evaluations; `written` begins with it, and what other runs wrote follows."""
        self._shown = (rows, at, written, styles)
        self._draw()

    def say(self, sentence: str) -> None:
        """Show a sentence instead."""
        self._shown = None
        self.update(Text(sentence))

    def on_resize(self) -> None:
        """Words are placed anew where the width changed."""
        if self._shown is not None and self.size.width != self._width:
            self._draw()

    def _draw(self) -> None:
        assert self._shown is not None
        self._width = self.size.width or 60
        rows, at, written, styles = self._shown
        heard, width = voices(written), self._width
        reference = said(rows[at], "reference_normalized")
        columns, counts = diff.compare(reference, [voice.scored for voice in heard])
        lines = [*_rates(rows[at], heard, counts, width, styles), *_below(columns, heard, width, styles), Text()]
        if len(rows) > 1:
            lines += [history(rows, at, width, styles, self.ascii_only), Text()]
        lines += _written(rows[at], heard, width, styles, self.app.console)
        self.update(Text("\n").join(lines))


def describe(row: Row, width: int, styles: Styles, console: Console) -> list[Text]:
    """An evaluation's texts alone, for a picture."""
    heard = voices([("model", row)])
    columns, _ = diff.compare(said(row, "reference_normalized"), [voice.scored for voice in heard])
    return [*_below(columns, heard, width, styles), Text(), *_written(row, heard, width, styles, console)]


def _rates(row: Row, heard: Sequence[Voice], counts: Sequence[diff.Counts], width: int, styles: Styles) -> list[Text]:
    """WER and S/D/I of each, as scored, as many in a line as fit."""
    parts = []
    for voice, count in zip(heard, counts, strict=True):
        errors = f"  {count.substitutions}S {count.deletions}D {count.insertions}I"
        rate = f"{words.percent(voice.rate)} %"
        parts.append(Text.assemble((f"{voice.label} ", styles["label"]), (rate, "bold"), errors))
    flags = row.get("flags")
    if isinstance(flags, list) and flags:
        said_of = ", ".join(diff.plain(flag).replace("_", " ") for flag in flags)
        parts.append(Text(said_of, styles["substituted"]))
    lines = [Text()]
    for part in parts:
        if lines[-1] and lines[-1].cell_len + 3 + part.cell_len > width:
            lines.append(Text())
        lines[-1] = Text.assemble(lines[-1], "   " if lines[-1] else "", part)
    return lines


def _below(columns: Sequence[tuple[diff.Cell, ...]], heard: Sequence[Voice], width: int, styles: Styles) -> list[Text]:
    """The texts as they were scored, word below word."""
    labels = ["reference", *(voice.label for voice in heard)]
    return diff.render(columns, labels, width, styles) or [Text("Nobody said and nobody wrote anything.")]


def _written(row: Row, heard: Sequence[Voice], width: int, styles: Styles, console: Console) -> list[Text]:
    """The texts as they were written."""
    texts = [("reference", said(row, "reference")), *((voice.label, voice.written) for voice in heard)]
    gutter = max(cell_len(label) for label, _ in texts) + 2
    lines = [Text("as written", styles["label"])]
    for label, text in texts:
        text = diff.plain(text.strip())
        shown = Text(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")
        for index, part in enumerate(shown.wrap(console, max(width - gutter, 8))):
            lines.append(Text.assemble((set_cell_size("" if index else label, gutter), styles["label"]), part))
    return lines


def history(rows: Sequence[Row], at: int, width: int, styles: Styles, ascii_only: bool = False) -> Text:
    """WER at every evaluation, the one that is looked at marked: as numbers where they fit, else as a curve."""
    rates = [number(row.get("wer")) for row in rows]
    text = Text("step ", styles["label"], no_wrap=True)
    for index, (row, rate) in enumerate(zip(rows, rates, strict=True)):
        text.append("   " if index else "")
        text.append(f" {row['_step']}: {words.percent(rate)} % ", "reverse" if index == at else "")
    if text.cell_len <= width:
        return text
    # as many as fit, the marked one among them
    most = max(width - 24, 1)
    first = max(0, min(at - most // 2, len(rows) - most))
    part = rates[first : first + most]
    heights = "12345678" if ascii_only else "▁▂▃▄▅▆▇█"
    top = max((rate for rate in part if math.isfinite(rate)), default=0.0)
    text = Text("steps ", styles["label"], no_wrap=True)
    text.append(f"{rows[first]['_step']} ", styles["label"])
    for index, rate in enumerate(part, first):
        height = "-" if math.isnan(rate) else heights[round(7 * rate / top) if top else 0]
        text.append(height, "reverse" if index == at else "")
    text.append(f" {rows[first + len(part) - 1]['_step']}", styles["label"])
    return text
