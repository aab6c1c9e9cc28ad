"""Monitoring says what plain Python makes of the rows, and the names of rates mean one thing everywhere."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest

from tests.extremes import refill
from tests.grafana import NAMES, dashboard, expand, targets
from tests.record import BEGIN, given, grouped, known, mean, percentile
from tracker_daemon.demo.report import agent_records
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import (
    Filter,
    calibration,
    confidence_vs_outcome,
    decision_stats,
    latency_by_model,
    reading,
    volume_by_agent,
)
from tracker_daemon.queries import monitoring as module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import asyncpg

    from tests.record import Row

PART = Filter(
    agent_name="risk", symbol="BTC", since=BEGIN + timedelta(days=2), until=BEGIN + timedelta(days=9)
)


async def chosen(sql: asyncpg.Connection, wanted: Filter) -> list[Row]:
    """The rows that a filter by agent, symbol and time holds for."""
    return [
        row
        for row in await known(sql)
        if wanted.agent_name in {None, row["agent_name"]}
        and wanted.symbol in {None, row["symbol"]}
        and (wanted.since or row["created_at"]) <= row["created_at"]
        and (wanted.until is None or row["created_at"] < wanted.until)
    ]


def approximately(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    return [[pytest.approx(value) if isinstance(value, float) else value for value in row] for row in rows]


@pytest.mark.parametrize("wanted", [Filter(), PART], ids=["everything", "a part"])
async def test_latency_by_model(wanted: Filter, record: asyncpg.Connection) -> None:
    models = grouped(await chosen(record, wanted), lambda row: row["model"])
    expected = [
        (
            *(name, len(rows), len(latency), float(mean(latency))),
            *(percentile(latency, part) for part in (0.5, 0.95, 0.99)),
        )
        for name, rows in sorted(models.items(), key=lambda item: (-len(item[1]), item[0]))
        for latency in [given(rows, "latency_ms")]
    ]
    async with reading(record):
        table = await latency_by_model(record, wanted)
    assert table.complete
    assert [list(msgspec.structs.astuple(row)) for row in table.rows] == approximately(expected)


@pytest.mark.parametrize("wanted", [Filter(), PART], ids=["everything", "a part"])
async def test_volume_by_agent(wanted: Filter, record: asyncpg.Connection) -> None:
    """Hours begin as they do in UTC, whatever the zone of the session."""
    await record.execute("SET timezone = 'Asia/Kolkata'")
    hours = grouped(
        await chosen(record, wanted),
        lambda row: (row["created_at"].replace(minute=0, second=0, microsecond=0), row["agent_name"]),
    )
    expected = []
    for (hour, agent), rows in sorted(hours.items(), key=lambda item: (-item[0][0].timestamp(), item[0][1])):
        words = [row["outcome"] for row in rows]
        successful, resolved = words.count("SUCCESS"), words.count("SUCCESS") + words.count("FAILURE")
        rates = successful / len(rows), successful / resolved if resolved else None
        expected.append((hour, agent, len(rows), len(rows) - resolved, *rates))
    async with reading(record):
        table = await volume_by_agent(record, wanted)
    assert [list(msgspec.structs.astuple(row)) for row in table.rows] == approximately(expected)


@pytest.mark.parametrize("wanted", [Filter(), PART], ids=["everything", "a part"])
async def test_confidence_vs_outcome_has_the_buckets_of_calibration(
    wanted: Filter, record: asyncpg.Connection
) -> None:
    """Where a confidence is none, too."""
    await record.execute("UPDATE llm_decisions SET confidence = 1.5 WHERE symbol = 'ETH' AND confidence = 1")
    async with reading(record):
        buckets = await confidence_vs_outcome(record, wanted)
        [group] = (await calibration(record, wanted)).groups
    assert buckets == group.buckets
    assert buckets


async def test_a_long_answer_is_cut_and_says_so(
    record: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(record):
        whole = await volume_by_agent(record, Filter())
        monkeypatch.setattr(module, "MAX_ROWS", 3)
        cut = await volume_by_agent(record, Filter())
    assert (cut.rows, cut.complete, whole.complete) == (whole.rows[:3], False, True)


async def test_what_the_view_does_not_know_cannot_be_asked(record: asyncpg.Connection) -> None:
    for wanted in (Filter(as_of=BEGIN), Filter(context={"trend": "up"}), Filter(action="BUY")):
        for ask in (latency_by_model, volume_by_agent, confidence_vs_outcome):
            with pytest.raises(
                InvalidQuestion, match=r"asked by agent_name, .*, not by (as_of|context|action)"
            ):
                async with reading(record):
                    await ask(record, wanted)


@pytest.mark.not_on_citus("its nodes plan for themselves")
@pytest.mark.parametrize("condition", ["agent_name = 'risk' AND created_at > now()", "created_at > now()"])
async def test_filters_of_the_view_reach_the_indexes_of_the_table(
    condition: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("SET enable_seqscan = off")
    plan = await sql.fetch(
        f"EXPLAIN SELECT avg(success), count(*) FROM llm_monitoring WHERE {condition} GROUP BY hour"
    )
    [sought] = [line for (line,) in plan if "Index Cond" in line]
    assert "created_at > now()" in sought
    assert "Filter" not in str(plan)


# What names mean

OUTCOMES = ["SUCCESS"] * 6 + ["FAILURE"] * 2 + ["PENDING", None]
MEANING = {"success_rate": 0.6, "resolved_success_rate": 0.75}
"""Of those ten, whatever they are grouped by."""


@pytest.fixture
async def even(sql: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection to decisions of which each group has the same share of outcomes."""
    hour = datetime.now(UTC) - timedelta(hours=3)
    fixed = {
        "prompt": "?",
        "response": "!",
        "decision_type": "signal",
        "latency_ms": 5,
        "pnl": 1,
        "cost_usd": 1,
    }
    keys = ("agent_name", "model", "symbol", "confidence", "created_at")
    groups = itertools.product("ab", "xy", "st", (0, 1), (hour, hour - timedelta(days=1)))
    rows = [
        {"id": uuid4(), "outcome": outcome, **fixed, **dict(zip(keys, group, strict=True))}
        for group in groups
        for outcome in OUTCOMES
    ]
    await refill(sql, rows)
    return sql


def rates(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names of the rates that rows have, each of which must mean what it means everywhere."""
    told = {
        (name, value) for row in rows for name, value in row.items() if "success" in name and "rate" in name
    }
    for name, value in told:
        assert float(value) == pytest.approx(MEANING[name]), name
    return {name for name, _ in told}


async def test_rates_mean_the_same_in_every_panel_and_view(even: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    panels = set()
    for _, target in targets("decisions"):
        panels |= rates(await even.fetch(expand(target["rawSql"], now - timedelta(days=7), now)))
    assert panels == MEANING.keys()
    views = [
        name for (name,) in await even.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'public'")
    ]
    assert "llm_monitoring" in views
    for view in views:
        rates(await even.fetch(f"SELECT * FROM {view}"))


async def test_rates_mean_the_same_in_every_answer(even: asyncpg.Connection) -> None:
    async with reading(even):
        [stats] = (await decision_stats(even, Filter())).groups
        [group] = (await calibration(even, Filter())).groups
        volumes = (await volume_by_agent(even, Filter())).rows
        buckets = await confidence_vs_outcome(even, Filter())
    bounds = {"resolved_success_rate_lower", "resolved_success_rate_upper"}
    answers = [msgspec.structs.asdict(each) for each in (stats, group, *volumes, *buckets, *group.buckets)]
    assert rates({k: v for k, v in each.items() if k not in bounds} for each in answers) == MEANING.keys()
    session = uuid4()
    await even.execute("INSERT INTO trading_sessions (id) VALUES ($1)", session)
    await even.execute("UPDATE llm_decisions SET session_id = $1", session)
    demo = await agent_records(even, [session])
    assert rates(map(asdict, demo)) == {"resolved_success_rate"}


@pytest.mark.parametrize("name", NAMES)
def test_dashboards_know_no_other_rate_of_success(name: str) -> None:
    """In Prometheus it is the metric of that name, whose panels are compared with the rows elsewhere."""
    words = set(re.findall(r"\w*success\w*rate\w*", msgspec.json.encode(dashboard(name)).decode().lower()))
    metric = {f"tracker_resolved_success_rate{end}" for end in ("", "_lower", "_upper")}
    assert words <= MEANING.keys() | (metric if name == "pipeline" else set())
    for title, target in targets(name):
        if "rawSql" in target:
            for source, alias in re.findall(r"(\S+) AS (\w*success_rate)\b", target["rawSql"]):
                assert source == f"avg({alias.removesuffix('_rate')})", title
