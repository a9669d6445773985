"""Score models side by side on the domain and on everything else: error rates with intervals, loops, invented words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from whisper_min import audio, config, runs
from whisper_min.config import Config, InputError
from whisper_min.data import preflight, sources
from whisper_min.data.tokens import Tokens, language_code, unknown_language, written_language
from whisper_min.model import weights
from whisper_min.scoring import budget, report, sweep
from whisper_min.scoring.budget import Budget
from whisper_min.scoring.evaluation import Scorer, SetResult
from whisper_min.scoring.health import Health
from whisper_min.training.precision import autocast, choose_device, choose_precision
from whisper_min.training.reporter import Reporter


@dataclass(frozen=True)
class Options:
    """Score models side by side; the first that is no run, or the runs' original, is the baseline."""

    systems: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Models: run folders, official names, files; whatever --model of train.py takes."""
    data: tuple[str, ...]
    """Sets to score, `[name=]source[:split]`, as train.py takes them; a set without text is scored as drift."""
    retain: tuple[str, ...] = ()
    """Sets of everything else: with them --data is the domain, and gain is set against forgetting."""
    interpolate: str | None = None
    """Score the points between one run and its original: `0:1:0.1`, or `0.3,0.7`, or `1`."""
    lines: float | None = None
    """Scale them with depth (LiNeS): the first layers go this share of a point's way, the last all of it."""
    max_forgetting: float | None = None
    """Choose the system, or the point, of largest gain whose relative loss on the --retain sets is at most this."""
    max_drift: float | None = None
    """The same for --retain sets without text: WER against the original's own transcripts."""
    confidence: float | None = None
    """Ask that the one-sided bound of this confidence stays within --max_forgetting."""
    json: Path | None = None
    """Write all numbers here."""
    hypotheses: Path | None = None
    """Write every utterance here, a JSON line each."""
    beam_size: int | None = None
    """Beam search through whisper's own decoder instead of greedy."""
    language: str = "en"
    """Language of the speech."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """What the references are."""
    normalize: bool = False
    """Scale every clip to a peak of 0.95, as the run was trained."""
    batch_size: int = 16
    """Clips decoded together."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Of the encoder; the decoder's arithmetic is fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    audio_column: str | None = None
    """The column of --data that holds the audio. Without it: the usual names."""
    text_column: str | None = None
    """The column of --data that holds the text; the --retain sets follow where they have it."""
    data_dir: Path = Path("~/.cache/whisper-min")
    """Where downloaded sets and the preflight's results are kept."""
    skip_bad: bool = False
    """Leave out entries with faults (listed) instead of refusing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; the exit code, as `config.exit_code` tells it."""

    def work() -> None:
        words = config.merge_repeated(sys.argv[1:] if argv is None else argv, ("data", "retain"))
        evaluate(tyro.cli(Options, args=words, prog="evaluate.py", use_underscores=True), Reporter())

    return config.exit_code(work, audio.AudioError)


def evaluate(options: Options, reporter: Reporter) -> dict[str, Any]:
    """Score every system on every set; prints the table on stdout and returns what --json writes."""
    spoken = language_code(options.language)
    if spoken is None:
        raise InputError(unknown_language(options.language))
    language = written_language(spoken, options.task)
    for path in filter(None, (options.json, options.hypotheses)):
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path}: its folder does not exist; make it first")
    line = sweep.Line.of(options.systems, options.interpolate, options.lines)
    systems = line.names if line else report.with_original(options.systems)
    if unknown := [name for name in systems if not line and not weights.exists(name)]:
        raise InputError([f"{name}: neither an official name nor a path that exists" for name in unknown])
    shared = {field.name for field in fields(Config)} & {field.name for field in fields(options)}
    cfg = Config(**{name: getattr(options, name) for name in shared} | {"data_dir": options.data_dir.expanduser()})
    if faults := config.check_retention(cfg):
        raise InputError(faults)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    model, _ = weights.load(systems[0])
    tokens = Tokens(model.dims, spoken, options.task)
    checked = preflight.run(sources.of_evaluation(cfg), cfg, tokens, reporter.console)
    limits = Budget.of(cfg)
    if faults := checked.shown_faults() + limits.check(checked.role("retain")):
        raise InputError(faults)
    reporter.print(*checked.notes, *checked.skipped, sep="\n") if checked.notes or checked.skipped else None

    results: dict[str, dict[str, SetResult]] = {}
    described, examined = list[dict[str, Any]](), list[Health]()
    for name, (model, origin) in zip(systems, line.models() if line else map(weights.load, systems), strict=True):
        reporter.print(f"{name}: {origin.found}")
        model = model.to(device).eval()
        tokens, in_precision = Tokens(model.dims, spoken, options.task), partial(autocast, device, precision)
        scorer = Scorer(tokens, language, options.batch_size, options.normalize, options.beam_size, in_precision)
        results[name], health = report.score_system(name, model, scorer, checked, results.get(systems[0]), reporter)
        examined.append(health)
        described.append(report.describe(name, origin.fingerprint, results[name], examined))
    comparisons = report.add_intervals(systems, results, described)
    domain, general = ([each.speech.name for each in checked.role(role)] for role in ("evaluate", "retain"))
    judged = budget.judge(systems, results, domain, general, limits)
    written = report.settings(tokens, language, options.beam_size)
    written |= {"device": str(device), "precision": precision, "systems": described, "comparisons": comparisons}
    written |= {"budget": judged.record()} if judged else {}
    if options.json:
        runs.write_atomic(options.json, json.dumps(report.finite(written), indent=1, ensure_ascii=False) + "\n")
    if options.hypotheses:
        rows = [row for name in systems for result in results[name].values() for row in report.rows_of(name, result)]
        runs.write_atomic(options.hypotheses, "".join(map(runs.to_json_line, rows)))
    if line:
        line.write([results[name] for name in systems[1:]], general, judged.choice if judged else None)
    out = Console()
    out.print(report.table(written["normalizer"], described, comparisons, wide=out.width >= report.WIDE))
    if judged:
        judged.show(out)
    out.print("\n".join(report.remarks(described)), markup=False, highlight=False, soft_wrap=True)
    return written


if __name__ == "__main__":
    sys.exit(main())
