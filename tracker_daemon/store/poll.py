"""A slow look at the database: is it there, and which outcomes wait for their decision."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from tracker_daemon import metrics
from tracker_daemon.errors import TrackerError
from tracker_daemon.postgres import Connection, close, connect, translated
from tracker_daemon.store.tables import OUTCOMES_WAITING

log = structlog.get_logger(__name__)

PING_SECONDS: Final = 5
COUNT_SECONDS: Final = 15
MAX_SHARE: Final = 0.05
"""Part of the time that the count may take: on a large ledger it is asked for less often."""


class Poll:
    """Keeps `postgres_up` and `outcomes_waiting` true, over a connection of its own."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        self._dsn = dsn
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._count_at = 0.0
        self.trouble: str | None = None
        """Why the last look failed; None: it did not."""

    async def run(self) -> None:
        """Poll until cancelled; an outage is what it is there to notice."""
        try:
            while True:
                try:
                    connection = await self._ping()
                    self.trouble = None
                except TrackerError as error:
                    self.trouble = str(error)
                    await self._close()
                else:
                    await self._count(connection)
                metrics.postgres_up.set(self.trouble is None)
                await asyncio.sleep(PING_SECONDS)
        finally:
            await self._close()

    def abort(self) -> None:
        """Cut the connection: a cancelled transaction would wait for a frozen server to roll it back."""
        if self._connection is not None:
            self._connection.terminate()

    async def _ping(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
        with translated():
            await self._connection.execute("SELECT 1", timeout=PING_SECONDS)
        return self._connection

    async def _count(self, connection: Connection) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._count_at:
            return
        try:
            with translated():
                async with connection.transaction():
                    row = await connection.fetchrow(OUTCOMES_WAITING)
        except TrackerError as error:
            # Too much to count, or not there to be counted: that says nothing about writing.
            log.warning("cannot count the outcomes that wait", reason=str(error))
            await self._close()
        else:
            metrics.outcomes_waiting.set(row["waiting"] if row else 0)
            metrics.outcomes_waiting_oldest_seconds.set(row["oldest_seconds"] if row else 0)
        finally:
            self._count_at = clock() + max(COUNT_SECONDS, (clock() - began) / MAX_SHARE)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)
