"""Decisions with embeddings, as the ingest leaves them: stored, and queued for the vector index."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from tracker_daemon.queries import Filter, reading, similar_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg


class Neighbour(NamedTuple):
    """A decision, and how far its embedding is."""

    id: UUID
    distance: float | None


async def store(sql: asyncpg.Connection, *embeddings: Sequence[float] | None) -> list[UUID]:
    """Store a decision with each embedding (None: without one), queue them in the same transaction."""
    ids = [uuid4() for _ in embeddings]
    texts = [str(list(embedding)) if embedding is not None else None for embedding in embeddings]
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO llm_decisions "
            "(id, prompt_embedding, agent_name, decision_type, symbol, prompt, response, model) "
            "SELECT id, embedding::vector, 'momentum', 'signal', 'BTC', '?', '!', 'gpt-x' "
            "FROM unnest($1::uuid[], $2::text[]) AS new (id, embedding)",
            ids,
            texts,
        )
        await queue(sql, *ids)
    return ids


async def queue(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Put ids into the queue, as the transaction that stores their decisions does."""
    await sql.execute(
        "INSERT INTO llm_embedding_queue SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING", list(ids)
    )


async def indexed(sql: asyncpg.Connection) -> dict[UUID, list[float]]:
    """What the index holds: a decision's id, and the direction of its embedding."""
    rows = await sql.fetch("SELECT decision_id, direction::text AS direction FROM llm_embedding_index")
    return {row["decision_id"]: json.loads(row["direction"]) for row in rows}


async def waiting(sql: asyncpg.Connection) -> int:
    """How many decisions are in the queue."""
    return int(await sql.fetchval("SELECT count(*) FROM llm_embedding_queue"))


async def nothing_waits(sql: asyncpg.Connection) -> bool:
    return not await waiting(sql)


def direction(embedding: Sequence[float]) -> Any:
    """What the index holds of an embedding, but for what halves of floats cannot tell."""
    length = math.hypot(*embedding)
    return pytest.approx([number / length for number in embedding], abs=1e-3)


async def nearest(
    sql: asyncpg.Connection, embedding: Sequence[float], model: str | None, limit: int
) -> list[Neighbour]:
    """The decisions whose embeddings of a model are nearest."""
    async with reading(sql):
        found = await similar_prompts(sql, embedding, Filter(embedding_model=model), limit)
    assert [row.by_embedding for row in found.rows] == sorted(row.by_embedding or 0 for row in found.rows)
    return [Neighbour(row.decision.id, row.distance) for row in found.rows]
