"""Chores at work for the length of a test."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.chore import Chore
    from tracker_daemon.service import QueryService


@contextlib.asynccontextmanager
async def running(*chores: Chore | QueryService) -> AsyncIterator[None]:
    """Let them run for the length of a block, through which they must last; ended as a daemon ends them."""
    tasks = [asyncio.create_task(chore.run()) for chore in chores]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for chore, task in zip(chores, tasks, strict=True):
            chore.abort()
            task.cancel()
        await asyncio.wait(tasks)
