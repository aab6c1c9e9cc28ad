"""What the database holds of one replay: counts while it runs, and each agent's record at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal
    from uuid import UUID

    from asyncpg import Connection, Record

    from tracker_daemon.demo.replay import Progress


@dataclass(frozen=True, slots=True)
class Committed:
    """Rows committed of one replay: its decisions, those with an outcome in the ledger, its dead letters."""

    decisions: int
    outcomes: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One agent's replay; `resolved_success_rate` is of resolved decisions, 0..1 or None; P&L in USD."""

    agent_name: str
    model: str
    decisions: int
    resolved: int
    resolved_success_rate: Decimal | None
    pnl: Decimal


@dataclass(frozen=True, slots=True)
class Rejected:
    """One dead letter of the replay: where it came from and why it was set aside."""

    subject: str
    reason: str
    field: str | None
    detail: str


async def committed(
    connection: Connection[Record], sessions: Iterable[UUID], progress: Progress
) -> Committed:
    """Count what the database holds of this replay, told from others by its sessions and sequences."""
    [row] = await connection.fetch(
        """
        WITH mine AS (SELECT id FROM llm_decisions WHERE session_id = ANY($1::uuid[]))
        SELECT
            (SELECT count(*) FROM mine) AS decisions,
            (SELECT count(DISTINCT decision_id) FROM llm_outcomes JOIN mine ON id = decision_id) AS outcomes,
            (SELECT count(*) FROM llm_dead_letters
                WHERE stream = $2 AND stream_sequence = ANY($3::bigint[])) AS dead_letters
        """,
        list(sessions),
        progress.stream,
        progress.malformed_sequences,
    )
    return Committed(**row)


async def agent_records(connection: Connection[Record], sessions: Iterable[UUID]) -> list[AgentRecord]:
    """Return every agent's record in this replay, the best P&L first."""
    rows = await connection.fetch(
        """
        SELECT
            agent_name,
            model,
            count(*) AS decisions,
            count(*) FILTER (WHERE outcome IN ('SUCCESS', 'FAILURE')) AS resolved,
            count(*) FILTER (WHERE outcome = 'SUCCESS')::numeric
                / nullif(count(*) FILTER (WHERE outcome IN ('SUCCESS', 'FAILURE')), 0)
                AS resolved_success_rate,
            coalesce(sum(pnl), 0) AS pnl
        FROM llm_decisions
        WHERE session_id = ANY($1::uuid[])
        GROUP BY agent_name, model
        ORDER BY pnl DESC, agent_name
        """,
        list(sessions),
    )
    return [AgentRecord(**row) for row in rows]


async def rejected(connection: Connection[Record], progress: Progress) -> list[Rejected]:
    """Return the dead letters of the malformed messages of this replay, in stream order."""
    rows = await connection.fetch(
        """
        SELECT subject, reason, field, detail
        FROM llm_dead_letters
        WHERE stream = $1 AND stream_sequence = ANY($2::bigint[])
        ORDER BY stream_sequence
        """,
        progress.stream,
        progress.malformed_sequences,
    )
    return [Rejected(**row) for row in rows]
