"""Addresses that data is fetched from: over TLS, and with secrets named, not written.

What is on a command line stands in `config.json`, in logs and in messages. So a password or a signature is written as
`$NAME` there, and put in from the environment only when something is fetched.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any
from urllib.parse import urljoin, urlsplit

from whisper_min.text import SECRET_IN_ADDRESS, redact

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def faults(address: str) -> list[str]:
    """What keeps an address from being used, without its secrets; it may hold `$NAME`s."""
    shown = redact(address)
    missing = [name for name in _variables(address) if name not in os.environ]
    found = [f"{shown}: the environment variable {name} is not set; export it" for name in missing]
    if SECRET_IN_ADDRESS.search(address):
        found.append(
            f"{shown}: holds a secret, which config.json and logs would keep; put it into an environment variable, and "
            "write $NAME in its place, in single quotes"
        )
    if not is_private(address):
        found.append(f"{shown}: http:// can be read and changed on its way; give https://")
    return found


def is_private(address: str) -> bool:
    """Whether nobody on the way can read or change what is fetched: not by http, but from this machine."""
    parts = urlsplit(address)
    return parts.scheme.lower() not in ("http", "ftp") or parts.hostname in THIS_MACHINE


def fetching(address: str) -> dict[str, Any]:
    """What fsspec is told with an address: by http(s) no redirect is followed that leaves TLS."""
    return {"client_kwargs": _staying_private()} if urlsplit(address).scheme in ("http", "https") else {}


@functools.cache
def _staying_private() -> dict[str, Any]:
    """Options of aiohttp's sessions, the same objects every time: fsspec keeps a session for each."""
    import aiohttp
    from fsspec.config import conf

    async def look(session: object, context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        headers, start = redirect.response.headers, str(redirect.url)
        target = urljoin(start, headers.get("Location") or headers.get("URI") or "")  # as aiohttp reads them
        if not is_private(target) or (start.startswith("https:") and target.startswith("http:")):
            raise OSError(f"it is redirected to {redact(target)}, and http:// can be read and changed on its way")

    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(look)
    own: dict[str, Any] = {}  # a proxy, a time limit: what the user has told fsspec
    for scheme in ("http", "https"):
        own |= conf.get(scheme, {}).get("client_kwargs", {})
    return {**own, "trace_configs": [*own.get("trace_configs", ()), redirects]}


def without_secrets(text: str, address: str) -> str:
    """A message about an address with the `$NAME`s in it again where their values stand."""
    for name in _variables(address):
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return redact(text)


def _variables(address: str) -> list[str]:
    return re.findall(r"\$(\w+)", address)
