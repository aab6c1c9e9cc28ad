"""The daemon and `check` before a nats-server whose certificate is wrong for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.command import tracker, until
from tests.certificates import Authority
from tracker_daemon.embedded import NatsServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Run

HOST = "127.0.0.1"


async def test_a_wrong_certificate_is_said_and_waited_out(
    run: Run, basics: dict[str, str], dsn: str, data_dir: Path, tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path / "other")
    with NatsServer(data_dir, options=tls(other.issue(HOST))) as server:
        settings = {
            **basics,
            "TRACKER_POSTGRES_DSN": dsn,
            "TRACKER_NATS_SERVERS": f"tls://{HOST}:{server.port}",
            "TRACKER_NATS_TLS_CA_FILE": str(authority.file),
        }
        why = "no CA that is trusted here has signed it; name the file of the right CA in TRACKER_NATS_TLS_CA"
        daemon = await run(settings)
        await daemon.said("warning", "trouble with NATS", why)

        async def says_so() -> bool:
            return why in (await daemon.obstacles()).get("start", "")

        await until("/readyz says what is wrong with the certificate", says_so)
        ended = await tracker("check", settings=settings)
        assert (ended.code, why in ended.out) == (1, True)
        assert "Traceback" not in ended.err
        server.stop()
        server.options = tls(authority.issue(HOST))
        server.start()
        await daemon.ready()
        assert "Traceback" not in daemon.output()
        assert await daemon.stop() == 0


def tls(certificate: Path) -> str:
    """Configuration of a server that shows a certificate."""
    return f'tls {{ cert_file: "{certificate}", key_file: "{certificate}" }}'
