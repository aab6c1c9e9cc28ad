"""What a load takes grows with it, and is made of what one message was measured to take."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.capacity import DECISION, EMBEDDED, OUTCOME, SITUATION, TEXTS, Load, Plan, plan
from tracker_daemon.errors import InvalidQuestion

DAY = timedelta(days=1)

loads = st.builds(
    Load,
    rate=st.floats(0.01, 1e5),
    kept=st.timedeltas(timedelta(seconds=1), timedelta(days=3650)),
    size=st.integers(1, 100_000),
    outcomes=st.floats(0, 1),
    dimensions=st.integers(0, 4096),
)


def taken(told: Plan) -> list[float]:
    """All that grows with the rate."""
    return [
        *told.disk_bytes.values(),
        *told.cores.values(),
        told.decisions,
        told.memory_bytes,
        told.log_bytes_per_second,
        told.stream_bytes_per_second,
        told.postgres_bytes_per_second,
        1 / told.outage_seconds,
    ]


@pytest.mark.parametrize("size", DECISION)
def test_at_a_measured_size_it_is_what_was_measured(size: int) -> None:
    told = plan(Load(rate=1000, kept=DAY, size=size, outcomes=0))
    assert told.decisions == 86_400_000
    rows, texts, places = DECISION[size], TEXTS[size], SITUATION
    assert told.disk_bytes == pytest.approx(
        {
            "decisions": 1.3 * rows.disk * 86_400_000,
            "index of texts": 1.3 * texts.disk * 86_400_000,
            "index of situations": 1.3 * places.disk * 86_400_000,
        }
    )
    assert told.stream_bytes_per_second == pytest.approx(1000 * rows.stream)
    assert told.outage_seconds == pytest.approx(8 * 1024**3 / (1000 * rows.stream))
    seconds = (rows.postgres + texts.postgres + places.postgres) / 1000  # of each second
    assert told.cores["PostgreSQL"] == pytest.approx(seconds / 0.7)
    assert [limit.rate for limit in told.limits] == pytest.approx(
        sorted(
            [
                0.7e6 / rows.daemon,
                0.7e6 / rows.postgres,
                0.25e6 / (texts.daemon + texts.postgres),
                0.25e6 / (places.daemon + places.postgres),
            ]
        )
    )


def test_between_two_sizes_it_lies_between() -> None:
    small, middle, large = (
        plan(Load(rate=1, kept=DAY, size=size)).log_bytes_per_second for size in (544, 1_600, 2_695)
    )
    part = (1_600 - 544) / (2_695 - 544)
    assert middle == pytest.approx(small + part * (large - small))


@given(loads)
def test_twice_as_many_take_twice_as_much_and_reach_the_same_limits(load: Load) -> None:
    once = plan(load)
    twice = plan(
        Load(
            rate=2 * load.rate,
            kept=load.kept,
            size=load.size,
            outcomes=load.outcomes,
            dimensions=load.dimensions,
        )
    )
    assert taken(twice) == pytest.approx([2 * amount for amount in taken(once)])
    assert twice.limits == once.limits
    assert [limit.rate for limit in once.limits] == sorted(limit.rate for limit in once.limits)
    assert all(amount >= 0 for amount in taken(once))
    assert once.daemons >= 1


def test_outcomes_and_embeddings_come_on_top() -> None:
    bare = plan(Load(rate=1, kept=DAY, outcomes=0))
    resolved = plan(Load(rate=1, kept=DAY, outcomes=0.5))
    embedded = plan(Load(rate=1, kept=DAY, outcomes=0, dimensions=768))
    assert resolved.log_bytes_per_second - bare.log_bytes_per_second == pytest.approx(OUTCOME.log / 2)
    assert embedded.memory_bytes - bare.memory_bytes == pytest.approx(86_400 * EMBEDDED.hot / 2)
    assert len(embedded.limits) == len(bare.limits) + 1
    assert embedded.postgres_bytes_per_second - bare.postgres_bytes_per_second == 4 * 768


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate": 0}, "decisions a second must be more than 0"),
        ({"rate": float("nan")}, "decisions a second must be more than 0"),
        ({"rate": 1e8}, "at most 10,000,000, not 1e+08"),
        ({"kept": timedelta()}, "seconds that a decision is kept must be more than 0"),
        ({"size": 0}, "bytes of a decision must be more than 0"),
        ({"outcomes": 1.1}, "outcomes must be a part of all decisions, 0 to 1, not 1.1"),
        ({"dimensions": -1}, "an embedding has up to 16,000 numbers, not -1"),
    ],
)
def test_what_nobody_publishes_is_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidQuestion, match=re.escape(says)):
        Load(**{"rate": 1, "kept": DAY} | wrong)  # type: ignore[arg-type]
