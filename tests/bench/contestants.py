"""Who competes: the daemon, and COPY with nothing around it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg

from tests.acceptance.command import Daemon, Metrics
from tests.bench import tables
from tests.bench.cpu import peak_rss, used
from tests.bench.stage import STREAM
from tests.bench.tables import SHIPPED, Target
from tests.bench.yardstick import Drained, Meter, drained
from tracker_daemon.config.settings import NatsSettings
from tracker_daemon.consumer.stream import ensure_consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from tests.bench.stage import Stage

DURABLE: Final = "tracker-daemon"
COPY_ROWS: Final = 1_000


class Contestant(Protocol):
    """Somebody who brings messages into a table."""

    name: str
    table: str

    async def run(self, stage: Stage, messages: list[bytes]) -> Drained:
        """Bring the messages into the table, which the caller has emptied, and tell what it took."""
        ...


class Daemons:
    """The installed `tracker-daemon run`, as it is or with `settings`, so many processes on one durable."""

    def __init__(
        self,
        name: str = "daemon",
        *,
        count: int = 1,
        settings: dict[str, str] | None = None,
        first: Callable[[Daemon], Awaitable[object]] | None = None,
    ) -> None:
        """Keep what is run; `first` is what each has to reach before anything is delivered."""
        self.name = name
        self.table = SHIPPED.name
        self.metrics: list[Metrics] = []
        self.peak_rss: list[int] = []
        self._count = count
        self._settings = settings or {}
        self._first = first

    async def run(self, stage: Stage, messages: list[bytes]) -> Drained:
        """Drain a stream that is filled with the messages."""
        count = await stage.fill(messages)
        await stage.settle()
        return await self.drain(stage, count)

    async def drain(self, stage: Stage, count: int) -> Drained:
        """Drain the stream as it is; afterwards `metrics` and `peak_rss` hold one entry a process."""
        js = stage.client.jetstream()
        if self._first:
            await ensure_consumer(stage.client, NatsSettings(), await js.stream_info(STREAM))
            await js.pause_consumer(STREAM, DURABLE, "2100-01-01T00:00:00Z")
        async with self.started(stage) as running:
            if self._first:
                for daemon in running:
                    await self._first(daemon)
                await js.resume_consumer(STREAM, DURABLE)
            found = await drained(stage, DURABLE, count, lambda: _cpu(running), lambda: _alive(running))
            self.metrics = [await daemon.metrics() for daemon in running]
            self.peak_rss = [peak_rss(daemon.process.pid) for daemon in running]
        return found

    @contextlib.asynccontextmanager
    async def started(self, stage: Stage) -> AsyncIterator[list[Daemon]]:
        """Have the processes for a block; they end in good order, or by force when the block fails."""
        settings = {
            "TRACKER_NATS_SERVERS": stage.nats.url,
            "TRACKER_POSTGRES_DSN": stage.dsn,
            "TRACKER_HTTP_PORT": "0",
            "TRACKER_LOG_FORMAT": "json",
            **self._settings,
        }
        running = [Daemon(settings, stage.new_log()) for _ in range(self._count)]
        try:
            for daemon in running:
                await daemon.start()
            yield running
            for daemon in running:
                if code := await daemon.stop():
                    raise RuntimeError(f"the daemon ended with exit code {code}:\n{daemon.output()[-2000:]}")
        finally:
            for daemon in running:
                await daemon.kill()


def _cpu(running: list[Daemon]) -> float:
    return sum(used(daemon.process.pid) for daemon in running)


def _alive(running: list[Daemon]) -> None:
    for daemon in running:
        if daemon.process.returncode is not None:
            raise RuntimeError(f"the daemon has ended:\n{daemon.output()[-2000:]}")


class RawCopy:
    """Binary COPY of ready-made tuples, 1,000 a transaction, on so many connections side by side."""

    def __init__(self, name: str, target: Target, connections: int = 1) -> None:
        """Keep where it copies to."""
        self.name = name
        self.table = target.name
        self._target = target
        self._connections = connections

    async def run(self, stage: Stage, messages: list[bytes]) -> Drained:
        """Copy the rows; making tuples of the messages is not timed."""
        rows = [self._target.row(message) for message in messages]
        batches = iter([rows[start : start + COPY_ROWS] for start in range(0, len(rows), COPY_ROWS)])
        # A collector that walks through rows that nobody drops would be timed too.
        gc.collect()
        gc.freeze()
        try:
            async with contextlib.AsyncExitStack() as opened:
                connections = [await connect(stage, opened) for _ in range(self._connections)]
                await stage.settle()
                meter = Meter(stage, lambda: used(os.getpid()))
                meter.start()
                await asyncio.gather(*(self._copy(connection, batches) for connection in connections))
                return meter.stop(len(rows))
        finally:
            gc.unfreeze()

    async def _copy(self, connection: asyncpg.Connection, batches: Iterator[list[tuple[Any, ...]]]) -> None:
        for batch in batches:
            await connection.copy_records_to_table(
                self._target.name, records=batch, columns=self._target.columns
            )


async def connect(stage: Stage, opened: contextlib.AsyncExitStack) -> asyncpg.Connection:
    """A connection for ready-made tuples, open as long as the stack."""
    connection = await asyncpg.connect(stage.dsn)
    opened.push_async_callback(connection.close)
    await tables.ready_for_copy(connection)
    return connection


async def play(stage: Stage, contestant: Contestant, messages: Sequence[bytes]) -> Drained:
    """One run on empty tables; RuntimeError if rows are missing at its end."""
    await stage.clear()
    result = await contestant.run(stage, list(messages))
    if (stored := await stage.stored(contestant.table)) != len(messages):
        raise RuntimeError(f"{contestant.name} stored {stored} of {len(messages)} rows in {contestant.table}")
    return result
