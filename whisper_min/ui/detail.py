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

Styles = Mapping[str, Style | str]
HISTORY = 40  # evaluations shown at most


class Detail(Static):
    """Redrawn for another utterance, step or width."""

    DEFAULT_CSS = "Detail { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Sequence[Row], int, bool, Styles] | None = None
        self._width = 0

    def show(self, rows: Sequence[Row] | None, at: int, as_written: bool, styles: Styles) -> None:
        """Show one of an utterance's evaluations, or nothing."""
        self._shown = (rows, at, as_written, styles) if rows else None
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
        rows, at, as_written, styles = self._shown
        lines = self.lines(rows[at], as_written, self._width, styles)
        facts = [self._rates(rows[at], styles)]
        if len(rows) > 1:
            facts.append(history(rows, at, self._width, styles))
        self.update(Text("\n").join([*facts, Text(), *lines]))

    def _rates(self, row: Row, styles: Styles) -> Text:
        """WER and S/D/I of both, as scored."""
        text = Text(no_wrap=True, overflow="ellipsis")
        _, counts = compare(row, as_written=False)
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

    def lines(self, row: Row, as_written: bool, width: int, styles: Styles) -> list[Text]:
        """The texts of an evaluation, word below word."""
        columns, _ = compare(row, as_written)
        labels = ["reference", "model", "original"][: len(columns[0]) if columns else 0]
        return diff.render(columns, labels, width, styles) or [Text("Nobody said and nobody wrote anything.")]


def compare(row: Row, as_written: bool) -> tuple[list[tuple[diff.Cell, ...]], list[Counts]]:
    """The columns of reference, model and, where it is known, original; as scored, or as written."""
    suffix = "" if as_written else "_normalized"
    names = ["hypothesis", "original"] if isinstance(row.get("original"), str) else ["hypothesis"]
    texts = [said(row, name + suffix) for name in names]
    return diff.compare(said(row, "reference" + suffix), texts, diff.fold if as_written else str)


def history(rows: Sequence[Row], at: int, width: int, styles: Styles) -> Text:
    """WER at every evaluation, the one that is looked at marked."""
    # as many as fit, the marked one among them
    most = min(HISTORY, max(width - 30, 1))
    first = max(0, min(at - most // 2, len(rows) - most))
    part = rows[first : first + most]
    rates = [number(row.get("wer")) for row in part]
    top = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
    text = Text("steps ", styles["label"], no_wrap=True)
    text.append(f"{part[0]['_step']} ", styles["label"])
    for index, rate in enumerate(rates, first):
        height = "·" if math.isnan(rate) else "▁▂▃▄▅▆▇█"[round(7 * rate / top) if top else 0]
        text.append(height, "reverse" if index == at else "")
    text.append(f" {part[-1]['_step']}", styles["label"])
    return text
