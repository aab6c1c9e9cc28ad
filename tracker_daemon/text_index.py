"""The index of full-text search, kept in the background: what the ingest has queued goes into it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from uuid import UUID

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue, idle
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.postgres import Connection

SWEEP_SECONDS: Final = 6 * 3600.0
"""How long it rests after it has looked through all decisions for those that nobody has queued."""
SWEEP_ROWS: Final = 10_000
"""Decisions that one step looks at: their keys alone, in the order of the keys."""

_QUEUE: Final = Queue(
    "text_index",
    "SELECT id AS key, cardinality(decisions) AS size FROM llm_text_queue ORDER BY id LIMIT {limit:d}",
    "SELECT unnest(decisions) FROM llm_text_queue WHERE id IN ({keys})",
    "DELETE FROM llm_text_queue WHERE id IN ({keys})",
    "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_text_queue",
    metrics.text_index_waiting,
    "a decision that no search will find",
)
# Each is one message, transaction and all: a daemon that freezes keeps nothing locked from the one that takes
# over. The lock is also that of the pruning, which else could delete a decision, and its place in the index,
# between the moments at which the decision is read here and its place is made.
_INDEX: Final = """
SELECT pg_advisory_xact_lock('llm_text_index'::regclass::bigint);
INSERT INTO llm_text_index (decision_id, document)
SELECT id, to_tsvector('simple', llm_searched_text(prompt, response))
FROM llm_decisions WHERE id = ANY({ids})
ON CONFLICT (decision_id) DO NOTHING;
"""
# In one snapshot a decision is in the queue, in the index, or missed. The ids of a step come as an array,
# which is looked up by the primary key whatever is guessed about it. A step that is not full has no last one:
# else it would go on for as long as decisions come.
_SWEEP: Final = """
WITH walked AS MATERIALIZED (
    SELECT id FROM llm_decisions WHERE id >= $1 ORDER BY id LIMIT {rows:d}
), missed AS (
    SELECT id FROM walked
    EXCEPT SELECT decision_id FROM llm_text_index WHERE decision_id = ANY(ARRAY(SELECT id FROM walked))
    EXCEPT SELECT unnest(decisions) FROM llm_text_queue
), queued AS (
    INSERT INTO llm_text_queue (decisions)
    SELECT array_agg(id) FROM (SELECT id, (row_number() OVER () - 1) / 100 AS number FROM missed) m
    GROUP BY number
)
SELECT id FROM walked ORDER BY id OFFSET {rows:d} - 1
"""


class TextIndex(Backlog):
    """Moves queued decisions into the index; those that are gone leave the queue."""

    def __init__(self, dsn: str, *, busy: Callable[[], bool] = idle, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, _QUEUE, busy=busy, statement_cache=statement_cache)
        self._sweep_at = 0.0
        self._swept = UUID(int=0)

    async def _move(self, connection: Connection, ids: str, leave: str) -> None:
        with translated():
            await connection.execute(_INDEX.format(ids=ids) + leave)

    async def _sweep(self, connection: Connection) -> bool:
        """Queue decisions that are in neither place: those of a daemon that knows nothing of the index."""
        clock = asyncio.get_running_loop().time
        if clock() < self._sweep_at or not await self._lease.take(connection):
            return False
        with translated():
            async with connection.transaction():
                last = await connection.fetchval(_SWEEP.format(rows=SWEEP_ROWS), self._swept)
        if last is None:
            self._swept, self._sweep_at = UUID(int=0), clock() + SWEEP_SECONDS
            return False
        self._swept = last
        return True
