"""Messages from behind the horizon against a real PostgreSQL: what is stored, and what has expired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tests.factory import CONTRACT, days_ago, decision, deliver, delivery, message, outcome
from tests.texts import waiting
from tracker_daemon.postgres import connected, register_types
from tracker_daemon.store.dead_letters import Filter, replay
from tracker_daemon.store.reconcile import look_up, trace
from tracker_daemon.store.transaction import Transaction

if TYPE_CHECKING:
    import asyncpg
    import pytest

    from tracker_daemon.messages import Delivery
    from tracker_daemon.store import Store
    from tracker_daemon.store.reconcile import Found
    from tracker_daemon.store.tables import Table


async def prune(sql: asyncpg.Connection, *ids: UUID, days: int = 30) -> None:
    """Move the horizon, and delete these decisions with their outcomes."""
    await sql.execute("UPDATE tracker_retention SET horizon = now() - make_interval(days => $1)", days)
    await sql.execute("DELETE FROM llm_decisions WHERE id = ANY($1)", ids)
    await sql.execute("DELETE FROM llm_outcomes WHERE decision_id = ANY($1)", ids)


def old(**fields: Any) -> dict[str, Any]:
    """A decision's payload from behind the horizon."""
    return decision(timestamp=days_ago(31), **fields)


async def rows(sql: asyncpg.Connection) -> list[int]:
    """Rows of decisions, outcomes, sessions and dead letters."""
    tables = ("llm_decisions", "llm_outcomes", "trading_sessions", "llm_dead_letters")
    return [await sql.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


async def found(sql: asyncpg.Connection, deliveries: list[Delivery]) -> list[Found]:
    """Where `verify` finds them."""
    return await look_up(sql, [trace(delivery.message, delivery.record) for delivery in deliveries])


async def test_as_long_as_nothing_was_pruned_nothing_is_too_old(
    store: Store, sql: asyncpg.Connection
) -> None:
    batch = deliver(decision(timestamp="1901-01-01T00:00:00Z"), outcome(uuid4(), timestamp=days_ago(9000)))
    assert await store.write(batch) == ["stored"] * 2
    await sql.execute("DELETE FROM llm_outcomes")
    assert await found(sql, batch) == ["row", None]


async def test_a_decision_behind_the_horizon_leaves_nothing(store: Store, sql: asyncpg.Connection) -> None:
    """Neither itself nor its outcome, its session, its place in the queue; what it came with is stored."""
    await prune(sql)
    batch = deliver(
        decision(),
        old(session_id=str(uuid4()), outcome="SUCCESS", prompt_embedding=[1, 2, 3]),
        decision(timestamp=days_ago(29), outcome="FAILURE"),
        b"bad",
    )
    assert await store.write(batch) == ["stored", "expired", "stored", "dead_letter"]
    assert await rows(sql) == [2, 1, 0, 1]
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_queue") == 0
    assert await waiting(sql) == [batch[0].message.identity, batch[2].message.identity]
    assert await store.write(batch) == ["duplicate", "expired", "duplicate", "duplicate"]
    assert await found(sql, batch) == ["row", "expired", "row", "dead_letter"]


async def test_what_was_pruned_does_not_come_back(store: Store, sql: asyncpg.Connection) -> None:
    """However often the stream delivers it; outcomes come back that are too young to have expired."""
    id_ = uuid4()
    batch = deliver(
        old(id=str(id_)),
        outcome(id_, "PENDING", timestamp=days_ago(31)),
        outcome(id_, timestamp=days_ago(1)),
    )
    assert await store.write(batch) == ["stored"] * 3
    await prune(sql, id_)
    assert await found(sql, batch) == ["expired", "expired", "stray"]
    assert await store.write(batch) == ["expired", "expired", "stored"]
    assert await store.write(batch) == ["expired", "expired", "duplicate"]
    assert await rows(sql) == [0, 1, 0, 0]


async def test_what_is_old_and_not_pruned_yet_is_judged_as_ever(
    store: Store, sql: asyncpg.Connection
) -> None:
    """A duplicate, a conflict, another outcome of a decision that is there, an event without a decision."""
    id_, stray = str(uuid4()), outcome(uuid4(), timestamp=days_ago(40))
    first = deliver(old(id=id_, outcome="PENDING"), stray)
    assert await store.write(first) == ["stored"] * 2
    await prune(sql)
    other = deliver(old(id=id_, prompt="Another?"), outcome(id_, timestamp=days_ago(31.5)))
    assert await store.write([*first, *other]) == ["duplicate", "duplicate", "dead_letter", "stored"]
    assert await rows(sql) == [1, 3, 0, 1]
    await sql.execute("DELETE FROM llm_outcomes WHERE decision_id = $1", UUID(id_))
    # Its decision is there, so it should be too: no horizon explains that.
    assert await found(sql, [first[0], other[1]]) == [None, None]


async def test_an_outcome_of_a_decision_in_its_batch_is_stored_however_old_it_says_it_is(
    store: Store, sql: asyncpg.Connection
) -> None:
    await prune(sql)
    id_ = str(uuid4())
    batch = deliver(
        outcome(id_, timestamp=days_ago(50)), decision(id=id_), outcome(uuid4(), timestamp=days_ago(50))
    )
    assert await store.write(batch) == ["stored", "stored", "expired"]
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"


async def test_what_is_pruned_while_a_batch_is_written_has_expired(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the batch was copied, and is gone when its content is compared."""
    id_ = uuid4()
    batch = deliver(old(id=str(id_)), decision(), decision())

    async def copy_and_prune(self: Transaction, table: Table, rows: Any) -> set[tuple[Any, ...]]:
        keys = await copy(self, table, rows)
        await prune(sql, id_)
        return keys

    copy = Transaction._copy
    async with connected(dsn) as connection:
        await register_types(connection)
        await Transaction(connection, batch[:1]).commit()
        monkeypatch.setattr(Transaction, "_copy", copy_and_prune)
        assert (await Transaction(connection, batch).commit()).results == ["expired", "stored", "stored"]
    assert await rows(sql) == [2, 0, 0, 0]


async def test_a_letter_that_was_pruned_does_not_come_back(store: Store, sql: asyncpg.Connection) -> None:
    """By the time at which its message was published; one that is there still is what it was."""
    pruned, kept = batch = deliver(b"bad", b"worse")
    await store.write(batch)
    await sql.execute("DELETE FROM llm_dead_letters WHERE id = $1", pruned.message.identity)
    await sql.execute("UPDATE tracker_retention SET horizon = now()")
    assert await found(sql, batch) == ["expired", "dead_letter"]
    assert await store.write([*batch, *deliver(b"bad")]) == ["expired", "duplicate", "dead_letter"]
    assert await rows(sql) == [0, 0, 0, 2]
    results = [letter.result async for letter in replay(sql, Filter(ids=[kept.message.identity]), CONTRACT)]
    assert "expired" not in results


async def test_a_replayed_letter_from_behind_the_horizon_has_expired(
    store: Store, sql: asyncpg.Connection
) -> None:
    """It is marked like one that was stored, and not offered again."""
    refused = delivery(message(old(symbol="X" * 21)))
    await store.write([refused])
    payload = await sql.fetchval("SELECT payload FROM llm_dead_letters")
    await sql.execute("UPDATE llm_dead_letters SET payload = $1", payload.replace(b"X" * 21, b"X"))
    await prune(sql)
    results = [letter.result async for letter in replay(sql, Filter(replayed=False), CONTRACT)]
    assert results == ["expired"]
    assert await rows(sql) == [0, 0, 0, 1]
    assert await sql.fetchval("SELECT replayed_at IS NOT NULL FROM llm_dead_letters")
    await sql.execute("DELETE FROM llm_dead_letters")
    assert await found(sql, [refused]) == [None]
    await sql.execute("UPDATE tracker_retention SET horizon = now()")
    assert await found(sql, [refused]) == ["expired"]
