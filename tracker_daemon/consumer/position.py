"""Where a message stands in its stream, read from the subject that takes its acknowledgement."""

from __future__ import annotations

from msgspec import Struct


class Position(Struct, frozen=True):
    """A delivery's place in stream and consumer; `delivered` counts deliveries of this message from 1."""

    stream: str
    consumer: str
    delivered: int
    stream_sequence: int
    consumer_sequence: int
    published_ns: int
    pending: int


def parse_reply(reply: str) -> Position:
    """Parse `$JS.ACK.…`, with 9 tokens or, with domain and account, 11 or more; `ValueError` for another."""
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or (len(tokens) != 9 and len(tokens) < 11):
        raise ValueError(f"not a JetStream reply subject: {reply[:200]!r}")
    first = 2 if len(tokens) == 9 else 4
    stream, consumer, *numbers = tokens[first : first + 7]
    return Position(stream, consumer, *map(int, numbers))
