"""TLS to a real nats-server: what is in its way is said in words, with a remedy, as `check` says it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.waiting import until
from tracker_daemon.config import load
from tracker_daemon.consumer import connect, disconnect
from tracker_daemon.doctor import examination, jetstream
from tracker_daemon.embedded import NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


HOST = "127.0.0.1"
OWN = "tracker@example.org"


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    """One that neither side of `authority` trusts."""
    return Authority(tmp_path / "others")


@pytest.fixture
def server(data_dir: Path) -> Iterator[NatsServer]:
    """A server of the test's own, which it gives options and starts."""
    server = NatsServer(data_dir)
    yield server
    server.stop()


def tls(authority: Authority, certificate: Path, *, verify: bool = False) -> str:
    """Configuration of a server that shows a certificate, and to `verify` demands one of `authority`."""
    return f"""
        tls {{
            cert_file: "{certificate}"
            key_file: "{certificate}"
            ca_file: "{authority.file}"
            verify: {str(verify).lower()}
        }}
    """


def settings(url: str, authority: Authority | None = None, own: Path | None = None) -> dict[str, str]:
    files = {"CA": authority and authority.file, "CERT": own, "KEY": own}
    given = {f"TRACKER_NATS_TLS_{name}_FILE": str(file) for name, file in files.items() if file}
    return {"TRACKER_NATS_SERVERS": url, **given}


async def found(settings: Mapping[str, str]) -> tuple[bool, str]:
    """The first thing that `tracker-daemon check` finds about NATS: whether it is well, and its words."""
    looked_at = jetstream.look(load(environ=settings))
    [finding, *_] = [finding async for finding in examination._bounded("nats", looked_at)]
    await until(_nothing_is_open)
    return finding.level == "ok", finding.seen


def _nothing_is_open() -> bool:
    """Whether the loop watches its own pipe alone: a socket with TLS is closed in a later turn, if at all."""
    return len(asyncio.get_running_loop()._selector.get_map()) == 1  # type: ignore[attr-defined]


async def test_a_server_that_shows_a_certificate_of_the_named_authority_is_reached(
    server: NatsServer, authority: Authority
) -> None:
    server.options = tls(authority, authority.issue(HOST))
    server.start()
    ok, seen = await found(settings(f"tls://{HOST}:{server.port}", authority))
    assert (ok, f"at {HOST}:{server.port}" in seen) == (True, True)


async def test_a_server_that_demands_a_certificate_is_shown_one(
    server: NatsServer, authority: Authority
) -> None:
    server.options = tls(authority, authority.issue(HOST), verify=True)
    server.start()
    ok, _ = await found(settings(f"tls://{HOST}:{server.port}", authority, authority.issue(OWN)))
    assert ok


UNTRUSTED = (
    "no CA that is trusted here has signed it; name the file of the right CA in TRACKER_NATS_TLS_CA_FILE"
)
MISNAMED = (
    "certificate is not valid for '{}'. Name the server as its certificate does, or have another issued"
)
UNWELCOME = "the one that TRACKER_NATS_TLS_CERT_FILE names must be signed by a CA that the server trusts"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("another CA", UNTRUSTED),
        ("no CA", UNTRUSTED),
        ("another name", MISNAMED.format("localhost")),
        ("another address", MISNAMED.format(HOST)),
        ("expired", "it has expired; renew it on the server"),
        ("no own", "the server demands a certificate of each client: name one in TRACKER_NATS_TLS_CERT_FILE"),
        ("own expired", UNWELCOME),
        ("own of another CA", UNWELCOME),
    ],
)
async def test_what_tls_to_nats_fails_for_is_said(
    server: NatsServer, authority: Authority, other: Authority, case: str, words: str
) -> None:
    shown = {"another address": "nats.example.org"}.get(case, HOST)
    certificate = authority.issue(shown, expired=case == "expired")
    server.options = tls(authority, certificate, verify="own" in case)
    server.start()
    host = "localhost" if case == "another name" else HOST
    own = {
        "own expired": lambda: authority.issue(OWN, expired=True),
        "own of another CA": lambda: other.issue(OWN),
    }.get(case, lambda: None)()
    trusted = {"another CA": other, "no CA": None}.get(case, authority)
    url = f"tls://{host}:{server.port}"
    ok, seen = await found(settings(url, trusted, own))
    assert not ok
    assert seen.startswith(f"NATS at {url}: ")
    assert words in seen
    assert "_ssl.c" not in seen
    assert "start it" not in seen, "it runs"


@pytest.mark.parametrize(
    ("case", "words"),
    [("right", None), ("another CA", UNTRUSTED), ("another address", MISNAMED.format(HOST))],
)
@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # of nats-py's own call
async def test_websockets_are_no_different(
    server: NatsServer, authority: Authority, other: Authority, case: str, words: str | None
) -> None:
    certificate = authority.issue("nats.example.org" if case == "another address" else HOST)
    server.options = f'websocket {{ host: "{HOST}", port: -1, {tls(authority, certificate)} }}'
    server.start()
    listening = re.search(rf"wss://{HOST}:\d+", server.log.read_text())
    assert listening
    ok, seen = await found(settings(listening[0], other if case == "another CA" else authority))
    assert ok is (words is None)
    assert (words or f"at {HOST}") in seen


@pytest.mark.parametrize("by", ["scheme", "file"])
async def test_no_login_goes_to_a_server_without_tls_where_tls_is_asked_for(
    server: NatsServer, authority: Authority, by: str
) -> None:
    server.options = "trace: true, authorization { user: tracker, password: s3cret }"
    server.start()
    login = {"TRACKER_NATS_USER": "tracker", "TRACKER_NATS_PASSWORD": "s3cret"}
    asked = settings(f"tls://{HOST}:{server.port}") if by == "scheme" else settings(server.url, authority)
    ok, seen = await found({**asked, **login})
    assert not ok
    assert "the server does not demand TLS, so the login would go there unencrypted" in seen
    assert "CONNECT" not in server.log.read_text()
    await found({**settings(server.url), **login})
    assert "CONNECT" in server.log.read_text()


@pytest.mark.parametrize(
    ("wrong", "words"), [("certificate", UNTRUSTED), ("no TLS", "the server does not demand TLS")]
)
async def test_a_daemon_is_told_why_nats_is_out_of_reach_until_it_is_not(
    server: NatsServer, authority: Authority, other: Authority, wrong: str, words: str
) -> None:
    """As in a rotation that goes wrong: the server comes back with another certificate, or with none."""
    right = tls(authority, authority.issue(HOST))
    server.options = right
    server.start()
    told: list[str | None] = []
    given = load(environ=settings(f"tls://{HOST}:{server.port}", authority)).nats
    client = await connect(given, lambda _: None, told.append)
    assert told == [None]
    server.stop()
    server.options = tls(authority, other.issue(HOST)) if wrong == "certificate" else ""
    server.start()
    await until(lambda: words in (told[-1] or ""))
    server.stop()
    server.options = right
    server.start()
    await until(lambda: told[-1] is None)
    assert client.is_connected
    await disconnect(client)
