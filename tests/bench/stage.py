"""The servers of a run, honest ones: what PostgreSQL promises by default, it promises here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final

import asyncpg
import nats
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from tests.bench import tables
from tests.bench.cpu import used, used_with_children
from tests.bench.rows import DIMENSIONS
from tracker_daemon.embedded import NatsServer, PostgresServer
from tracker_daemon.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from nats.aio.client import Client

# fsync, full_page_writes and synchronous_commit are PostgreSQL's own. The rest is for all contestants: room
# for what is hot, and no checkpoint, new WAL segment or autovacuum that falls into one contestant's round.
SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "min_wal_size": "2GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": "50",
}
NATS_OPTIONS: Final = "max_payload: 8MB\njetstream { max_file_store: 16GB }\n"
STREAM: Final = "LLM"
DECISIONS: Final = "llm.decisions"
OUTCOMES: Final = "llm.outcomes"
_WINDOW: Final = 500
"""Messages published before an acknowledgement is waited for."""


class Stage:
    """One nats-server, one PostgreSQL with a migrated database, one stream."""

    def __init__(self, folder: Path, dimensions: int = DIMENSIONS) -> None:
        """Keep both servers' data in `folder`; embeddings are so long."""
        self.folder = folder
        self.nats = NatsServer(folder / "nats", options=NATS_OPTIONS)
        self.postgres = PostgresServer(folder / "postgres", options=SETTINGS)
        self.client: Client
        self.sql: asyncpg.Connection
        self.database = "tracker"
        self._dimensions = dimensions
        self.checkpoints = True
        self._runs = itertools.count(1)

    @contextlib.asynccontextmanager
    async def running(self, settings: Mapping[str, str] | None = None) -> AsyncIterator[Stage]:
        """Have both servers up for a block, PostgreSQL with these settings on top of the common ones."""
        self.postgres.options = SETTINGS | dict(settings or {})
        with self.nats, self.postgres:
            self.sql = await asyncpg.connect(self.dsn)
            self.client = await nats.connect(self.nats.url, pending_size=64 << 20)
            try:
                await self._make_tables()
                yield self
            finally:
                await self.client.close()
                await self.sql.close()

    async def add_database(self, name: str) -> None:
        """Make another database with the same tables, and `use` it."""
        await self.sql.execute(f"CREATE DATABASE {name}")
        await self.use(name)
        await self._make_tables()

    async def use(self, database: str) -> None:
        """Let the next runs write to this database."""
        await self.sql.close()
        self.database = database
        self.sql = await asyncpg.connect(self.dsn)

    async def restart_postgres(self, settings: Mapping[str, str]) -> None:
        """Let PostgreSQL go on with these settings on top of the common ones, all data written out."""
        await self.sql.execute("CHECKPOINT")
        await self.sql.close()
        await asyncio.to_thread(self.postgres.stop)
        self.postgres.options = SETTINGS | dict(settings)
        await asyncio.to_thread(os.sync)
        await asyncio.to_thread(self.postgres.start)
        self.sql = await asyncpg.connect(self.dsn)

    async def _make_tables(self) -> None:
        await migrate(self.dsn, self._dimensions)
        await tables.make(self.sql)

    @property
    def dsn(self) -> str:
        """The database that contestants write to."""
        return self.postgres.dsn(self.database)

    def new_log(self) -> Path:
        """A file of its own for the next process that writes a log."""
        return self.folder / f"{next(self._runs)}.log"

    async def about(self) -> dict[str, str]:
        """What the servers are, and what PostgreSQL promises."""
        shown = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level")
        return {
            "nats-server": str(self.client.connected_server_version),
            "pgvector": await self.sql.fetchval(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ),
            **{f"postgresql {name}": await self.sql.fetchval(f"SHOW {name}") for name in shown},
        }

    async def fill(self, messages: Iterable[bytes], subject: str = DECISIONS) -> int:
        """Make the stream anew, publish the messages in order; return how many when all are stored."""
        js = self.client.jetstream(timeout=60)
        with contextlib.suppress(NotFoundError):
            await js.delete_stream(STREAM)
        await js.add_stream(
            StreamConfig(name=STREAM, subjects=[DECISIONS, OUTCOMES], discard=DiscardPolicy.NEW)
        )
        remaining, count = iter(messages), 0
        while window := list(itertools.islice(remaining, _WINDOW)):
            for payload in window[:-1]:
                await self.client.publish(subject, payload)
            # The server stores in order: the last one's acknowledgement is that of all.
            stored = await js.publish(subject, window[-1])
            count += len(window)
            if stored.seq != count:
                raise RuntimeError(f"the stream holds {stored.seq} messages of {count} published")
        return count

    async def settle(self) -> None:
        """Write out what earlier work has left to write, so that no run pays for another."""
        if self.checkpoints:
            await self.sql.execute("CHECKPOINT")
        await asyncio.to_thread(os.sync)

    async def clear(self) -> None:
        """Empty the tables and settle."""
        await tables.empty(self.sql)
        await self.settle()

    async def stored(self, table: str) -> int:
        """How many rows a table has."""
        count: int = await self.sql.fetchval(f"SELECT count(*) FROM {table}")
        return count

    def cpu(self) -> dict[str, float]:
        """CPU seconds of the two servers since they started."""
        return {"nats": used(self.nats.pid), "postgres": used_with_children(self.postgres.pids)}
