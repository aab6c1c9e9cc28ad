"""Questions to a daemon at work: they cannot slow it down, and one setting ends them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from nats.errors import NoRespondersError

from tests.acceptance.command import until
from tests.asking import Agent
from tests.factory import decision

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

DECISIONS = 3000
ASKERS = 100
# The same record, in which every look takes an hour.
SLOW = """
CREATE SCHEMA slow;
CREATE VIEW slow.llm_decisions AS
    SELECT d.* FROM (SELECT pg_sleep(3600)) AS nap CROSS JOIN public.llm_decisions AS d;
"""


async def test_questions_without_end_do_not_keep_a_decision_waiting(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """All connections are taken all the time, the queue is full, and what is published is stored meanwhile.

    No turn of the event loop lasts as long as a question.
    """
    await sql.execute(SLOW)
    dsn = f"{settings['TRACKER_POSTGRES_DSN']}&search_path={quote('slow,public')}"
    daemon = await run({**settings, "TRACKER_QUERY_DSN": dsn, "TRACKER_QUERY_TIMEOUT_SECONDS": "1"})
    await daemon.ready()
    agent = Agent(stream.client)
    agent.subject = stream.questions
    await agent.until_served()
    await stream.publish(decision())
    await stream.settled(1)
    codes = []
    enough = asyncio.Event()

    async def flood() -> None:
        while not enough.is_set():
            codes.append((await agent.ask("stats", group_by=["model"])).code)

    async with asyncio.TaskGroup() as group:
        for _ in range(ASKERS):
            group.create_task(flood())
        await until("all connections are taken", lambda: napping(sql))
        for part in range(3):
            await stream.publish(*(decision(tokens_used=part) for _ in range(DECISIONS // 3)))
            await until("all connections are taken", lambda: napping(sql))
        await stream.settled(1 + DECISIONS)
        await until("all connections are taken", lambda: napping(sql))
        metrics = await daemon.metrics()
        enough.set()
    assert await sql.fetchval("SELECT count(*) FROM public.llm_decisions") == 1 + DECISIONS
    metrics.assert_adds_up(stream.decisions)
    assert metrics("messages_settled_total", result="stored") == 1 + DECISIONS
    assert (metrics("stream_pending"), metrics("redeliveries_total"), metrics("paused")) == (0, 0, 0)
    turns = "event_loop_turn_seconds_bucket"
    assert metrics(turns, le="1.0") == metrics(turns, le="+Inf") > 0
    assert set(codes) == {"400", "503"}
    assert metrics("queries_total", endpoint="stats", code="503") > 0
    assert "Traceback" not in daemon.output()
    assert await daemon.stop() == 0


async def napping(sql: asyncpg.Connection) -> bool:
    """Whether a question sleeps on each of the four connections."""
    napping: int = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return napping == 4


async def test_one_setting_ends_the_questions(run: Run, settings: dict[str, str], stream: Stream) -> None:
    daemon = await run({**settings, "TRACKER_QUERY_ENABLED": "false"})
    await daemon.ready()
    await stream.publish(decision())
    await stream.settled(1)
    with pytest.raises(NoRespondersError):
        await stream.client.request(f"{stream.questions}.recent")
    assert (await daemon.metrics())("queries_total") == 0
    assert await daemon.stop() == 0
