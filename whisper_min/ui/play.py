"""Play a clip with whatever player the machine has. No shell, and no file name of a set on a command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from whisper_min.ui.spectrogram import SAMPLE_RATE, Floats

# Programs that play a WAV and end, with their arguments; the first that is there is taken.
PLAYERS = (
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "quiet"),
    ("pw-play",),
    ("paplay",),
    ("afplay",),
    ("aplay", "-q"),
    ("play", "-q"),
)


class PlayError(Exception):
    """Why nothing is heard, in a sentence."""


def find_player() -> list[str] | None:
    """The command of a player, by its full path; None where the machine has none."""
    for name, *arguments in PLAYERS:
        if (path := shutil.which(name)) is not None:
            return [path, *arguments]
    return None


class Player:
    """One clip at a time: a new one ends the one before, and `stop` ends all.

    What is played is what was drawn, written to a WAV of our own: players differ in the formats and offsets they know.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._file: Path | None = None

    @property
    def playing(self) -> bool:
        """Whether a clip is heard now."""
        return self._process is not None and self._process.poll() is None

    def start(self, waveform: Floats) -> str:
        """Begin to play; the player's name. PlayError where there is none or it does not start."""
        import soundfile  # late, as everywhere in the terminal

        self.stop()
        command = find_player()
        if command is None:
            raise PlayError(f"No player is installed; one of {', '.join(name for name, *_ in PLAYERS)} would do.")
        try:
            descriptor, name = tempfile.mkstemp(prefix="whisper-min-", suffix=".wav")
            os.close(descriptor)
            self._file = Path(name)
            soundfile.write(name, waveform, SAMPLE_RATE, subtype="PCM_16")
            quiet = subprocess.DEVNULL
            # a group of its own: Ctrl-C in the terminal is the app's
            self._process = subprocess.Popen(
                [*command, name], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
        except (OSError, RuntimeError) as error:
            self.stop()
            raise PlayError(f"{Path(command[0]).name} does not start: {error}.") from None
        return Path(command[0]).name

    def stop(self) -> None:
        """End what is playing and take the WAV away."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(1.0)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self._process = None
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()
            self._file = None


def over_ssh() -> bool:
    """Whether the player's machine is not the listener's."""
    return "SSH_CONNECTION" in os.environ
