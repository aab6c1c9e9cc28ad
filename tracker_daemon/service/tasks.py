"""A task for each message, where nats-py hands over one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon.consumer import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from tracker_daemon.consumer import Client

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 2.0
"""For what has arrived already; a server that is silent must not hold up the end."""


class Tasks:
    """What nats-py's `Service` needs of a client, with callbacks that run side by side."""

    def __init__(self, client: Client) -> None:
        """Stand before the client."""
        self._client = client
        self._nuid = client._nuid  # noqa: SLF001 - what the service takes its id from
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(
        self, subject: str, queue: str = "", *, cb: Callable[[Msg], Coroutine[Any, Any, None]]
    ) -> Subscription:
        """Subscribe; a message that nobody waits for an answer to is left alone."""

        async def begin(message: Msg) -> None:
            if message.reply:
                task = asyncio.create_task(cb(message))
                self._tasks.add(task)
                task.add_done_callback(self._ended)

        subscription = await self._client.subscribe(subject, queue, begin)
        self._subscriptions.append(subscription)
        return subscription

    async def flush(self) -> None:
        """Do nothing: a PONG that came too late would end the client's read loop."""

    def cancel(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Take no more messages, and end what is under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await finish(self._client, self._subscriptions)
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an answer could not be sent", reason=str(error) or type(error).__name__)
