"""Waiting for what is bound to happen: a condition looked at again and again, never a span of time."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from tracker_daemon import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Return as soon as the condition, a function or a coroutine function, holds; else TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.01)


async def until_metric(name: str, value: float) -> None:
    """Return as soon as the metric without labels has the value."""
    await until(lambda: metrics.registry.get_sample_value(name) == value)


async def round_trip(client: Client) -> None:
    """Return once the server has dealt with all that the client sent, and all that it sent back is here.

    Twice: the first PING of nats-py's flush overtakes what is still buffered.
    """
    await client.flush()
    await client.flush()
