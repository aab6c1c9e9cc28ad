"""Positions read from reply subjects, and the gaps that they reveal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import ConsumerConfig, ConsumerInfo, SequenceInfo

from tracker_daemon.consumer.position import Gap, Gaps, Position, parse_reply

PUBLISHED_NS = 1_772_461_800_123_456_789
EXPECTED = Position("LLM", 2, 17, 23, PUBLISHED_NS, 4)
NUMBERS = f"2.17.23.{PUBLISHED_NS}.4"


# Reply subjects


@pytest.mark.parametrize(
    "reply",
    [
        f"$JS.ACK.LLM.tracker-daemon.{NUMBERS}",
        f"$JS.ACK._.ACCOUNTHASH.LLM.tracker-daemon.{NUMBERS}",
        f"$JS.ACK.hub.ACCOUNTHASH.LLM.tracker-daemon.{NUMBERS}.random",
        f"$JS.ACK.hub.ACCOUNTHASH.LLM.tracker-daemon.{NUMBERS}.random.what.comes.later",
    ],
    ids=["9 tokens", "11 tokens, no domain", "12 tokens", "more tokens"],
)
def test_both_layouts_give_the_same_position(reply: str) -> None:
    assert parse_reply(reply) == EXPECTED


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.abc",
        f"$JS.NAK.LLM.tracker-daemon.{NUMBERS}",
        f"JS.ACK.LLM.tracker-daemon.{NUMBERS}",
        "$JS.ACK.LLM.tracker-daemon.2.17.23.4",
        f"$JS.ACK.ACCOUNTHASH.LLM.tracker-daemon.{NUMBERS}",
        "$JS.ACK.LLM.tracker-daemon.2.17.23.now.4",
        "$JS.ACK.LLM.tracker-daemon.2..23.1.4",
    ],
)
def test_any_other_subject_is_refused(reply: str) -> None:
    with pytest.raises(ValueError, match=r"not a JetStream reply|invalid literal"):
        parse_reply(reply)


def test_a_refused_subject_is_quoted_in_short() -> None:
    with pytest.raises(ValueError, match="not a JetStream reply") as raised:
        parse_reply("x" * 100_000)
    assert len(str(raised.value)) < 300


names = st.text(st.characters(codec="utf-8", exclude_characters=".*> \t\r\n"), min_size=1)
sizes = st.integers(0, 2**63 - 1)


@given(st.builds(Position, names, sizes, sizes, sizes, sizes, sizes), names, names)
def test_every_position_is_read_back(position: Position, domain: str, account: str) -> None:
    stream, *numbers = (str(getattr(position, name)) for name in Position.__struct_fields__)
    tokens = ".".join((stream, "tracker-daemon", *numbers))
    assert parse_reply(f"$JS.ACK.{tokens}") == position
    assert parse_reply(f"$JS.ACK.{domain}.{account}.{tokens}") == position


# Gaps


def attached(consumer_sequence: int, stream_sequence: int, *, alone: bool = True) -> Gaps:
    """Gaps counted from where a consumer stands."""
    gaps = Gaps()
    attach(gaps, consumer_sequence, stream_sequence, alone=alone)
    return gaps


def attach(
    gaps: Gaps, consumer_sequence: int, stream_sequence: int, *, alone: bool = True, day: int = 0
) -> None:
    delivered = SequenceInfo(consumer_seq=consumer_sequence, stream_seq=stream_sequence)
    gaps.attach(info(delivered, day), alone=alone)


def info(delivered: SequenceInfo | None, day: int = 0) -> ConsumerInfo:
    """What the server tells of a consumer that was made on that day."""
    created = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=day)
    return ConsumerInfo("tracker-daemon", "LLM", ConsumerConfig(), created, delivered)


def skipped(gaps: Gaps, *deliveries: tuple[int, int] | tuple[int, int, int]) -> list[int]:
    """What each delivery reveals; its consumer sequence, its stream sequence, and which time it comes (1)."""
    found = []
    for consumer, stream, *times in deliveries:
        delivered = times[0] if times else 1
        found.append(gaps.skipped(Position("LLM", delivered, stream, consumer, 0, 0)))
    return found


def test_deliveries_without_a_step_have_no_gap() -> None:
    assert skipped(attached(0, 0), (1, 1), (2, 2), (3, 3)) == [0, 0, 0]


def test_a_step_in_the_stream_counts_what_is_missing() -> None:
    assert skipped(attached(0, 0), (1, 1), (2, 5), (3, 6), (4, 8)) == [0, 3, 0, 1]


def test_a_stream_that_begins_anew_under_the_consumer_has_no_negative_gap() -> None:
    assert skipped(attached(0, 0), (1, 5), (2, 1), (3, 2)) == [4, 0, 0]


def test_the_first_delivery_is_compared_with_where_the_consumer_stood() -> None:
    """Messages that expired while no daemon ran are counted too."""
    assert skipped(attached(40, 50), (41, 61)) == [10]
    assert skipped(attached(0, 0), (1, 101)) == [100]


def test_a_consumer_that_never_delivered_begins_at_the_start() -> None:
    gaps = Gaps()
    gaps.attach(info(None), alone=True)
    assert skipped(gaps, (1, 3)) == [2]


def test_a_redelivery_is_no_step_back_and_no_gap() -> None:
    assert skipped(attached(0, 0), (1, 1), (2, 2), (3, 1, 2), (4, 3), (5, 2, 2), (6, 5)) == [0, 0, 0, 0, 0, 1]


def test_what_another_daemon_received_is_no_gap() -> None:
    """The consumer sequence tells that somebody else had the messages between."""
    assert skipped(attached(0, 0), (1, 1), (5, 5), (6, 6), (9, 12)) == [0, 0, 0, 0]


def test_a_gap_between_deliveries_of_one_daemon_is_seen_among_several() -> None:
    assert skipped(attached(0, 0), (1, 1), (5, 5), (6, 9)) == [0, 0, 3]


def test_a_redelivery_between_another_daemons_messages_makes_no_gap() -> None:
    """Another daemon received 2 and 3, then the first message came again here, then the fourth."""
    assert skipped(attached(0, 0), (1, 1), (4, 1, 2), (5, 4)) == [0, 0, 0]


def test_a_stream_with_other_subjects_has_steps_by_nature() -> None:
    assert skipped(attached(0, 0, alone=False), (1, 1), (2, 9), (3, 30)) == [0, 0, 0]


def test_a_consumer_made_anew_counts_from_its_own_start() -> None:
    gaps = attached(0, 0)
    assert skipped(gaps, (1, 10)) == [9]
    attach(gaps, 0, 0, day=1)
    assert skipped(gaps, (1, 1), (2, 2)) == [0, 0]
    attach(gaps, 2, 90, day=2)
    assert skipped(gaps, (3, 93)) == [2]
    attach(gaps, 7, 90)
    assert skipped(gaps, (8, 93)) == [2]


def test_what_still_arrives_after_attaching_anew_is_no_gap() -> None:
    """The consumer has delivered more than has come out of the client's queue."""
    gaps = attached(0, 0)
    skipped(gaps, (1, 1))
    attach(gaps, 4, 4)
    assert skipped(gaps, (2, 2), (3, 3), (4, 4), (5, 7)) == [0, 0, 0, 2]


def test_a_purge_before_attaching_again_is_a_gap() -> None:
    """The server moves the place of the consumer past what it purged; nothing was delivered in between."""
    gaps = attached(0, 0)
    assert skipped(gaps, (1, 1), (2, 2)) == [0, 0]
    attach(gaps, 2, 9)
    assert skipped(gaps, (3, 10)) == [7]


def test_gaps_are_told_in_one_with_their_bounds_and_only_once() -> None:
    gaps = attached(0, 0)
    assert gaps.take() is None
    skipped(gaps, (1, 1), (2, 5), (3, 6), (4, 8))
    assert gaps.take() == Gap(4, 2, 7)
    assert gaps.take() is None
    skipped(gaps, (5, 10))
    assert gaps.take() == Gap(1, 9, 9)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_all_that_is_missing_is_counted_once(steps: list[tuple[int, bool]]) -> None:
    """The gaps that one daemon sees add up to what the stream dropped, whatever is delivered again."""
    gaps, consumer, stream = attached(0, 0), 0, 0
    counted = 0
    for dropped, redelivered in steps:
        if redelivered:
            consumer += 1
            counted += sum(skipped(gaps, (consumer, 1, 2)))
        consumer, stream = consumer + 1, stream + 1 + dropped
        counted += sum(skipped(gaps, (consumer, stream)))
    assert counted == sum(dropped for dropped, _ in steps)
