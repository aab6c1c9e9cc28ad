"""Which stream a token belongs to: one that is gone must not settle a message of the one that followed it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig, StreamInfo, StreamState

from tracker_daemon.consumer.incarnation import Incarnation
from tracker_daemon.consumer.position import Position

BEGUN = datetime(2026, 3, 2, tzinfo=UTC)


def stream(day: int) -> StreamInfo:
    """A stream that was made on that day."""
    state = StreamState(messages=0, bytes=0, first_seq=0, last_seq=0, consumer_count=1)
    return StreamInfo(StreamConfig(name="LLM"), state, created=BEGUN + timedelta(days=day))


def consumer(day: int) -> ConsumerInfo:
    """A durable consumer that was made on that day."""
    return ConsumerInfo("tracker-daemon", "LLM", ConsumerConfig(), BEGUN + timedelta(days=day))


def delivery(consumer_sequence: int, day: int = 0) -> Position:
    """A delivery of a message that was published right after the stream of that day was made."""
    published_ns = int((BEGUN + timedelta(days=day)).timestamp()) * 1_000_000_000 + 1000
    return Position("LLM", 1, 1, consumer_sequence, published_ns, 0)


def attached() -> Incarnation:
    """An incarnation that has delivered five messages."""
    incarnation = Incarnation()
    assert incarnation.attach(stream(0), consumer(0)) is None
    assert incarnation.advances(delivery(5))
    return incarnation


def test_a_token_gives_back_its_reply_subject() -> None:
    incarnation = attached()
    assert incarnation.replies([incarnation.token("a.b"), incarnation.token("c")]) == ["a.b", "c"]


def test_nothing_is_new_when_the_same_are_found_again() -> None:
    incarnation = attached()
    token = incarnation.token("a")
    assert incarnation.attach(stream(0), consumer(0)) is None
    assert incarnation.is_of(consumer(0))
    assert incarnation.replies([token]) == ["a"]


def test_tokens_of_a_stream_that_is_gone_give_nothing() -> None:
    incarnation = attached()
    old = incarnation.token("a")
    assert not incarnation.is_of(consumer(1))
    assert incarnation.attach(stream(1), consumer(1)) == "stream"
    assert incarnation.replies([old, incarnation.token("b")]) == ["b"]
    assert incarnation.advances(delivery(1)), "a new consumer begins at 1, and that is no reason for doubt"


def test_a_new_consumer_of_the_same_stream_may_be_told_what_is_written() -> None:
    """Its sequences mean the same messages."""
    incarnation = attached()
    token = incarnation.token("a")
    assert incarnation.attach(stream(0), consumer(1)) == "consumer"
    assert incarnation.replies([token]) == ["a"]
    assert incarnation.advances(delivery(1))


def test_a_delivery_that_counts_from_a_lower_number_parts_the_tokens_at_once() -> None:
    """Before anybody has looked at the stream; what came since is not parted from the new one later."""
    incarnation = attached()
    old = incarnation.token("a")
    assert not incarnation.advances(delivery(1, day=1))
    new = incarnation.token("b")
    assert incarnation.advances(delivery(2, day=1))
    assert incarnation.replies([old, new]) == ["b"]
    assert incarnation.attach(stream(1), consumer(1)) == "stream"
    assert incarnation.replies([old, new]) == ["b"]
    assert incarnation.advances(delivery(3, day=1))


def test_a_doubt_that_a_message_of_the_old_stream_raised_parts_nothing_from_the_new_one() -> None:
    """A new leader may count from a lower number; then the stream is made anew before anybody looks."""
    incarnation = attached()
    assert not incarnation.advances(delivery(4))
    old = incarnation.token("a")
    assert incarnation.attach(stream(1), consumer(1)) == "stream"
    assert incarnation.replies([old, incarnation.token("b")]) == ["b"]
    assert incarnation.advances(delivery(1, day=1)), "a new consumer begins at 1"


def test_a_doubt_is_over_once_the_stream_was_looked_at() -> None:
    """Else a consumer that is made anew later would raise another, which voids what it has delivered."""
    incarnation = attached()
    assert not incarnation.advances(delivery(4))
    token = incarnation.token("a")
    assert incarnation.attach(stream(0), consumer(0)) is None
    assert incarnation.attach(stream(0), consumer(1)) == "consumer"
    assert incarnation.advances(delivery(1))
    assert incarnation.replies([token]) == ["a"]
