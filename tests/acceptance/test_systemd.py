"""`tracker-daemon run` as a service of systemd, whose side the test plays: what it hears, and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.command import Daemon
from tests.conftest import create_database
from tests.factory import decision
from tests.servers import Away
from tests.service_manager import ServiceManager, service_manager
from tests.waiting import until
from tracker_daemon.embedded import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

PATIENCE_SECONDS = 0.6
"""Of the watchdog."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with service_manager(str(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def service(basics: dict[str, str], stream: Stream, tmp_path: Path) -> dict[str, str]:
    """The environment of the service, but for its credentials."""
    return {
        **basics,
        **stream.settings,
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": f"{PATIENCE_SECONDS * 1e6:.0f}",
    }


def credentials(folder: Path, dsn: str) -> dict[str, str]:
    """The address of the database in a folder, as `LoadCredential=` makes it."""
    folder.mkdir()
    (folder / "TRACKER_POSTGRES_DSN").write_text(f"{dsn}\n")
    return {"CREDENTIALS_DIRECTORY": str(folder)}


async def fed(manager: ServiceManager) -> None:
    """Wait until the watchdog has been fed three times from now on."""
    enough = manager.beats() + 3
    await until(lambda: manager.beats() >= enough)


async def starved(manager: ServiceManager) -> None:
    """Wait until systemd would lose its patience."""

    async def unfed() -> bool:
        before = manager.beats()
        await asyncio.sleep(PATIENCE_SECONDS)
        return manager.beats() == before

    await until(unfed)


async def test_a_service_starts_works_and_drains(
    run: Run, service: dict[str, str], dsn: str, stream: Stream, manager: ServiceManager, tmp_path: Path
) -> None:
    daemon = await run(service | credentials(tmp_path / "secrets", dsn))
    await until(lambda: manager.status() == "ready")
    await stream.publish(decision())
    await stream.settled(1)
    await fed(manager)
    assert await daemon.stop() == 0
    assert manager.told()[0] == "READY=1"
    after = manager.told()[manager.told().index("STOPPING=1") + 1 :]
    assert after[0].startswith("STATUS=not ready: drain: ")


async def test_stopped_while_it_waits_for_a_server_it_says_so(
    run: Run, service: dict[str, str], manager: ServiceManager, taken_port: int, tmp_path: Path
) -> None:
    nobody = f"postgresql://127.0.0.1:{taken_port}/tracker"
    daemon = await run(service | credentials(tmp_path / "secrets", nobody))
    await until(lambda: manager.status().startswith("not ready: start: PostgreSQL"))
    assert await daemon.stop() == 0
    assert "STOPPING=1" in manager.told()


async def test_an_outage_neither_fails_the_start_nor_starves_the_watchdog_and_shows_in_the_status(
    run: Run, service: dict[str, str], stream: Stream, manager: ServiceManager, data_dir: Path, tmp_path: Path
) -> None:
    """PostgreSQL is away at the start, again later, and during a drain that has to leave work behind."""
    with PostgresServer(data_dir, options={"fsync": "off"}) as server:
        async with create_database(server) as dsn:
            service |= credentials(tmp_path / "secrets", dsn)
            async with Away(server, "stopped"):
                daemon = await run({**service, "TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "2"})
                await until(lambda: "READY=1" in manager.told())
                await until(lambda: manager.status().startswith("not ready: start: PostgreSQL"))
                await fed(manager)
            await until(lambda: manager.status() == "ready")
            async with Away(server, "killed"):
                await until(lambda: manager.status().startswith("not ready: postgres: PostgreSQL"))
                await stream.publish(decision())
                await daemon.received(1)
                await fed(manager)
                daemon.send(signal.SIGTERM)
                await until(lambda: "STOPPING=1" in manager.told())
                assert manager.status() == "not ready: drain: stopping; messages still to be written: 1"
                await fed(manager)
                assert await daemon.ended() == 3


async def test_a_daemon_whose_loop_is_blocked_does_not_feed_the_watchdog(
    service: dict[str, str], dsn: str, manager: ServiceManager, tmp_path: Path
) -> None:
    """It cannot write its log, because nobody reads that: the process lives, and its loop does not turn."""
    log = tmp_path / "log"
    os.mkfifo(log)
    pipe = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    daemon = Daemon(service | credentials(tmp_path / "secrets", dsn), log)
    try:
        await daemon.start()
        await until(lambda: manager.status() == "ready")
        await fed(manager)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, b"\n")
        daemon.send(signal.SIGUSR1)  # is answered with a line
        await starved(manager)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(pipe, 65536)
        await fed(manager)
        assert daemon.process.returncode is None
    finally:
        await daemon.kill()
        os.close(pipe)


@pytest.mark.parametrize(("wrong", "code"), [("not a DSN", 2), (None, 1)])
async def test_what_cannot_start_does_not_say_that_it_has(
    wrong: str | None,
    code: int,
    run: Run,
    service: dict[str, str],
    dsn: str,
    manager: ServiceManager,
    taken_port: int,
    tmp_path: Path,
) -> None:
    """A credential that is no DSN, or a port that is taken."""
    service |= credentials(tmp_path / "secrets", wrong or dsn) | {"TRACKER_HTTP_PORT": str(taken_port)}
    assert await (await run(service)).ended() == code
    assert manager.told() == []
