"""`python -m whisper_min.data pack …`: what can be done with sets beside training on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from whisper_min.data import pack


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that the first word names; 2 where it names none."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["pack"]:
        print("usage: python -m whisper_min.data pack SOURCE … --to FOLDER", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    return pack.main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
