"""How a run is stopped, saved, evaluated and paused from outside: signals and the run folder's `control` file."""

from __future__ import annotations

import math
import signal
import sys
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


def end_at_signals() -> None:
    """Until a `Steering` takes over there is nothing to save: signals end the program, tidied up, with their code.

    Ctrl-C raises KeyboardInterrupt as ever. What was downloaded or cached by then is used by the next start.
    """

    def end(number: int, frame: FrameType | None) -> None:
        print(f"{signal.Signals(number).name}: ends before anything was trained", file=sys.stderr)
        sys.exit(EXIT_CODES[signal.Signals(number)])

    for number in EXIT_CODES.keys() - {signal.SIGINT}:
        signal.signal(number, end)


class Steering:
    """What the run was asked to do; looked at between steps and between batches of an evaluation.

    The first Ctrl-C, SIGTERM or SIGUSR1 lets the step finish and the run save; a second Ctrl-C ends it at once. What is
    asked of any rank is asked of all (the main rank alone reads `control`), and they agree on it between two steps.

    Parameters
    ----------
    deadline : float
        of `--max_time`, on the monotonic clock
    """

    def __init__(self, run: RunFolder, ranks: Ranks = ALONE, deadline: float = math.inf) -> None:
        self.run, self.ranks, self.deadline = run, ranks, deadline
        self.stop_reason: str | None = None
        self.exit_code = 0
        self.save_wanted = False
        self.evaluation_wanted = False
        self.paused = False
        self._next_poll = 0.0
        self._last_look, self._longest = time.monotonic(), 0.0
        run.is_ending = self.is_ending
        for number in EXIT_CODES:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self.exit_code = EXIT_CODES[signal.Signals(number)]

    def is_ending(self) -> bool:
        """Whether the run was asked to end, or must do so now to have saved by the deadline.

        The next look, and then the save, may each take as long as the longest time between two looks so far; a save
        lies between two looks, as a step does, and a batch of an evaluation.
        """
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last_look)
        self._last_look = now
        if self.stop_reason is None and now + 2 * self._longest > self.deadline:
            self.stop_reason = "--max_time is over"
        return self.stop_reason is not None

    def poll(self) -> None:
        """Take waiting commands (at most twice a second) and keep the heartbeat going."""
        self.run.beat()
        self.is_ending()
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
