"""The scores, looked at again and again by the one daemon that does it for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon import metrics
from tracker_daemon.chore import Chore
from tracker_daemon.errors import Unavailable
from tracker_daemon.scores.changes import mark_published, record_changes, waiting_changes
from tracker_daemon.scores.score import read_scores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tracker_daemon.config import AlertSettings
    from tracker_daemon.postgres import Connection
    from tracker_daemon.scores.score import Score

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 5.0
"""How often the lease is prolonged; it lasts three times as long."""
SCORE_SECONDS: Final = 30.0
MAX_SHARE: Final = 0.02
"""Part of the time that the scores may take: what takes long is read less often."""


class ScoreWatch(Chore):
    """Keeps the gauges of the scores, and has changes published."""

    def __init__(
        self,
        dsn: str,
        settings: AlertSettings,
        publish: Callable[[bytes], Awaitable[None]],
        *,
        statement_cache: bool = True,
    ) -> None:
        """Keep the address; `publish` raises `Unavailable` while NATS is away."""
        super().__init__(dsn, "scores", statement_cache=statement_cache)
        self._settings = settings
        self._publish = publish
        self._score_at = 0.0
        self._unheard = False

    async def _look(self, connection: Connection) -> float:
        """Read the scores where it is time to, and publish what waits; the lease is kept."""
        if not await self._lease.take(connection):
            show([])  # another daemon shows them; of two, one would be old
            return LOOK_SECONDS
        clock = asyncio.get_running_loop().time
        if (began := clock()) >= self._score_at:
            scores = await read_scores(connection, self._settings.window_days)
            self._score_at = clock() + max(SCORE_SECONDS, (clock() - began) / MAX_SHARE)
            show(scores)
            if self._settings.success_floor is not None:
                await record_changes(connection, scores, self._settings.success_floor)
        await self._publish_waiting(connection)
        return LOOK_SECONDS

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

    def _forget(self) -> None:
        show([])


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
