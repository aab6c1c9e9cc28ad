"""A store on the test's own database, indexes that do not pause, and a cluster where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.named import NO_CITUS, NamedServer
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.embedded import PostgresServer


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    """Yield a store that is closed afterwards."""
    store = Store(dsn)
    yield store
    await store.close()


@pytest.fixture
def cluster(postgres_server: PostgresServer) -> NamedServer:
    """Return the server if it is the coordinator of a cluster of Citus."""
    if not isinstance(postgres_server, NamedServer) or not postgres_server.nodes:
        pytest.skip(NO_CITUS)
    return postgres_server


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what works a queue off look and count without a pause."""
    for pause in ("LOOK_SECONDS", "COUNT_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.backlog.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)
