"""How a run is stopped, saved, evaluated and paused from outside: signals and the run folder's `control` file."""

from __future__ import annotations

import signal
import time
from types import FrameType

from whisper_min.runs import RunFolder
from whisper_min.training.ranks import ALONE, Ranks

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGUSR1"):  # what schedulers send before a time limit; Windows has none
    EXIT_CODES[signal.SIGUSR1] = 143
PAUSE_POLL_SECONDS = 0.5
CONTROL_POLL_SECONDS = 0.5


class Stop(Exception):
    """Raised when the run was asked to stop, on all ranks: why, and the exit code."""

    def __init__(self, reason: str = "stopped", exit_code: int = 0) -> None:
        super().__init__(reason, exit_code)
        self.reason, self.exit_code = reason, exit_code


class Steering:
    """What the run was asked to do; looked at between steps and between batches of an evaluation.

    The first Ctrl-C, SIGTERM or SIGUSR1 lets the step finish and the run save; a second Ctrl-C ends it at once. What is
    asked of any rank is asked of all (the main rank alone reads `control`), and they agree on it between two steps.
    """

    def __init__(self, run: RunFolder, ranks: Ranks = ALONE) -> None:
        self.run, self.ranks = run, ranks
        self.stop_reason: str | None = None
        self.exit_code = 0
        self.save_wanted = False
        self.evaluation_wanted = False
        self.paused = False
        self._next_poll = 0.0
        for number in EXIT_CODES:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self.exit_code = EXIT_CODES[signal.Signals(number)]

    def poll(self) -> None:
        """Take waiting commands (at most twice a second) and keep the heartbeat going."""
        self.run.beat()
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + CONTROL_POLL_SECONDS
        for command in self.run.read_commands():
            self.run.beat(last_command=command)
            if command == "stop":
                self.stop_reason = "asked to stop"
            elif command == "save":
                self.save_wanted = True
            elif command == "eval":
                self.evaluation_wanted = True
            else:
                self.paused = command == "pause"

    def inside_evaluation(self) -> None:
        """Poll; raises Stop where the run should end, so that an evaluation does not have to be waited for."""
        self.poll()
        self._stop_if_asked()

    def between_steps(self) -> None:
        """Poll, wait while paused, and hear what all ranks were asked; raises Stop where one should end."""
        self.wait_while_paused()

        def wanted() -> tuple[bool, bool]:
            self._stop_if_asked()
            return self.save_wanted, self.evaluation_wanted

        saves, evaluations = zip(*self.ranks.gather(wanted), strict=True)
        self.save_wanted, self.evaluation_wanted = any(saves), any(evaluations)

    def _stop_if_asked(self) -> None:
        if self.stop_reason is not None:
            raise Stop(self.stop_reason, self.exit_code)

    def wait_while_paused(self) -> None:
        """Sleep between steps while paused; a stop ends the pause."""
        self.poll()
        if self.paused:
            state = self.run.status["state"]
            self.run.beat(state="paused")
            while self.paused and self.stop_reason is None:
                time.sleep(PAUSE_POLL_SECONDS)
                self.poll()
            self.run.beat(state=state)
