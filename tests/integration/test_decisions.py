"""Lists of decisions and single ones, compared with plain Python over the same rows."""

from __future__ import annotations

import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.factory import decision as payload_of
from tests.factory import deliver, outcome
from tests.record import BEGIN, known
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import (
    Filter,
    decision,
    failed_decisions,
    reading,
    recent_decisions,
    successful_decisions,
)
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from tests.record import Row

LISTS: dict[Any, tuple[str | None, Callable[[Row], Any], bool]] = {
    recent_decisions: (None, lambda row: (row["created_at"], row["id"]), True),
    successful_decisions: ("SUCCESS", lambda row: (row["pnl"] or 0, row["id"]), True),
    failed_decisions: ("FAILURE", lambda row: (row["pnl"] or 0, row["id"]), False),
}


async def pages(sql: asyncpg.Connection, list_: Any, wanted: Filter, limit: int) -> list[UUID]:
    """The ids of all pages, one after the other."""
    ids: list[UUID] = []
    cursor = None
    while True:
        async with reading(sql):
            page = await list_(sql, wanted, limit, cursor)
        assert len(page.rows) <= limit
        ids += [row.id for row in page.rows]
        if (cursor := page.cursor) is None:
            return ids
        assert len(page.rows) == limit


@pytest.mark.parametrize("list_", LISTS)
@pytest.mark.parametrize("as_of", [None, BEGIN + timedelta(days=12)])
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_hold_every_row_once_in_order(
    list_: Any, as_of: Any, limit: int, record: asyncpg.Connection
) -> None:
    """Rows of equal time, equal P&L and none at all included."""
    word, key, descending = LISTS[list_]
    rows = [row for row in await known(record, as_of) if word is None or row["outcome"] == word]
    expected = [row["id"] for row in sorted(rows, key=key, reverse=descending)]
    assert await pages(record, list_, Filter(as_of=as_of), limit) == expected
    some = {row["id"] for row in rows if row["agent_name"] == "risk" and row["model"] == "gpt-y"}
    wanted = Filter(as_of=as_of, agent_name="risk", model="gpt-y")
    assert await pages(record, list_, wanted, limit) == [id_ for id_ in expected if id_ in some]


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Filter(symbol="ETH", action="SELL"), lambda row: (row["symbol"], row["action"]) == ("ETH", "SELL")),
        (Filter(decision_type="signal"), lambda _: True),
        (Filter(session_id=UUID(int=7)), lambda _: False),
        (Filter(outcome="PENDING"), lambda row: row["outcome"] in {None, "PENDING"}),
        (Filter(min_confidence=Decimal("0.5")), lambda row: (row["confidence"] or 0) >= Decimal("0.5")),
        (Filter(max_confidence=Decimal(0)), lambda row: row["confidence"] == 0),
        (Filter(min_pnl=Decimal(-100), max_pnl=Decimal("250.5")), lambda r: within(r["pnl"], -100, 250.5)),
        (Filter(min_latency_ms=100, max_latency_ms=10**30), lambda row: (row["latency_ms"] or 0) >= 100),
        (Filter(max_tokens_used=1000), lambda row: within(row["tokens_used"], 0, 1000)),
        (Filter(max_cost_usd=Decimal("0.1")), lambda row: within(row["cost_usd"], 0, Decimal("0.1"))),
        (Filter(context={"trend": "up"}), lambda row: '"up"' in (row["context"] or "")),
        (Filter(extra={"new": 1}), lambda _: False),
        (
            Filter(since=BEGIN + timedelta(days=2), until=BEGIN + timedelta(days=3)),
            lambda row: row["created_at"].day == 3,
        ),
    ],
)
async def test_filters(wanted: Filter, holds: Callable[[Row], bool], record: asyncpg.Connection) -> None:
    expected = {row["id"] for row in await known(record) if holds(row)}
    assert set(await pages(record, recent_decisions, wanted, 1000)) == expected


def within(value: Any, low: Any, high: Any) -> bool:
    return value is not None and low <= value <= high


async def test_numbers_of_any_length_are_looked_for(dsn: str, sql: asyncpg.Connection) -> None:
    """An amount in the smallest unit of a coin is soon longer than 64 bits."""
    store, amounts = Store(dsn), [2**64, 10**30 + 1]
    await store.write(deliver(*(payload_of(context={"wei": amount}) for amount in amounts)))
    await store.close()
    for amount in amounts:
        async with reading(sql):
            page = await recent_decisions(sql, Filter(context={"wei": amount}))
        assert [row.context for row in page.rows] == [{"wei": amount}]


async def test_one_decision_with_all_that_is_known_about_it(dsn: str, sql: asyncpg.Connection) -> None:
    """As it is now, and as it was before its outcome was corrected."""
    store, prompt = Store(dsn), "Buy? \U0001f4c8 " * 100_000
    fields: Row = {
        "id": str(uuid4()),
        "session_id": str(uuid4()),
        "prompt": prompt,
        "prompt_embedding": [1, -0.5, 0.25],
        "embedding_model": "e5",
        "context": {"rsi": 62.1, "list": [1, None]},
        "confidence": "0.8",
        "tokens_used": 812,
        "latency_ms": 930,
        "cost_usd": "0.0123",
        "experiment": "size",
        "variant": "large",
        "propensity": "0.5",
        "temperature": 0.2,
        "timestamp": BEGIN.isoformat(),
    }
    await store.write(deliver(payload_of(**fields)))
    for hours, word, pnl in ((2, "FAILURE", "-3"), (1, "SUCCESS", "250.50"), (3, "PENDING", None)):
        when = (BEGIN + timedelta(hours=hours)).isoformat()
        await store.write(deliver(outcome(fields["id"], word, pnl=pnl, timestamp=when, note=word)))
    await sql.execute("UPDATE llm_outcomes SET received_at = observed_at")
    async with reading(sql):
        whole = await decision(sql, UUID(fields["id"]))
        before = await decision(sql, UUID(fields["id"]), BEGIN + timedelta(hours=2, minutes=30))
        page = await recent_decisions(sql, Filter())
        assert await decision(sql, uuid4()) is None
        assert await decision(sql, UUID(fields["id"]), BEGIN - timedelta(hours=1)) is None
    assert whole is not None
    assert before is not None
    told = msgspec.structs.asdict(whole.decision)
    expected = {
        "prompt": prompt,
        "context": {"rsi": 62.1, "list": [1, None]},
        "extra": {"temperature": 0.2},
        "confidence": Decimal("0.8"),
        "action": "BUY",
        "propensity": Decimal("0.5"),
        "created_at": BEGIN,
        "session_id": UUID(fields["session_id"]),
        "outcome": "PENDING",
        "pnl": None,
        "cut": False,
    }
    assert {name: told[name] for name in expected} == expected
    assert whole.prompt_embedding == (1, -0.5, 0.25)
    assert [(event.outcome, event.pnl, event.note) for event in whole.outcomes] == [
        ("SUCCESS", Decimal("250.50"), "SUCCESS"),
        ("FAILURE", Decimal(-3), "FAILURE"),
        ("PENDING", None, "PENDING"),
    ]
    assert (before.decision.outcome, before.decision.pnl) == ("FAILURE", Decimal(-3))
    assert [event.outcome for event in before.outcomes] == ["SUCCESS", "FAILURE"]
    assert page.rows[0].prompt == prompt[:4000]
    assert page.rows[0].cut
    await store.close()


async def test_of_a_long_ledger_the_last_events_are_told(dsn: str, sql: asyncpg.Connection) -> None:
    """Those before them are there for whoever asks how it was then."""
    store, id_ = Store(dsn), uuid4()
    await store.write(deliver(payload_of(id=str(id_), timestamp=BEGIN.isoformat())))
    await store.close()
    await sql.execute(
        """
        INSERT INTO llm_outcomes
            (decision_id, event_id, outcome, pnl, observed_at, received_at, stream_sequence)
        SELECT $1, gen_random_uuid(), 'PENDING', n, received_at, received_at, n
        FROM generate_series(1, 1500) n,
             LATERAL (SELECT $2::timestamptz + n * interval '1 s' AS received_at) event
        """,
        id_,
        BEGIN,
    )
    told = []
    for as_of in (None, BEGIN + timedelta(seconds=700)):
        async with reading(sql):
            whole = await decision(sql, id_, as_of)
        assert whole is not None
        told.append((whole.complete, [event.stream_sequence for event in whole.outcomes]))
    assert told == [(False, list(range(501, 1501))), (True, list(range(1, 701)))]
    noted = "UPDATE llm_outcomes SET note = repeat('x', $1) WHERE stream_sequence > 1490"
    for size, last in ((1 << 20, range(1497, 1501)), (5 << 20, [1500])):
        await sql.execute(noted, size)
        async with reading(sql):
            whole = await decision(sql, id_)
        assert whole is not None
        assert [event.stream_sequence for event in whole.outcomes] == list(last)
        assert not whole.complete


async def test_a_list_has_no_context_that_is_too_large(dsn: str, sql: asyncpg.Connection) -> None:
    """Nor anything unknown that is; a single decision has it. As PostgreSQL writes them, blanks included."""
    store, just = Store(dsn), "x" * (8000 - len('{"k": ""}'))
    await store.write(
        deliver(
            payload_of(symbol="FITS", context={"k": just}, k=just),
            payload_of(symbol="CONTEXT", context={"k": just + "x"}, k=just),
            payload_of(symbol="EXTRA", context={"k": just}, k=just + "x"),
            payload_of(symbol="DIGITS", context={"k": [1] * 2_600}),
            payload_of(symbol="NONE", context=None),
        )
    )
    await store.close()
    async with reading(sql):
        rows = {row.symbol: row for row in (await recent_decisions(sql, Filter())).rows}
        whole = await decision(sql, rows["CONTEXT"].id)
    found = {symbol: (row.context, row.extra, row.cut) for symbol, row in rows.items()}
    assert found == {
        "FITS": ({"k": just}, {"k": just}, False),
        "CONTEXT": (None, {"k": just}, True),
        "EXTRA": ({"k": just}, None, True),
        "DIGITS": ({"k": [1] * 2_600}, None, False),
        "NONE": (None, None, False),
    }
    assert whole is not None
    assert (whole.decision.context, whole.decision.cut) == ({"k": just + "x"}, False)


@pytest.mark.not_on_citus("its nodes read the texts")
async def test_a_list_reads_the_texts_of_its_page_alone(dsn: str, sql: asyncpg.Connection) -> None:
    """Also where all that it is about has to be sorted, as the planner likes to without statistics."""
    store = Store(dsn)
    long = random.Random(7).randbytes(10_000).hex()  # noqa: S311 - what no compression makes small
    await store.write(deliver(*(payload_of(prompt=long, context={}) for _ in range(50))))
    await store.close()
    await sql.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
    looks = """
        SELECT idx_scan FROM pg_stat_xact_all_tables
        WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'llm_decisions'::regclass)
    """
    async with reading(sql):
        before = await sql.fetchval(looks)
        page = await recent_decisions(sql, Filter(), 1)
        assert len(page.rows[0].prompt) == 4_000
        assert 0 < await sql.fetchval(looks) - before <= 2 * 2  # a text is cut, and asked for its length


async def test_columns_of_somebody_elses_do_not_disturb(record: asyncpg.Connection) -> None:
    """An adopted table keeps them, whatever they are called."""
    await record.execute("ALTER TABLE llm_decisions ADD COLUMN key text DEFAULT 'x', ADD COLUMN page text")
    assert len(await pages(record, recent_decisions, Filter(), 1000)) == 200
    assert await pages(record, successful_decisions, Filter(), 1000)


async def test_a_foreign_cursor_and_a_wrong_limit_are_refused(record: asyncpg.Connection) -> None:
    async with reading(record):
        page = await recent_decisions(record, Filter(), 5)
    assert page.cursor
    for list_, wanted, cursor in (
        (successful_decisions, Filter(), page.cursor),
        (recent_decisions, Filter(agent_name="risk"), page.cursor),
        (recent_decisions, Filter(), page.cursor[:-3]),
        (recent_decisions, Filter(), "bm8"),
        (recent_decisions, Filter(), "\u00fc"),
        (recent_decisions, Filter(), ""),
    ):
        with pytest.raises(InvalidQuestion, match="the cursor"):
            async with reading(record):
                await list_(record, wanted, 5, cursor)
    async with reading(record):
        page = await failed_decisions(record, Filter(), 5)
    asked, (_, id_) = msgspec.json.decode(urlsafe_b64decode(f"{page.cursor}=="))
    for number in ("1e200000", "-Infinity"):
        forged = urlsafe_b64encode(msgspec.json.encode([asked, [number, id_]])).decode()
        with pytest.raises(InvalidQuestion, match="the cursor is none of ours"):
            async with reading(record):
                await failed_decisions(record, Filter(), 5, forged)
    for limit in (0, -1, 1001, 10_000_000):
        with pytest.raises(InvalidQuestion, match="limit must be from 1 to 1000"):
            async with reading(record):
                await recent_decisions(record, Filter(), limit)
    with pytest.raises(InvalidQuestion, match="successful decisions have no outcome FAILURE"):
        async with reading(record):
            await successful_decisions(record, Filter(outcome="FAILURE"))
    with pytest.raises(InvalidQuestion, match="needs an offset"):
        Filter(since=BEGIN.replace(tzinfo=None))
