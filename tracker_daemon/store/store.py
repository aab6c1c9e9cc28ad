"""A connection that writes batches, for as long as it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import tenacity

from tracker_daemon import metrics
from tracker_daemon.errors import Misconfigured, Unavailable
from tracker_daemon.postgres import Connection, Rejected, close, connect, register_types, translated
from tracker_daemon.store.transaction import Transaction, project

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tracker_daemon.messages import Delivery, Result

log = structlog.get_logger(__name__)

RETRY_CAP_SECONDS: Final = 5.0

T = TypeVar("T")


class Store:
    """Writes batches over one connection of its own, which it opens at need."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; the first write connects."""
        self._dsn = dsn
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self.trouble: str | None = None
        """What keeps it from storing everything; None: nothing does."""
        self.paused = False
        """Whether it waits for an operator: schema or grants are wrong."""

    async def write(self, deliveries: Sequence[Delivery]) -> list[Result]:
        """Commit a row about every message and return what each became.

        An outage is waited out, however long. A message of which not even a dead letter can be stored is
        `released`.
        """
        written = await self._persist(lambda connection: Transaction(connection, deliveries).commit())
        _count(written, deliveries)
        # After the commit: of a decision and an outcome that race in two transactions, the later sees both.
        # Before the ack: a crash in between is made good by the redelivery.
        await self._persist(lambda connection: project(connection, deliveries))
        self.trouble = written.trouble
        return written.results

    def abort(self) -> None:
        """Cut the connection: a cancelled transaction would wait for a frozen server to roll it back."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Close the connection; a later write opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)

    async def _persist(self, attempt: Callable[[Connection], Awaitable[T]]) -> T:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_CAP_SECONDS),
            before_sleep=self._after_failure,
        )
        result: T = await retrying(self._attempt, attempt)
        self.trouble, self.paused = None, False
        return result

    async def _attempt(self, attempt: Callable[[Connection], Awaitable[T]]) -> T:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
            with translated():
                await register_types(self._connection)
        try:
            with translated():
                return await attempt(self._connection)
        except Rejected as error:
            raise Misconfigured(
                f"PostgreSQL refuses what no message is to blame for: {error.safely}"
            ) from None

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        self.trouble, self.paused = str(error), isinstance(error, Misconfigured)
        metrics.writer_retries.labels("misconfigured" if self.paused else "unavailable").inc()
        (log.error if self.paused else log.warning)(
            "writing is paused until an operator acts" if self.paused else "cannot write, trying again",
            reason=self.trouble,
            attempt=retry.attempt_number,
            wait_seconds=round(retry.upcoming_sleep, 1),
        )
        await self.close()


def _count(written: Transaction, deliveries: Sequence[Delivery]) -> None:
    for table, rows in written.rows.items():
        metrics.rows_committed.labels(table).inc(rows)
    for letter in written.letters:
        metrics.dead_letters.labels(metrics.subject_label(letter.subject), letter.reason).inc()
    now = time.time()
    for delivery, result in zip(deliveries, written.results, strict=True):
        if result != "released":
            metrics.last_commit_timestamp_seconds.set(now)
            metrics.publish_to_commit_seconds.observe(max(0.0, now - delivery.message.published_ns / 1e9))
