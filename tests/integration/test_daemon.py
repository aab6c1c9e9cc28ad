"""Whether a daemon counts as alive while it ends, which decides what its supervisors are told."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from tests.acceptance.stream import stream_on
from tests.conftest import DIMENSIONS
from tests.factory import decision, message
from tests.locks import blocked
from tests.waiting import until
from tracker_daemon.config import load
from tracker_daemon.consumer import JetStreamConsumer
from tracker_daemon.daemon import DRAINED, WORK_LEFT, Daemon, run
from tracker_daemon.errors import ConnectionLost
from tracker_daemon.signals import Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tracker_daemon.embedded import NatsServer


@pytest.fixture
async def daemon(nats_server: NatsServer, dsn: str) -> AsyncIterator[Daemon]:
    """Yield a daemon between a stream of its own and a migrated database, not yet running."""
    async with stream_on(nats_server) as stream:
        own = {
            "TRACKER_POSTGRES_DSN": dsn,
            "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
            "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "3600",
        }
        yield Daemon(load(environ={**stream.settings, **own}))


async def test_asked_to_stop_it_drains_alive(daemon: Daemon) -> None:
    alive: list[bool] = []
    stop = Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: alive.append(daemon.alive())))
    await until(lambda: not daemon.obstacles())
    stop.ask()
    assert await running == DRAINED
    assert alive == [True]


async def test_a_chore_whose_connection_is_cut_at_the_end_does_not_fail(
    daemon: Daemon, sql: asyncpg.Connection
) -> None:
    """Else the last that an operator reads of a stop in good order would be of an outage."""
    stop = Stop()
    with capture_logs() as lines:
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_text_queue IN ACCESS EXCLUSIVE MODE")
            running = asyncio.create_task(daemon.run(stop, lambda: None))
            await until(lambda: blocked(sql, 1))
            stop.ask()
            assert await running == DRAINED
    assert not [line for line in lines if line["log_level"] != "info"]


async def test_a_drain_is_cut_short_although_its_cancellation_is_lost(
    daemon: Daemon, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `wait_for` of Python 3.11 may lose it while the consumer stops, and PostgreSQL takes no row."""
    whole, there = JetStreamConsumer.stop, asyncio.Event()

    async def deaf(consumer: JetStreamConsumer) -> None:
        await whole(consumer)
        there.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(JetStreamConsumer, "stop", deaf)
    stop = Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: None))
    await until(lambda: not daemon.obstacles())
    async with sql.transaction():
        # Which it becomes: its subject is not the stream's.
        await sql.execute("LOCK TABLE llm_dead_letters IN ACCESS EXCLUSIVE MODE")
        daemon._receive(message(decision()), None)
        stop.ask()
        await there.wait()  # else the cancellation may be lost in there, and the other one, too
        assert "drain" in daemon.obstacles()
        stop.ask()
        assert await running == WORK_LEFT


async def test_with_a_part_that_has_died_it_drains_but_is_not_alive(daemon: Daemon) -> None:
    alive: list[bool] = []
    running = asyncio.create_task(daemon.run(Stop(), lambda: alive.append(daemon.alive())))
    await until(lambda: not daemon.obstacles())
    daemon._fail(ConnectionLost("closed for good"))
    with pytest.raises(ConnectionLost, match="for good"):
        await running
    assert alive == [False]


async def test_what_waits_for_its_flush_stalls_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the interval is; what waits for longer does."""
    stop = Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: None))
    await until(lambda: not daemon.obstacles())
    daemon._receive(message(decision()), None)
    monkeypatch.setattr("tracker_daemon.daemon.STALL_SECONDS", 0)
    assert daemon.obstacles() == {}
    monkeypatch.setattr("tracker_daemon.daemon.STALL_SECONDS", -3600)
    assert daemon.obstacles().keys() == {"progress"}
    stop.ask()
    assert await running == DRAINED


async def test_it_is_busy_while_more_messages_wait_than_a_batch_takes(
    daemon: Daemon, sql: asyncpg.Connection
) -> None:
    """In its hands, or still in the stream."""
    stop = Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: None))
    await until(lambda: not daemon.obstacles())
    assert daemon._consumer is not None
    for pending, busy in ((1000, False), (1001, True), (0, False)):
        daemon._consumer.pending = pending
        assert daemon._busy() is busy
    for _ in range(1001):
        daemon._receive(message(decision()), None)
    assert daemon._busy()
    await until(lambda: not daemon._busy())
    assert await sql.fetchval("SELECT count(*) > 0 FROM llm_dead_letters")
    stop.ask()
    assert await running == DRAINED


async def test_its_http_pages_say_whether_it_is_alive(
    nats_server: NatsServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Daemon, "alive", lambda _: False)
    own = {
        "TRACKER_POSTGRES_DSN": dsn,
        "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        "TRACKER_HTTP_PORT": "0",
    }
    async with stream_on(nats_server) as stream:
        with capture_logs() as lines:
            running = asyncio.create_task(run(load(environ={**stream.settings, **own})))
            await until(lambda: any(line["event"] == "started" for line in lines))
        [http] = [line["http"] for line in lines if line["event"] == "started"]
        async with ClientSession() as session, session.get(f"{http}/healthz") as response:
            assert response.status == 503
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == DRAINED
