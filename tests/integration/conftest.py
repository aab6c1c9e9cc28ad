"""A store on the test's own database."""

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
