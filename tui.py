"""Watch, read, compare and steer runs in the terminal; see `python tui.py --help`."""

from __future__ import annotations

import sys

from whisper_min.ui.cli import main

if __name__ == "__main__":
    sys.exit(main())
