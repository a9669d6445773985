"""`python -m whisper_min.data check SOURCE …`: the preflight of sets without a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from whisper_min.config import Config, InputError
from whisper_min.data import preflight, sources
from whisper_min.data.tokens import EVERY_LANGUAGE, Tokens, language_code, unknown_language


@dataclass(frozen=True)
class Options:
    """Read every entry of sets, and say all that is wrong, as a training on them would; exit code 0 or 2."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Sets, `[name=]source[:split]`, as --data of train.py takes them."""
    language: str = "en"
    """Language of the speech, a code or a name that Whisper knows."""
    label_style: Literal["auto", "keep", "lower", "sentence", "original"] = "auto"
    """How the references are to be written, as train.py takes it."""
    skip_bad: bool = False
    """Leave out entries with faults (listed), as a training with that option would."""
    data_dir: Path = Config.data_dir
    """Where downloaded sets and the preflight's results are kept."""


def main(argv: Sequence[str]) -> None:
    """Check as the command line says; InputError with all faults."""
    options = tyro.cli(Options, args=list(argv), prog="python -m whisper_min.data check", use_underscores=True)
    if not options.sources:
        raise InputError("check: names no set; give one, as in: python -m whisper_min.data check my/train.jsonl")
    if language_code(options.language) is None:
        raise InputError(unknown_language(options.language))
    cfg = Config(
        data=options.sources,
        language=options.language,
        label_style=options.label_style,
        skip_bad=options.skip_bad,
        data_dir=options.data_dir.expanduser(),
    )
    sets = sources.load_sets(cfg.data, "", cfg.data_dir)
    report = preflight.run(
        [("data", each) for each in sets], cfg, Tokens(EVERY_LANGUAGE, cfg.language), Console(stderr=True)
    )
    preflight.show(report, Console())
    if report.faults:
        raise InputError(report.shown_faults())
