"""Decisions for the world outside, compared with the rows themselves."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.factory import decision, deliver
from tests.record import BEGIN, known
from tracker_daemon.queries import Filter, count_decisions, export_decisions
from tracker_daemon.queries.export import COLUMNS, ROWS
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from uuid import UUID

    from tests.record import Row

BOOKS = {"content_hash", "outcome_sequence"}


async def export(sql: asyncpg.Connection, wanted: Filter, *, ledger: bool = False) -> list[Row]:
    """All batches, one after the other."""
    return [row async for rows in export_decisions(sql, wanted, ledger=ledger) for row in rows]


def in_order(row: Row) -> Any:
    return row["created_at"], row["id"]


async def test_every_column_but_the_books(sql: asyncpg.Connection) -> None:
    columns = await sql.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'llm_decisions'::regclass AND attnum > 0"
    )
    assert {column["attname"] for column in columns} - BOOKS == set(COLUMNS)


@pytest.mark.parametrize("as_of", [None, BEGIN + timedelta(days=8)])
@pytest.mark.parametrize("agent", [None, "risk", "nobody"])
async def test_what_a_filter_chooses_with_its_outcome_and_ledger(
    as_of: Any, agent: str | None, record: asyncpg.Connection
) -> None:
    """Also as it was at a time."""
    rows = [row for row in await known(record, as_of) if agent in {None, row["agent_name"]}]
    expected = [{name: row[name] for name in COLUMNS} for row in sorted(rows, key=in_order)]
    wanted = Filter(agent_name=agent, as_of=as_of)
    assert await export(record, wanted) == expected
    assert await count_decisions(record, wanted) == len(expected)
    ledger: dict[UUID, set[UUID]] = {row["id"]: set() for row in expected}
    for event in await record.fetch("SELECT * FROM llm_outcomes"):
        if event["decision_id"] in ledger and (as_of is None or event["received_at"] <= as_of):
            ledger[event["decision_id"]].add(event["event_id"])
    for row in await export(record, wanted, ledger=True):
        assert {event["event_id"] for event in row["outcomes"]} == ledger.pop(row["id"])
        assert [event["outcome"] for event in row["outcomes"][-1:]] == [row["outcome"]] * bool(row["outcome"])
    assert not ledger


async def test_one_snapshot_a_few_at_a_time(record: asyncpg.Connection, dsn: str) -> None:
    """What is stored and deleted while it is under way does not matter."""
    before = sorted(await known(record), key=in_order)
    store, seen = Store(dsn), []
    other = await asyncpg.connect(dsn)
    async with aclosing(export_decisions(record, Filter())) as batches:
        async for rows in batches:
            assert 0 < len(rows) <= ROWS
            if not seen:
                await store.write(deliver(decision(timestamp=BEGIN.isoformat())))
                await other.execute("DELETE FROM llm_decisions WHERE agent_name = 'risk'")
            seen += [row["id"] for row in rows]
    assert seen == [row["id"] for row in before]
    assert await record.fetchval("SELECT count(*) FROM llm_decisions") != len(seen)
    await other.close()
    await store.close()
