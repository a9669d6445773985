"""What `evaluate.py` writes: every system on every set, intervals, comparisons with the first, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from whisper import Whisper

from whisper_min import config, runs
from whisper_min.config import InputError
from whisper_min.data.checked import Report
from whisper_min.data.tokens import Tokens
from whisper_min.scoring import decode, examination, significance, timestamps, wer
from whisper_min.scoring.evaluation import Scorer, SetResult
from whisper_min.scoring.health import Health, flags
from whisper_min.training.reporter import Reporter

# Columns of a terminal that takes the wide tables, and that a name keeps in a narrow one.
WIDE, NAME_WIDTH = 120, 8


def with_original(systems: Sequence[str]) -> list[str]:
    """The systems, the baseline first: one that is no run, else the original that the first run started from."""
    if not systems:
        raise InputError("no system to score; name a run folder or a model, as in: evaluate.py runs/NAME --data …")
    plain = [name for name in systems if not runs.is_run(Path(name))]
    if plain:
        return list(dict.fromkeys([plain[0], *systems]))
    return list(dict.fromkeys([config.load(Path(systems[0])).model, *systems]))


def score_system(
    name: str,
    model: Whisper,
    scorer: Scorer,
    report: Report,
    baseline: dict[str, SetResult] | None,
    reporter: Reporter,
) -> tuple[dict[str, SetResult], Health]:
    """(set name -> result, health) of one system; it is examined on the general sets where there are some."""
    found: dict[str, SetResult] = {}
    with reporter.bar(name, sum(len(each.speech.examples) for each in report.sets)) as bar:
        done = 0

        def tick(clips: int) -> None:
            nonlocal done
            done += clips
            reporter.advance(bar, done)

        scorer = replace(scorer, tick=tick)
        for checked in report.sets:
            first = baseline[checked.speech.name] if baseline else None
            original = [utterance.hypothesis for utterance in first.utterances] if first else None
            found[checked.speech.name] = scorer.evaluate(model, checked, original)
        general = report.role("retain") or report.sets
        speech = [utterance for checked in general for utterance in found[checked.speech.name].utterances]
        examined = examination.examine(model, scorer, speech)
    return found, examined


def settings(tokens: Tokens, language: str, beam_size: int | None) -> dict[str, Any]:
    """How everything was decoded and scored, as `--json` has it."""
    decoding = {**vars(decode.options(tokens, beam_size)), "beam_size": beam_size or 1}
    return {
        "normalizer": wer.normalizer(language)[0],
        "decoding": {**decoding, "padding": "waveform, zeros, 30 s"},
    }


def describe(name: str, fingerprint: str, results: dict[str, SetResult], examined: Sequence[Health]) -> dict[str, Any]:
    """A system as `--json` has it, but for intervals.

    `examined` ends with its own health and begins with the baseline's; `flags` says what got worse.
    """
    made = {
        "name": name,
        "weights_fingerprint": fingerprint,
        "sets": {set_name: result.summary() for set_name, result in results.items()},
        **examined[-1].to_json(),
        "flags": flags(examined[0], examined[-1]),
    }
    baseline, own = examined[0].timestamps, examined[-1].timestamps
    if baseline and own:
        seconds, compared = timestamps.drift(own, baseline)
        made["timestamps"] |= {"drift_seconds": seconds, "drift_clips": compared}
    return made


def add_intervals(
    systems: Sequence[str], results: dict[str, dict[str, SetResult]], described: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add `wer_ci` to every set; returns the comparisons with the first system, paired, set by set and pooled."""
    comparisons = []
    names = list(results[systems[0]])
    pooled = [name for name in names if not results[systems[0]][name].is_drift]
    for name in names:
        all_results = [results[system][name] for system in systems]
        units = all_results[0].units(all_results[1:])
        rates = significance.resample([units])
        for index, its in enumerate(described):
            rate = "drift" if all_results[index].is_drift else "wer"
            its["sets"][name][f"{rate}_ci"] = list(significance.interval(rates[index]))
            its["sets"][name]["resampled"] = units.kind
        if not all_results[0].is_drift:
            comparisons += compare_all(systems, name, rates, [[each] for each in all_results])
    if len(pooled) > 1:
        sets = [results[systems[0]][name].units([results[s][name] for s in systems[1:]]) for name in pooled]
        together = [[results[system][name] for name in pooled] for system in systems]
        comparisons += compare_all(systems, "pooled", significance.resample(sets), together)
    return comparisons


def compare_all(
    systems: Sequence[str], name: str, rates: significance.Array, results: Sequence[Sequence[SetResult]]
) -> list[dict[str, Any]]:
    """Every system against the first on one set, or on several pooled.

    What a system gained is split: `recognition` is the change of WER as normalised, which is `delta_wer`; `format` is
    what the change of raw WER adds to it, and so case, punctuation and spelling alone.
    """
    totals = [wer.add_up(each.words for each in its).rate for its in results]
    raws = [wer.add_up(each.raw_words for each in its).rate for its in results]
    compared = []
    for index, system in enumerate(systems[1:], 1):
        numbers = vars(significance.compare(rates[0], rates[index], totals[0], totals[index]))
        raw, recognition = raws[index] - raws[0], numbers["delta_wer"]
        split = {"delta_raw_wer": raw, "recognition": recognition, "format": raw - recognition}
        compared.append({"baseline": systems[0], "system": system, "set": name, **numbers, **split})
    return compared


def finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value


def rows_of(system: str, result: SetResult) -> list[dict[str, Any]]:
    """Each utterance as --hypotheses writes it."""
    return [
        {
            "system": system,
            "set": result.name,
            "id": utterance.example.id,
            "audio_filepath": utterance.example.audio_name,
            "speaker": utterance.example.speaker,
            "reference": utterance.reference,
            "hypothesis": utterance.hypothesis,
            "reference_normalized": utterance.reference_normalized,
            "hypothesis_normalized": utterance.hypothesis_normalized,
            "wer": utterance.words.rate,
            "substitutions": utterance.words.substitutions,
            "deletions": utterance.words.deletions,
            "insertions": utterance.words.insertions,
            "flags": utterance.flags,
        }
        for utterance in result.utterances
    ]


def empty_table(title: str, names: Sequence[str], numbers: Sequence[str], name_width: int) -> Table:
    """Columns of names, then of numbers: in a narrow terminal long names wrap, and every number stays whole."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in names:
        made.add_column(column, overflow="fold", min_width=name_width)
    for column in numbers:
        made.add_column(column, justify="right", no_wrap=True, overflow="fold")
    return made


def table(
    normalizer: str, described: list[dict[str, Any]], comparisons: list[dict[str, Any]], wide: bool = True
) -> Table:
    """All systems and sets, the baseline first; `wide` adds what does not fit into 80 columns."""
    columns = ["WER (95 %)", "change (95 %)", "loops"] + ["raw", "format", "CER", "S/D/I"] * wide
    made = empty_table(f"WER in % ({normalizer})", ["set", "system"], columns, NAME_WIDTH)
    changes = {(its["set"], its["system"]): its for its in comparisons}
    for set_name in described[0]["sets"]:
        for its in described:
            numbers = its["sets"][set_name]
            rate = "wer" if "wer" in numbers else "drift"
            row = [escape(set_name) + " (drift)" * (rate == "drift"), short_name(its["name"])]
            row += [with_interval(numbers[rate], numbers[f"{rate}_ci"])]
            change = changes.get((set_name, its["name"]))
            row += [_change(change), str(numbers["loops"])]
            if wide:
                row += [f"{100 * numbers[f'raw_{rate}']:.1f}", f"{100 * change['format']:+.1f}" if change else ""]
                row += [f"{100 * numbers['cer']:.1f}"]
                row += [f"{numbers['substitutions']}/{numbers['deletions']}/{numbers['insertions']}"]
            made.add_row(*row)
    for its in comparisons:
        if its["set"] == "pooled":
            made.add_row("all, pooled", short_name(its["system"]), "", _change(its))
    for its in described:
        made.add_row("non-speech", short_name(its["name"]), f"{its['non_speech']['words_per_minute']:.1f} words/min")
    for its in described:
        if its.get("timestamps"):
            written = its["timestamps"]
            valid = f"{100 * written['valid']:.0f} % valid"
            if its is not described[0] and written["drift_seconds"] is not None:
                valid += f", {written['drift_seconds']:.2f} s off the original's"
            made.add_row("timestamps", short_name(its["name"]), valid)
    kinds = {name: numbers["resampled"] for name, numbers in described[0]["sets"].items()}
    over = [f"{kind}s of {', '.join(n for n in kinds if kinds[n] == kind)}" for kind in sorted(set(kinds.values()))]
    made.caption = escape(f"95 % paired bootstrap over {'; '.join(over)}")
    if wide and comparisons:
        made.caption += "\nformat: what the change of raw WER adds to the change of WER, in points"
    return made


def remarks(described: Sequence[dict[str, Any]]) -> list[str]:
    """What got worse beyond the word error rate, and what could not be examined."""
    worse = [f"{its['name']}: {flag}" for its in described for flag in its["flags"]]
    return worse + [f"not examined: {reason}" for reason in described[0]["left_out"]]


def short_name(system: str) -> str:
    """A run's name without its folder; brackets in it are no markup."""
    return escape(Path(system).name or system)


def with_interval(rate: float, bounds: Sequence[float], sign: str = "") -> str:
    """A rate in percent with its interval, as in `24.4 (19.5 … 29.7)`."""
    low, high = bounds
    return f"{100 * rate:{sign}.1f} ({100 * low:{sign}.1f} … {100 * high:{sign}.1f})"


def _change(comparison: dict[str, Any] | None) -> str:
    return with_interval(comparison["delta_wer"], comparison["delta_ci"], "+") if comparison else ""
