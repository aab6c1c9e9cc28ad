"""Core NATS with a queue group: no stream, no acknowledgement, no second delivery."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tracker_daemon import metrics
from tracker_daemon.consumer.connection import finish
from tracker_daemon.consumer.stream import ACK_WAIT_SECONDS, subjects
from tracker_daemon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from tracker_daemon.config import NatsSettings
    from tracker_daemon.messages import Token


class CoreConsumer:
    """Takes messages of both subjects as a member of a queue group.

    Half of the buffer's bound is the client's queue, half the batches': when both are full the client drops
    messages, and counts them.
    """

    def __init__(
        self,
        client: Client,
        settings: NatsSettings,
        receive: Callable[[Message, None], None],
        room: Callable[[], tuple[int, int]],
        fail: Callable[[Exception], None],
    ) -> None:
        """`receive` is given each message; `room`: messages and bytes that may come.

        `fail` is told of a defect, after which nothing would be consumed any more.
        """
        self._client = client
        self._settings = settings
        self._receive = receive
        self._room = room
        self._fail = fail
        self._queue_bytes = room()[1] // 2
        self._subscriptions: list[Subscription] = []
        self._freed = asyncio.Event()
        self._stopped = False
        self.pending = None
        """Nothing can wait in a stream that is not there."""
        self.trouble = None
        self.ack_wait_seconds: float = ACK_WAIT_SECONDS

    @property
    def attached(self) -> bool:
        """Whether the subscriptions stand."""
        return bool(self._subscriptions) and self._client.is_connected

    async def start(self) -> None:
        """Subscribe to both subjects."""
        wanted = subjects(self._settings)
        for subject in wanted:
            subscription = await self._client.subscribe(
                subject,
                queue=self._settings.durable,
                cb=self._on_message,
                pending_msgs_limit=0,
                pending_bytes_limit=self._queue_bytes // len(wanted),
            )
            self._subscriptions.append(subscription)
        # Twice: the first PING of nats-py's flush overtakes the SUBs.
        await self._client.flush()
        await self._client.flush()

    async def resume(self) -> None:
        """Go on after a flush made room."""
        self._freed.set()

    async def ack(self, tokens: Iterable[Token]) -> None:
        """Do nothing: a reply subject in core NATS belongs to the publisher."""

    async def in_progress(self, tokens: Iterable[Token]) -> None:
        """Do nothing: nothing is delivered again."""

    async def stop(self) -> None:
        """Take no more messages; those that have arrived are still handed on."""
        await finish(self._client, self._subscriptions)
        # What still waits for room is not waited for: it is lost, and counted as that.
        self._stopped = True
        self._freed.set()

    async def _on_message(self, msg: Msg) -> None:
        try:
            while self._full() and not self._stopped:
                self._freed.clear()
                await self._freed.wait()
            if self._stopped:
                metrics.slow_consumer_drops.inc()
            else:
                self._take(msg)
        except Exception as error:
            self._fail(error)
            raise

    def _take(self, msg: Msg) -> None:
        metrics.messages_received.add(msg.subject)
        message = Message(
            msg.subject,
            msg.data,
            stream=None,
            sequence=None,
            published_ns=time.time_ns(),
            headers=msg.headers,
        )
        self._receive(message, None)

    def _full(self) -> bool:
        rows, size = self._room()
        return rows <= 0 or size <= self._queue_bytes
