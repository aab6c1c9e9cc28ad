"""A pull subscription: a durable consumer is asked for as many messages as there is room for, and no more."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Literal

import orjson
import structlog
from msgspec import Struct

from tracker_daemon.consumer.connection import finish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from tracker_daemon.config import NatsSettings

log = structlog.get_logger(__name__)

EXPIRES_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 5
MAX_HEADER_BYTES: Final = 64 * 1024
"""What a message may weigh for the server on top of its payload: headers, subjects."""

End = Literal["spent", "gone"]
"""What the end of a request calls for: `spent` for the next one, `gone` for a look at stream and consumer."""


class PullRequest(Struct):
    """A pull request under way: its reply subject, the messages it may bring, those it has brought.

    `connection`: the one that it was made on, counted in reconnects. `silence`: seconds for which the server
    has not said a word about it.
    """

    reply: str
    connection: int
    credit: int
    delivered: int = 0
    silence: int = 0


class PullSubscription:
    """Where messages of a durable consumer arrive, and the one pull request that brings them.

    Credit: a pull request never asks for more than there is room for, so what the server may still send and
    what is held together stay within the bound of the buffer.
    """

    def __init__(
        self,
        client: Client,
        settings: NatsSettings,
        room: Callable[[], tuple[int, int]],
        on_message: Callable[[Msg], Awaitable[None]],
    ) -> None:
        """`room`: messages and bytes that may come; `on_message` is given each message and each status."""
        self._client = client
        self._settings = settings
        self._room = room
        self._capacity = room()
        self._on_message = on_message
        self._subscription: Subscription | None = None
        self._numbers = itertools.count(1)
        self._refused: str | None = None
        self._ended: str | None = None
        self.inbox = ""
        """What statuses have for a subject begins with this; messages keep that of their publisher."""
        self.request: PullRequest | None = None
        """The request under way."""
        self.silence = 0
        """Seconds for which nothing was heard although a request, this one or one before, was under way."""

    @property
    def trouble(self) -> str | None:
        """Why nothing comes although it is asked for; None: nothing is known to be in the way."""
        if self.silence > 2 * HEARTBEAT_SECONDS:
            return f"no heartbeat from the stream for {self.silence} s"
        return self._refused

    @property
    def overdue(self) -> bool:
        """Whether the server is silent about the request under way for longer than it may be."""
        return self.request is not None and self.request.silence > 2 * HEARTBEAT_SECONDS

    async def open(self) -> None:
        """Subscribe to an inbox of its own, where the answers to requests come."""
        self.inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(
            f"{self.inbox}.*",
            cb=self._on_message,
            # Credit bounds this queue; a limit of its own could only lose messages.
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )

    async def ask(self) -> None:
        """Ask for messages if there is room and no request is under way."""
        if self.request:
            return
        rows, size = self._room()
        # A request below the size of the next message would bring nothing, so never less than any may have.
        least = self._client.max_payload + MAX_HEADER_BYTES
        enough = min(max(self._capacity[1] // 2, least), self._capacity[1])
        if rows < self._capacity[0] // 2 or size < enough:
            return
        reply = f"{self.inbox}.{next(self._numbers)}"
        self.request = PullRequest(reply, self._client.stats["reconnects"], rows)
        request = {
            "batch": rows,
            "max_bytes": max(size, least),
            "expires": EXPIRES_SECONDS * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT_SECONDS * 1_000_000_000,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{self._settings.durable}"
        await self._client.publish(subject, orjson.dumps(request), reply=reply)

    def brought(self) -> bool:
        """Count a message; return whether it was the last that the request under way may bring."""
        self._refused = self._ended = None
        self.silence = 0
        request = self.request
        if request is None:
            return False
        request.silence = 0
        request.delivered += 1
        if request.delivered != request.credit:
            return False
        self.request = None
        return True

    def status(self, msg: Msg) -> End | None:
        """Hear what the server says about a request, and return what its end calls for; None: for nothing."""
        self.silence = 0
        if self.request:
            self.request.silence = 0
        headers = msg.headers or {}
        status, description = headers.get("Status"), headers.get("Description", "")
        if status == "100":
            self._refused = self._ended = None
            return None
        if self.request is None or msg.subject != self.request.reply:
            return None
        request, self.request = self.request, None
        if status == "408" or (request.delivered and description.startswith("Message Size Exceeds")):
            return "spent"
        # Not asked again at once from here on: a status that repeats itself must not spin, nor fill the log.
        if self._ended != description:
            self._ended = description
            log.info("pull request ended", status=status, description=description)
        if description.startswith("Exceeded"):
            self._refused = (
                f"the durable consumer refuses requests: {description}; see its max_batch, max_bytes"
            )
        return "gone" if status != "409" or "Deleted" in description else None

    def count_silence(self, seconds: int) -> None:
        """Count seconds that have passed: while a request is under way, a word of the server is due."""
        if self.request:
            self.request.silence += seconds
            self.silence += seconds

    async def withdraw(self) -> None:
        """Take the request back: a server that was only slow must not answer it beside the next one.

        It reads in order, so no answer is waited for; and a flush that gives up waiting breaks nats-py's
        read loop once the answer comes after all.
        """
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.unsubscribe()
        await self.open()
        self.request = None

    async def close(self) -> None:
        """Take no more messages; those that have arrived are still handed on."""
        if self._subscription is not None:
            await finish(self._client, [self._subscription])
