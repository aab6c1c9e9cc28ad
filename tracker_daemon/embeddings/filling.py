"""The embeddings of prompts, made in the background: what the ingest has queued gets one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue, idle
from tracker_daemon.embeddings.embedder import REFUSED, Embedder
from tracker_daemon.embeddings.prompts import LACKING, TELLING
from tracker_daemon.errors import Misconfigured
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.embeddings.provider import Provider
    from tracker_daemon.postgres import Connection

SWEEP_SECONDS: Final = 600.0
"""How long it rests after it has looked for decisions that nobody has queued."""
SWEEP_ROWS: Final = 5000
"""Decisions that one step looks at."""

_QUEUE: Final = Queue(
    "embedding",
    "SELECT id AS key, cardinality(decisions) AS size FROM llm_prompt_queue ORDER BY id LIMIT {limit:d}",
    "SELECT unnest(decisions) FROM llm_prompt_queue WHERE id IN ({keys})",
    "DELETE FROM llm_prompt_queue WHERE id IN ({keys})",
    "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_prompt_queue",
    metrics.embeddings_waiting,
    REFUSED,
)
# In one snapshot a decision without an embedding is in the queue, or missed, or was refused. An hour, because
# what is stored later than that after its time has to wait for another daemon's first sweep.
_SWEEP: Final = f"""
WITH walked AS MATERIALIZED (
    SELECT created_at, id, {LACKING.condition} AND {TELLING} AS lacking FROM llm_decisions
    WHERE created_at >= GREATEST($2, now() - interval '1 day') AND created_at < now() - interval '1 hour'
      AND (created_at, id) > ($2, $3)
    ORDER BY created_at, id LIMIT {{rows:d}}
), missed AS (
    SELECT id FROM walked WHERE lacking EXCEPT SELECT unnest(decisions) FROM llm_prompt_queue
), queued AS (
    INSERT INTO llm_prompt_queue (decisions)
    SELECT array_agg(id) FROM (SELECT id, (row_number() OVER () - 1) / 100 AS number FROM missed) m
    GROUP BY number
)
SELECT created_at, id, count(*) OVER () = {{rows:d}} AS more FROM walked ORDER BY 1 DESC, 2 DESC LIMIT 1
"""


RIGHTS: Final = "deploy/postgres/embeddings.sql"


class PromptEmbeddings(Backlog):
    """Gives queued decisions their embeddings; what has one, is gone, or is refused only leaves the queue."""

    def __init__(
        self,
        dsn: str,
        provider: Provider,
        settings: EmbeddingSettings,
        *,
        busy: Callable[[], bool] = idle,
        statement_cache: bool = True,
    ) -> None:
        """Keep the address; `run` connects, and closes the provider in the end."""
        super().__init__(dsn, _QUEUE, busy=busy, statement_cache=statement_cache)
        self._provider = provider
        self._characters = settings.max_characters
        self._embedder = Embedder(provider, settings, self._lease)
        self._sweep_at = 0.0
        self._swept = datetime.min.replace(tzinfo=UTC), UUID(int=0)

    async def leave(self) -> None:
        """As every chore, and close the provider."""
        try:
            await super().leave()
        finally:
            await self._provider.close()

    async def _move(self, connection: Connection, ids: str, leave: str) -> None:
        with translated():
            async with connection.transaction(readonly=True):
                queued: list[UUID] = await connection.fetchval(f"SELECT {ids}")
        try:
            async for batch in self._embedder.embed(connection, queued):
                self._elsewhere += batch.seconds
        except Misconfigured as error:
            raise Misconfigured(f"{error}; the rights that it takes are in {RIGHTS}") from error
        with translated():
            await connection.execute(leave)

    async def _sweep(self, connection: Connection) -> bool:
        """Queue what was stored by who knows of no provider, from a day ago on: older daemons, clients."""
        clock = asyncio.get_running_loop().time
        if clock() < self._sweep_at or not await self._lease.take(connection):
            return False
        with translated():
            async with connection.transaction():
                last = await connection.fetchrow(
                    _SWEEP.format(rows=SWEEP_ROWS), self._characters, *self._swept
                )
        if last is not None:
            self._swept = last["created_at"], last["id"]
            if last["more"]:
                return True
        self._sweep_at = clock() + SWEEP_SECONDS
        return False
