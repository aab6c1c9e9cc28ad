"""The index of full-text search, kept in the background: what the ingest has queued goes into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue
from tracker_daemon.postgres import Rejected, translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

_QUEUE: Final = Queue(
    "text_index",
    "SELECT id AS key, cardinality(decisions) AS size FROM llm_text_queue ORDER BY id LIMIT {limit:d}",
    "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_text_queue",
    metrics.text_index_waiting,
)
_QUEUED: Final = "SELECT unnest(decisions) FROM llm_text_queue WHERE id IN ({keys})"
# Each is one message, transaction and all: a daemon that freezes keeps nothing locked from the one that takes
# over. The lock is also that of the pruning, which else could delete a decision, and its place in the index,
# between the moments at which the decision is read here and its place is made.
_INDEX: Final = """
SELECT pg_advisory_xact_lock('llm_text_index'::regclass::bigint);
INSERT INTO llm_text_index (decision_id, document)
SELECT id, to_tsvector('simple', llm_searched_text(prompt, response))
FROM llm_decisions WHERE id = ANY({ids})
ON CONFLICT (decision_id) DO NOTHING
"""
_LEAVE: Final = "DELETE FROM llm_text_queue WHERE id IN ({keys})"


class TextIndex(Backlog):
    """Moves queued decisions into the index; those that are gone leave the queue."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, _QUEUE, statement_cache=statement_cache)

    async def _move(self, connection: Connection, keys: list[int]) -> None:
        numbers = ", ".join(map(str, keys))
        queued, leave = _QUEUED.format(keys=numbers), _LEAVE.format(keys=numbers)
        try:
            with translated():
                await connection.execute(f"{_INDEX.format(ids=f'ARRAY({queued})')}; {leave}")
        except Rejected:
            await self._move_singly(connection, queued)
            with translated():
                await connection.execute(leave)

    async def _move_singly(self, connection: Connection, queued: str) -> None:
        """Index these one by one: one that cannot be indexed must not hold up all others for ever."""
        with translated():
            async with connection.transaction(readonly=True):
                ids = [row["unnest"] for row in await connection.fetch(queued)]
        for id_ in ids:
            try:
                with translated():
                    await connection.execute(_INDEX.format(ids=f"ARRAY['{id_}'::uuid]"))
            except Rejected as error:
                log.warning("a decision that no search will find", decision=str(id_), reason=error.safely)
