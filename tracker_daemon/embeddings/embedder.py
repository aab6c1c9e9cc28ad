"""Decisions and the provider: their prompts go there batch by batch, its vectors come into their rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from tracker_daemon import metrics
from tracker_daemon.backlog import singly
from tracker_daemon.embeddings import prompts
from tracker_daemon.embeddings.isolation import Known, embed_each
from tracker_daemon.embeddings.provider import ProviderFailed, TextRefused
from tracker_daemon.errors import Unavailable
from tracker_daemon.lease import SECONDS
from tracker_daemon.postgres import Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from uuid import UUID

    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.embeddings.provider import Embedding, Provider
    from tracker_daemon.lease import Lease
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

REFUSED: Final = "a decision that gets no embedding"
"""What the log calls one whose text the provider does not take, or whose embedding the database."""
BLAMING_FAILURES: Final = 5
"""After so many failures in a row, of one and the same batch that is, a text of it may be their cause."""


class Batch(Struct, frozen=True):
    """Decisions that are done with, and the seconds for which the provider was waited for."""

    embedded: int
    refused: int
    seconds: float


class Embedder:
    """Gives decisions their embeddings, under a lease that is prolonged while the provider is asked."""

    def __init__(
        self,
        provider: Provider,
        settings: EmbeddingSettings,
        lease: Lease,
        which: prompts.Which = prompts.LACKING,
    ) -> None:
        """Keep whom to ask, how much at once, and for which; the lease is taken at each batch."""
        self._provider = provider
        self._settings = settings
        self._lease = lease
        self._which = which
        self._failures = 0
        self._known: Known = {}

    async def embed(self, connection: Connection, ids: Sequence[UUID]) -> AsyncIterator[Batch]:
        """Fill those that are to get an embedding; yield each batch once it is committed.

        What it does not take for good is named in the log, and keeps no embedding. Raises `ProviderFailed`,
        or `Unavailable` where another process has taken the lease: what was yielded is committed.
        """
        clock = asyncio.get_running_loop().time
        size = self._settings.batch_texts
        for part in (ids[at : at + size] for at in range(0, len(ids), size)):
            texts = await prompts.read(connection, self._which, part, self._settings.max_characters)
            for batch in _split(texts, self._settings.batch_bytes):
                began = clock()
                made = await self._ask(connection, batch)
                seconds = clock() - began
                stored = await self._fill(connection, made)
                metrics.embeddings_made.inc(stored)
                yield Batch(stored, len(batch) - stored, seconds)

    async def _fill(self, connection: Connection, made: Mapping[UUID, Embedding]) -> int:
        """Store the embeddings and return how many the database takes."""

        async def alone(id_: UUID) -> None:
            await prompts.fill(connection, self._which, self._provider.model, {id_: made[id_]})

        try:
            await prompts.fill(connection, self._which, self._provider.model, made)
        except Rejected:
            return len(made) - len(await singly(made, alone, REFUSED))
        return len(made)

    async def _ask(self, connection: Connection, texts: Mapping[UUID, str]) -> dict[UUID, Embedding]:
        await self._hold(connection)
        blaming = self._failures >= BLAMING_FAILURES
        group, known = tuple(texts.values()), self._known
        if group not in known:
            known.clear()  # of another batch
        asking = asyncio.create_task(embed_each(self._provider, group, known, blaming=blaming))
        try:
            while not (await asyncio.wait({asking}, timeout=SECONDS / 3))[0]:
                await self._hold(connection)
            answers = asking.result()
        except ProviderFailed as error:
            self._failures += 1
            metrics.embedding_failures.labels(error.kind).inc()
            raise
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        self._failures = 0
        known.clear()
        return dict(_made(texts, answers))

    async def _hold(self, connection: Connection) -> None:
        if not await self._lease.take(connection):
            raise Unavailable(
                "another process makes the same embeddings by now, it is left to that one; should it have "
                f"died, try again in {SECONDS} s"
            )


def _split(texts: Mapping[UUID, str], most: int) -> Iterator[dict[UUID, str]]:
    """The texts in batches of at most so many bytes, one of at least a text."""
    batch: dict[UUID, str] = {}
    size = 0
    for id_, text in texts.items():
        length = len(text.encode())
        if batch and size + length > most:
            yield batch
            batch, size = {}, 0
        batch[id_] = text
        size += length
    if batch:
        yield batch


def _made(
    texts: Mapping[UUID, str], answers: Sequence[Embedding | TextRefused]
) -> Iterator[tuple[UUID, Embedding]]:
    for id_, answer in zip(texts, answers, strict=True):
        if isinstance(answer, TextRefused):
            metrics.embedding_failures.labels("text").inc()
            log.warning(REFUSED, decision=str(id_), reason=str(answer))
        else:
            yield id_, answer
