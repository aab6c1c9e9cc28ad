"""Which stream a message came from: one that was deleted and made anew has the same name and sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from nats.js.api import ConsumerInfo, StreamInfo

    from tracker_daemon.consumer.position import Position
    from tracker_daemon.messages import Token


class Incarnation:
    """Numbers the streams that bore one name, and lets no acknowledgement pass from one to the next.

    An acknowledgement names stream, consumer and sequences, and the server looks at nothing else: one of a
    stream that is gone would settle a message that nobody has written yet. So a message is handed on with a
    token, its reply subject behind the number of its stream, and only tokens of the present stream become
    reply subjects again. A number too many costs a second delivery, one too few could cost a message.
    """

    def __init__(self) -> None:
        """Know no stream yet."""
        self._number = 0
        self._stream_created: datetime | None = None
        self._consumer_created: datetime | None = None
        self._consumer_sequence = 0
        self._doubted_ns: int | None = None

    def token(self, reply: str) -> Token:
        """What stands for a reply subject until its message is settled."""
        return self._number, reply

    def replies(self, tokens: Iterable[Token]) -> list[str]:
        """The reply subjects of those tokens that the present stream's messages were given."""
        return [reply for number, reply in tokens if number == self._number]

    def advances(self, position: Position) -> bool:
        """Whether a delivery follows those before it; if it does not, the consumer may be a new stream's."""
        follows = position.consumer_sequence > self._consumer_sequence
        self._consumer_sequence = position.consumer_sequence
        if not follows:
            self._number += 1
            self._doubted_ns = position.published_ns
        return follows

    def attach(self, stream: StreamInfo, consumer: ConsumerInfo) -> Literal["stream", "consumer"] | None:
        """Compare with what was there before and return what was made anew, if anything was."""
        new_stream = self._stream_created not in (None, stream.created)
        new_consumer = not self.is_of(consumer)
        doubted, self._doubted_ns = self._doubted_ns, None
        # A doubt that a message of an older stream raised has not parted that one's tokens from this one's.
        parted = doubted is not None and stream.created and doubted >= stream.created.timestamp() * 1e9
        if not parted:
            self._number += new_stream
            if new_consumer:
                self._consumer_sequence = 0
        known = self._consumer_created is not None
        self._stream_created, self._consumer_created = stream.created, consumer.created
        return "stream" if new_stream else "consumer" if new_consumer and known else None

    def is_of(self, consumer: ConsumerInfo) -> bool:
        """Whether this is still the consumer that was attached to."""
        return consumer.created == self._consumer_created
