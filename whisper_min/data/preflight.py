"""Reads every entry before a training starts, and says all that is wrong with them at once.

Recordings are looked at in `recordings.py` (of many hours a sample is decoded), streamed tars in `survey.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whisper_min import runs, text
from whisper_min.config import Config
from whisper_min.data import faults, notes, recordings, survey
from whisper_min.data.checked import TRAINED, CheckedSet, Report
from whisper_min.data.examples import SpeechSet
from whisper_min.data.recordings import Facts
from whisper_min.data.tokens import Tokens


def run(sets: Sequence[tuple[str, SpeechSet]], cfg: Config, tokens: Tokens, console: Console) -> Report:
    """Check all sets of a training or an evaluation: (role, set) pairs, roles as the options are named."""
    report = Report()
    sets = [
        (role, replace(speech, examples=survey.sample(speech, cfg.seed)) if speech.shards else speech)
        for role, speech in sets
    ]
    entries = [example for _, speech in sets for example in speech.examples]
    inspected, report.all_decoded = recordings.inspect_all(entries, cfg, console, report.notes)
    facts = iter(inspected)
    checked = [(role, speech, [next(facts) for _ in speech.examples]) for role, speech in sets]
    evaluated = {
        digest: speech.name for role, speech, known in checked if role not in TRAINED for digest in _digests(known)
    }
    trained = {digest for role, _, known in checked if role == "data" for digest in _digests(known)}
    for role, speech, known in checked:
        # audio that is only lent to EWC needs no labels, unless its Fisher information is taken from them
        is_read = role != "replay" or speech.share > 0 or (cfg.ewc > 0 and cfg.fisher == "labels")
        self_label = role == "replay" and is_read and (cfg.self_label or not speech.has_text)
        style = _style(role, speech, cfg) if is_read and not self_label else "keep"
        keep: list[int] = []
        told = list(speech.faults)
        for index, (example, its) in enumerate(zip(speech.examples, known, strict=True)):
            wrong = list(faults.of_entry(example, its, role, cfg))
            if is_read and not self_label and its.error is None:
                wrong += faults.of_text(example, speech, style, tokens)
            if role in TRAINED and its.digest in evaluated:
                kind = "training" if role == "data" else "replay"
                wrong.append(f"is in the {kind} set and in the evaluation set {evaluated[its.digest]}; remove one")
            told += [f"{example.where}: {fault}" for fault in wrong]
            if not wrong:
                keep.append(index)
        totals = None
        if speech.shards:
            unused = frozenset(speech.examples[index].where for index in set(range(len(known))) - set(keep))
            totals, found = survey.take(speech, style, cfg, tokens, console, report.notes)
            totals = replace(totals.with_lengths([known[index].seconds for index in keep]), left_out=unused)
            told = list(dict.fromkeys(found + told))
            if not (totals.entries or told):
                told = [f"--{role} {speech.source}: holds no entries"]
        if role in ("data", "eval_data") and speech.examples and not speech.has_text and not speech.held_out:
            told = [f"--{role} {speech.source}: has no transcripts; only --retain and --replay take sets without"]
            report.faults += told
        elif told and cfg.skip_bad and keep and (totals is None or totals.entries):
            report.skipped += told
            speech = replace(speech, examples=[speech.examples[index] for index in keep], skipped=told)
            known = [known[index] for index in keep]
        else:
            report.faults += told
        report.sets.append(CheckedSet(role, speech, known, style, self_label, totals=totals))
        report.notes += list(notes.of_set(report.sets[-1], cfg, tokens))
        if role == "replay" and (both := sum(each.digest in trained for each in known)):
            report.notes.append(f"replay {speech.name}: {both} of {len(known)} recordings are in --data, too")
        if role not in TRAINED:
            wordless, some = faults.without_words(report.sets[-1], cfg)
            report.faults, report.notes = report.faults + wordless, report.notes + some
    if report.faults and not cfg.skip_bad and any(" …" not in fault for fault in report.faults):
        report.notes.append("--skip_bad leaves out entries with faults, and lists and counts them")
    return report


def _style(role: str, speech: SpeechSet, cfg: Config) -> str:
    """The label style of a set; evaluation sets, of which only a loss is computed, do not wait for the original."""
    waits = cfg.label_style == "original" and role not in TRAINED
    return text.resolve_style("auto" if waits else cfg.label_style, [example.text for example in speech.examples])


def _digests(facts: Sequence[Facts]) -> set[str]:
    return {each.digest for each in facts if each.digest}


def table(report: Report) -> Table:
    """The sets in one table."""
    made = Table(title="Preflight", title_justify="left")
    for column in ("option", "set", "entries", "hours", "speakers", "references"):
        made.add_column(column, justify="right" if column in ("entries", "hours", "speakers") else "left")
    for each in report.sets:
        examples = each.speech.examples
        speakers = len({example.speaker for example in examples if example.speaker})
        style = text.describe_style([example.text for example in examples])
        if each.self_label:
            style += " → the original's"
        elif each.role in TRAINED and each.style != "keep":
            style += f" → {each.style}"
        hours = f"{(each.totals.seconds if each.totals else sum(each.seconds)) / 3600:.2f}"
        hours = f"≈ {hours}" if each.totals and each.totals.timed < each.totals.entries else hours
        option = f"--{each.role}" + (f" {100 * each.speech.share:g} %" if each.role == "replay" else "")
        made.add_row(
            option, each.speech.name, str(each.entries), hours, "?" if each.totals else str(speakers or "?"), style
        )
    return made


def show(report: Report, out: Console) -> None:
    """Print the sets, what is worth knowing about them, and what was left out."""
    out.print(table(report))
    for line in [*(f"note: {note}" for note in report.notes), *(f"left out: {fault}" for fault in report.skipped)]:
        out.print(text.visible(line), markup=False, highlight=False, soft_wrap=True)


def batch_table(inputs: Sequence[int], targets: Sequence[int], tokens: Tokens, title: str) -> Table:
    """One row of a batch, token by token: what is read, what should be predicted, whether the loss counts it."""
    made = Table(title=Text(text.visible(title)), title_justify="left")
    for column in ("position", "decoder reads", "should predict", "in the loss"):
        made.add_column(column, justify="right" if column == "position" else "left")
    for position, (read, predicted) in enumerate(zip(inputs, targets, strict=True)):
        counted = "yes" if predicted >= 0 else "no"
        cells = f"{read} {tokens.name(read)}", tokens.name(predicted)
        made.add_row(str(position), *map(Text, cells), counted)
    return made


def write_lists(folder: Path, report: Report) -> None:
    """List held-out entries and skipped ones in the run folder."""
    held = [each for each in report.sets if each.speech.held_out]
    for each in held:
        rows = [{"id": example.id, "where": example.where} for example in each.speech.examples]
        runs.write_atomic(folder / "held_out.jsonl", "".join(map(runs.to_json_line, rows)))
    if report.skipped:
        runs.write_atomic(folder / "skipped.txt", "\n".join(report.skipped) + "\n")
