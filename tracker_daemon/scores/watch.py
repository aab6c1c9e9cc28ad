"""The scores, looked at again and again by the one daemon that does it for all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import tenacity

from tracker_daemon import metrics
from tracker_daemon.errors import TrackerError, Unavailable
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import Connection, close, connect
from tracker_daemon.scores.changes import mark_published, record_changes, waiting_changes
from tracker_daemon.scores.score import read_scores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tracker_daemon.config import AlertSettings
    from tracker_daemon.scores.score import Score

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 5.0
"""How often the lease is prolonged; it lasts three times as long."""
SCORE_SECONDS: Final = 30.0
MAX_SHARE: Final = 0.02
"""Part of the time that the scores may take: what takes long is read less often."""
RETRY_CAP_SECONDS: Final = 15.0


class ScoreWatch:
    """Keeps the gauges of the scores, and has changes published, over a connection of its own."""

    def __init__(
        self,
        dsn: str,
        settings: AlertSettings,
        publish: Callable[[bytes], Awaitable[None]],
        *,
        statement_cache: bool = True,
    ) -> None:
        """Keep the address; `publish` raises `Unavailable` while NATS is away."""
        self._dsn = dsn
        self._settings = settings
        self._publish = publish
        self._statement_cache = statement_cache
        self._connection: Connection | None = None
        self._lease = Lease("scores")
        self._score_at = 0.0
        self._troubled = False
        self._unheard = False

    async def run(self) -> None:
        """Watch until cancelled; an outage is waited out."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TrackerError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=RETRY_CAP_SECONDS),
            before_sleep=self._after_failure,
        )
        try:
            while True:
                await retrying(self._look)
                if self._troubled:
                    self._troubled = False
                    log.info("the scores are read again")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._leave()

    def abort(self) -> None:
        """Cut a connection in a transaction: cancelled, it would wait for a frozen server to roll it back."""
        if self._connection is not None and self._connection.is_in_transaction():
            self._connection.terminate()

    async def _look(self) -> None:
        if self._connection is None:
            self._connection = await connect(self._dsn, statement_cache=self._statement_cache)
        if not await self._lease.take(self._connection):
            show([])  # another daemon shows them; of two, one would be old
            return
        clock = asyncio.get_running_loop().time
        if (began := clock()) >= self._score_at:
            scores = await read_scores(self._connection, self._settings.window_days)
            self._score_at = clock() + max(SCORE_SECONDS, (clock() - began) / MAX_SHARE)
            show(scores)
            if self._settings.success_floor is not None:
                await record_changes(self._connection, scores, self._settings.success_floor)
        await self._publish_waiting(self._connection)

    async def _publish_waiting(self, connection: Connection) -> None:
        for id_, alert in await waiting_changes(connection):
            try:
                await self._publish(alert)
            except Unavailable as error:
                if not self._unheard:
                    self._unheard = True
                    log.warning("an alert waits to be published", reason=str(error))
                return
            await mark_published(connection, id_)
            self._unheard = False
            log.warning("published an alert", alert=alert.decode())

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        if not self._troubled:
            self._troubled = True
            log.warning(
                "the scores cannot be read, trying again and again",
                reason=str(retry.outcome and retry.outcome.exception()),
            )
        show([])
        await self._close()

    async def _leave(self) -> None:
        """Give the lease back, unless the server keeps us waiting: it would expire by itself."""
        connection = self._connection
        try:
            if connection is not None and not connection.is_closed():
                with contextlib.suppress(TrackerError, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._lease.give_back(connection)
        finally:
            show([])
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


def show(scores: Sequence[Score]) -> None:
    """Set the gauges to these scores alone; those of whoever is not among them go."""
    for gauge in metrics.scores:
        gauge.clear()
    for score in scores:
        labels = score.scope, score.name
        metrics.resolved_decisions.labels(*labels).set(score.resolved)
        if score.resolved:
            lower, upper = score.interval
            metrics.resolved_success_rate.labels(*labels).set(score.rate)
            metrics.resolved_success_rate_lower.labels(*labels).set(lower)
            metrics.resolved_success_rate_upper.labels(*labels).set(upper)
        for gauge, value in (
            (metrics.brier_score, score.brier),
            (metrics.decision_latency_p95_seconds, score.latency),
            (metrics.decision_cost_mean_usd, score.cost),
        ):
            if value is not None:
                gauge.labels(*labels).set(value)
