"""What the doctor reckons with: clocks, versions, rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from nats.js.api import StreamConfig

from tracker_daemon.doctor import clock
from tracker_daemon.doctor.finding import oldest
from tracker_daemon.doctor.jetstream import account
from tracker_daemon.doctor.stream import space

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ahead", "round_trip", "level", "words"),
    [
        (0.9, 0, "ok", "0.900 s ahead of"),
        (1.1, 0, "warning", "1.100 s ahead of"),
        (-1.1, 0, "warning", "1.100 s behind"),
        (1.4, 1, "ok", "(±0.500 s)"),
        (1.6, 1, "warning", "(±0.500 s)"),
    ],
)
def test_clocks_that_may_agree_within_a_second_are_well(
    ahead: float, round_trip: float, level: str, words: str
) -> None:
    """Half of the round trip is in doubt, and the doubt counts for the clock."""
    answered = NOON + timedelta(seconds=round_trip)
    theirs = NOON + timedelta(seconds=round_trip / 2 + ahead)
    found = clock.compare("a clock", NOON, theirs, answered)
    assert (found.part, found.level) == ("a clock", level)
    assert words in found.seen


@pytest.mark.parametrize(
    ("version", "level"), [((2, 9), "warning"), ((2, 10), "ok"), ((2, 15), "ok"), ((3, 0), "ok")]
)
def test_an_old_server_is_a_warning(version: tuple[int, int], level: str) -> None:
    assert oldest("nats", "nats-server", version, (2, 10)).level == level


@pytest.mark.parametrize(
    ("megabytes", "hours", "level", "words"),
    [
        (10, 24, "ok", "holds 240.0 h"),
        (40, 24, "warning", "holds 60.0 h at the rate of now, an outage may last 72.0 h"),
        (40, 0.9, "ok", "40 % of max_bytes used"),
    ],
)
def test_how_long_an_outage_a_stream_can_hold(megabytes: int, hours: float, level: str, words: str) -> None:
    """Of 100 MB, at the rate of what is in it; less than an hour tells nothing."""
    state = {
        "messages": 1000,
        "bytes": megabytes * 10**6,
        "first_ts": NOON.isoformat(),
        "last_ts": (NOON + timedelta(hours=hours)).isoformat(),
    }
    [found] = space(StreamConfig(name="LLM", max_bytes=10**8), state)
    assert (found.level, words in found.seen) == (level, True), found.seen


def test_each_tier_of_an_account_has_its_own_limit() -> None:
    """As the server says it of an account with a limit for each number of replicas."""
    none = {"storage": 0, "memory": 0, "limits": {"max_storage": 0, "max_memory": 0}}
    tier = {"storage": 81, "memory": 5, "limits": {"max_storage": 100, "max_memory": 100}}
    [found] = account(none | {"tiers": {"R3": tier}})
    assert found.level == "warning"
    assert found.seen.startswith("81 % of the account's storage R3 is used")
    [found] = account(none | {"tiers": {"R3": tier | {"storage": 80}}})
    assert found.level == "ok"
    [found] = account(none | {"limits": {"max_storage": -1, "max_memory": -1}})
    assert found.seen == "the account has no limits"


def test_the_remedy_for_a_small_stream_holds_an_outage() -> None:
    state = {
        "messages": 1,
        "bytes": 3600,
        "first_ts": NOON.isoformat(),
        "last_ts": (NOON + timedelta(hours=1)).isoformat(),
    }
    [found] = space(StreamConfig(name="LLM", max_bytes=10_000), state)
    assert found.seen.endswith(f"nats stream edit LLM --max-bytes={3 * 86400}")
