"""The durable consumer: its messages flow into a callback while it is known to be there, acks go back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import nats.errors
import nats.js.errors
import structlog

from tracker_daemon import metrics
from tracker_daemon.consumer.connection import publish_to_all
from tracker_daemon.consumer.incarnation import Incarnation
from tracker_daemon.consumer.position import Gaps, message_at, parse_reply
from tracker_daemon.consumer.pull import PullSubscription
from tracker_daemon.consumer.stream import ACK_WAIT_SECONDS, alone, ensure_consumer, ensure_stream
from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import ConsumerInfo, StreamInfo

    from tracker_daemon.config import NatsSettings
    from tracker_daemon.messages import Message, Token

log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 1
CHECK_SECONDS: Final = 30
"""One look of the watch, which makes a few requests, may take so long."""
POLL_SECONDS: Final = 5
IN_PROGRESS: Final = "+WPI"
MESSAGES_PER_TURN: Final = 100
"""After so many messages the event loop gets its turn: nats-py hands over a full queue without a pause."""


class JetStreamConsumer:
    """Takes messages of both subjects from one durable consumer and acknowledges them.

    It asks and acknowledges only while stream and consumer are known to be the ones that it has looked at: it
    looks again after each reconnect, and whenever a delivery or the end of a request gives reason to doubt.
    """

    def __init__(
        self,
        client: Client,
        settings: NatsSettings,
        receive: Callable[[Message, Token], None],
        room: Callable[[], tuple[int, int]],
        fail: Callable[[Exception], None],
    ) -> None:
        """`receive` is given each message and its token for `ack`; `room`: messages and bytes that may come.

        `fail` is told of a defect, after which nothing would be consumed any more.
        """
        self._client = client
        self._js = client.jetstream()
        self._settings = settings
        self._receive = receive
        self._fail = fail
        self._subscription = PullSubscription(client, settings, room, self._on_message)
        self._tasks: list[asyncio.Task[None]] = []
        self._attached_on: int | None = None  # the connection, counted in reconnects
        self._incarnation = Incarnation()
        self._left: int | None = None  # pending when a delivery raised a doubt
        self._acks: list[Token] = []
        self._lag_at = 0.0  # when a message last told it, or it was asked for
        self._complaint: str | None = None
        self._deliveries = 0
        self._deliveries_seen = 0
        self._gaps = Gaps()
        self.ack_wait_seconds = 1.0
        """How long the stream waits for an acknowledgement before it delivers again; known once attached."""
        self.pending: int | None = None
        """Messages in the stream not delivered yet, as last heard; None: not known."""
        metrics.stream_pending.set_function(lambda: self.pending or 0)

    @property
    def attached(self) -> bool:
        """Whether stream and durable consumer are there, answer requests, and the connection stands."""
        return self._certain and self.trouble is None

    @property
    def trouble(self) -> str | None:
        """What keeps it from consuming; None: nothing does, or the connection is away."""
        if not self._client.is_connected:
            return None
        waiting = None if self._certain else "stream and consumer are being looked at"
        return self._subscription.trouble or self._complaint or waiting

    @property
    def _certain(self) -> bool:
        """Whether stream and consumer have been looked at, on the connection that stands now."""
        return self._client.is_connected and self._attached_on == self._client.stats["reconnects"]

    async def start(self) -> None:
        """Begin to pull, as soon as stream and consumer can be had."""
        await self._subscription.open()
        self._tasks = [asyncio.create_task(self._guarded(loop)) for loop in (self._watch, self._listen)]

    async def resume(self) -> None:
        """Ask for more messages if there is room and no request is under way."""
        if self._certain and self._tasks:
            await self._subscription.ask()

    async def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge messages, once their stream is known to be there; what is not is delivered again."""
        self._acks.extend(tokens)
        if self._certain:
            await self._send_acks()

    async def _send_acks(self) -> None:
        tokens, self._acks = self._acks, []
        try:
            await publish_to_all(self._client, self._incarnation.replies(tokens))
        except nats.errors.Error as error:
            log.warning("acknowledgements not sent, their messages will come again", reason=str(error))

    async def in_progress(self, tokens: Iterable[Token]) -> None:
        """Ask the stream to wait another ack wait for messages that are still held."""
        if not self._certain:
            return
        try:
            await publish_to_all(self._client, self._incarnation.replies(tokens), IN_PROGRESS)
        except nats.errors.Error as error:
            log.warning("the stream cannot be asked to wait, messages may come again", reason=str(error))

    async def stop(self) -> None:
        """Take no more messages; those that have arrived are still handed on."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        await self._subscription.close()
        self._tell_gap()

    async def _on_message(self, msg: Msg) -> None:
        try:
            if msg.subject.startswith(self._subscription.inbox):
                await self._on_status(msg)
                return
            self._take(msg)
            if self._subscription.brought():
                await self.resume()
            if self._deliveries % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)
            raise

    def _take(self, msg: Msg) -> None:
        self._deliveries += 1
        position = parse_reply(msg.reply)
        if not self._incarnation.advances(position):
            self._attached_on, self._left = None, self.pending
        metrics.messages_received.add(msg.subject)
        if position.delivered > 1:
            metrics.redeliveries.inc()
        if skipped := self._gaps.skipped(position):
            metrics.stream_gap_messages.inc(skipped)
        self.pending = position.pending
        self._receive(message_at(position, msg), self._incarnation.token(msg.reply))

    async def _on_status(self, msg: Msg) -> None:
        match self._subscription.status(msg):
            case "spent":
                await self.resume()
            case "gone":
                self._attached_on = None

    async def _guarded(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except Exception as error:
            self._fail(error)
            raise

    async def _listen(self) -> None:
        """Count the seconds of silence, and tell what was missing.

        Counted, not read from a clock: of the seconds that this process was frozen, only one is silence.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._subscription.count_silence(WATCH_SECONDS)
            self._tell_gap()

    def _tell_gap(self) -> None:
        if gap := self._gaps.take():
            log.warning(
                "the stream dropped messages before they were delivered",
                stream=self._settings.stream,
                messages=gap.messages,
                first_sequence=gap.first,
                last_sequence=gap.last,
            )

    async def _watch(self) -> None:
        """Attach, notice silence, pull again, ask for the lag while nothing flows."""
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._check()
            except (Misconfigured, nats.errors.Error, TimeoutError, OSError) as error:
                self._complain(str(error) or type(error).__name__)
            await asyncio.sleep(WATCH_SECONDS)

    async def _check(self) -> None:
        if not self._client.is_connected:
            return
        if not self._certain:
            await self._attach()
        if self._subscription.overdue:
            log.warning("no heartbeat from the stream, asking again", stream=self._settings.stream)
            await self._subscription.withdraw()
        await self.resume()
        now = asyncio.get_running_loop().time()
        if self._deliveries != self._deliveries_seen:
            self._deliveries_seen, self._lag_at = self._deliveries, now
        # What was complained of is over when a question is answered, not when none was asked.
        if self._complaint or now - self._lag_at > POLL_SECONDS:
            self._lag_at = now
            await self._poll()
            self._complaint = None

    async def _detach(self) -> None:
        """Look for stream and consumer anew: those that were there are gone, and the request with them."""
        self._attached_on = None
        if self._subscription.request:
            await self._subscription.withdraw()

    async def _attach(self) -> None:
        self._attached_on, connection = None, self._client.stats["reconnects"]
        if (request := self._subscription.request) and request.connection != connection:
            # Gone with the old connection, unless the client still had it to send: then it is on the new one.
            await self._subscription.withdraw()
        stream = await ensure_stream(self._js, self._settings)
        consumer = await ensure_consumer(self._client, self._settings, stream)
        self._say_what_is_new(stream, consumer)
        self.ack_wait_seconds = consumer.config.ack_wait or ACK_WAIT_SECONDS
        self._gaps.attach(consumer, alone=alone(stream, self._settings))
        self.pending = consumer.num_pending
        self._attached_on, self._subscription.silence = connection, 0
        log.info("consuming", stream=self._settings.stream, durable=self._settings.durable)
        if self._certain:
            await self._send_acks()

    def _say_what_is_new(self, stream: StreamInfo, consumer: ConsumerInfo) -> None:
        anew = self._incarnation.attach(stream, consumer)
        if anew == "stream":
            left = self.pending if self._left is None else self._left
            metrics.stream_gap_messages.inc(left or 0)
            log.warning(
                "the stream was made anew, what it had not delivered is gone",
                stream=self._settings.stream,
                messages_as_last_heard=left,
            )
        elif anew == "consumer":
            log.warning(
                "the durable consumer was made anew, messages may come again",
                stream=self._settings.stream,
                durable=self._settings.durable,
            )
        self._left = None

    async def _poll(self) -> None:
        before = self._deliveries
        try:
            info = await self._js.consumer_info(self._settings.stream, self._settings.durable)
        except nats.js.errors.NotFoundError:
            await self._detach()
            raise
        if not self._incarnation.is_of(info):
            await self._detach()
        elif self._deliveries == before:  # else a message has told since, and later
            self.pending = info.num_pending

    def _complain(self, reason: str) -> None:
        # The watch comes back every second: the same trouble is said once.
        if reason != self._complaint:
            self._complaint = reason
            log.error("cannot consume, trying again", stream=self._settings.stream, reason=reason)
