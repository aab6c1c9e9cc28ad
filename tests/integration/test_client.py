"""The tracker of agents, over NATS and on PostgreSQL: the same record, the same answers, no agent held up."""

from __future__ import annotations

import asyncio
from array import array
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import DIMENSIONS
from tests.factory import decision
from tests.provider import MODEL, EmbeddingServer, vector
from tests.record import BEGIN, fill
from tests.trackers import over_nats
from tests.waiting import until
from tracker_daemon.client import DecisionTracker
from tracker_daemon.config import EmbeddingSettings, load
from tracker_daemon.daemon import DRAINED, Daemon
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.postgres import connected
from tracker_daemon.queries import QUESTIONS
from tracker_daemon.signals import Stop
from tracker_daemon.situations.learning import due
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.acceptance.stream import Stream

SAID = decision(decision_type=None, prompt="RSI is 62 \u2026")
"""What every method that tracks a decision takes."""


@asynccontextmanager
async def recording(stream: Stream, dsn: str) -> AsyncIterator[None]:
    """Have a daemon at work between a stream and a database."""
    own = {
        "TRACKER_POSTGRES_DSN": dsn,
        "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "0",
    }
    daemon, stop = Daemon(load(environ={**stream.settings, **own})), Stop()
    running = asyncio.create_task(daemon.run(stop, lambda: None))
    await until(lambda: not daemon.obstacles())
    yield
    stop.ask()
    assert await running == DRAINED


@pytest.fixture
async def sides(stream: Stream, dsn: str) -> AsyncIterator[dict[str, DecisionTracker]]:
    """Yield a tracker over NATS, with a daemon behind it, and one on its database."""
    async with recording(stream, dsn), over_nats(stream) as one, DecisionTracker.on_postgres(dsn) as other:
        yield {"nats": one, "postgres": other}


both = pytest.mark.parametrize("side", ["nats", "postgres"])


@both
async def test_what_is_tracked_is_read_back(side: str, sides: dict[str, DecisionTracker]) -> None:
    tracker = sides[side]
    id_ = await tracker.track_signal_decision(**SAID, confidence=0.8, latency_ms=930, confirm=True)
    await tracker.update_decision_outcome(id_, "SUCCESS", Decimal("250.50"), note="closed", confirm=True)

    async def told() -> bool:
        whole = await tracker.get_decision(id_)
        return whole is not None and whole.decision.outcome == "SUCCESS"

    await until(told)
    whole = await tracker.get_decision(id_)
    assert whole is not None
    assert (whole.decision.pnl, whole.decision.action) == (Decimal("250.50"), "BUY")
    assert whole.decision.confidence == Decimal("0.8")
    assert [(event.outcome, event.pnl, event.note) for event in whole.outcomes] == [
        ("SUCCESS", Decimal("250.50"), "closed")
    ]
    stats = await tracker.get_decision_stats("momentum", since=datetime.now(UTC) - timedelta(hours=1))
    assert (stats.total_decisions, stats.successful, stats.total_pnl) == (1, 1, Decimal("250.50"))
    assert stats.avg_latency_ms == 930
    [best] = (await tracker.get_successful_decisions("momentum")).rows
    assert best == whole.decision
    assert (await tracker.get_recent_decisions("momentum", limit=1)).rows == (best,)
    assert (await tracker.get_failed_decisions("momentum")).rows == ()
    assert await tracker.get_decision(uuid4()) is None
    assert tracker.dropped == 0


LATE = BEGIN + timedelta(days=3650)
"""Later than all that comes into the record: ages at that time are always the same."""

QUESTIONS_OF_AGENTS: list[Callable[[DecisionTracker], Awaitable[Any]]] = [
    lambda tracker: tracker.get_decision_stats(),
    lambda tracker: tracker.get_decision_stats("\u00fcber", maturity_seconds=86400.0, symbol="BTC"),
    lambda tracker: tracker.get_decision_stats("nobody"),
    lambda tracker: tracker.get_recent_decisions(limit=1000),
    lambda tracker: tracker.get_recent_decisions("risk", limit=7, as_of=BEGIN + timedelta(days=12)),
    lambda tracker: tracker.get_successful_decisions(min_pnl="0.125", max_confidence=0.9, limit=150),
    lambda tracker: tracker.get_failed_decisions(context={"trend": "down"}, until=BEGIN + timedelta(days=4)),
    lambda tracker: tracker.get_calibration(),
    lambda tracker: tracker.get_calibration("risk", buckets=5, maturity_seconds=86400.0),
    lambda tracker: tracker.search_decisions("sell hold", limit=150),
    lambda tracker: tracker.search_decisions("sell hold", "risk", min_confidence=0.5),
    lambda tracker: tracker.find_similar_decisions("BTC", {"trend": "up"}, 100, as_of=LATE),
    lambda tracker: tracker.find_similar_decisions(
        symbol=None,
        context={"rsi": 62.1, "trend": "down"},
        agent_name="risk",
        weights={"rsi": 0.5},
        max_distance=0.5,
        min_overlap=0.1,
        resolved=True,
        as_of=LATE,
    ),
    lambda tracker: tracker.build_context("risk", "BTC", {"trend": "up"}, 700, as_of=LATE),
    lambda tracker: tracker.build_context(
        None,
        None,
        {"rsi": 62.1, "trend": "down"},
        counter=len,
        token_budget=5_000,
        quoting="all",
        maturity_seconds=86400.0,
        model="gpt-x",
        as_of=LATE,
    ),
    lambda tracker: tracker.find_similar_prompts(embedding=array("f", [1, 2, 4]), agent_name="risk"),
    lambda tracker: tracker.find_similar_prompts(
        "sell hold", 3, embedding=[1, 2, 4], embedding_model=None, hybrid=True, as_of=LATE
    ),
    lambda tracker: tracker.ask(QUESTIONS["stats"](group_by=("model", "day"))),
    lambda tracker: tracker.ask(QUESTIONS["search"](text="sell hold", limit=3)),
]


async def test_two_agents_see_the_same_answers(sides: dict[str, DecisionTracker], dsn: str) -> None:
    """One of them on NATS only, where a long page takes several messages."""
    store = Store(dsn)
    await fill(store, decisions=400)
    await store.close()

    async def learnt(connection: asyncpg.Connection) -> bool:
        return await due(connection) is None

    async with connected(dsn) as connection:  # a lesson in between would change what is near
        await until(lambda: learnt(connection))
    for question in QUESTIONS_OF_AGENTS:
        one, other = [await question(tracker) for tracker in sides.values()]
        assert one == other
        assert one
    for tracker in sides.values():
        near = await tracker.find_similar_decisions("BTC", {"trend": "up"}, limit=3)
        assert [(each.symbol, each.distance) for each in near.precedents] == [("BTC", 0)] * 3
        told = await tracker.build_context("risk", "BTC", {"trend": "up"}, 900, counter=len)
        assert told.tokens == len(told.text) <= 900
    page = await sides["nats"].get_recent_decisions(limit=250)
    assert len(page.rows) == 250
    rest = await sides["postgres"].get_recent_decisions(limit=1000, cursor=page.cursor)
    assert len({row.id for row in page.rows + rest.rows}) == 400
    whole = [await tracker.get_decision(page.rows[0].id) for tracker in sides.values()]
    assert whole[0] == whole[1] is not None


async def test_on_postgres_a_text_is_embedded_by_the_provider_that_the_program_names(dsn: str) -> None:
    async with EmbeddingServer() as server:
        settings = EmbeddingSettings(provider="openai", url=server.url, model=MODEL, dimensions=DIMENSIONS)
        async with DecisionTracker.on_postgres(dsn, embedding=settings) as tracker:
            told = {"prompt_embedding": vector("near"), "embedding_model": MODEL}
            id_ = await tracker.track_decision(**SAID | {"decision_type": "signal", **told}, confirm=True)
            [found] = (await tracker.find_similar_prompts("near")).rows
    assert (found.decision.id, found.distance) == (id_, pytest.approx(0, abs=1e-6))
    assert server.asked == [["near"]]


@both
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda tracker: tracker.get_recent_decisions(limit=10_000_000), "<= 1000"),
        (lambda tracker: tracker.get_recent_decisions(cursor="bm8"), "the cursor"),
        (lambda tracker: tracker.get_recent_decisions(agent="risk"), "unknown field `agent`"),
        (lambda tracker: tracker.get_decision_stats(since=BEGIN.replace(tzinfo=None)), "offset from UTC"),
        (lambda tracker: tracker.get_calibration(buckets=1), ">= 2"),
        (lambda tracker: tracker.get_decision_stats(min_pnl=float("nan")), "min_pnl is no number"),
        (lambda tracker: tracker.get_calibration(maturity_seconds=float("inf")), "maturity_seconds"),
        (lambda tracker: tracker.search_decisions("-rsi"), "a word that is there"),
        (lambda tracker: tracker.find_similar_decisions("BTC", {}), "says nothing that counts"),
        (lambda tracker: tracker.build_context("risk", "BTC", {}), "says nothing that counts"),
        (lambda tracker: tracker.build_context("risk", "BTC", {"a": 1}, 20), "a budget of 20 is too small"),
        (lambda tracker: tracker.build_context("r", None, {"a": 1}, 20, len), "a budget of 20 is too small"),
        (lambda tracker: tracker.find_similar_decisions("BTC", {"a": object()}), "cannot be written as JSON"),
        (
            lambda tracker: tracker.find_similar_decisions("BTC", {"a": 1}, cursor="x"),
            "unknown field `cursor`",
        ),
        (lambda tracker: tracker.find_similar_prompts("rsi"), "TRACKER_EMBEDDING_PROVIDER is none"),
        (lambda tracker: tracker.find_similar_prompts(embedding=[1.0, float("nan")]), "Expected `float`"),
        (lambda tracker: tracker.get_decision("7"), "Invalid UUID"),
        (lambda tracker: tracker.ask(QUESTIONS["recent"](limit=0)), ">= 1"),
    ],
    ids=[
        *("limit", "cursor", "name", "time", "buckets", "nan", "infinity", "words", "situation"),
        *("context", "budget", "counter", "no JSON", "page", "provider", "embedding", "id", "asked"),
    ],
)
async def test_a_wrong_question_is_refused_alike(
    side: str, sides: dict[str, DecisionTracker], asked: Any, says: str
) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        await asked(sides[side])


async def test_both_sides_leave_the_same_rows(
    sides: dict[str, DecisionTracker], sql: asyncpg.Connection
) -> None:
    """All that can be said of a decision, its outcome, and what has no place among either."""
    for name, tracker in sides.items():
        id_ = await tracker.track_risk_decision(
            **SAID | {"agent_name": name},
            approved=False,
            timestamp=BEGIN,
            session_id=UUID(int=7),
            confidence=Decimal("0.1234"),
            tokens_used=812,
            cost_usd="0.000001",
            context={"rsi": 62.1, "vetoes": ["size"]},
            prompt_embedding=[1, -0.5, 0.25],
            embedding_model="e5",
            experiment="size",
            variant="large",
            propensity=0.5,
            extra={"temperature": 0.2},
            confirm=True,
        )
        await tracker.update_decision_outcome(
            id_, "FAILURE", -0.1, timestamp=BEGIN, source="broker", extra={"venue": "X"}, confirm=True
        )
    await until(lambda: sql.fetchval("SELECT count(outcome) = 2 FROM llm_decisions"))
    own = {"agent_name", "ingested_at", "id", "outcome_sequence", "content_hash"}
    own |= {"decision_id", "event_id", "received_at", "stream_sequence"}
    for table in ("llm_decisions", "llm_outcomes"):
        rows = [dict(row) for row in await sql.fetch(f"SELECT * FROM {table}")]
        one, other = ({key: row[key] for key in row.keys() - own} for row in rows)
        assert one == other
    row = await sql.fetchrow("SELECT * FROM llm_decisions LIMIT 1")
    assert (row["decision_type"], row["action"]) == ("risk_approval", "VETO")
    assert (row["pnl"], row["extra"]) == (Decimal("-0.1"), '{"temperature": 0.2}')
