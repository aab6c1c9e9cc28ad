"""Pruning beside the daemon: a round an hour, a bounded share of the time, while no other daemon does it."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
import tenacity

from tracker_daemon import metrics
from tracker_daemon.errors import TrackerError
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import connected
from tracker_daemon.retention.pruning import TABLES, cutoff, move_horizon, prune

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

MAX_SHARE: Final = 0.25
"""Part of the time that it may work: after a step it rests three times as long."""
ROUND_SECONDS: Final = 3600.0
"""How long it rests after a round."""
LOOK_SECONDS: Final = 60.0
"""How often it looks whether the daemon that prunes has done."""
RETRY_CAP_SECONDS: Final = 60.0


class Retention:
    """Prunes what is older than so many days, over a connection of its own."""

    def __init__(self, dsn: str, days: int, *, unreplayed: bool, statement_cache: bool = True) -> None:
        """Keep what to do; `run` connects. `unreplayed`: dead letters that were never replayed go too."""
        self._dsn = dsn
        self._older_than = timedelta(days=days)
        self._unreplayed = unreplayed
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._lease = Lease("retention")
        self._troubled = False
        for table in TABLES:
            metrics.pruned_rows.labels(table)

    async def run(self) -> None:
        """Prune until cancelled; an outage is waited out, and nothing else waits for the pruning."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TrackerError),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=RETRY_CAP_SECONDS),
            before_sleep=self._after_failure,
        )
        while True:
            done: bool = await retrying(self._round)
            if self._troubled:
                self._troubled = False
                log.info("old rows are pruned again")
            await asyncio.sleep(ROUND_SECONDS if done else LOOK_SECONDS)

    def abort(self) -> None:
        """Cut a connection in a transaction: cancelled, it would wait for a frozen server to roll it back."""
        if self._connection is not None and self._connection.is_in_transaction():
            self._connection.terminate()

    async def _round(self) -> bool:
        """Prune all that is too old by now, and return whether that was done, rather than left to another."""
        async with connected(self._dsn, statement_cache=self._statement_cache) as connection:
            self._connection = connection
            try:
                return await self._lease.take(connection) and await self._prune(connection)
            finally:
                await self._give_back_lease(connection)

    async def _prune(self, connection: Connection) -> bool:
        clock = asyncio.get_running_loop().time
        before = await cutoff(connection, self._older_than)
        await move_horizon(connection, before)
        began = clock()
        async for deleted in prune(connection, before, unreplayed=self._unreplayed):
            for table, rows in deleted.items():
                metrics.pruned_rows.labels(table).inc(rows)
            await asyncio.sleep((clock() - began) * (1 / MAX_SHARE - 1))
            if not await self._lease.take(connection):
                return False  # after a long standstill: another daemon goes on
            began = clock()
        return True

    async def _give_back_lease(self, connection: Connection) -> None:
        """Let the next one prune, unless the server keeps us waiting: the lease would expire by itself."""
        with contextlib.suppress(TrackerError, TimeoutError):
            async with asyncio.timeout(1):
                await self._lease.give_back(connection)

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        if not self._troubled:
            self._troubled = True
            log.warning(
                "old rows are not pruned, trying again and again; the rights it takes are in "
                "deploy/postgres/retention.sql",
                reason=str(retry.outcome and retry.outcome.exception()),
            )
