"""The vector index, kept in the background: what the ingest has queued goes into it, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue, idle
from tracker_daemon.postgres import schema_of_vector, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.postgres import Connection

_QUEUE: Final = Queue(
    "embedding_index",
    "SELECT decision_id AS key, 1 AS size FROM llm_embedding_queue ORDER BY decision_id LIMIT {limit:d}",
    "SELECT unnest(ARRAY[{keys}]::uuid[])",
    "DELETE FROM llm_embedding_queue WHERE decision_id IN ({keys})",
    "SELECT count(*) FROM llm_embedding_queue",
    metrics.embedding_index_waiting,
    "a decision that nobody will find by its embedding through the index",
)
# One message, transaction and all: a daemon that freezes keeps no row locked from the one that takes over.
# First out of the queue, then into the index: the second snapshot sees every decision whose row the first
# statement deletes, unless the decision is gone. Of two daemons with the same ids one waits, and then changes
# nothing.
_MOVE: Final = """
{leave};
INSERT INTO llm_embedding_index (decision_id, direction)
SELECT id, {vector}.l2_normalize({vector}.subvector(prompt_embedding, 1, 4000))::{vector}.halfvec
FROM llm_decisions WHERE id = ANY({ids}) AND prompt_embedding IS NOT NULL
ON CONFLICT (decision_id) DO NOTHING
"""


class EmbeddingIndex(Backlog):
    """Moves queued embeddings into the index; those that are none (any more) leave the queue."""

    def __init__(self, dsn: str, *, busy: Callable[[], bool] = idle, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, _QUEUE, busy=busy, statement_cache=statement_cache)

    async def _move(self, connection: Connection, ids: str, leave: str) -> None:
        with translated():
            async with connection.transaction(readonly=True):
                vector = await schema_of_vector(connection)
            await connection.execute(_MOVE.format(vector=vector, ids=ids, leave=leave))
