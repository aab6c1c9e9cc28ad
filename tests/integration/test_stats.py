"""Statistics compared with plain Python over the same rows."""

from __future__ import annotations

import statistics
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.extremes import EXAMPLES, ROWS, refill
from tests.record import BEGIN, drawdown, given, grouped, known, mean, percentile, replay
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import KEYS, Filter, decision_stats, reading
from tracker_daemon.store import Store

if TYPE_CHECKING:
    import asyncpg

    from tests.record import Row
    from tracker_daemon.queries import Answer, Stats


async def ask(sql: asyncpg.Connection, wanted: Filter, *keys: Any, **more: Any) -> Answer:
    async with reading(sql):
        return await decision_stats(sql, wanted, keys, **more)


def check(stats: Stats, rows: list[Row]) -> None:
    """Compare every number with one that is computed here."""
    successes = [row for row in rows if row["outcome"] == "SUCCESS"]
    failures = [row for row in rows if row["outcome"] == "FAILURE"]
    pnl, latency = given(rows, "pnl"), given(rows, "latency_ms")
    tokens, cost, confidence = (given(rows, name) for name in ("tokens_used", "cost_usd", "confidence"))
    gains, losses = sum(one for one in pnl if one > 0), -sum(one for one in pnl if one < 0)
    expected = {
        "total_decisions": len(rows),
        "successful": len(successes),
        "failed": len(failures),
        "pending": len(rows) - len(successes) - len(failures),
        "success_rate": len(successes) / len(rows) if rows else None,
        "resolved_success_rate": len(successes) / len(successes + failures) if successes + failures else None,
        "avg_pnl": mean(pnl),
        "total_pnl": sum(pnl) if pnl else None,
        "stddev_pnl": statistics.stdev(pnl) if len(pnl) > 1 else None,
        "min_pnl": min(pnl, default=None),
        "max_pnl": max(pnl, default=None),
        "profit_factor": gains / losses if losses else None,
        "max_drawdown": drawdown(rows),
        "avg_latency_ms": mean(latency),
        "p50_latency_ms": percentile(latency, 0.5),
        "p95_latency_ms": percentile(latency, 0.95),
        "p99_latency_ms": percentile(latency, 0.99),
        "avg_tokens_used": mean(tokens),
        "total_tokens_used": sum(tokens) if tokens else None,
        "avg_cost_usd": mean(cost),
        "total_cost_usd": sum(cost) if cost else None,
        "avg_confidence": mean(confidence),
    }
    for name, value in expected.items():
        found = getattr(stats, name)
        told = found if found is None or isinstance(value, int) else float(found)
        assert told == (None if value is None else pytest.approx(float(value))), name


async def test_every_number_of_all_decisions(record: asyncpg.Connection) -> None:
    answer = await ask(record, Filter())
    assert (len(answer.groups), answer.left_out, answer.complete) == (1, 0, True)
    assert answer.groups[0].key == {}
    check(answer.groups[0], await known(record))


@pytest.mark.parametrize("key", KEYS)
async def test_every_number_of_each_group(key: str, record: asyncpg.Connection) -> None:
    """Decisions without the key, an action say, are a group too; hours and days are those of UTC."""
    formats = {"hour": "%Y-%m-%dT%H:00:00Z", "day": "%Y-%m-%d"}
    await record.execute("SET timezone = 'Asia/Kolkata'")

    def of(row: Row) -> str | None:
        return row["created_at"].strftime(formats[key]) if key in formats else row[key]

    answer = await ask(record, Filter(), key)
    expected = grouped(await known(record), of)
    assert {group.key[key] for group in answer.groups} == expected.keys()
    for group in answer.groups:
        check(group, expected[group.key[key]])
    sizes = [group.total_decisions for group in answer.groups]
    assert sizes == sorted(sizes, reverse=True)


async def test_groups_by_two_keys(record: asyncpg.Connection) -> None:
    answer = await ask(record, Filter(symbol="BTC"), "agent_name", "model")
    rows = [row for row in await known(record) if row["symbol"] == "BTC"]
    expected = grouped(rows, lambda row: (row["agent_name"], row["model"]))
    assert {tuple(group.key.values()) for group in answer.groups} == expected.keys()
    for group in answer.groups:
        check(group, expected[(group.key["agent_name"], group.key["model"])])


@pytest.mark.parametrize("days", [0, 3, 9, 15, 40])
async def test_as_of_knows_nothing_that_came_later(days: int, record: asyncpg.Connection) -> None:
    """Neither decisions nor outcomes, and of an outcome that was corrected later what it was before."""
    as_of = BEGIN + timedelta(days=days)
    rows = await known(record, as_of)
    check((await ask(record, Filter(as_of=as_of))).groups[0], rows)
    failures = [row for row in rows if row["outcome"] == "FAILURE" and row["agent_name"] == "risk"]
    wanted = Filter(as_of=as_of, outcome="FAILURE", agent_name="risk")
    check((await ask(record, wanted)).groups[0], failures)


async def test_a_maturity_window_leaves_young_decisions_out_and_says_how_many(
    record: asyncpg.Connection,
) -> None:
    as_of = BEGIN + timedelta(days=8)
    answer = await ask(record, Filter(as_of=as_of), maturity=timedelta(days=2))
    rows = await known(record, as_of)
    old = [row for row in rows if row["created_at"] <= as_of - timedelta(days=2)]
    assert 0 < len(old) < len(rows)
    assert answer.left_out == len(rows) - len(old)
    check(answer.groups[0], old)


async def test_of_nobody_there_is_nothing_to_tell(record: asyncpg.Connection) -> None:
    """An unknown agent, a time that is still to come: zeros and None, and not a single group."""
    for wanted in (Filter(agent_name="nobody"), Filter(since=BEGIN + timedelta(days=36_500))):
        check((await ask(record, wanted)).groups[0], [])
        assert (await ask(record, wanted, "model")).groups == ()


async def test_every_number_of_the_demos_agents(dsn: str, sql: asyncpg.Connection) -> None:
    store = Store(dsn)
    await replay(store, 1500)
    await store.close()
    answer = await ask(sql, Filter(), "agent_name")
    expected = grouped(await known(sql), lambda row: row["agent_name"])
    assert len(expected) == len(answer.groups) == 3
    for group in answer.groups:
        check(group, expected[group.key["agent_name"]])


@EXAMPLES
@hypothesis.given(rows=ROWS)
async def test_every_number_of_nulls_ties_and_extremes(rows: list[Row], sql: asyncpg.Connection) -> None:
    await refill(sql, rows)
    check((await ask(sql, Filter())).groups[0], rows)
    expected = grouped(rows, lambda row: (row["agent_name"], row["model"]))
    answer = await ask(sql, Filter(), "agent_name", "model")
    assert {tuple(group.key.values()) for group in answer.groups} == expected.keys()
    for group in answer.groups:
        check(group, expected[(group.key["agent_name"], group.key["model"])])


async def test_what_cannot_be_asked_is_said(record: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match="cannot group by prompt; there are agent_name, model"):
        await ask(record, Filter(), "prompt")
    with pytest.raises(InvalidQuestion, match="group by each key once, not by model, model"):
        await ask(record, Filter(), "model", "model")
    with pytest.raises(InvalidQuestion, match="the database cannot look for that: 22021"):
        await ask(record, Filter(agent_name="a\x00b"))
    with pytest.raises(InvalidQuestion, match=r"longer than 0\.02 s: ask about less"):
        async with reading(record, 0.02):
            await record.fetch("SELECT pg_sleep(30)")
