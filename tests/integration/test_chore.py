"""What every chore does, shown by one that only rests; outages are in the tests of the chores there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tenacity

from tests.chores import running
from tests.waiting import until
from tracker_daemon.chore import RETRY_CAP_SECONDS, Chore, backoff
from tracker_daemon.errors import TrackerError, Unavailable

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

REST_SECONDS = 0.02


class Resting(Chore):
    """Looks which session of the server it has, and rests."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "resting")
        self.sessions: list[int] = []

    async def _look(self, connection: Connection) -> float:
        self.sessions.append(await connection.fetchval("SELECT pg_backend_pid()"))
        return REST_SECONDS


@pytest.mark.parametrize(("keep_seconds", "connections"), [(REST_SECONDS, 1), (REST_SECONDS / 2, 3)])
async def test_only_a_connection_that_rests_for_long_is_closed(
    keep_seconds: float, connections: int, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.chore.KEEP_SECONDS", keep_seconds)
    chore = Resting(dsn)
    async with running(chore):
        await until(lambda: len(chore.sessions) >= 3)
    assert len(set(chore.sessions[:3])) == connections


@pytest.mark.parametrize(
    ("error", "after", "least", "most"),
    [
        (Unavailable("away"), 0, 0, RETRY_CAP_SECONDS),
        (Unavailable("busy"), 60, 60, 60),
        (TrackerError("refused"), 0, 0, RETRY_CAP_SECONDS),
    ],
)
def test_the_next_attempt_comes_no_earlier_than_the_error_says(
    error: TrackerError, after: float, least: float, most: float
) -> None:
    if isinstance(error, Unavailable):
        error.retry_after = after
    state = tenacity.RetryCallState(tenacity.AsyncRetrying(), None, (), {})
    state.set_exception((type(error), error, None))
    for state.attempt_number in (1, 10, 1000):
        assert least <= backoff(state) <= most
