"""What was stored without an embedding, or with an older one, gets one: a walk through all by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import tenacity
from msgspec import Struct

from tracker_daemon.chore import backoff
from tracker_daemon.embeddings.embedder import Batch, Embedder
from tracker_daemon.embeddings.prompts import LACKING, TELLING, Which
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
SAMPLE_ROWS: Final = 20_000
"""Decisions that an estimate looks at, wherever in the record; of fewer all are."""

_ROWS: Final = "SELECT reltuples FROM pg_class WHERE oid = 'llm_decisions'::regclass"
_COUNT: Final = f"""
SELECT count(*) AS decisions, COALESCE(sum(length(left(prompt, $1))), 0) AS characters
FROM llm_decisions TABLESAMPLE SYSTEM ({{percent!r}}) WHERE {{which}} AND {TELLING}
"""
# The id is no parameter: a plan for any of them, or none, would read the key from its beginning.
_WALK: Final = """
SELECT id, {which} AS wanted FROM llm_decisions {after} ORDER BY id LIMIT {rows:d}
"""


class Estimate(Struct, frozen=True):
    """How many decisions `backfill` would embed, and how many characters it would send; or about so many."""

    decisions: int
    characters: int
    exact: bool


async def estimate(connection: Connection, characters: int, which: Which = LACKING) -> Estimate:
    """Look at a sample of the decisions, or at all of few, as the server guesses how many there are."""
    with translated():
        async with connection.transaction(readonly=True):
            rows = await connection.fetchval(_ROWS)  # -1: the server does not know
            percent = min(100.0, 100 * SAMPLE_ROWS / rows) if rows > 0 else 100.0
            query = _COUNT.format(percent=percent, which=which.condition)
            [row] = await connection.fetch(query, characters)
    decisions, sent = (round(row[name] * 100 / percent) for name in ("decisions", "characters"))
    return Estimate(decisions, sent, exact=percent == 100.0)


async def backfill(
    connection: Connection, provider: Provider, settings: EmbeddingSettings, which: Which = LACKING
) -> AsyncGenerator[Batch, None]:
    """Embed whatever lacks an embedding, or is else to get one, and yield each batch once it is committed.

    Begun again, it goes on: what has its embedding is passed over. Raises `ProviderFailed` after some
    attempts over one batch, and `Unavailable` where another process is at it.
    """
    lease = Lease("embedding_backfill")
    embedder = Embedder(provider, settings, lease, which)
    size = settings.batch_texts
    try:
        async for ids in _walk(connection, which):
            for part in (ids[at : at + size] for at in range(0, len(ids), size)):
                async for attempt in _retrying():
                    with attempt:
                        async for batch in embedder.embed(connection, part):
                            yield batch
    finally:
        if not connection.is_closed():
            await lease.give_back(connection)


async def _walk(connection: Connection, which: Which) -> AsyncIterator[list[UUID]]:
    """The ids of those decisions, step by step."""
    after = ""
    while True:
        with translated():
            async with connection.transaction(readonly=True):
                rows = await connection.fetch(
                    _WALK.format(which=which.condition, after=after, rows=WALK_ROWS)
                )
        if not rows:
            return
        yield [row["id"] for row in rows if row["wanted"]]
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
