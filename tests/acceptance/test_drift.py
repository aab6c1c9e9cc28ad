"""A schema that no longer fits the messages: the daemon pauses, says so, and goes on when told or able to."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.command import tracker, until
from tests.factory import decision
from tracker_daemon.store.drift import QUIET

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.command import Daemon
    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

MESSAGES = 300


@pytest.fixture
async def paused(run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection) -> Daemon:
    """A daemon that has paused, because somebody's constraint rejects every message."""
    await stream.make()
    daemon = await (await run({**settings, "TRACKER_POSTGRES_WRITERS": "1"})).ready()
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (symbol <> 'BTC')")
    await stream.publish(*[decision()] * MESSAGES)

    async def probed() -> bool:
        metrics = await daemon.metrics()
        return metrics("writer_retries_total", kind="misconfigured") >= 3 and metrics("paused") == 1

    await until("writing is paused, and was tried again", probed)
    return daemon


async def letters(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM llm_dead_letters"))


async def test_it_resumes_by_itself_once_the_schema_is_right(
    paused: Daemon, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """The few that had become dead letters by then are brought back by a replay."""
    obstacles = await paused.obstacles()
    assert "SQLSTATE 23514 on llm_decisions, sane" in obstacles["postgres"]
    assert "SIGUSR1" in obstacles["postgres"]
    before = await letters(sql)
    assert before <= 50
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    await stream.settled(MESSAGES)
    await paused.ready()
    assert (await paused.metrics())("paused") == 0
    assert await letters(sql) == before
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == MESSAGES - before
    (await paused.metrics()).assert_adds_up(stream.decisions)
    assert await paused.stop() == 0
    replayed = await tracker("dead-letters", "replay", "--all", settings=settings)
    assert replayed.code == 0
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == MESSAGES


async def test_sigusr1_makes_dead_letters_of_what_is_rejected_and_then_protects_again(
    paused: Daemon, stream: Stream, sql: asyncpg.Connection
) -> None:
    paused.send(signal.SIGUSR1)
    await paused.said("SIGUSR1: too many rejections are let through")
    await stream.settled(MESSAGES)
    await paused.ready()
    assert await letters(sql) == MESSAGES
    (await paused.metrics()).assert_adds_up(stream.decisions)
    await stream.publish(*[decision(symbol="ETH")] * QUIET)
    await paused.said("as before SIGUSR1")
    await stream.settled(MESSAGES + QUIET)
    assert await paused.stop() == 0


async def test_sigusr1_changes_nothing_while_nothing_is_paused(run: Run, settings: dict[str, str]) -> None:
    daemon = await (await run(settings)).ready()
    daemon.send(signal.SIGUSR1)
    await daemon.said("SIGUSR1 changes nothing")
    assert not await daemon.obstacles()
    assert await daemon.stop() == 0
