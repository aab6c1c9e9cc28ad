"""The embeddings of prompts, made in the background: what the ingest has queued gets one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue, idle
from tracker_daemon.embeddings.embedder import Embedder
from tracker_daemon.errors import Misconfigured
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.embeddings.provider import Provider
    from tracker_daemon.postgres import Connection

_QUEUE: Final = Queue(
    "embedding",
    "SELECT id AS key, cardinality(decisions) AS size FROM llm_prompt_queue ORDER BY id LIMIT {limit:d}",
    "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_prompt_queue",
    metrics.embeddings_waiting,
)
_QUEUED: Final = "SELECT unnest(decisions) FROM llm_prompt_queue WHERE id = ANY($1::bigint[])"
_LEAVE: Final = "DELETE FROM llm_prompt_queue WHERE id IN ({keys})"


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
        self._embedder = Embedder(provider, settings, self._lease)

    async def leave(self) -> None:
        """As every chore, and close the provider."""
        try:
            await super().leave()
        finally:
            await self._provider.close()

    async def _move(self, connection: Connection, keys: list[int]) -> None:
        with translated():
            async with connection.transaction(readonly=True):
                ids = [row["unnest"] for row in await connection.fetch(_QUEUED, keys)]
        try:
            async for batch in self._embedder.embed(connection, ids):
                self._elsewhere += batch.seconds
        except Misconfigured as error:
            raise Misconfigured(f"{error}; the rights that it takes are in {RIGHTS}") from error
        with translated():
            await connection.execute(_LEAVE.format(keys=", ".join(map(str, keys))))
