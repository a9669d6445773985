"""One utterance's texts: reference, model and original word below word, their counts, and the WER over the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text
from textual.widgets import Static

from whisper_min.ui import diff, words
from whisper_min.ui.diff import Counts
from whisper_min.ui.utterances import Row, number, said

LABELS = ("reference", "model", "original")
Styles = Mapping[str, Style | str]
LONGEST = 600  # characters shown of a text as it was written: loops go on


class Detail(Static):
    """Redrawn for another utterance, step or width."""

    DEFAULT_CSS = "Detail { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Sequence[Row], int, Styles] | None = None
        self._width = 0

    def show(self, rows: Sequence[Row] | None, at: int, styles: Styles) -> None:
        """Show one of an utterance's evaluations, or nothing."""
        self._shown = (rows, at, styles) if rows else None
        self._draw()

    def on_resize(self) -> None:
        """Words are placed anew where the width changed."""
        if self.size.width != self._width:
            self._draw()

    def _draw(self) -> None:
        self._width = self.size.width or 60
        if self._shown is None:
            self.update("")
            return
        rows, at, styles = self._shown
        lines = [self._rates(rows[at], styles), *self.compared(rows[at], self._width, styles), Text()]
        if len(rows) > 1:
            lines += [history(rows, at, self._width, styles), Text()]
        self.update(Text("\n").join([*lines, *self.written(rows[at], self._width, styles)]))

    def _rates(self, row: Row, styles: Styles) -> Text:
        """WER and S/D/I of both, as scored."""
        text = Text(no_wrap=True, overflow="ellipsis")
        _, counts = compare(row)
        for name, rate, count in zip(
            ("model", "original"), (row.get("wer"), row.get("original_wer")), counts, strict=False
        ):
            text.append(f"{'   ' if text else ''}{name} ", styles["label"])
            text.append(f"{words.percent(number(rate))} %", "bold")
            text.append(f"  {count.substitutions}S {count.deletions}D {count.insertions}I")
        flags = row.get("flags")
        if isinstance(flags, list) and flags:
            text.append(f"   {', '.join(diff.plain(flag).replace('_', ' ') for flag in flags)}", styles["substituted"])
        return text

    def compared(self, row: Row, width: int, styles: Styles) -> list[Text]:
        """The texts as they were scored, word below word."""
        columns, counts = compare(row)
        return diff.render(columns, LABELS[: len(counts) + 1], width, styles) or [Text("Nobody said anything.")]

    def written(self, row: Row, width: int, styles: Styles) -> list[Text]:
        """The texts as they were written."""
        gutter = max(map(len, LABELS)) + 2
        lines = [Text("as written", styles["label"])]
        for label, name in zip(LABELS, ("reference", "hypothesis", "original"), strict=True):
            text = diff.plain(said(row, name).strip())
            parts = Text(text if len(text) <= LONGEST else f"{text[:LONGEST]} …").wrap(
                self.app.console, max(width - gutter, 8)
            )
            for index, part in enumerate(parts):
                lines.append(Text.assemble((("" if index else label).ljust(gutter), styles["label"]), part))
        return lines


def compare(row: Row) -> tuple[list[tuple[diff.Cell, ...]], list[Counts]]:
    """The columns of reference, model and, where it is known, original, as they were scored."""
    names = ["hypothesis", "original"] if isinstance(row.get("original"), str) else ["hypothesis"]
    return diff.compare(said(row, "reference_normalized"), [said(row, f"{name}_normalized") for name in names])


def history(rows: Sequence[Row], at: int, width: int, styles: Styles) -> Text:
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
    top = max((rate for rate in part if math.isfinite(rate)), default=0.0)
    text = Text("steps ", styles["label"], no_wrap=True)
    text.append(f"{rows[first]['_step']} ", styles["label"])
    for index, rate in enumerate(part, first):
        height = "·" if math.isnan(rate) else "▁▂▃▄▅▆▇█"[round(7 * rate / top) if top else 0]
        text.append(height, "reverse" if index == at else "")
    text.append(f" {rows[first + len(part) - 1]['_step']}", styles["label"])
    return text
