"""A look at all that the stream holds: the durable consumer is asked where it stands, and never touched."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import nats.errors
import orjson
from msgspec import Struct
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from tracker_daemon.consumer.position import message_at, parse_reply
from tracker_daemon.consumer.pull import MAX_HEADER_BYTES
from tracker_daemon.consumer.stream import alone, filters
from tracker_daemon.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import datetime

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import StreamInfo

    from tracker_daemon.config import NatsSettings
    from tracker_daemon.messages import Message

READ_ROWS: Final = 1000
READ_BYTES: Final = 8 * 1024 * 1024
READ_SECONDS: Final = 30
UNHEARD: Final = 50
"""Requests that may find nobody before the reader counts as gone."""
UNHEARD_SECONDS: Final = 0.1
IDLE_SECONDS: Final = 300
"""After so long without a request the server forgets a reader that could not say goodbye."""


class Standing(Struct, frozen=True):
    """Where the durable consumer is, in stream sequences.

    Up to `floor` all is acknowledged, above `delivered` nothing was delivered yet; `unacknowledged` counts
    the messages in between that were not acknowledged.
    """

    floor: int
    delivered: int
    unacknowledged: int


class StreamReading:
    """Reads what the stream held when the reading began, in batches of bounded rows and bytes."""

    def __init__(self, client: Client, settings: NatsSettings, stream: StreamInfo, reader: str) -> None:
        """Keep where to read: `reader` names the consumer that `open_reading` has made."""
        self._client = client
        self._settings = settings
        self._reader = reader
        self.inbox = client.new_inbox()
        """Under this subject the stream answers; `open_reading` hands that to `receive`."""
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._requests = itertools.count(1)
        self.first = stream.config.first_seq or 1
        """The sequence of the first message that the stream has ever held."""
        self.last = stream.state.last_seq
        """The sequence at which the reading ends."""
        self.alone = alone(stream, settings)
        """Whether the stream has the two subjects and no other: then each sequence is a message of theirs."""

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield all messages in order; raise `Unavailable` when the stream does not answer in time."""
        more, unheard = True, 0
        while more:
            try:
                with _answered():
                    batch, more = await self._request()
            except _Unheard:
                # In a cluster the news of a new consumer takes a moment to reach the server asked.
                unheard += 1
                if unheard > UNHEARD:
                    raise
                await asyncio.sleep(UNHEARD_SECONDS)
                continue
            placed = [(parse_reply(msg.reply), msg) for msg in batch]
            if messages := [
                message_at(position, msg) for position, msg in placed if position.stream_sequence <= self.last
            ]:
                yield messages
            more = more and len(messages) == len(batch)

    async def receive(self, msg: Msg) -> None:
        """Take a message or a status from the stream."""
        self._arrived.put_nowait(msg)

    async def standing(self) -> Standing | None:
        """Ask where the durable consumer is now; None: there is none of that name."""
        js = self._client.jetstream()
        try:
            with _answered():
                info = await js.consumer_info(self._settings.stream, self._settings.durable)
        except _Absent:
            return None
        return Standing(
            floor=info.ack_floor.stream_seq if info.ack_floor else 0,
            delivered=info.delivered.stream_seq if info.delivered else 0,
            unacknowledged=info.num_ack_pending or 0,
        )

    async def _request(self) -> tuple[list[Msg], bool]:
        """Ask for one batch; return it, and whether there may be more."""
        reply = f"{self.inbox}.{next(self._requests)}"
        request = {
            "batch": READ_ROWS,
            # Below the size of the next message the server would bring nothing.
            "max_bytes": max(READ_BYTES, self._client.max_payload + MAX_HEADER_BYTES),
            "no_wait": True,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{self._reader}"
        await self._client.publish(subject, orjson.dumps(request), reply=reply)
        batch: list[Msg] = []
        async with asyncio.timeout(READ_SECONDS):
            while len(batch) < READ_ROWS:
                msg = await self._arrived.get()
                if msg.subject == reply:
                    return batch, _more(msg, batch)
                # The server may confirm the end of an earlier request, which its last message had told.
                if not msg.subject.startswith(self.inbox):
                    batch.append(msg)
        return batch, True


@contextlib.asynccontextmanager
async def open_reading(
    client: Client, settings: NatsSettings, since: datetime | None = None
) -> AsyncIterator[StreamReading]:
    """A reading of the stream from its first message, or from a time on, over a client of its own.

    Raise `Misconfigured` for a stream that is not there, or that forgets what is acknowledged.
    """
    js = client.jetstream()
    try:
        with _answered():
            stream = await js.stream_info(settings.stream)
    except _Absent:
        raise Misconfigured(
            f"the stream {settings.stream} does not exist: see tracker-daemon check, or TRACKER_NATS_STREAM"
        ) from None
    if stream.config.retention not in {None, RetentionPolicy.LIMITS}:
        raise Misconfigured(
            f"the stream {settings.stream} has the retention {stream.config.retention} and forgets what is "
            "acknowledged, so there is nothing to compare the tables with: that takes the retention limits"
        )
    config = ConsumerConfig(
        name=f"verify-{uuid4().hex}",
        deliver_policy=DeliverPolicy.BY_START_TIME if since else DeliverPolicy.ALL,
        opt_start_time=since,
        ack_policy=AckPolicy.NONE,
        filter_subjects=filters(stream, settings),
        inactive_threshold=IDLE_SECONDS,
        mem_storage=True,
        num_replicas=1,
    )
    with _answered():
        reader = (await js.add_consumer(settings.stream, config)).name
    read = StreamReading(client, settings, stream, reader)
    try:
        with _answered():
            # A request bounds what can wait here; a limit of the client's own could only lose messages.
            await client.subscribe(
                f"{read.inbox}.*", cb=read.receive, pending_msgs_limit=0, pending_bytes_limit=0
            )
        yield read
    finally:
        # What cannot be deleted now goes by itself after IDLE_SECONDS.
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await js.delete_consumer(settings.stream, reader)


class _Unheard(Unavailable):
    """Nobody answers to the name of the reader."""


class _Absent(Unavailable):
    """The stream or the consumer that was asked for does not exist."""


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Turn errors of client and server into sentences, cause kept."""
    try:
        yield
    except ServiceUnavailableError as error:
        raise Unavailable("NATS: JetStream does not answer; see tracker-daemon check") from error
    except NotFoundError as error:
        raise _Absent(f"NATS: {error.description}") from error
    except APIError as error:
        raise Unavailable(f"NATS refuses: {error.description}") from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        late = isinstance(error, TimeoutError)
        raise Unavailable(f"NATS: {'no answer in time' if late else error}") from error


def _more(status: Msg, batch: list[Msg]) -> bool:
    """Whether messages follow a status that ended a request; one that says neither is an outage."""
    headers = status.headers or {}
    code, description = headers.get("Status"), headers.get("Description", "")
    if code in {"404", "408"}:
        return False
    if batch and description.startswith("Message Size Exceeds"):
        return True
    kind = _Unheard if code == "503" and not batch else Unavailable
    raise kind(f"NATS: the stream ended a request: {code} {description}".rstrip())
