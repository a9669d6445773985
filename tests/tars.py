"""Tars as other programs write them, for the tests of everything that reads them."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import babble, hash_of

# Of a small set.
TEXTS = [f"This is clip number {n}." for n in range(12)]
LENGTHS = [1.0 + n / 10 for n in range(12)]


def recording(seconds: float, *name: object, format_: str = "FLAC") -> bytes:
    """A recording that no other name has."""
    written = io.BytesIO()
    soundfile.write(written, babble(seconds, seed=hash_of(*name)), 16_000, format=format_)
    return written.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """A tar of (name or header, content) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            header = tarfile.TarInfo(name) if isinstance(name, str) else name
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def write_shards(
    folder: Path, texts: Sequence[str], lengths: Sequence[float], size: int, told: bool = True
) -> list[Path]:
    """Tars of so many entries with real recordings; `told` gives each its duration."""
    paths = []
    for first in range(0, len(texts), size):
        files: list[tuple[str | tarfile.TarInfo, bytes]] = []
        for index, (text, seconds) in enumerate(
            zip(texts[first : first + size], lengths[first : first + size], strict=True)
        ):
            key = f"{first + index:06d}"
            row = {"text": text, "duration": seconds} if told else {"text": text}
            files += [(f"{key}.flac", recording(seconds, folder.name, key)), (f"{key}.json", json.dumps(row).encode())]
        paths.append(write_tar(folder / f"{len(paths):03d}.tar", files))
    return paths


def hollow_tar(path: Path, entries: int, seconds: float = 4.0, first: int = 0) -> Path:
    """A tar of entries whose audio nobody decodes: a few bytes, a text and a duration."""
    files: list[tuple[str | tarfile.TarInfo, bytes]] = []
    for index in range(first, first + entries):
        row = {"text": f"Sentence number {index}.", "duration": seconds + index % 20}
        files += [(f"{index:08d}.flac", b"fLaC" * 4), (f"{index:08d}.json", json.dumps(row).encode())]
    return write_tar(path, files)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a server has it."""
    pytest.importorskip("aiohttp", reason="fetching tars needs aiohttp: pip install -e '.[remote]'")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *parts: object) -> None:
            pass

        def send_head(self) -> Any:
            kind, _, elsewhere = self.path.partition("?")[2].partition("=")
            if not elsewhere:
                return super().send_head()
            self.send_response(302)
            self.send_header({"redirect": "Location", "uri": "URI"}[kind], elsewhere)
            self.end_headers()
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
