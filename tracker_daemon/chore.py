"""Work beside the messages that one daemon does for all: outages are waited out, and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import structlog
import tenacity

from tracker_daemon.errors import TrackerError, Unavailable
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import close, connect

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

RETRY_CAP_SECONDS: Final = 15.0
KEEP_SECONDS: Final = 30.0
"""A connection that rests for longer is closed: whatever stands in between might forget it meanwhile."""


def backoff(retry: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: longer each time up to a cap, or as long as the error says."""
    error = retry.outcome and retry.outcome.exception()
    seconds = tenacity.wait_random_exponential(multiplier=0.2, max=RETRY_CAP_SECONDS)(retry)
    return max(seconds, error.retry_after) if isinstance(error, Unavailable) else seconds


class Chore(ABC):
    """One look after the other, over a connection of its own, under a lease that the looks take."""

    def __init__(self, dsn: str, name: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects. `name` is the lease's, and says in logs what is done."""
        self._dsn = dsn
        self._name = name
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._lease = Lease(name)
        self._troubled = False

    async def run(self) -> None:
        """Look again and again until cancelled."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TrackerError),
            wait=backoff,
            before_sleep=self._after_failure,
        )
        try:
            while True:
                rest: float = await retrying(self.look)
                if self._troubled:
                    self._troubled = False
                    log.info("a chore is done again", chore=self._name)
                if rest > KEEP_SECONDS:
                    await self._close()
                await asyncio.sleep(rest)
        finally:
            await self.leave()

    def abort(self) -> None:
        """Cut a connection in a transaction: cancelled, it would wait for a frozen server to roll it back."""
        if self._connection is not None and self._connection.is_in_transaction():
            self._connection.terminate()

    async def look(self) -> float:
        """Connect, do what there is to do now, and return for how many seconds to rest then."""
        if self._connection is None:
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
        return await self._look(self._connection)

    async def leave(self) -> None:
        """Give the lease back, unless the server keeps us waiting: it would expire by itself."""
        connection = self._connection
        try:
            if self._lease.held and connection is not None and not connection.is_closed():
                with contextlib.suppress(TrackerError, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._lease.give_back(connection)
        finally:
            self._forget()
            await self._close()

    @abstractmethod
    async def _look(self, connection: Connection) -> float:
        """Do what `look` promises."""

    def _forget(self) -> None:  # noqa: B027 - most have nothing to take back
        """Take back what looks have left in this process: the last one failed, or there are no more."""

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        if not self._troubled:
            self._troubled = True
            reason = str(retry.outcome and retry.outcome.exception())
            log.warning("a chore fails, trying again and again", chore=self._name, reason=reason)
        self._forget()
        await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)
