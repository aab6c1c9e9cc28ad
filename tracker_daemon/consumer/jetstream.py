"""A durable pull consumer with credit: messages flow into a callback, one pull request at a time."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

import nats.errors
import nats.js.errors
import orjson
import structlog
from msgspec import Struct

from tracker_daemon import metrics
from tracker_daemon.consumer.connection import finish, publish_to_all
from tracker_daemon.consumer.incarnation import Incarnation
from tracker_daemon.consumer.position import Gaps, message_at, parse_reply
from tracker_daemon.consumer.stream import ACK_WAIT_SECONDS, alone, ensure_consumer, ensure_stream
from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js.api import ConsumerInfo, StreamInfo

    from tracker_daemon.config import NatsSettings
    from tracker_daemon.messages import Message

log = structlog.get_logger(__name__)

EXPIRES_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 5
WATCH_SECONDS: Final = 1
CHECK_SECONDS: Final = 30
"""One look of the watch, which makes a few requests, may take so long."""
POLL_SECONDS: Final = 5
IN_PROGRESS: Final = b"+WPI"
MAX_HEADER_BYTES: Final = 64 * 1024
"""What a message may weigh for the server on top of its payload: headers, subjects."""
MESSAGES_PER_TURN: Final = 100
"""After so many messages the event loop gets its turn: nats-py hands over a full queue without a pause."""


class _Pull(Struct):
    """A pull request under way: its reply subject, the messages it may bring, those it has brought.

    `silence`: seconds for which the server has not said a word about it.
    """

    reply: str
    credit: int
    delivered: int = 0
    silence: int = 0


class JetStreamConsumer:
    """Takes messages of both subjects from one durable consumer and acknowledges them.

    Credit: a pull request never asks for more than there is room for, so what the server may still send and
    what is held together stay within the bound of the buffer.
    """

    def __init__(
        self,
        client: Client,
        settings: NatsSettings,
        receive: Callable[[Message, str | None], None],
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
        self._room = room
        self._fail = fail
        self._capacity = room()
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._pull: _Pull | None = None
        self._pulls = itertools.count(1)
        self._attached = False
        self._reconnects = 0
        self._incarnation = Incarnation()
        self._left: int | None = None
        self._acks: list[str] = []
        self._silence = 0
        self._heard_at = 0.0
        self._complaint: str | None = None
        self._refused: str | None = None
        self._ended: str | None = None
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
        if self._silence > 2 * HEARTBEAT_SECONDS:
            return f"no heartbeat from the stream for {self._silence} s"
        waiting = None if self._certain else "stream and consumer are being looked at"
        return self._refused or self._complaint or waiting

    @property
    def _certain(self) -> bool:
        """Whether stream and consumer have been looked at, on the connection that stands now."""
        on_this_connection = self._client.stats["reconnects"] == self._reconnects
        return self._attached and self._client.is_connected and on_this_connection

    async def start(self) -> None:
        """Begin to pull, as soon as stream and consumer can be had."""
        await self._subscribe()
        self._tasks = [asyncio.create_task(self._guarded(loop)) for loop in (self._watch, self._listen)]

    async def _subscribe(self) -> None:
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(
            f"{self._inbox}.*",
            cb=self._on_message,
            # Credit bounds this queue; a limit of its own could only lose messages.
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )

    async def resume(self) -> None:
        """Ask for more messages if there is room and no request is under way."""
        if self._pull or not self._certain or not self._tasks:
            return
        rows, size = self._room()
        # A request below the size of the next message would bring nothing, so never less than any may have.
        least = self._client.max_payload + MAX_HEADER_BYTES
        enough = min(max(self._capacity[1] // 2, least), self._capacity[1])
        if rows < self._capacity[0] // 2 or size < enough:
            return
        self._pull = _Pull(f"{self._inbox}.{next(self._pulls)}", rows)
        request = {
            "batch": rows,
            "max_bytes": max(size, least),
            "expires": EXPIRES_SECONDS * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT_SECONDS * 1_000_000_000,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{self._settings.durable}"
        await self._client.publish(subject, orjson.dumps(request), reply=self._pull.reply)

    async def ack(self, tokens: Iterable[str]) -> None:
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

    async def in_progress(self, tokens: Iterable[str]) -> None:
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
        if self._subscription is not None:
            await finish(self._client, [self._subscription])
        self._tell_gap()

    async def _on_message(self, msg: Msg) -> None:
        try:
            self._silence = 0
            if self._pull:
                self._pull.silence = 0
            if msg.subject.startswith(self._inbox):
                await self._on_status(msg)
                return
            self._take(msg)
            if self._pull:
                self._pull.delivered += 1
                if self._pull.delivered == self._pull.credit:
                    self._pull = None
                    await self.resume()
            if self._deliveries % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error)
            raise

    def _take(self, msg: Msg) -> None:
        self._deliveries += 1
        self._refused = self._ended = None
        position = parse_reply(msg.reply)
        if not self._incarnation.advances(position):
            self._attached, self._left = False, self.pending
        metrics.messages_received.add(msg.subject)
        if position.delivered > 1:
            metrics.redeliveries.inc()
        if skipped := self._gaps.skipped(position):
            metrics.stream_gap_messages.inc(skipped)
        self.pending = position.pending
        self._receive(message_at(position, msg), self._incarnation.token(msg.reply))

    async def _on_status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status, description = headers.get("Status"), headers.get("Description", "")
        if status == "100":
            self._refused = self._ended = None
            return
        if self._pull is None or msg.subject != self._pull.reply:
            return
        pull, self._pull = self._pull, None
        if status == "408" or (pull.delivered and description.startswith("Message Size Exceeds")):
            await self.resume()
            return
        # Pulled anew by the watch, in a second: a status that repeats itself must not spin, nor fill the log.
        if self._ended != description:
            self._ended = description
            log.info("pull request ended", status=status, description=description)
        if description.startswith("Exceeded"):
            self._refused = (
                f"the durable consumer refuses requests: {description}; see its max_batch, max_bytes"
            )
        if status != "409" or "Deleted" in description:
            self._attached = False

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
            if self._pull:
                self._pull.silence += WATCH_SECONDS
                self._silence += WATCH_SECONDS
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
        if self._pull and self._pull.silence > 2 * HEARTBEAT_SECONDS:
            log.warning("no heartbeat from the stream, asking again", stream=self._settings.stream)
            await self._withdraw()
        await self.resume()
        now = asyncio.get_running_loop().time()
        if self._deliveries != self._deliveries_seen:
            self._deliveries_seen, self._heard_at = self._deliveries, now
        # What was complained of is over when a question is answered, not when none was asked.
        if self._complaint or now - self._heard_at > POLL_SECONDS:
            self._heard_at = now
            await self._poll()
            self._complaint = None

    async def _withdraw(self) -> None:
        """Take the request back: a server that was only slow must not answer it beside the next one.

        It reads in order, so no answer is waited for; and a flush that gives up waiting breaks nats-py's
        read loop once the answer comes after all.
        """
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.unsubscribe()
        await self._subscribe()
        self._pull = None

    async def _detach(self) -> None:
        """Look for stream and consumer anew: those that were there are gone, and the request with them."""
        self._attached = False
        if self._pull:
            await self._withdraw()

    async def _attach(self) -> None:
        self._attached, reconnects = False, self._client.stats["reconnects"]
        if self._pull and reconnects != self._reconnects:
            # Gone with the old connection, unless the client still had it to send: then it is on the new one.
            await self._withdraw()
        stream = await ensure_stream(self._js, self._settings)
        consumer = await ensure_consumer(self._js, self._settings)
        self._say_what_is_new(stream, consumer)
        self.ack_wait_seconds = consumer.config.ack_wait or ACK_WAIT_SECONDS
        self._gaps.attach(consumer, alone=alone(stream, self._settings))
        self.pending = consumer.num_pending
        self._attached, self._reconnects, self._silence = True, reconnects, 0
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
