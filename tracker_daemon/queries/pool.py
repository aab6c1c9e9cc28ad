"""A bounded number of connections for questions, and a bounded number of questions that wait for one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self, cast

import asyncpg

from tracker_daemon.errors import Unavailable
from tracker_daemon.postgres import CONNECT_TIMEOUT_SECONDS, Connection, connect, translated
from tracker_daemon.queries.reading import TIMEOUT_SECONDS, reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAITING_PER_CONNECTION: Final = 8
"""Questions that may wait for each connection; what comes on top is told so at once."""


class Busy(Unavailable):
    """More questions wait already than will be answered soon."""


class Reader:
    """Connections for questions, made when they are needed; open for the length of an `async with`."""

    def __init__(
        self,
        dsn: str,
        connections: int = 4,
        seconds: float = TIMEOUT_SECONDS,
        *,
        statement_cache: bool = False,
    ) -> None:
        """Keep where to ask, on how many connections at most, and for how long one statement may take.

        `statement_cache` as in `connect`.
        """
        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=connections,
            connect=lambda *_, **__: connect(dsn, statement_cache=statement_cache),
        )
        self._seconds = seconds
        self._free = asyncio.Semaphore(connections)
        self._waiting, self._most = 0, connections * WAITING_PER_CONNECTION

    async def __aenter__(self) -> Self:
        """Open; nothing is connected yet."""
        await self._pool
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.abort()

    def abort(self) -> None:
        """End every connection; a question that is being asked meets `Unavailable`."""
        self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection inside `reading`, with errors as there; `Busy` where none is free soon."""
        async with self._turn():
            with translated():
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS) as acquired:
                    connection = cast("Connection", acquired)
                    async with reading(connection, self._seconds):
                        yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._pool.is_closing():
            raise Busy("no more questions are taken: ask again")
        if self._waiting >= self._most:
            raise Busy("too many questions wait already: ask again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError:
            raise Busy(f"other questions took all of {self._seconds:g} s: ask again later") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
