"""What was stored without an embedding gets one: a walk through all decisions, in the order of their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import tenacity

from tracker_daemon.chore import backoff
from tracker_daemon.embeddings.embedder import Batch, Embedder
from tracker_daemon.embeddings.prompts import LACKING
from tracker_daemon.embeddings.provider import ProviderFailed
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import Locked, translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from uuid import UUID

    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.embeddings.provider import Provider
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

WALK_ROWS: Final = 2000
"""Decisions that one step looks at: no index knows which have no embedding."""
ATTEMPTS: Final = 12
"""Over one batch, a minute or so in all; or longer, where the provider asks for that."""
COUNT_SECONDS: Final = 3600.0

_COUNT: Final = f"""
SELECT count(*) AS decisions, COALESCE(sum(length(left(prompt, $1))), 0) AS characters
FROM llm_decisions WHERE {LACKING}
"""
# The id is no parameter: a plan for any of them, or none, would read the key from its beginning.
_WALK: Final = """
SELECT id, prompt_embedding IS NULL AS lacking FROM llm_decisions {after} ORDER BY id LIMIT {rows:d}
"""


async def count_lacking(connection: Connection, characters: int) -> tuple[int, int]:
    """How many decisions `backfill` would embed, and how many characters it would send."""
    with translated():
        [row] = await connection.fetch(_COUNT, characters, timeout=COUNT_SECONDS)
    return row["decisions"], row["characters"]


async def backfill(
    connection: Connection, provider: Provider, settings: EmbeddingSettings
) -> AsyncGenerator[Batch, None]:
    """Embed whatever lacks an embedding, and yield each batch once it is committed.

    Begun again, it goes on: what has an embedding is passed over. Raises `ProviderFailed` after some
    attempts over one batch, and `Unavailable` where another process is at it.
    """
    lease = Lease("embedding_backfill")
    embedder = Embedder(provider, settings, lease)
    size = settings.batch_texts
    try:
        async for ids in _walk(connection):
            for part in (ids[at : at + size] for at in range(0, len(ids), size)):
                async for attempt in _retrying():
                    with attempt:
                        async for batch in embedder.embed(connection, part):
                            yield batch
    finally:
        if not connection.is_closed():
            await lease.give_back(connection)


async def _walk(connection: Connection) -> AsyncIterator[list[UUID]]:
    """The ids of the decisions without an embedding, step by step."""
    after = ""
    while True:
        with translated():
            async with connection.transaction(readonly=True):
                rows = await connection.fetch(_WALK.format(after=after, rows=WALK_ROWS))
        if not rows:
            return
        yield [row["id"] for row in rows if row["lacking"]]
        after = f"WHERE id > '{rows[-1]['id']}'"


def _retrying() -> tenacity.AsyncRetrying:
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_passes),
        wait=backoff,
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=_failed,
        reraise=True,
    )


def _passes(error: BaseException) -> bool:
    return isinstance(error, Locked) or (isinstance(error, ProviderFailed) and error.kind != "refused")


def _failed(retry: tenacity.RetryCallState) -> None:
    reason = str(retry.outcome and retry.outcome.exception())
    log.warning("no embeddings for now, trying again", reason=reason, attempt=retry.attempt_number)
