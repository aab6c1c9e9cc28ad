"""A record to ask about, and what plain Python makes of its rows, which shares nothing with the product."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.factory import decision, deliver, delivery, message, outcome
from tracker_daemon.demo.market import load
from tracker_daemon.demo.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import asyncpg

    from tracker_daemon.store import Store

Row = dict[str, Any]

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


async def fill(store: Store, seed: int = 7, decisions: int = 200) -> None:
    """Store decisions over ten days, with nulls and ties, and outcomes: late, corrected, none, pending."""
    chance = random.Random(seed)  # noqa: S311 - a test's data
    payloads = [
        decision(
            id=str(UUID(int=chance.getrandbits(128), version=4)),
            agent_name=chance.choice(["momentum", "risk", "\u00fcber"]),
            model=chance.choice(["gpt-x", "gpt-y"]),
            symbol=chance.choice(["BTC", "ETH", "SPY"]),
            action=chance.choice(["BUY", "SELL", None]),
            response="no JSON",
            confidence=chance.choice([None, "0", "1", str(chance.randrange(10_001) / 10_000)]),
            latency_ms=chance.choice([None, 0, chance.randrange(5_000)]),
            tokens_used=chance.choice([None, chance.randrange(2_000)]),
            cost_usd=chance.choice([None, "0.000001", str(chance.randrange(1_000) / 1_000)]),
            context=chance.choice([None, {"trend": "up"}, {"trend": "down", "rsi": 62.1}]),
            timestamp=(BEGIN + timedelta(hours=chance.randrange(240))).isoformat(),
        )
        for _ in range(decisions)
    ]
    await store.write(deliver(*payloads))
    events = [
        outcome(
            payload["id"],
            chance.choice(["SUCCESS", "SUCCESS", "FAILURE", "PENDING"]),
            pnl=chance.choice([None, "0", "250.50", str(chance.randrange(-10_000, 10_000) / 8)]),
            timestamp=(BEGIN + timedelta(days=chance.randrange(20))).isoformat(),
        )
        for payload in payloads
        for _ in range(chance.choice([0, 1, 1, 1, 2]))
    ]
    chance.shuffle(events)
    await store.write(deliver(*events))


async def replay(store: Store, decisions: int) -> None:
    """Store the messages of the demo's latest decisions, malformed ones included."""
    messages = Script(load(datetime.now(UTC)), limit=decisions).messages()
    await store.write([delivery(message(each.payload, subject=f"llm.{each.subject}")) for each in messages])


async def backdate(sql: asyncpg.Connection) -> None:
    """Have the ledger receive each event a day after it was observed: there is a past to ask about."""
    later = moved("observed_at", "+ interval '1 day'")
    await sql.execute(f"UPDATE llm_outcomes SET received_at = {later}")


def moved(column: str, by: str) -> str:
    """SQL for a time so much earlier or later.

    In timestamps without a zone: what depends on the session's zone is no UPDATE for Citus.
    """
    return f"({column} AT TIME ZONE 'UTC' {by}) AT TIME ZONE 'UTC'"


async def known(sql: asyncpg.Connection, as_of: datetime | None = None) -> list[Row]:
    """All decisions with the outcome that was known at a time, or is now."""
    ledger: dict[UUID, list[Row]] = defaultdict(list)
    for event in await sql.fetch("SELECT * FROM llm_outcomes"):
        if as_of is None or event["received_at"] <= as_of:
            ledger[event["decision_id"]].append(dict(event))
    rows = []
    for row in map(dict, await sql.fetch("SELECT * FROM llm_decisions")):
        if as_of is not None and row["created_at"] > as_of:
            continue
        events = ledger[row["id"]]
        last = max(events, key=_rank, default=None)
        row["outcome"], row["pnl"] = (last["outcome"], last["pnl"]) if last else (None, None)
        row["outcome_at"] = min(last["observed_at"], last["received_at"]) if last else None
        rows.append(row)
    return rows


def _rank(event: Row) -> tuple[datetime, int]:
    return min(event["observed_at"], event["received_at"]), event["stream_sequence"]


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """The rows of each key."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def percentile(numbers: list[int], part: float) -> float | None:
    """Between the two neighbours of the place, in proportion."""
    if not numbers:
        return None
    numbers = sorted(numbers)
    below, rest = divmod(part * (len(numbers) - 1), 1)
    above = min(int(below) + 1, len(numbers) - 1)
    return numbers[int(below)] + rest * (numbers[above] - numbers[int(below)])


def drawdown(rows: list[Row]) -> Decimal | None:
    """The greatest fall of the running P&L from a peak, of which 0 is the first."""
    peak = equity = worst = Decimal()
    told = sorted(rows, key=lambda row: (row["outcome_at"] or row["created_at"], row["id"]))
    for row in told:
        equity += row["pnl"] or 0
        peak = max(peak, equity)
        worst = max(worst, peak - equity)
    return worst if any(row["pnl"] is not None for row in rows) else None


def given(rows: list[Row], column: str) -> list[Any]:
    """The values of a column that are not NULL."""
    return [row[column] for row in rows if row[column] is not None]


def mean(numbers: list[Any]) -> Any:
    return statistics.mean(numbers) if numbers else None
