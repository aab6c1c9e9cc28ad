"""Decisions with embeddings, as the ingest leaves them: stored, and queued for the vector index."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg


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


async def indexed(sql: asyncpg.Connection) -> dict[UUID, str]:
    """What the index holds: a decision's id, and its signs as a text of 0 and 1."""
    rows = await sql.fetch("SELECT decision_id, signs::text AS signs FROM llm_embedding_index")
    return {row["decision_id"]: row["signs"] for row in rows}


async def waiting(sql: asyncpg.Connection) -> int:
    """How many decisions are in the queue."""
    return int(await sql.fetchval("SELECT count(*) FROM llm_embedding_queue"))


async def nothing_waits(sql: asyncpg.Connection) -> bool:
    return not await waiting(sql)


def signs(embedding: Sequence[float]) -> str:
    """What the index holds of an embedding."""
    return "".join("1" if number > 0 else "0" for number in embedding)
