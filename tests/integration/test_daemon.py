"""Whether a daemon counts as alive while it ends, which decides whether its watchdog is fed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.stream import stream_on
from tests.conftest import DIMENSIONS
from tests.waiting import until
from tracker_daemon.config import load
from tracker_daemon.daemon import DRAINED, Daemon
from tracker_daemon.errors import ConnectionLost
from tracker_daemon.signals import Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.embedded import NatsServer


@pytest.fixture
async def daemon(nats_server: NatsServer, dsn: str) -> AsyncIterator[Daemon]:
    """Yield a daemon between a stream of its own and a migrated database, not yet running."""
    async with stream_on(nats_server) as stream:
        database = {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS)}
        yield Daemon(load(environ={**stream.settings, **database}))


async def test_asked_to_stop_it_drains_alive(daemon: Daemon) -> None:
    alive: list[bool] = []
    stop = Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: alive.append(daemon.alive())))
    await until(lambda: not daemon.obstacles())
    stop.ask()
    assert await running == DRAINED
    assert alive == [True]


async def test_with_a_part_that_has_died_it_drains_but_is_not_alive(daemon: Daemon) -> None:
    alive: list[bool] = []
    running = asyncio.create_task(daemon.run(Stop(), lambda: alive.append(daemon.alive())))
    await until(lambda: not daemon.obstacles())
    daemon._fail(ConnectionLost("closed for good"))
    with pytest.raises(ConnectionLost, match="for good"):
        await running
    assert alive == [False]
