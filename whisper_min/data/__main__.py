"""Sets at the command line: `python -m whisper_min.data show SOURCE`, and `check`, `split` and `pack` beside it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from whisper_min import audio, config

COMMANDS = {
    "show": "what a set holds: hours, speakers, columns, histograms, samples, spectrograms",
    "check": "read every entry of sets, and say all that is wrong, as a training would",
    "split": "write a set as train, dev and test manifests that share no speaker and no recording",
    "pack": "write sets as WebDataset tars, to be streamed",
}
USAGE = "usage: python -m whisper_min.data COMMAND [OPTIONS]   (COMMAND --help tells its options)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, as `config.exit_code` tells it."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        told = [USAGE, *(f"  {command:6} {what}" for command, what in COMMANDS.items())]
        told += [f"error: {name}: no such command"] if name and not asked else []
        print("\n".join(told), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    run = importlib.import_module(f"whisper_min.data.{name}").main
    return config.exit_code(lambda: run(words[1:]), audio.AudioError)


if __name__ == "__main__":
    sys.exit(main())
