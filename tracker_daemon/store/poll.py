"""A slow look at the database: is it there, and which outcomes wait for their decision."""

from __future__ import annotations

import asyncio
from typing import Final

from tracker_daemon import metrics
from tracker_daemon.errors import Unavailable
from tracker_daemon.postgres import Connection, close, connect, translated
from tracker_daemon.store.tables import OUTCOMES_WAITING

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
                    await self._look()
                    self.trouble = None
                    metrics.postgres_up.set(1)
                except Unavailable as error:
                    self.trouble = str(error)
                    metrics.postgres_up.set(0)
                    await self._close()
                await asyncio.sleep(PING_SECONDS)
        finally:
            await self._close()

    async def _look(self) -> None:
        if self._connection is None:
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
        clock = asyncio.get_running_loop().time
        with translated():
            await self._connection.execute("SELECT 1", timeout=PING_SECONDS)
            began = clock()
            if began < self._count_at:
                return
            row = await self._connection.fetchrow(OUTCOMES_WAITING)
        self._count_at = clock() + max(COUNT_SECONDS, (clock() - began) / MAX_SHARE)
        if row is not None:
            metrics.outcomes_waiting.set(row["waiting"])
            metrics.outcomes_waiting_oldest_seconds.set(row["oldest_seconds"])

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)
