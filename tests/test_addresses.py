"""Addresses: over TLS, and without their secrets wherever they are written down."""

from __future__ import annotations

import asyncio
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from tars import hollow_tar, served  # noqa: F401  # a fixture

from whisper_min import text
from whisper_min.config import InputError
from whisper_min.data import addresses, shards, sources
from whisper_min.data.shards import ShardError


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://host/a.tar", None),
        ("https://host/a.tar?part=1", None),
        ("https://$NAME@host/a.tar?sig=$NAME", None),
        ("https://$NAME:$NAME@host/a.tar", None),
        ("s3://bucket/a.tar", None),
        ("http://127.0.0.1:80/a.tar", None),
        ("http://[::1]/a.tar", None),
        ("http://host/a.tar", "http://host/a.tar: http:// can be read and changed on its way; give https://"),
        ("http://127.0.0.1.host/a.tar", "http://127.0.0.1.host/a.tar: http:// can be read"),
        ("https://me:pass@host/a.tar", "https://…@host/a.tar: holds a secret"),
        ("https://pass@host/a.tar", "https://…@host/a.tar: holds a secret"),
        ("https://host/a.tar?x=1&sig=pass", "https://host/a.tar?x=1&sig=…: holds a secret"),
        ("https://host/a.tar?X-Amz-Security-Token=pass", "?X-Amz-Security-Token=…: holds a secret"),
        ("https://host/a.tar?sig=$NONE", "https://host/a.tar?sig=$NONE: the environment variable NONE is not set"),
    ],
)
def test_faults_of_an_address(address: str, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "pass")
    monkeypatch.delenv("NONE", raising=False)
    faults = addresses.faults(address)
    assert len(faults) == (told is not None) and (told or "") in "".join(faults)
    assert "pass" not in "".join(faults)


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")  # too short to be one
    for line in ("a@b.c wrote https://host/x@y/a.tar?n=1", "s3://bucket/key=5/a.tar", "step 5: abc"):
        assert text.redact(line) == line


@pytest.mark.parametrize(
    ("start", "target", "followed"),
    [
        ("https://host/a.tar", "https://other/a.tar", True),
        ("https://host/a.tar", "b.tar", True),
        ("https://host/a.tar", "http://other/a.tar", False),
        ("https://host/a.tar", "http://127.0.0.1/a.tar", False),
        ("http://127.0.0.1/a.tar", "http://127.0.0.1/b.tar", True),
        ("http://127.0.0.1/a.tar", "http://other/b.tar", False),
    ],
)
def test_no_redirect_leaves_tls(start: str, target: str, followed: bool) -> None:
    pytest.importorskip("aiohttp", reason="fetching tars needs aiohttp: pip install -e '.[remote]'")
    [redirects] = addresses.fetching(start)["client_kwargs"]["trace_configs"]
    [look] = redirects.on_request_redirect
    redirect = SimpleNamespace(url=start, response=SimpleNamespace(headers={"Location": target}))
    with nullcontext() if followed else pytest.raises(OSError, match="it is redirected to http://"):
        asyncio.run(look(None, None, redirect))


def test_the_user_s_own_time_limit_counts_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers, and what fsspec's configuration says of that."""
    aiohttp = pytest.importorskip("aiohttp", reason="fetching tars needs aiohttp: pip install -e '.[remote]'")
    fsspec_config = pytest.importorskip("fsspec.config", reason="fetching tars needs fsspec")
    own = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.5)}}
    monkeypatch.setitem(fsspec_config.conf, "http", own)
    addresses._staying_private.cache_clear()
    try:
        told = r"a\.tar: cannot be fetched \(\w*Timeout\w*: "
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ShardError, match=told):
            shards.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar")
    finally:
        addresses._staying_private.cache_clear()


def test_a_set_s_secret_is_put_in_when_it_is_fetched_and_told_to_nobody(
    served: tuple[Path, str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, url = served
    hollow_tar(folder / "pass-word.tar", 3)
    monkeypatch.setenv("PLACE", "pass-word")
    [speech] = sources.load_sets([f"{url}/$PLACE.tar"], "retain", tmp_path)
    assert len(speech.examples) == 3 and "pass-word" not in speech.source + speech.examples[0].where
    with pytest.raises(ShardError, match=r"/\$PLACE\.tar/b: cannot be fetched \(.*\$PLACE\.tar/b") as error:
        shards.fetch(f"{url}/$PLACE.tar/b")
    assert "pass-word" not in str(error.value)
    for word in ("https://me:pass-word@host/{0..5}.tar", "https://host/{0..5}.tar?token=pass-word"):
        with pytest.raises(InputError, match="holds a secret") as refused:
            sources.load_sets([word], "data", tmp_path, stream=True)
        assert "pass-word" not in str(refused.value)
