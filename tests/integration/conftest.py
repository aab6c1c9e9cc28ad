"""A store on the test's own database, and indexes that do not pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    """Yield a store that is closed afterwards."""
    store = Store(dsn)
    yield store
    await store.close()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what works a queue off look and count without a pause."""
    for pause in ("LOOK_SECONDS", "COUNT_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.backlog.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)
