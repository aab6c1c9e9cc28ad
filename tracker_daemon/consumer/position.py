"""Where a message stands in its stream, read from its reply subject, and what is missing before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from tracker_daemon.messages import Message

if TYPE_CHECKING:
    from datetime import datetime

    from nats.aio.msg import Msg
    from nats.js.api import ConsumerInfo


class Position(Struct, frozen=True, gc=False):
    """A delivery's place in stream and consumer; `delivered` counts deliveries of this message from 1."""

    stream: str
    delivered: int
    stream_sequence: int
    consumer_sequence: int
    published_ns: int
    pending: int


def parse_reply(reply: str) -> Position:
    """Parse `$JS.ACK.…`, with 9 tokens or, with domain and account, 11 or more; `ValueError` for another."""
    tokens = reply.split(".")
    if not reply.startswith("$JS.ACK.") or (len(tokens) != 9 and len(tokens) < 11):
        raise ValueError(f"not a JetStream reply subject: {reply[:200]!r}")
    first = 2 if len(tokens) == 9 else 4
    stream, _, delivered, stream_sequence, sequence, published_ns, pending = tokens[first : first + 7]
    return Position(
        stream, int(delivered), int(stream_sequence), int(sequence), int(published_ns), int(pending)
    )


def message_at(position: Position, msg: Msg) -> Message:
    """What nats-py delivered, with its place in the stream."""
    return Message(
        msg.subject,
        msg.data,
        stream=position.stream,
        sequence=position.stream_sequence,
        published_ns=position.published_ns,
        headers=msg.headers,
    )


class Gap(Struct, frozen=True):
    """Messages that are missing: how many, and the lowest and the highest of their stream sequences."""

    messages: int
    first: int
    last: int


class Gaps:
    """Counts messages that the stream dropped before anybody saw them.

    Between two deliveries that follow each other in the consumer, a step in the stream sequence means that
    the messages between are gone. With several daemons only steps between deliveries of one daemon are seen;
    a stream that has other subjects too has steps by nature.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._alone = False
        self._created: datetime | None = None
        self._consumer_sequence = 0
        self._stream_sequence: int | None = None
        self._gap: Gap | None = None

    def attach(self, info: ConsumerInfo, *, alone: bool) -> None:
        """Go on from where the consumer stands; `alone`: the stream has no other subjects."""
        self._alone = alone
        consumer, stream = (
            (info.delivered.consumer_seq, info.delivered.stream_seq) if info.delivered else (0, 0)
        )
        # Where nothing was delivered since, the place known here is the better one: a purge moves the
        # consumer's own stream sequence past what is missing.
        if (info.created, consumer) != (self._created, self._consumer_sequence):
            self._created, self._consumer_sequence, self._stream_sequence = info.created, consumer, stream

    def skipped(self, position: Position) -> int:
        """How many messages are missing right before this one."""
        if position.consumer_sequence != self._consumer_sequence + 1:
            self._stream_sequence = None  # another daemon had what came in between
        self._consumer_sequence = position.consumer_sequence
        if position.delivered > 1:
            return 0
        last, self._stream_sequence = self._stream_sequence, position.stream_sequence
        if last is None or not self._alone or position.stream_sequence <= last + 1:
            return 0
        found = Gap(position.stream_sequence - last - 1, last + 1, position.stream_sequence - 1)
        self._gap = _joined(self._gap, found) if self._gap else found
        return found.messages

    def take(self) -> Gap | None:
        """What was missing since this was last asked, in one; None: nothing."""
        gap, self._gap = self._gap, None
        return gap


def _joined(one: Gap, other: Gap) -> Gap:
    return Gap(one.messages + other.messages, min(one.first, other.first), max(one.last, other.last))
