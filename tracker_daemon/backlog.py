"""A queue in the database that one daemon works off for all, step by step, in a bounded share of the time."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct
from prometheus_client import Gauge

from tracker_daemon.chore import Chore
from tracker_daemon.postgres import Rejected, translated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from uuid import UUID

    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

MAX_SHARE: Final = 0.25
"""Part of the time that it may work: after a step it rests three times as long."""
BUSY_SHARE: Final = 0.05
"""And while messages wait: then the machine is theirs."""
STEP_SECONDS: Final = 0.25
"""How long a step may take before the next one gets fewer rows."""
FIRST_ROWS: Final = 8
"""Decisions of the first step."""
MAX_ROWS: Final = 2048
LOOK_SECONDS: Final = 3.0
"""How often it looks for work while there is none, or while another daemon does it."""
COUNT_SECONDS: Final = 5.0
COUNT_SHARE: Final = 0.02
"""Part of the time that the count may take: a long queue is counted less often."""


def idle() -> bool:
    """That nothing waits: the answer where nobody else can tell."""
    return False


class Queue(Struct, frozen=True):
    """A queue by the name of its chore: the SQL to look into it, and the metric of what waits.

    `first`: its first `{limit}` rows, each a `key`, and as `size` how many decisions stand behind it.
    `decisions`: the ids of these, of the rows with certain `{keys}`. `leave`: takes these rows out.
    `count`: how many decisions wait. `refused`: what the log calls one that the database never takes.
    """

    name: str
    first: str
    decisions: str
    leave: str
    count: str
    waiting: Gauge
    refused: str


async def singly(ids: Iterable[UUID], enter: Callable[[UUID], Awaitable[None]], refused: str) -> list[UUID]:
    """Enter decisions one by one and return those that the database refuses, each named in the log.

    For what it refuses together: one that some constraint or trigger does not let in must not hold up all
    others for ever.
    """
    left = []
    for id_ in ids:
        try:
            await enter(id_)
        except Rejected as error:
            log.warning(refused, decision=str(id_), reason=error.safely)
            left.append(id_)
    return left


class Backlog(Chore):
    """Moves decisions out of a queue, the first ones first."""

    def __init__(
        self, dsn: str, queue: Queue, *, busy: Callable[[], bool] = idle, statement_cache: bool = True
    ) -> None:
        """Keep the address; `run` connects. `busy`: whether messages wait at the time."""
        super().__init__(dsn, queue.name, statement_cache=statement_cache)
        self._queue = queue
        self._busy = busy
        self._rows = FIRST_ROWS
        self._count_at = 0.0
        self._elsewhere = 0.0
        """Seconds of the step in which neither this process nor the database had anything to do."""

    @abstractmethod
    async def _move(self, connection: Connection, ids: str, leave: str) -> None:
        """Enter decisions where they belong and `leave` the queue; both are SQL, `ids` an array."""

    async def _sweep(self, connection: Connection) -> bool:  # noqa: ARG002 - most queues get all there is
        """Do a step of what can wait until the queue is short, under the lease; True: there is more of it."""
        return False

    async def _look(self, connection: Connection) -> float:
        """Do one step if there is work and nobody else does it."""
        clock = asyncio.get_running_loop().time
        began, self._elsewhere = clock(), 0.0
        await self._count(connection)
        keys, more = await self._queued(connection)
        if keys and await self._lease.take(connection):
            moved_from = clock()
            await self._work_off(connection, keys)
            self._adapt(clock() - moved_from - self._elsewhere, more=more)
        if not more:
            more = await self._sweep(connection)
        if self._lease.held and not more:
            await self._lease.give_back(connection)
        share = BUSY_SHARE if self._busy() else MAX_SHARE
        rest = (clock() - began - self._elsewhere) * (1 / share - 1)
        return rest if self._lease.held else max(rest, LOOK_SECONDS)

    async def _queued(self, connection: Connection) -> tuple[list[Any], bool]:
        """The first rows that fit into a step, at least one, and whether there may be more."""
        # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
        with translated():
            async with connection.transaction(readonly=True):
                rows = await connection.fetch(self._queue.first.format(limit=self._rows))
        keys: list[Any] = []
        decisions = 0
        for row in rows:
            if keys and decisions + row["size"] > self._rows:
                return keys, True
            keys.append(row["key"])
            decisions += row["size"]
        return keys, decisions >= self._rows

    async def _work_off(self, connection: Connection, keys: list[Any]) -> None:
        named = ", ".join(f"'{key}'" for key in keys)
        ids, leave = self._queue.decisions.format(keys=named), self._queue.leave.format(keys=named)
        try:
            await self._move(connection, f"ARRAY({ids})", leave)
        except Rejected:
            with translated():
                async with connection.transaction(readonly=True):
                    rows = await connection.fetch(ids)
            each = (id_ for (id_,) in rows)
            await singly(
                each, lambda id_: self._move(connection, f"ARRAY['{id_}'::uuid]", ""), self._queue.refused
            )
            with translated():
                await connection.execute(leave)

    def _adapt(self, seconds: float, *, more: bool) -> None:
        if seconds > STEP_SECONDS:
            self._rows = max(self._rows // 2, 1)
        elif more and seconds < STEP_SECONDS / 2:
            self._rows = min(self._rows * 2, MAX_ROWS)

    async def _count(self, connection: Connection) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._count_at:
            return
        try:
            with translated():
                async with connection.transaction(readonly=True):
                    self._queue.waiting.set(await connection.fetchval(self._queue.count))
        finally:  # also where it fails: what is too long to be counted has to become shorter
            self._count_at = clock() + max(COUNT_SECONDS, (clock() - began) / COUNT_SHARE)

    def _forget(self) -> None:
        self._rows = FIRST_ROWS  # it may have been a step that took longer than a statement may
