"""What the rarer failures of a handshake are said to mean: real ones, without a network."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from tracker_daemon.tls import explained

if TYPE_CHECKING:
    from pathlib import Path


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let both talk until one of them fails."""
    inbox, outbox = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(inbox, outbox, server_hostname="127.0.0.1"),
        server.wrap_bio(outbox, inbox, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def said(error: BaseException) -> str | None:
    return explained(error, "the CA setting", "the certificate setting")


def test_a_certificate_of_the_future_is_a_matter_of_clocks() -> None:
    ca = trustme.CA()
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.configure_trust(client)
    ca.issue_cert("127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1)).configure_cert(server)
    with pytest.raises(ssl.SSLError) as caught:
        handshake(client, server)
    assert said(caught.value) == (
        "the server's certificate is refused: it is not valid yet; look at the clocks of both machines"
    )


def test_a_server_that_speaks_no_tls_is_told_from_one_that_does() -> None:
    inbox = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(inbox, ssl.MemoryBIO(), server_hostname="127.0.0.1")
    inbox.write(b"INFO {}\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert "speaks no TLS" in str(said(caught.value))


def test_sides_without_a_version_in_common_are_sent_to_the_servers_log() -> None:
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)
    client.minimum_version, server.maximum_version = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError) as caught:
        handshake(client, server)
    assert "look into the server's log" in str(said(caught.value))


def test_a_file_without_a_certificate_is_named_by_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ssl.SSLError) as caught:
        ssl.create_default_context(cafile=file)
    assert "the CA setting" in str(said(caught.value))


def test_another_error_is_left_to_others() -> None:
    assert said(ConnectionRefusedError("Connect call failed")) is None
