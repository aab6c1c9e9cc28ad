"""What each panel of *Decisions* shows a role that may only read is what plain Python makes of the rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import orjson
import pytest

from tests.factory import delivery, message
from tests.grafana import BUCKET_SECONDS, expand, targets, variables
from tracker_daemon.demo.market import load
from tracker_daemon.demo.script import Script
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    import asyncpg

    from tracker_daemon.demo import script
    from tracker_daemon.messages import Delivery, Message

    Record = Mapping[str, Any]
    Row = tuple[Any, ...]

NOW = datetime.now(UTC)
DECISIONS = 400
COLUMNS = {"agent": "agent_name", "model": "model", "symbol": "symbol"}


class Choice(NamedTuple):
    """What somebody looks at: a time range, and values of the variables, All where there are none."""

    since: datetime
    until: datetime
    chosen: Mapping[str, Sequence[str]]

    def holds(self, row: Record, time: str) -> bool:
        """Whether a row lies in the time range and is among what is chosen."""
        return self.since <= row[time] <= self.until and all(
            row[COLUMNS[name]] in values for name, values in self.chosen.items()
        )


EVERYTHING = Choice(NOW - timedelta(days=90), NOW + timedelta(hours=1), {})
PART = Choice(
    NOW - timedelta(days=30),
    NOW - timedelta(days=4),
    {"agent": ["O'Brien", "momentum"], "model": ["gpt-x"], "symbol": ["AAPL", "AMZN", "GOOG", "MSFT"]},
)


class Data(NamedTuple):
    """The rows that somebody looks at."""

    decisions: list[Record]
    dead_letters: list[Record]


def grouped(rows: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    """Rows by what the key says of them."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def bucket(row: Record, time: str = "created_at") -> float:
    """The Unix time at which the row's interval begins."""
    return row[time].timestamp() // BUCKET_SECONDS * BUCKET_SECONDS


def told(rows: Iterable[Record], column: str) -> list[Any]:
    """The values that are not NULL."""
    return [row[column] for row in rows if row[column] is not None]


def total(rows: Iterable[Record], column: str) -> Any:
    """Their sum; of none NULL."""
    values = told(rows, column)
    return sum(values) if values else None


def mean(rows: Sequence[Record], column: str) -> Any:
    """Their mean; of none NULL."""
    values = told(rows, column)
    return sum(values) / len(values) if values else None


def quantile(rows: Iterable[Record], share: float) -> float | None:
    """The latency, in ms, below which that share lies, between two of them in proportion."""
    values = sorted(told(rows, "latency_ms"))
    if not values:
        return None
    place = share * (len(values) - 1)
    below, above = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return float(below + (above - below) * (place % 1))


def fates(rows: Sequence[Record]) -> tuple[int, int, int]:
    """How many were successful, failed, are undecided."""
    words = Counter(row["outcome"] for row in rows)
    return words["SUCCESS"], words["FAILURE"], words[None] + words["PENDING"]


def rates(rows: Sequence[Record]) -> tuple[float, float | None]:
    """success_rate = successful / total; resolved_success_rate = successful / (successful + failed)."""
    successful, failed, _ = fates(rows)
    return successful / len(rows), successful / (successful + failed) if successful + failed else None


def totals(data: Data) -> list[Row]:
    rows = data.decisions
    sums = [total(rows, column) for column in ("pnl", "cost_usd", "tokens_used")]
    return [(len(rows), fates(rows)[2], *rates(rows), *sums)]


def volume(data: Data) -> list[Row]:
    groups = grouped(data.decisions, lambda row: (bucket(row), row["agent_name"]))
    return [(*key, len(rows)) for key, rows in groups.items()]


def success_over_time(data: Data) -> list[Row]:
    return [(time, *rates(rows)) for time, rows in grouped(data.decisions, bucket).items()]


def success_by_agent(data: Data) -> list[Row]:
    agents = grouped(data.decisions, lambda row: row["agent_name"])
    return [
        (name, len(rows), *fates(rows), *rates(rows), total(rows, "pnl")) for name, rows in agents.items()
    ]


def confidence_against_outcome(data: Data) -> list[Row]:
    resolved = [row for row in data.decisions if row["outcome"] in ("SUCCESS", "FAILURE")]
    known = [row for row in resolved if row["confidence"] is not None]
    tenths = grouped(known, lambda row: min(int(row["confidence"] * 10), 9))
    return [
        (
            f"{tenth / 10} to {(tenth + 1) / 10}",
            mean(rows, "confidence"),
            rates(rows)[1],
            len(rows),
        )
        for tenth, rows in tenths.items()
    ]


def sums(column: str, by: str) -> Callable[[Data], list[Row]]:
    """What each interval adds up to, for each agent or model."""

    def compute(data: Data) -> list[Row]:
        rows = [row for row in data.decisions if row[column] is not None]
        groups = grouped(rows, lambda row: (bucket(row), row[by]))
        return [(*key, total(group, column)) for key, group in groups.items()]

    return compute


def cumulative_pnl(data: Data) -> list[Row]:
    found = []
    for agent, steps in grouped(sums("pnl", "agent_name")(data), lambda row: row[1]).items():
        steps.sort()
        so_far = accumulate(step[2] for step in steps)
        found += [(step[0], agent, value) for step, value in zip(steps, so_far, strict=True)]
    return found


def latency(data: Data) -> list[Row]:
    rows = [row for row in data.decisions if row["latency_ms"] is not None]
    groups = grouped(rows, lambda row: (bucket(row), row["model"]))
    return [(*key, quantile(group, 0.5), quantile(group, 0.95)) for key, group in groups.items()]


def models(data: Data) -> list[Row]:
    return [
        (
            *(name, len(rows), quantile(rows, 0.5), quantile(rows, 0.95)),
            *(total(rows, "cost_usd"), mean(rows, "cost_usd")),
            total(rows, "tokens_used"),
        )
        for name, rows in grouped(data.decisions, lambda row: row["model"]).items()
    ]


def latest(data: Data) -> list[Row]:
    columns = ("created_at", "agent_name", "model", "symbol", "decision_type", "action", "confidence")
    more = ("outcome", "pnl", "latency_ms", "cost_usd")
    rows = sorted(data.decisions, key=lambda row: row["id"])
    rows.sort(key=lambda row: row["created_at"], reverse=True)
    return [(*(row[column] for column in columns + more), str(row["id"])) for row in rows[:100]]


def dead_letters(data: Data) -> list[Row]:
    groups = grouped(data.dead_letters, lambda row: (bucket(row, "received_at"), row["reason"]))
    return [(*key, len(rows)) for key, rows in groups.items()]


PANELS: dict[str, Callable[[Data], list[Row]]] = {
    "Totals": totals,
    "Decision volume by agent": volume,
    "Success over time": success_over_time,
    "Success rate by agent": success_by_agent,
    "Confidence against outcome": confidence_against_outcome,
    "P&L by agent": sums("pnl", "agent_name"),
    "Cumulative P&L by agent": cumulative_pnl,
    "Latency by model": latency,
    "Latency, cost and tokens of each model": models,
    "Cost by model": sums("cost_usd", "model"),
    "Tokens by model": sums("tokens_used", "model"),
    "Latest decisions": latest,
    "Dead letters by reason": dead_letters,
}


def deliveries() -> list[Delivery]:
    """The demo's messages, with what its rules cannot have: models that cost, and outcomes that stay open."""
    chance = random.Random(5)  # noqa: S311 - a test's data
    return [delivery(enriched(each, chance)) for each in Script(load(NOW), limit=DECISIONS).messages()]


def enriched(demo: script.Message, chance: random.Random) -> Message:
    """One message of the demo as the store takes it."""
    subject = f"llm.{demo.subject}"
    if demo.kind == "malformed":
        return message(demo.payload, subject=subject)
    payload = orjson.loads(demo.payload)
    if demo.kind == "outcome":
        return message(payload | {"outcome": chance.choice([payload["outcome"]] * 9 + ["PENDING"])})
    reported = {
        "latency_ms": chance.randrange(5_000),
        "cost_usd": Decimal(chance.randrange(9_999)) / 10_000,
        "tokens_used": chance.randrange(5_000),
    }
    payload |= {name: value for name, value in reported.items() if chance.random() < 0.9}
    payload |= {
        "model": chance.choice(["gpt-x", "claude-y"]),
        "confidence": chance.choice([payload["confidence"]] * 8 + [1, None]),
    }
    return message(payload | {"agent_name": chance.choice([payload["agent_name"]] * 4 + ["O'Brien"])})


@pytest.fixture
async def reader(dsn: str, sql: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to what the store made of it all, in a role that may read just what is shown."""
    store = Store(dsn)
    await store.write(deliveries())
    await store.close()
    role = f"reader_{uuid4().hex}"
    await sql.execute(
        f"CREATE ROLE {role} LOGIN; "  # to the nodes of Citus
        f"GRANT SELECT ON llm_decisions, llm_monitoring, llm_dead_letters TO {role}; SET ROLE {role}"
    )
    yield sql
    await sql.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def rows_of(sql: asyncpg.Connection, choice: Choice) -> Data:
    """Everything in the tables that the choice holds; dead letters name no agent, and so on."""
    decisions = await sql.fetch("SELECT * FROM llm_decisions")
    letters = await sql.fetch("SELECT * FROM llm_dead_letters")
    unchosen = choice._replace(chosen={})
    return Data(
        [row for row in decisions if choice.holds(row, "created_at")],
        [row for row in letters if unchosen.holds(row, "received_at")],
    )


def comparable(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    """Rows in an order of their own, their decimals as floats, as Grafana has them."""
    plain = [[float(value) if isinstance(value, Decimal) else value for value in row] for row in rows]
    return sorted(plain, key=lambda row: repr(row[:2]))


def equal(shown: list[list[Any]], expected: list[list[Any]]) -> bool:
    """Whether they say the same, but for the last places of a float."""
    return len(shown) == len(expected) and all(
        pair[0] == (pytest.approx(pair[1]) if isinstance(pair[1], float) else pair[1])
        for rows in zip(shown, expected, strict=True)
        for pair in zip(*rows, strict=True)
    )


@pytest.mark.parametrize("choice", [EVERYTHING, PART], ids=["everything", "a part"])
async def test_each_panel_shows_what_the_rows_say(reader: asyncpg.Connection, choice: Choice) -> None:
    """And a panel that is compared with nothing has no place here."""
    data = await rows_of(reader, choice)
    assert 10 < len(data.decisions) <= DECISIONS + 1
    seen = set()
    for title, target in targets("decisions"):
        rows = await reader.fetch(expand(target["rawSql"], *choice))
        expected = comparable(PANELS[title](data))
        assert equal(comparable(rows), expected), (title, comparable(rows), expected)
        if target["format"] == "time_series":
            times = [row["time"] for row in rows]
            assert times == sorted(times), f"{title}: Grafana wants time series in the order of time"
        seen.add(title)
        assert rows or choice is PART, f"{title} shows nothing"
    assert seen == set(PANELS)


async def test_each_variable_offers_what_is_there(reader: asyncpg.Connection) -> None:
    data = await rows_of(reader, PART._replace(chosen={}))
    for variable in variables("decisions"):
        offered = await reader.fetch(expand(variable["query"], PART.since, PART.until))
        there = {row[COLUMNS[variable["name"]]] for row in data.decisions}
        assert sorted(row[0] for row in offered) == sorted(there)
    assert len(variables("decisions")) == len(COLUMNS)


async def test_an_empty_database_is_no_error(sql: asyncpg.Connection) -> None:
    for _, target in targets("decisions"):
        await sql.fetch(expand(target["rawSql"], *EVERYTHING))
