"""A tracker's side for programs that reach the database: write as the daemon writes, ask directly."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import structlog

from tracker_daemon.choices import Assign, Select
from tracker_daemon.choices.memory import Memory
from tracker_daemon.embeddings import TextEmbedder
from tracker_daemon.errors import InvalidPayload, TrackerError
from tracker_daemon.messages import Contract, Delivery, decode
from tracker_daemon.postgres import close, connect
from tracker_daemon.queries import Prompts, as_json, parse, reading
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tracker_daemon.client.side import Asked
    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.messages import Message
    from tracker_daemon.postgres import Connection
    from tracker_daemon.redaction import Redactor

T = TypeVar("T")

_DIMENSIONS: Final = """
SELECT atttypmod FROM pg_attribute WHERE attrelid = 'llm_decisions'::regclass AND attname = 'prompt_embedding'
"""


class OnPostgres:
    """Commits over one connection and asks over another, both made when there is need."""

    def __init__(self, dsn: str, redactor: Redactor | None, embedding: EmbeddingSettings) -> None:
        """Keep the address, what cuts out of messages that which must not be kept, and who embeds texts."""
        _tame_logs()
        self._dsn = dsn
        self._redactor = redactor
        # Without prepared statements, which PgBouncer might lose.
        self._store = Store(dsn, statement_cache=False)
        self._contract: Contract | None = None
        self._texts = TextEmbedder(embedding, embedding.timeout_seconds, redactor)
        self._asking = asyncio.Lock()
        self._connection: Connection | None = None
        self._memory = Memory(self._reading)

    async def send(self, messages: Sequence[Message]) -> list[TrackerError | None]:
        """Commit a row about each; the store waits out an outage, and says so."""
        if self._contract is None:
            self._contract = await self._installed()
        deliveries = [_delivery(message, self._contract) for message in messages]
        results = await self._store.write(deliveries)
        refused = TrackerError(f"PostgreSQL takes neither it nor its dead letter: {self._store.trouble}")
        return [refused if result == "released" else None for result in results]

    async def ask(self, question: Asked[T]) -> T:
        """Ask as a daemon would that reads the question from JSON, and refuses it in the same words."""
        asked: Any = parse(as_json(question), cast("type[Any]", type(question)))
        answer: T
        if isinstance(asked, Assign | Select):
            answer = cast("T", asked.among(await self._memory.recall()))
            return answer
        if isinstance(asked, Prompts):
            asked = await asked.embedded(self._texts.embed)
        async with self._reading() as connection:
            answer = await asked.answer(connection)
            return answer

    async def close(self) -> None:
        """Close both connections, and the provider."""
        await self._memory.close()
        await self._store.close()
        await self._texts.close()
        if self._connection is not None:
            await close(self._connection)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        async with self._asking:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._dsn, statement_cache=False)
            async with reading(self._connection):
                yield self._connection

    async def _installed(self) -> Contract:
        async with self._reading() as connection:
            width = await connection.fetchval(_DIMENSIONS)
        return Contract(embedding_dimensions=width, redactor=self._redactor)


def _delivery(message: Message, contract: Contract) -> Delivery:
    try:
        return Delivery(message, decode(message, contract), None)
    except InvalidPayload as error:
        return Delivery(message, error.alone(), None)


def _tame_logs() -> None:
    """Send the store's lines where those of the standard library go: by itself structlog prints on stdout."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
