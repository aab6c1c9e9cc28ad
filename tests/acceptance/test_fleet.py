"""Four daemons on one durable consumer share its messages, and none has one that another has."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.factory import decision

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

DAEMONS = 4
BACKLOG = 20_000


async def test_a_backlog_is_shared_and_no_message_comes_twice(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """They find it there, all at once: each has had requests open before the other is done."""
    daemons = [await (await run(settings)).ready() for _ in range(DAEMONS)]
    for daemon in daemons:
        daemon.send(signal.SIGSTOP)
    try:
        payload = decision(prompt="x" * 2000)
        await stream.publish(*([payload] * BACKLOG))
    finally:
        for daemon in daemons:
            daemon.send(signal.SIGCONT)
    await stream.settled(BACKLOG)
    scrapes = [await daemon.metrics() for daemon in daemons]
    shares = [scraped("messages_received_total", subject=stream.decisions) for scraped in scrapes]
    assert sum(shares) == BACKLOG, "a message came twice"
    assert min(shares) > BACKLOG / DAEMONS / 4, shares
    for scraped in scrapes:
        assert scraped("messages_settled_total", result="stored") == scraped("messages_received_total")
        assert scraped("redeliveries_total") == 0
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == BACKLOG
    for daemon in daemons:
        assert await daemon.stop() == 0
