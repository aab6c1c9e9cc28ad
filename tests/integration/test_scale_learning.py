"""The scales in a real PostgreSQL: when they are learnt, from what, and by whom."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.chores import running
from tests.factory import decision, deliver
from tests.record import BEGIN
from tests.waiting import until
from tracker_daemon.lease import Lease
from tracker_daemon.situations.learning import SOON_SECONDS, ScaleLearning, due, learn

if TYPE_CHECKING:
    import asyncpg

    from tracker_daemon.store import Store

MODULE = "tracker_daemon.situations.learning"


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it learn from few contexts, of few numbers, and look without a pause."""
    for name, value in (("FIRST", 4), ("MOST", 16), ("LOOK_SECONDS", 0.02), ("MAX_SHARE", 1)):
        monkeypatch.setattr(f"{MODULE}.{name}", value)
    monkeypatch.setattr("tracker_daemon.situations.scales.MIN_NUMBERS", 4)


async def decide(store: Store, *contexts: Any, first: datetime = BEGIN) -> None:
    """Store decisions with these contexts, an hour apart."""
    await store.write(
        deliver(
            *(
                decision(context=context, timestamp=(first + timedelta(hours=hour)).isoformat())
                for hour, context in enumerate(contexts)
            )
        )
    )


async def kept(sql: asyncpg.Connection) -> dict[datetime, dict[str, dict[str, float]]]:
    """The scales by their time."""
    rows = await sql.fetch("SELECT learnt_at, scales FROM llm_scales ORDER BY learnt_at")
    return {row["learnt_at"]: json.loads(row["scales"]) for row in rows}


async def learnt(sql: asyncpg.Connection) -> list[int]:
    """The hours of the lessons, after all that are due."""
    while (time := await due(sql)) is not None:
        await learn(sql, time)
    return [round((time - BEGIN) / timedelta(hours=1)) for time in await kept(sql)]


async def test_a_lesson_is_due_when_the_history_has_doubled_and_then_once_a_day(
    store: Store, sql: asyncpg.Connection
) -> None:
    await decide(store, *[{"x": 1}] * 3)
    assert await learnt(sql) == []
    await decide(store, *[{"x": 1}] * 2, None, first=BEGIN + timedelta(hours=3))
    assert await learnt(sql) == [3]
    await decide(store, *[{"x": 1}] * 94, first=BEGIN + timedelta(hours=6))
    assert await learnt(sql) == [3, 7, 15, 40, 65, 90]
    assert await sql.fetchval("SELECT array_agg(decisions ORDER BY learnt_at) FROM llm_scales") == [
        *(4, 8),
        *[16] * 4,
    ]


async def test_the_first_lesson_is_soon_and_the_others_as_the_history_grows(
    dsn: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks in the first minute is to have an answer; later none is so urgent."""
    monkeypatch.setattr(f"{MODULE}.LOOK_SECONDS", 40)
    chore = ScaleLearning(dsn)
    assert [await chore.look() for _ in range(3)] == [SOON_SECONDS] * 3
    await decide(store, *[{"x": 1}] * 4)
    await chore.look()  # learns
    assert [await chore.look() for _ in range(6)] == [3, 6, 12, 24, 40, 40]
    await decide(store, *[{"x": 1}] * 4, first=BEGIN + timedelta(hours=4))
    await chore.look()
    assert await chore.look() == SOON_SECONDS
    await chore.leave()


async def test_each_lesson_knows_only_what_was_decided_until_then(
    store: Store, sql: asyncpg.Connection
) -> None:
    """PostgreSQL's own quantiles tell the same."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    await decide(store, *({"macd": {"line": chance.gauss(0, 1)}, "n": 5, "text": "5"} for _ in range(60)))
    assert await learnt(sql) == [3, 7, 15, 40]
    for time, scales in (await kept(sql)).items():
        low, median, high = await sql.fetchval(
            """
            SELECT percentile_disc('{0.25,0.5,0.75}'::float8[])
                   WITHIN GROUP (ORDER BY (context #> '{macd,line}')::float8)
            FROM (
                SELECT context FROM llm_decisions WHERE created_at <= $1 ORDER BY created_at DESC LIMIT 16
            ) d
            """,
            time,
        )
        assert scales == {
            "macd.line": {"median": median, "spread": pytest.approx(high - low)},
            "n": {"median": 5, "spread": 0},
        }


async def test_what_is_of_the_future_large_or_unreadable_is_passed_over(
    store: Store, sql: asyncpg.Connection
) -> None:
    large = {f"key {random.random()}": "x" * 20 for _ in range(3_000)}  # noqa: S311 - incompressible
    beyond = f'{{"x": {"9" * 400}.5}}'
    await decide(store, *[large | {"x": 1}] * 8)
    await decide(store, *[{"x": 1}] * 9, first=datetime.now(UTC) + timedelta(days=1))
    await sql.execute("UPDATE llm_decisions SET context = $1 WHERE created_at = $2", beyond, BEGIN)
    assert await learnt(sql) == [3, 7]
    await decide(store, *[{"x": 1}] * 8, first=BEGIN + timedelta(hours=8))
    assert await learnt(sql) == [3, 7, 15]
    assert [[*scales] for scales in (await kept(sql)).values()] == [[], [], ["x"]]


@pytest.mark.not_on_citus("SET STORAGE is no change for it")
async def test_what_is_large_only_once_it_is_fetched_is_passed_over(
    store: Store, sql: asyncpg.Connection
) -> None:
    """A hundred times as large as the server keeps it, where it compresses."""
    await sql.execute("ALTER TABLE llm_decisions ALTER context SET STORAGE EXTENDED")
    await decide(store, *[{"x": 1, "text": "a" * 1_000_000}] * 4)
    assert await sql.fetchval("SELECT max(pg_column_size(context)) FROM llm_decisions") < 16384
    assert await learnt(sql) == [3]
    assert await kept(sql) == {BEGIN + timedelta(hours=3): {}}


async def test_decisions_from_before_the_year_1_make_no_lesson(store: Store, sql: asyncpg.Connection) -> None:
    """An adopted table may have them; Python has no such time."""
    await decide(store, *[{"x": 1}] * 8)
    await sql.execute(
        "UPDATE llm_decisions SET created_at = '0044-03-15 BC' WHERE created_at < $1",
        BEGIN + timedelta(hours=5),
    )
    assert await learnt(sql) == []
    await decide(store, {"x": 1}, first=BEGIN + timedelta(hours=8))
    assert await learnt(sql) == [8]


async def test_of_several_daemons_one_learns(dsn: str, store: Store, sql: asyncpg.Connection) -> None:
    """What is due already, and what becomes due; none of them while another one has the lease."""
    await decide(store, *[{"x": 1}] * 8)
    elsewhere, daemon = Lease("scales"), ScaleLearning(dsn)
    await elsewhere.take(sql)
    await daemon.look()
    await daemon.leave()
    assert await kept(sql) == {}
    await elsewhere.give_back(sql)
    async with running(*(ScaleLearning(dsn) for _ in range(3))):
        await until(lambda: sql.fetchval("SELECT count(*) = 2 FROM llm_scales"))
        await decide(store, *[{"x": 1}] * 8, first=BEGIN + timedelta(hours=8))
        await until(lambda: sql.fetchval("SELECT count(*) = 3 FROM llm_scales"))
    holders = await sql.fetchval("SELECT count(*) FROM tracker_leases WHERE name = 'scales'")
    assert holders == 1
    assert await learnt(sql) == [3, 7, 15]


async def test_a_lesson_that_is_learnt_twice_is_kept_once(store: Store, sql: asyncpg.Connection) -> None:
    """By a daemon that was frozen while it held the lease, and the one that took over."""
    await decide(store, *[{"x": 1}] * 4)
    for _ in range(2):
        await learn(sql, BEGIN + timedelta(hours=3))
    assert len(await kept(sql)) == 1
