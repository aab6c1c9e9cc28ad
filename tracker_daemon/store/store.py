"""A connection that writes batches, for as long as it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import tenacity

from tracker_daemon import metrics
from tracker_daemon.errors import Misconfigured, Unavailable
from tracker_daemon.postgres import (
    Connection,
    Rejected,
    Unreadable,
    close,
    connect,
    register_types,
    translated,
)
from tracker_daemon.store.drift import OUTCOMES, Drift
from tracker_daemon.store.projection import project
from tracker_daemon.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tenacity.stop import StopBaseT

    from tracker_daemon.messages import Delivery, Result

log = structlog.get_logger(__name__)

RETRY_CAP_SECONDS: Final = 5.0
FRESH_TRIES: Final = 3
"""Fresh connections on which a batch must meet 08P01, one after the other, before its rows are suspected."""
CAREFUL_BATCHES: Final = 16
"""So many batches after one with duplicates, or with rows that are refused, are not copied straight."""
TROUBLE_SECONDS: Final = 90.0
"""How long a released message is a trouble: longer than the usual ack wait, after which it comes again."""

T = TypeVar("T")


class Store:
    """Writes batches over one connection of its own, which it opens, and opens again, at need."""

    def __init__(
        self,
        dsn: str,
        drift: Drift | None = None,
        unshown: Drift | None = None,
        *,
        statement_cache: bool = True,
    ) -> None:
        """Keep the address, for the first write, and the drifts that writers share (None: its own).

        `drift` is about rows that are rejected, `unshown` about outcomes that decisions may not show.
        """
        self._dsn = dsn
        self._drift = drift or Drift()
        self._unshown = unshown or Drift(OUTCOMES)
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._obstacle: str | None = None
        self._released: tuple[str, float] | None = None
        self._careful = 0
        self.paused = False
        """Whether it waits for an operator: schema or grants are wrong, or too much is rejected."""

    @property
    def trouble(self) -> str | None:
        """What keeps it from storing everything, now or a little while ago; None: nothing does."""
        if self._obstacle is None and self._released is not None:
            why, since = self._released
            return why if time.monotonic() < since + TROUBLE_SECONDS else None
        return self._obstacle

    async def write(self, deliveries: Sequence[Delivery]) -> list[Result]:
        """Commit a row about every message and return what each became.

        An outage is waited out, however long; so is `Drifted`. `released` is a message of which not even a
        dead letter can be stored, whose row is refused for an unknown reason, or whose outcome is.
        """
        try:
            return await self._write(deliveries, _Suspicion())
        except Unreadable:
            await self.close()
            if len(deliveries) == 1:
                return await self._write(deliveries, tenacity.stop_never, blaming=True)
            middle = len(deliveries) // 2
            return [*await self.write(deliveries[:middle]), *await self.write(deliveries[middle:])]

    async def open(self) -> Connection:
        """Return the connection, opened unless it is; a batch that finds it open is spared 10 to 30 ms."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
            try:
                await register_types(self._connection)
            except BaseException:
                await self.close()
                raise
        return self._connection

    def abort(self) -> None:
        """Cut the connection: a cancelled transaction would wait for a frozen server to roll it back."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Close the connection; a later write opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)

    async def _write(
        self, deliveries: Sequence[Delivery], stop: StopBaseT, *, blaming: bool = False
    ) -> list[Result]:
        written = await self._persist(
            lambda connection: self._commit(connection, deliveries, blaming=blaming), stop
        )
        _count(written, deliveries)
        # After the commit: of a decision and an outcome that race in two transactions, the later sees both.
        # Before the ack: a crash in between, or a refusal, is made good by the redelivery.
        unshown = await self._persist(
            lambda connection: self._project(connection, deliveries), tenacity.stop_never
        )
        for index, why in unshown.items():
            written.trouble = (
                f"PostgreSQL refuses to show the outcome of a decision ({why}): its message stays in the "
                "stream until it passes. Look at constraints and triggers of llm_decisions"
            )
            # A dead letter has nothing to show, and nothing comes again where there is no stream.
            if index not in written.refused and deliveries[index].message.stream is not None:
                written.results[index] = "released"
        if written.trouble:
            self._released = written.trouble, time.monotonic()
        return written.results

    async def _commit(
        self, connection: Connection, deliveries: Sequence[Delivery], *, blaming: bool
    ) -> Transaction:
        straight = not (self._careful or blaming)
        transaction = Transaction(connection, deliveries, self._drift, straight=straight, blaming=blaming)
        try:
            return await transaction.commit()
        finally:  # also of an attempt that failed: the next one should not begin with the same
            self._careful = CAREFUL_BATCHES if transaction.fell_back else max(0, self._careful - 1)

    async def _project(self, connection: Connection, deliveries: Sequence[Delivery]) -> dict[int, str]:
        """Project, and return by index what was refused and has to come again."""
        refused = await project(connection, deliveries)
        batch, numbers = deliveries[0].message.identity, {}
        for index, why in refused.items():
            numbers[deliveries[index].message.identity] = index
            self._unshown.check(batch, numbers, why)
        self._unshown.remember(
            batch,
            [
                delivery.message.identity if index in refused else None
                for index, delivery in enumerate(deliveries)
            ],
        )
        return {} if self._unshown.overridden else refused

    async def _persist(self, attempt: Callable[[Connection], Awaitable[T]], stop: StopBaseT) -> T:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_CAP_SECONDS),
            stop=stop,
            before_sleep=self._after_failure,
            reraise=True,
        )
        result: T = await retrying(self._attempt, attempt)
        self._obstacle, self.paused = None, False
        return result

    async def _attempt(self, attempt: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            with translated():
                return await attempt(await self.open())
        except Rejected as error:
            raise Misconfigured(
                f"PostgreSQL refuses what no message is to blame for: {error.safely}"
            ) from None

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        self._obstacle, self.paused = str(error), isinstance(error, Misconfigured)
        metrics.writer_retries.labels("misconfigured" if self.paused else "unavailable").inc()
        (log.error if self.paused else log.warning)(
            "writing is paused until an operator acts" if self.paused else "cannot write, trying again",
            reason=self._obstacle,
            attempt=retry.attempt_number,
            wait_seconds=round(retry.upcoming_sleep, 1),
        )
        await self.close()


class _Suspicion:
    """Stops the attempts at a batch whose 08P01 is hardly PgBouncer's: anything else in between clears it."""

    def __init__(self) -> None:
        self._met = 0

    def __call__(self, retry: tenacity.RetryCallState) -> bool:
        error = retry.outcome.exception() if retry.outcome else None
        self._met = self._met + 1 if isinstance(error, Unreadable) else 0
        # The first may have met it on a connection that had been open for long.
        return self._met > FRESH_TRIES


def _count(written: Transaction, deliveries: Sequence[Delivery]) -> None:
    for table, rows in written.rows.items():
        metrics.rows_committed.labels(table).inc(rows)
    for letter in written.letters:
        metrics.dead_letters.labels(metrics.subject_label(letter.subject), letter.reason).inc()
    now = time.time()
    ages = [
        max(0.0, now - delivery.message.published_ns / 1e9)
        for delivery, result in zip(deliveries, written.results, strict=True)
        if result != "released"
    ]
    if ages:
        metrics.last_commit_timestamp_seconds.set(now)
        metrics.publish_to_commit_seconds.observe(ages)
