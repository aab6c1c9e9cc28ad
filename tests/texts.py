"""The index of texts as tests look at it: what waits for it, what it holds, and all of it done at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.factory import decision, deliver
from tracker_daemon.postgres import connected
from tracker_daemon.store import Store
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg


async def store(dsn: str, *prompts: str) -> list[UUID]:
    """Have a daemon's store record a decision with each prompt, all in one batch; return their ids."""
    writer, batch = Store(dsn), deliver(*(decision(prompt=prompt, response="") for prompt in prompts))
    assert await writer.write(batch) == ["stored"] * len(prompts)
    await writer.close()
    return [delivery.message.identity for delivery in batch]


async def queue(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Put ids into the queue, as the transaction that stores their decisions does."""
    await sql.execute("INSERT INTO llm_text_queue (decisions) VALUES ($1)", list(ids))


async def waiting(sql: asyncpg.Connection) -> list[UUID]:
    """The ids in the queue, the first ones first."""
    return [id_ for (id_,) in await sql.fetch("SELECT unnest(decisions) FROM llm_text_queue ORDER BY id")]


async def nothing_waits(sql: asyncpg.Connection) -> bool:
    return not await waiting(sql)


async def indexed(sql: asyncpg.Connection) -> dict[UUID, set[str]]:
    """The words that the index holds of each decision."""
    rows = await sql.fetch("SELECT decision_id, tsvector_to_array(document) AS words FROM llm_text_index")
    return {row["decision_id"]: set(row["words"]) for row in rows}


async def index_all(dsn: str) -> None:
    """Let the index work until nothing waits."""
    index = TextIndex(dsn)
    async with connected(dsn) as sql:
        while await waiting(sql):
            await index.look()
    await index.leave()
