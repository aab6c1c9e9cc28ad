"""The guardrail, looked at again and again by the one daemon that does it for all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon import metrics
from tracker_daemon.chore import Chore
from tracker_daemon.postgres import translated
from tracker_daemon.queries import reading
from tracker_daemon.selection.events import Overtaken, keep
from tracker_daemon.selection.guardrail import rulings
from tracker_daemon.selection.snapshot import Snapshot

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 40.0
"""How often it looks; its connection is closed meanwhile."""
MAX_SHARE: Final = 0.02
"""Part of the time that looks may take: what takes long is looked at less often."""


class Referee(Chore):
    """Benches candidates, tries them again, and says who leads: see `guardrail`."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, "selection", statement_cache=statement_cache)

    async def _look(self, connection: Connection) -> float:
        """Rule once, unless another daemon does."""
        if not await self._lease.take(connection):
            return LOOK_SECONDS
        clock = asyncio.get_running_loop().time
        began = clock()
        with contextlib.suppress(Overtaken):  # an operator was faster: look again, at what is in force then
            await rule(connection)
        await self._lease.give_back(connection)
        return max(LOOK_SECONDS, (clock() - began) * (1 / MAX_SHARE - 1))


async def rule(connection: Connection) -> None:
    """Keep what the evidence of all policies calls for; raise `Overtaken` where somebody interferes."""
    async with reading(connection):
        snapshot = await Snapshot.load(connection)
    changes = []
    for contest in snapshot.contests.values():
        changes += rulings(contest, snapshot.as_of)
        await asyncio.sleep(0)  # twenty candidates take some 30 ms
    if not changes:
        return
    with translated():
        async with connection.transaction():
            await keep(connection, changes, snapshot.known.numbers)
    for change in changes:
        metrics.selection_rulings.labels(change.kind).inc()
        log.info("a candidate's standing has changed", ruling=change.kind, reason=change.reason)
