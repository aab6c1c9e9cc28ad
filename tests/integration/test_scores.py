"""Scores of a real database, and alerts through a real nats-server."""

from __future__ import annotations

import functools
import random
import statistics
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.chores import running
from tests.plans import explained
from tests.servers import Away
from tests.waiting import until
from tracker_daemon import metrics
from tracker_daemon.config import AlertSettings, NatsSettings
from tracker_daemon.consumer import connect, disconnect, publish_surely
from tracker_daemon.scores import ScoreWatch, score
from tracker_daemon.scores.changes import record_changes, waiting_changes
from tracker_daemon.scores.score import Score, read_scores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg
    from nats.aio.msg import Msg

    from tracker_daemon.embedded import NatsServer

    Publish = Callable[[bytes], Awaitable[None]]

SUBJECT = "llm.alerts"
FLOOR = AlertSettings(success_floor=0.4)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look without a pause."""
    for pause in ("LOOK_SECONDS", "SCORE_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.scores.watch.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)
    monkeypatch.setattr("tracker_daemon.scores.watch.MAX_SHARE", 1)


async def decide(sql: asyncpg.Connection, *outcomes: str | None, **columns: Any) -> None:
    """Store a decision with each outcome, a second apart, the last one a second ago."""
    columns = {"agent_name": "momentum", "model": "gpt-x", "cost_usd": Decimal("0.5"), **columns}
    last = columns.pop("last", datetime.now(UTC) - timedelta(seconds=1))
    fixed = "decision_type, symbol, prompt, response, outcome, created_at"
    names = ", ".join(columns)
    values = ", ".join(f"${number}" for number in range(3, 3 + len(columns)))
    await sql.executemany(
        f"INSERT INTO llm_decisions ({fixed}, {names}) VALUES ('signal', 'BTC', '?', '!', $1, $2, {values})",
        [
            (word, last - timedelta(seconds=age), *columns.values())
            for age, word in enumerate(reversed(outcomes))
        ],
    )


async def scores(sql: asyncpg.Connection) -> dict[tuple[str, str], Score]:
    """Those of the last 30 days, by scope and name."""
    return {(found.scope, found.name): found for found in await read_scores(sql, 30)}


class Listener:
    """What comes on the alerts' subject."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.events: list[dict[str, Any]] = []

    async def take(self, message: Msg) -> None:
        """Keep one event."""
        self.events.append(orjson.loads(message.data))


@pytest.fixture
async def listener(nats_server: NatsServer) -> AsyncIterator[Listener]:
    """Yield what an agent hears on the alerts' subject."""
    client = await nats.connect(nats_server.url)
    listener = Listener()
    await client.subscribe(SUBJECT, cb=listener.take)
    await client.flush()
    yield listener
    await client.close()


@pytest.fixture
async def publish(nats_server: NatsServer) -> AsyncIterator[Publish]:
    """Yield what the daemon hands to the watch."""
    client = await connect(NatsSettings(servers=(nats_server.url,)), lambda _: None)
    yield functools.partial(publish_surely, client, SUBJECT)
    await disconnect(client)


async def test_scores_are_what_plain_python_makes_of_the_rows(sql: asyncpg.Connection) -> None:
    """Each agent and each model, with outcomes missing and pending, confidences and latencies missing too."""
    chance = random.Random(11)  # noqa: S311 - a test's data
    for agent in ("momentum", "risk", "\u00fcber"):
        for model in ("gpt-x", "gpt-y"):
            for _ in range(80):
                await decide(
                    sql,
                    chance.choice(["SUCCESS", "FAILURE", "PENDING", None]),
                    agent_name=agent,
                    model=model,
                    confidence=chance.choice([None, Decimal(chance.randrange(10_001)) / 10_000]),
                    latency_ms=chance.choice([None, chance.randrange(5_000)]),
                    cost_usd=chance.choice([None, Decimal(chance.randrange(1_000)) / 1_000]),
                )
    rows = await sql.fetch("SELECT * FROM llm_decisions")
    found = await scores(sql)
    assert len(found) == 5
    for (scope, name), got in found.items():
        mine = [row for row in rows if row["agent_name" if scope == "agent" else "model"] == name]
        resolved = [row for row in mine if row["outcome"] in ("SUCCESS", "FAILURE")]
        told = [row for row in resolved if row["confidence"] is not None]
        squares = [(float(row["confidence"]) - (row["outcome"] == "SUCCESS")) ** 2 for row in told]
        latencies = [row["latency_ms"] for row in mine if row["latency_ms"] is not None]
        costs = [float(row["cost_usd"]) for row in mine if row["cost_usd"] is not None]
        assert got.resolved == len(resolved)
        assert got.successes == sum(row["outcome"] == "SUCCESS" for row in mine)
        assert got.brier == pytest.approx(statistics.fmean(squares))
        assert got.cost == pytest.approx(statistics.fmean(costs))
        twentieths = statistics.quantiles(latencies, n=20, method="inclusive")
        assert got.latency == pytest.approx(twentieths[-1] / 1000)


async def test_outcomes_that_come_late_count_for_an_agent_that_decides_often(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its latest decisions are open still, so those before them are looked at; but not any number back."""
    monkeypatch.setattr(score, "SAMPLE", 30)
    monkeypatch.setattr(score, "REACH", 80)
    monkeypatch.setattr(score, "LEAST", 1)
    await decide(sql, *["SUCCESS"] * 90, *["FAILURE"] * 20, *["PENDING", None] * 25, latency_ms=100)
    await decide(sql, *["SUCCESS"] * 9, *[None] * 80, agent_name="later still", model="gpt-z")
    found = await scores(sql)
    momentum = found["agent", "momentum"]
    assert (momentum.successes, momentum.failures) == (10, 20)
    assert found["agent", "later still"].resolved == found["model", "gpt-z"].resolved == 0


async def test_means_and_percentiles_of_a_few_are_not_shown(sql: asyncpg.Connection) -> None:
    """A jump against yesterday would only be that of chance."""
    told = {"confidence": Decimal("0.5"), "latency_ms": 200}
    await decide(sql, *["SUCCESS"] * 19, **told)
    few = (await scores(sql))["agent", "momentum"]
    assert (few.successes, few.brier, few.latency, few.cost) == (19, None, None, None)
    await decide(sql, "SUCCESS", **told)
    enough = (await scores(sql))["agent", "momentum"]
    assert (enough.successes, enough.brier, enough.latency, enough.cost) == (20, 0.25, 0.2, 0.5)


async def test_decisions_of_no_model_are_their_agents_alone(sql: asyncpg.Connection) -> None:
    """A table that was adopted may have them; an alert about nobody could not be kept."""
    await sql.execute("ALTER TABLE llm_decisions ALTER model DROP NOT NULL")
    await decide(sql, *["FAILURE"] * 30, model=None)
    found = await scores(sql)
    assert {name: score.failures for name, score in found.items()} == {("agent", "momentum"): 30}
    await record_changes(sql, [*found.values()], 0.4)
    assert len(await waiting_changes(sql)) == 1


async def test_an_agent_and_a_model_of_one_name_are_told_apart(sql: asyncpg.Connection) -> None:
    bad, good = (0, 30), (30, 0)
    for agent, model in ((bad, good), (good, bad), (good, good)):
        await record_changes(sql, [Score("agent", "alpha", *agent), Score("model", "alpha", *model)], 0.4)
    told = [orjson.loads(body) for _, body in await waiting_changes(sql)]
    assert [(event["state"], "agent" in event, "model" in event) for event in told] == [
        ("raised", True, False),
        ("cleared", True, False),
        ("raised", False, True),
        ("cleared", False, True),
    ]


async def test_a_name_of_any_characters_is_kept_published_and_exposed_as_it_is(
    sql: asyncpg.Connection,
) -> None:
    name = ('"\\{le="}\n\t# \u00e9\u2028\U0001f600\x7f ' * 100)[:100]
    await decide(sql, *["FAILURE"] * 30, agent_name=name)
    found = await scores(sql)
    await record_changes(sql, [*found.values()], 0.4)
    told = [orjson.loads(body) for _, body in await waiting_changes(sql)]
    assert [event["agent"] for event in told if "agent" in event] == [name]
    metrics.resolved_decisions.labels("agent", name).set(found["agent", name].resolved)
    try:
        exposed = text_string_to_metric_families(generate_latest(metrics.registry).decode())
        samples = [sample for family in exposed for sample in family.samples]
    finally:
        metrics.resolved_decisions.remove("agent", name)
    assert [sample.value for sample in samples if sample.labels.get("name") == name] == [30]


async def test_only_the_latest_decisions_of_the_latest_agents_count(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "SAMPLE", 3)
    monkeypatch.setattr(score, "MAX_NAMES", 2)
    now = datetime.now(UTC)
    await decide(sql, *["FAILURE"] * 5, *["SUCCESS"] * 3)
    await decide(sql, "SUCCESS", agent_name="older", last=now - timedelta(hours=1))
    await decide(sql, "SUCCESS", agent_name="third", last=now - timedelta(hours=2))
    await decide(sql, "SUCCESS", agent_name="gone", last=now - timedelta(days=31))
    await decide(sql, "SUCCESS", agent_name="of tomorrow", last=now + timedelta(days=1))
    found = await scores(sql)
    assert {name for scope, name in found if scope == "agent"} == {"momentum", "older"}
    assert (found["agent", "momentum"].successes, found["agent", "momentum"].failures) == (3, 0)


@pytest.mark.not_on_citus("its nodes plan for themselves")
async def test_scores_are_read_without_reading_the_table(sql: asyncpg.Connection) -> None:
    """Ten agents' samples out of 20,000 decisions: index ranges, no scan."""
    await sql.execute(
        "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model, created_at) "
        "SELECT 'agent ' || n % 10, 'signal', 'BTC', '?', '!', 'gpt-x', now() - n * interval '1 second' "
        "FROM generate_series(1, 20000) n"
    )
    await sql.execute("ANALYZE llm_decisions")
    async with explained(sql) as plans:
        await sql.execute("SET auto_explain.log_nested_statements = on")
        assert len(await read_scores(sql, 30)) == 11
    read = [plan["Query Text"] for plan in plans]
    assert [text for text in read if "max(created_at)" in text]
    assert [text for text in read if "LIMIT reach" in text]
    assert not [plan for plan in plans if "Seq Scan" in str(plan)]


async def test_an_agent_that_falls_and_recovers_is_said_once_each(
    dsn: str, sql: asyncpg.Connection, listener: Listener, publish: Publish
) -> None:
    """With two daemons at work, and looks in between that change nothing."""
    await decide(sql, *["FAILURE"] * 30, agent_name="loser", model="weak")
    await decide(sql, *["FAILURE"] * 3, agent_name="unlucky", model="fresh")
    watches = [ScoreWatch(dsn, FLOOR, publish) for _ in range(2)]
    async with running(*watches):
        await until(lambda: len(listener.events) >= 2)
        await decide(sql, *["SUCCESS"] * 30, agent_name="loser", model="weak")
        await until(lambda: len(listener.events) >= 4)
        await decide(sql, *["SUCCESS"] * 2, agent_name="loser", model="weak")
        await until(lambda: sample("resolved_decisions", "agent", "loser") == 62)
    told = [(event["state"], event.get("agent") or event.get("model")) for event in listener.events]
    assert sorted(told[:2]) == [("raised", "loser"), ("raised", "weak")]
    assert sorted(told[2:]) == [("cleared", "loser"), ("cleared", "weak")]
    kept = await sql.fetch("SELECT id::text, published_at FROM llm_alerts")
    assert {row["id"] for row in kept} == {event["id"] for event in listener.events}
    assert all(row["published_at"] for row in kept)


def sample(name: str, scope: str, of: str) -> float | None:
    """The gauge of an agent or model."""
    return metrics.registry.get_sample_value(f"tracker_{name}", {"scope": scope, "name": of})


async def test_gauges_show_the_scores_and_go_with_the_watch(
    dsn: str, sql: asyncpg.Connection, publish: Publish
) -> None:
    await decide(sql, *["SUCCESS"] * 18, *["FAILURE"] * 6, confidence=Decimal("0.5"), latency_ms=200)
    await decide(sql, None, agent_name="silent", model="gpt-z")
    async with running(ScoreWatch(dsn, AlertSettings(), publish)):
        await until(lambda: sample("resolved_decisions", "agent", "momentum") == 24)
        lower, upper = Score("agent", "momentum", 18, 6).interval
        assert sample("resolved_success_rate", "model", "gpt-x") == 0.75
        assert sample("resolved_success_rate_lower", "agent", "momentum") == lower
        assert sample("resolved_success_rate_upper", "agent", "momentum") == upper
        assert sample("brier_score", "agent", "momentum") == 0.25
        assert sample("decision_latency_p95_seconds", "agent", "momentum") == 0.2
        assert sample("decision_cost_mean_usd", "agent", "momentum") == 0.5
        assert sample("resolved_decisions", "agent", "silent") == 0
        assert sample("resolved_success_rate", "agent", "silent") is None
    assert sample("resolved_decisions", "agent", "momentum") is None
    assert not await sql.fetch("SELECT FROM llm_alerts")


async def test_what_cannot_be_published_is_published_later(
    dsn: str, sql: asyncpg.Connection, nats_server: NatsServer, listener: Listener, publish: Publish
) -> None:
    """NATS goes before the agent falls; nobody hears of it until NATS is back, and then once."""
    await decide(sql, *["FAILURE"] * 30, model="gpt-x")
    with capture_logs() as logs:
        async with Away(nats_server, "frozen"), running(ScoreWatch(dsn, FLOOR, publish)):
            await until(lambda: [line for line in logs if "waits to be published" in line["event"]])
            assert sample("resolved_decisions", "agent", "momentum") == 30
            assert not listener.events
        # What was written to the frozen server may be heard as soon as it wakes up.
        async with running(ScoreWatch(dsn, FLOOR, publish)):
            await until(all_published(sql))
    await until(lambda: {event.get("agent") for event in listener.events} == {"momentum", None})
    assert len({event["id"] for event in listener.events}) == 2


def all_published(sql: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    """Whether there are alerts, and none that waits."""

    async def check() -> bool:
        row = await sql.fetchrow("SELECT count(*) AS there, count(published_at) AS said FROM llm_alerts")
        return bool(row and row["there"] and row["there"] == row["said"])

    return check


async def test_a_database_that_was_away_is_read_again(
    dsn: str, sql: asyncpg.Connection, publish: Publish
) -> None:
    await decide(sql, "SUCCESS")
    async with running(ScoreWatch(dsn, FLOOR, publish)):
        await until(lambda: sample("resolved_decisions", "agent", "momentum") == 1)
        await decide(sql, "SUCCESS")
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: sample("resolved_decisions", "agent", "momentum") == 2)
