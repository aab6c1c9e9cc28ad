"""The vector index, kept in the background: what the ingest has queued goes into it, step by step."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import tenacity

from tracker_daemon import metrics
from tracker_daemon.errors import TrackerError
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import Connection, close, connect, schema_of_vector, translated

if TYPE_CHECKING:
    from uuid import UUID

log = structlog.get_logger(__name__)

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
RETRY_CAP_SECONDS: Final = 15.0

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


class EmbeddingIndex:
    """Moves queued embeddings into the index, over a connection of its own, while no other daemon does."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        self._dsn = dsn
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._vector = ""
        self._lease = Lease("embedding_index")
        self._held = False
        self._rows = FIRST_ROWS
        self._count_at = 0.0
        self._troubled = False

    async def run(self) -> None:
        """Keep the index until cancelled; an outage is waited out, and nothing else waits for the index."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TrackerError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=RETRY_CAP_SECONDS),
            before_sleep=self._after_failure,
        )
        try:
            while True:
                rest: float = await retrying(self._look)
                if self._troubled:
                    self._troubled = False
                    log.info("the vector index is kept again")
                await asyncio.sleep(rest)
        finally:
            await self._leave()

    def abort(self) -> None:
        """Cut a connection in a transaction: cancelled, it would wait for a frozen server to roll it back."""
        if self._connection is not None and self._connection.is_in_transaction():
            self._connection.terminate()

    async def _look(self) -> float:
        """Do one step if there is work and nobody else does it; return for how many seconds to rest then."""
        clock = asyncio.get_running_loop().time
        began = clock()
        connection = await self._connected()
        await self._count(connection)
        queued = await self._queued(connection)
        more = len(queued) == self._rows
        if queued and await self._take_lease(connection):
            moved_from = clock()
            await self._move(connection, queued)
            self._adapt(clock() - moved_from, more=more)
        if self._held and not more:
            await self._give_back_lease(connection)
        rest = (clock() - began) * (1 / MAX_SHARE - 1)
        return rest if self._held else max(rest, LOOK_SECONDS)

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
            with translated():
                async with self._connection.transaction():
                    self._vector = await schema_of_vector(self._connection)
        return self._connection

    async def _queued(self, connection: Connection) -> list[UUID]:
        # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
        with translated():
            async with connection.transaction(readonly=True):
                return [row["decision_id"] for row in await connection.fetch(_QUEUED.format(rows=self._rows))]

    async def _move(self, connection: Connection, queued: list[UUID]) -> None:
        """Move these from the queue to the index; those that have no embedding (any more) leave the queue."""
        ids = ",".join(map(str, queued))
        with translated():
            await connection.execute(_MOVE.format(vector=self._vector, ids=ids))

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

    async def _take_lease(self, connection: Connection) -> bool:
        self._held = await self._lease.take(connection)
        return self._held

    async def _give_back_lease(self, connection: Connection) -> None:
        self._held = False
        await self._lease.give_back(connection)

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        if not self._troubled:
            self._troubled = True
            log.warning(
                "the vector index is not kept, trying again and again",
                reason=str(retry.outcome and retry.outcome.exception()),
            )
        self._rows = FIRST_ROWS  # it may have been a step that took longer than a statement may
        self._held = False
        await self._close()

    async def _leave(self) -> None:
        """Give back what is held, unless the server keeps us waiting: the lease would expire by itself."""
        connection = self._connection
        try:
            if connection is not None and not connection.is_closed() and self._held:
                with contextlib.suppress(TrackerError, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._give_back_lease(connection)
        finally:
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)
