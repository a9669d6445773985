"""New bytes of files that another process writes: only what came since the last look is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CHUNK = 1 << 17
# A line longer than this is no row of ours: a binary file, or one line of a foreign program.
LONGEST_LINE = 1 << 20
# The last bytes read are compared before reading on: so a file rewritten in place is told from one that grew.
REMEMBERED = 64


class Tail:
    """Reads the whole lines of a growing file piece by piece; a half line waits until its end is written.

    A file that was cut, replaced or deleted is read from its start again: `restarts` counts that, and what was
    gathered from it before is to be dropped. `last_bytes` starts that far from the end of a long file.
    """

    def __init__(self, path: Path, last_bytes: int | None = None) -> None:
        self.path = path
        self.restarts = 0
        self.size = 0
        self._last_bytes = last_bytes
        self._begin()

    def _begin(self) -> None:
        self.offset = 0
        self._seen: tuple[int, ...] = ()  # device, inode, size and time of change at the last look
        self._before = b""
        self._skipping = False

    def _restart(self) -> None:
        self.restarts += 1
        self._begin()

    @property
    def behind(self) -> int:
        """Bytes known and not read yet."""
        return max(0, self.size - self.offset)

    def read(self, limit: int = CHUNK) -> list[bytes]:
        """The next whole lines, of at most about `limit` bytes; [] where nothing is new or nothing can be read."""
        try:
            stat = os.stat(self.path)
        except OSError:
            if self._seen:
                self._restart()
            self.size = 0
            return []
        if self._seen and ((stat.st_dev, stat.st_ino) != self._seen[:2] or stat.st_size < self.offset):
            self._restart()
        self.size = stat.st_size
        seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen == self._seen:
            return []
        if not self._seen and self._last_bytes is not None and stat.st_size > self._last_bytes:
            self.offset, self._skipping = stat.st_size - self._last_bytes, True
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset - len(self._before))
                if file.read(len(self._before)) != self._before:
                    self._restart()
                    file.seek(0)
                data = file.read(limit)
                if b"\n" not in data and len(data) == limit:
                    data += file.read(LONGEST_LINE)
        except OSError:
            return []
        return self._take(data, seen)

    def _take(self, data: bytes, seen: tuple[int, ...]) -> list[bytes]:
        """Split off the whole lines and remember where they ended."""
        end = data.rfind(b"\n") + 1
        if not end and len(data) > LONGEST_LINE:
            end, self._skipping = len(data), True
            lines = []
        else:
            lines = data[:end].splitlines() if b"\r" not in data else data[:end].split(b"\n")[:-1]
            if lines and self._skipping:
                lines, self._skipping = lines[1:], False
        if end:
            self._before = data[max(0, end - REMEMBERED) : end]
        self.offset += end
        # all that there is was seen: nothing is opened until the file changes
        self._seen = seen if self.offset + len(data) - end >= seen[2] else (*seen[:2], -1, -1)
        return lines

    def read_records(self, limit: int = CHUNK) -> list[dict[str, Any]]:
        """The next whole JSON objects; other lines are passed over."""
        return parse_records(self.read(limit))


def parse_records(lines: list[bytes]) -> list[dict[str, Any]]:
    """The lines that are JSON objects. All at once where every line is, which is a third faster."""
    if not lines:
        return []
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
        if len(records) == len(lines) and set(map(type, records)) == {dict}:
            whole: list[dict[str, Any]] = records
            return whole
    except (ValueError, RecursionError):
        pass
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [record for record in records if isinstance(record, dict)]


def _whole_number(digits: str) -> int | float:
    """A number as JSON spells it; one of over 18 digits is a float, maybe infinite: no count of anything."""
    return int(digits) if len(digits) <= 18 else float(digits)


class Document:
    """A small JSON file that is replaced as a whole; read again where it changed, the last good one kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.value: dict[str, Any] = {}
        self.exists = False
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> bool:
        """Look again; whether the value changed."""
        try:
            stat = os.stat(self.path)
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            self.exists = True
            if seen == self._seen:
                return False
            self._seen = seen
            if stat.st_size > 1 << 24:
                return False
            value = json.loads(self.path.read_bytes(), parse_int=_whole_number)
        except FileNotFoundError:
            changed, self.exists, self._seen = self.exists, False, None
            return changed
        except (OSError, ValueError, RecursionError):
            return False
        if not isinstance(value, dict) or value == self.value:
            return False
        self.value = value
        return True
