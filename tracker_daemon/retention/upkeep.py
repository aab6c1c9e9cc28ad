"""Pruning beside the daemon: a round an hour, a bounded share of the time, while no other daemon does it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tracker_daemon import metrics
from tracker_daemon.chore import Chore
from tracker_daemon.errors import Misconfigured
from tracker_daemon.retention.pruning import TABLES, cutoff, move_horizon, prune

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

MAX_SHARE: Final = 0.25
"""Part of the time that it may work: after a step it rests three times as long."""
ROUND_SECONDS: Final = 3600.0
"""How long it rests after a round."""
LOOK_SECONDS: Final = 60.0
"""How often it looks whether the daemon that prunes has done."""


class Retention(Chore):
    """Prunes what is older than so many days."""

    def __init__(self, dsn: str, days: int, *, unreplayed: bool, statement_cache: bool = True) -> None:
        """Keep what to do; `run` connects. `unreplayed`: dead letters that were never replayed go too."""
        super().__init__(dsn, "retention", statement_cache=statement_cache)
        self._older_than = timedelta(days=days)
        self._unreplayed = unreplayed
        for table in TABLES:
            metrics.pruned_rows.labels(table)

    async def _look(self, connection: Connection) -> float:
        """Prune all that is too old by now, unless another daemon does."""
        try:
            if not await self._lease.take(connection):
                return LOOK_SECONDS
            done = await self._prune(connection)
            await self._lease.give_back(connection)
        except Misconfigured as error:
            raise Misconfigured(
                f"{error}; the rights that pruning takes are in deploy/postgres/retention.sql"
            ) from error
        return ROUND_SECONDS if done else LOOK_SECONDS

    async def _prune(self, connection: Connection) -> bool:
        """Return whether all of it is done, rather than left to another daemon."""
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
