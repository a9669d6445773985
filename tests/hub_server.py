"""A local stand-in for the Hugging Face hub: its routes, redirects to a storage host, ranges, tokens and troubles."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

COMMIT = "c0ffee" + "0" * 34
# Entries in one page of a listing.
PAGE = 2


@dataclass
class Hub:
    """What is served and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    """path in the dataset `user/speech` -> content"""
    card: dict[str, object] = field(default_factory=dict)
    """The YAML at the top of README.md."""
    token: str | None = None
    """What a request must bear."""
    gated: bool = False
    """Whether the files, not the dataset's description, need the token."""
    troubles: list[tuple[str, int | str]] = field(default_factory=list)
    """(part of a request, an HTTP status, `cut` or `gone`): what the next request of that kind is answered with."""
    requests: list[str] = field(default_factory=list)
    """`METHOD path` and the range, of all requests."""
    tokens_at_storage: list[str] = field(default_factory=list)
    endpoint: str = ""
    storage: str = ""

    def asked(self, part: str) -> list[str]:
        """The requests that hold `part`."""
        return [request for request in self.requests if part in request]


class Handler(http.server.BaseHTTPRequestHandler):
    """Both hosts: `/api` and `/datasets` are the hub's, `/storage` is where it sends for the content."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, span = self.hub, self.headers.get("Range", "")
        request = f"{self.command} {urllib.parse.unquote(self.path)} {span}".strip()
        hub.requests.append(request)
        trouble = next((each for each in hub.troubles if each[0] in request), None)
        if trouble is not None:
            hub.troubles.remove(trouble)
            if isinstance(trouble[1], int):
                self.answer(trouble[1])
                return
            if trouble[1] == "gone":
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                return
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path.startswith("/storage/"):
            self.send_content(hub.files[path.removeprefix("/storage/")], span, cut=trouble is not None)
            return
        match = re.fullmatch(r"/(?:api/)?datasets/([\w-]+/[\w-]+)(/.*)?", path)
        private = hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}"
        if match is None or match[1] != "user/speech" or (private and not hub.gated):
            wrong = (
                {"X_Error_Message": "Invalid username or password."} if private else {"X_Error_Code": "RepoNotFound"}
            )
            self.answer(401 if private else 404, **wrong)
        elif private and "/resolve/" in path:
            self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access to dataset user/speech is restricted.")
        elif not match[2]:
            body = {"id": "user/speech", "sha": COMMIT, "siblings": [], "cardData": hub.card, "private": False}
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        elif match[2].startswith(f"/tree/{COMMIT}"):
            self.send_listing()
        else:
            self.send_redirect(match[2].removeprefix(f"/resolve/{COMMIT}/"))

    def send_listing(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        start, names = int(query.get("cursor", ["0"])[0]), sorted(self.hub.files)
        entries = [
            {"type": "file", "path": name, "size": len(self.hub.files[name]), "oid": self.etag(name)[:40]}
            for name in names[start : start + PAGE]
        ]
        following = {}
        if start + PAGE < len(names):
            here = f"{self.hub.endpoint}{self.path.partition('?')[0]}"
            following = {"Link": f'<{here}?recursive=true&cursor={start + PAGE}>; rel="next"'}
        self.answer(200, json.dumps(entries).encode(), Content_Type="application/json", **following)

    def etag(self, name: str) -> str:
        return hashlib.sha256(self.hub.files[name]).hexdigest()

    def send_redirect(self, name: str) -> None:
        if name not in self.hub.files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            return
        linked = {"X_Linked_Etag": f'"{self.etag(name)}"', "X_Linked_Size": str(len(self.hub.files[name]))}
        self.answer(302, Location=f"{self.hub.storage}/storage/{name}", X_Repo_Commit=COMMIT, **linked)

    def send_content(self, content: bytes, span: str, cut: bool) -> None:
        if self.headers.get("Authorization"):
            self.hub.tokens_at_storage.append(self.headers["Authorization"])
        start = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        rest = content[start:]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(rest)))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if cut else rest)
        self.close_connection = cut

    def log_message(self, *arguments: object) -> None:
        """Say nothing on stderr."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Two servers, the hub's and its storage's, until the block ends."""
    with ExitStack() as stack:
        servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, hub)) for _ in "ab"]
        for server in servers:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            stack.callback(server.server_close)
        # two names of this machine: the library tells hosts apart by name, some versions by port as well
        hub.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
        hub.storage = f"http://localhost:{servers[1].server_port}"
        yield hub
