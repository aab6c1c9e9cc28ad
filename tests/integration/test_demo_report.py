"""The demo's report counts one replay, whatever else the database holds."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from tracker_daemon.demo.replay import Progress
from tracker_daemon.demo.report import AgentRecord, Committed, Rejected, agent_records, committed, rejected
from tracker_daemon.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg import Connection, Record

NOW = datetime.now(UTC)


@asynccontextmanager
async def migrated(dsn: str) -> AsyncIterator[Connection[Record]]:
    """Yield a connection to the daemon's own tables."""
    await migrate(dsn, 1536)
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def decide(
    connection: Connection[Record],
    agent: str,
    session: UUID,
    outcome: str | None = None,
    pnl: str | None = None,
) -> UUID:
    """Commit one decision as the daemon would, its outcome projected."""
    identity = uuid4()
    await connection.execute("INSERT INTO trading_sessions (id) VALUES ($1) ON CONFLICT DO NOTHING", session)
    await connection.execute(
        """
        INSERT INTO llm_decisions
            (id, session_id, agent_name, model, decision_type, symbol, prompt, response, outcome, pnl)
        VALUES ($1, $2, $3, $4, 'signal', 'IBM', '?', '!', $5, $6)
        """,
        identity,
        session,
        agent,
        f"rules/{agent}",
        outcome,
        None if pnl is None else Decimal(pnl),
    )
    return identity


async def settle(connection: Connection[Record], decision: UUID) -> None:
    """Commit one event of the ledger."""
    await connection.execute(
        "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at) "
        "VALUES ($1, $2, 'SUCCESS', $3, $3)",
        decision,
        uuid4(),
        NOW,
    )


async def refuse(connection: Connection[Record], stream: str, sequence: int) -> None:
    """Commit one dead letter."""
    await connection.execute(
        "INSERT INTO llm_dead_letters "
        "(subject, stream, stream_sequence, published_at, reason, field, detail, payload) "
        "VALUES ('llm.decisions', $1, $2, $3, 'missing_field', 'model', 'required', '')",
        stream,
        sequence,
        NOW,
    )


async def test_an_agents_record_is_its_own_replays(database: str) -> None:
    mine, other = uuid4(), uuid4()
    async with migrated(database) as connection:
        for outcome, pnl in (("SUCCESS", "9.50"), ("FAILURE", "-4.25"), ("SUCCESS", "1.25"), (None, None)):
            await decide(connection, "trend", mine, outcome, pnl)
        await decide(connection, "trend", other, "FAILURE", "-1000")
        await decide(connection, "trend", mine, "PENDING", None)
        [record] = await agent_records(connection, [mine])
    assert record.resolved_success_rate is not None
    assert abs(record.resolved_success_rate - Decimal(2) / 3) < Decimal("1e-9")
    assert (record.agent_name, record.model) == ("trend", "rules/trend")
    assert (record.decisions, record.resolved, record.pnl) == (5, 3, Decimal("6.50"))


async def test_the_best_agent_comes_first_and_none_resolved_is_no_rate(database: str) -> None:
    sessions = [uuid4(), uuid4()]
    async with migrated(database) as connection:
        await decide(connection, "breakout", sessions[0], "FAILURE", "-1")
        await decide(connection, "trend", sessions[1])
        assert await agent_records(connection, sessions) == [
            AgentRecord("trend", "rules/trend", 1, 0, None, Decimal(0)),
            AgentRecord("breakout", "rules/breakout", 1, 1, Decimal(0), Decimal(-1)),
        ]
        assert await agent_records(connection, [uuid4()]) == []


async def test_committed_counts_this_replay_alone(database: str) -> None:
    """An outcome that came twice counts once; other sessions, streams and sequences do not count."""
    mine, other = uuid4(), uuid4()
    progress = Progress(stream="LLM", malformed_sequences=[7, 9])
    async with migrated(database) as connection:
        settled = await decide(connection, "trend", mine, "SUCCESS", "1")
        await decide(connection, "trend", mine)
        for decision in (settled, settled, await decide(connection, "trend", other), uuid4()):
            await settle(connection, decision)
        for stream, sequence in (("LLM", 7), ("LLM", 8), ("OTHER", 9)):
            await refuse(connection, stream, sequence)
        assert await committed(connection, [mine], progress) == Committed(2, 1, 1)
        assert await committed(connection, [uuid4()], Progress()) == Committed(0, 0, 0)


async def test_rejected_lists_this_replays_dead_letters_in_stream_order(database: str) -> None:
    progress = Progress(stream="LLM", malformed_sequences=[7, 9])
    async with migrated(database) as connection:
        for sequence in (9, 8, 7):
            await refuse(connection, "LLM", sequence)
        found = await rejected(connection, progress)
    assert found == [Rejected("llm.decisions", "missing_field", "model", "required")] * 2
