"""The vector index, kept in the background: what the ingest has queued goes into it, step by step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tracker_daemon import metrics
from tracker_daemon.chore import Chore
from tracker_daemon.postgres import schema_of_vector, translated

if TYPE_CHECKING:
    from uuid import UUID

    from tracker_daemon.postgres import Connection

MAX_SHARE: Final = 0.25
"""Part of the time that it may work: after a step it rests three times as long."""
STEP_SECONDS: Final = 0.25
"""How long a step may take before the next one gets fewer rows."""
FIRST_ROWS: Final = 8
MAX_ROWS: Final = 2048
LOOK_SECONDS: Final = 3.0
"""How often it looks for work while there is none, or while another daemon does it."""
COUNT_SECONDS: Final = 5.0
COUNT_SHARE: Final = 0.02
"""Part of the time that the count may take: a long queue is counted less often."""

_QUEUED: Final = "SELECT decision_id FROM llm_embedding_queue ORDER BY decision_id LIMIT {rows:d}"
_COUNT: Final = "SELECT count(*) FROM llm_embedding_queue"
# One message, transaction and all: a daemon that freezes keeps no row locked from the one that takes over.
# First out of the queue, then into the index: the second snapshot sees every decision whose row the first
# statement deletes, unless the decision is gone. Of two daemons with the same ids one waits, and then changes
# nothing.
_MOVE: Final = """
DELETE FROM llm_embedding_queue WHERE decision_id = ANY('{{{ids}}}'::uuid[]);
INSERT INTO llm_embedding_index (decision_id, signs)
SELECT id, {vector}.binary_quantize(prompt_embedding)
FROM llm_decisions WHERE id = ANY('{{{ids}}}'::uuid[]) AND prompt_embedding IS NOT NULL
ON CONFLICT (decision_id) DO NOTHING
"""


class EmbeddingIndex(Chore):
    """Moves queued embeddings into the index."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, "embedding_index", statement_cache=statement_cache)
        self._rows = FIRST_ROWS
        self._count_at = 0.0

    async def _look(self, connection: Connection) -> float:
        """Do one step if there is work and nobody else does it."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await self._count(connection)
        queued = await self._queued(connection)
        more = len(queued) == self._rows
        if queued and await self._lease.take(connection):
            moved_from = clock()
            await self._move(connection, queued)
            self._adapt(clock() - moved_from, more=more)
        if self._lease.held and not more:
            await self._lease.give_back(connection)
        rest = (clock() - began) * (1 / MAX_SHARE - 1)
        return rest if self._lease.held else max(rest, LOOK_SECONDS)

    async def _queued(self, connection: Connection) -> list[UUID]:
        # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
        with translated():
            async with connection.transaction(readonly=True):
                return [row["decision_id"] for row in await connection.fetch(_QUEUED.format(rows=self._rows))]

    async def _move(self, connection: Connection, queued: list[UUID]) -> None:
        """Move these from the queue to the index; those that have no embedding (any more) leave the queue."""
        ids = ",".join(map(str, queued))
        with translated():
            async with connection.transaction(readonly=True):
                vector = await schema_of_vector(connection)
            await connection.execute(_MOVE.format(vector=vector, ids=ids))

    def _adapt(self, seconds: float, *, more: bool) -> None:
        if seconds > STEP_SECONDS:
            self._rows = max(self._rows // 2, 1)
        elif more and seconds < STEP_SECONDS / 2:
            self._rows = min(self._rows * 2, MAX_ROWS)

    async def _count(self, connection: Connection) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._count_at:
            return
        try:
            with translated():
                async with connection.transaction(readonly=True):
                    metrics.embedding_index_waiting.set(await connection.fetchval(_COUNT))
        finally:  # also where it fails: what is too long to be counted has to become shorter
            self._count_at = clock() + max(COUNT_SECONDS, (clock() - began) / COUNT_SHARE)

    def _forget(self) -> None:
        self._rows = FIRST_ROWS  # it may have been a step that took longer than a statement may
