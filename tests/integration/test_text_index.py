"""The index of texts against a real PostgreSQL: what comes into it, and what must not keep it from working.

How a backlog is worked off in steps is shown by `test_backlog.py`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from tests.chores import running
from tests.conftest import DIMENSIONS
from tests.factory import days_ago, decision, deliver
from tests.locks import blocked
from tests.texts import index_all, indexed, nothing_waits, queue, store, waiting
from tests.waiting import until, until_metric
from tracker_daemon.backlog import LOOK_SECONDS
from tracker_daemon.lease import Lease
from tracker_daemon.migrate import migrate, migrations
from tracker_daemon.postgres import connected
from tracker_daemon.queries import Filter, reading, search
from tracker_daemon.retention import cutoff, move_horizon, prune, pruning
from tracker_daemon.store import Store
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    import asyncpg


async def store_as_older(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Store decisions as a daemon does that knows nothing of the index: in its table alone."""
    await sql.executemany(
        "INSERT INTO llm_decisions (id, agent_name, decision_type, symbol, prompt, response, model) "
        "VALUES ($1, 'momentum', 'signal', 'BTC', 'older', '!', 'gpt-x')",
        [(id_,) for id_ in ids],
    )


def words(number: int) -> str:
    """A prompt that says which one it is."""
    return f"Buy number{number}"


# What comes into it.


@pytest.mark.usefixtures("_impatient")
async def test_what_is_stored_comes_into_the_index_and_leaves_the_queue(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """More than a row of the queue holds, and more than a step takes."""
    ids = await store(dsn, *map(words, range(250)))
    assert await waiting(sql) == ids
    async with running(TextIndex(dsn)):
        await until(lambda: indexed(sql))
        ids += await store(dsn, words(250))
        await until(lambda: nothing_waits(sql))
        await until_metric("tracker_text_index_waiting", 0)
    assert await indexed(sql) == {id_: {"buy", f"number{number}"} for number, id_ in enumerate(ids)}


async def test_a_row_of_the_queue_stays_in_one_piece(dsn: str, sql: asyncpg.Connection) -> None:
    await store(dsn, *map(words, range(250)))
    rows = await sql.fetch(
        "SELECT cardinality(decisions) AS size, pg_column_toast_chunk_id(decisions) AS elsewhere "
        "FROM llm_text_queue ORDER BY id"
        if sql.get_server_version().major >= 17
        else "SELECT cardinality(decisions) AS size, NULL AS elsewhere FROM llm_text_queue ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [(100, None), (100, None), (50, None)]


@pytest.mark.usefixtures("_impatient")
async def test_what_is_gone_or_indexed_already_only_leaves_the_queue(
    dsn: str, sql: asyncpg.Connection
) -> None:
    kept, gone = await store(dsn, "kept", "gone")
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", gone)
    await queue(sql, uuid4())
    with capture_logs() as lines:
        async with running(TextIndex(dsn)):
            await until(lambda: nothing_waits(sql))
            await queue(sql, kept, kept)
            await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == {kept: {"kept"}}
    assert lines == []


TEXTS = {
    "short words": (" ".join(chr(0x20000 + number) for number in range(42_000)), {"\U00020000"}),
    "a book": ("Buy now! " * 150_000, {"buy", "now"}),
    "words of 2 kB": (" ".join(f"{number:02000x}" for number in range(60)), {f"{1:02000x}"}),
    "too long a word": ("x" * 3000 + " found", {"found"}),
    "nothing but one word": ("x" * 1_500_000, set()),
    "nothing but spaces": (" " * 1_500_000, set()),
    "nothing": ("", set()),
    "tickers": ("Buy BTC/USDT, <b>hold</b> ETH/USD", {"buy", "btc", "usdt", "b", "hold", "eth", "usd"}),
}


@pytest.mark.parametrize("name", TEXTS)
async def test_a_text_of_whatever_kind_is_indexed(name: str, dsn: str, sql: asyncpg.Connection) -> None:
    """Prompt and response alike."""
    text, some = TEXTS[name]
    writer = Store(dsn)
    await writer.write(deliver(decision(prompt=text, response=text)))
    await writer.close()
    with capture_logs() as lines:
        await index_all(dsn)
    assert lines == []
    [found] = (await indexed(sql)).values()
    assert found >= some
    assert bool(found) == bool(some)


async def test_the_text_that_takes_most_room_fits(dsn: str, sql: asyncpg.Connection) -> None:
    """Words of one letter, each of four bytes and only once, two by two with a hyphen between."""
    letters = [chr(0x20000 + number) for number in range(80_000)]
    pairs = list(map("-".join, zip(letters[::2], letters[1::2], strict=True)))
    writer = Store(dsn)
    batch = deliver(decision(prompt=" ".join(pairs[:20_000]), response=" ".join(pairs[20_000:])))
    assert await writer.write(batch) == ["stored"]
    await writer.close()
    await index_all(dsn)
    [found] = (await indexed(sql)).values()
    assert found >= {"\U00020000", "\U00020000-\U00020001"}


@pytest.mark.parametrize(("size", "taken"), [(1, 100), (199, 100), (200, 200), (2048, 250)])
async def test_a_step_takes_the_rows_that_fit_and_at_least_one(
    size: int, taken: int, dsn: str, sql: asyncpg.Connection
) -> None:
    ids = await store(dsn, *map(words, range(250)))
    index = TextIndex(dsn)
    index._rows = size
    await index.look()
    await index.leave()
    assert (await indexed(sql)).keys() == set(ids[:taken])
    assert await waiting(sql) == ids[taken:]


async def test_what_was_stored_before_there_was_an_index_is_queued_by_the_migration(
    database: str,
) -> None:
    before = [migration for migration in migrations() if migration.name != "text_index"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracker_daemon.migrate.migrations", lambda: before)
        await migrate(database, DIMENSIONS)
    async with connected(database) as sql:
        stored = await sql.fetch(
            "INSERT INTO llm_decisions "
            "(created_at, agent_name, decision_type, symbol, prompt, response, model) "
            "SELECT NULLIF(now() - interval '1 hour' * number, now()), '', '', '', '?', '!', '' "
            "FROM generate_series(0, 204) number RETURNING id, created_at"
        )
        await migrate(database, DIMENSIONS)
        [no_time] = [row["id"] for row in stored if row["created_at"] is None]
        oldest_first = [row["id"] for row in reversed(stored) if row["created_at"]]
        assert await waiting(sql) == [*oldest_first, no_time]
        sizes = await sql.fetch("SELECT cardinality(decisions) FROM llm_text_queue ORDER BY id")
        assert [size for (size,) in sizes] == [100, 100, 5]


@pytest.mark.usefixtures("_impatient")
async def test_what_an_older_daemon_stores_beside_it_is_queued_too(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several steps, from the first key to the last; before it starts, and while it runs."""
    monkeypatch.setattr("tracker_daemon.text_index.SWEEP_ROWS", 7)
    monkeypatch.setattr("tracker_daemon.text_index.SWEEP_SECONDS", 0.02)
    before = [UUID(int=0), *(uuid4() for _ in range(30)), UUID(int=2**128 - 1)]
    beside = [uuid4() for _ in range(10)]

    async def found(*ids: UUID) -> bool:
        async with reading(sql):
            page = await search(sql, "older or buy", Filter(), 1000)
        return {hit.decision.id for hit in page.rows} == set(ids)

    await store_as_older(sql, *before)
    new = await store(dsn, *map(words, range(20)))
    assert await found(*new)
    async with running(TextIndex(dsn)):
        await until(lambda: found(*new, *before))
        await store_as_older(sql, *beside)
        await until(lambda: found(*new, *before, *beside))
        await until(lambda: nothing_waits(sql))
    assert (await indexed(sql)).keys() == {*new, *before, *beside}


async def test_a_sweep_queues_what_is_in_neither_place_in_rows_of_a_hundred(
    dsn: str, sql: asyncpg.Connection
) -> None:
    done = await store(dsn, *map(words, range(20)))
    await index_all(dsn)
    queued = await store(dsn, *map(words, range(20)))
    ids = {uuid4() for _ in range(150)}
    await store_as_older(sql, *ids)
    index = TextIndex(dsn)
    async with connected(dsn) as connection:
        assert not await index._sweep(connection)
    waits = await waiting(sql)
    assert waits[:20] == queued
    assert set(waits[20:]) == ids
    assert len(waits) == 170
    sizes = await sql.fetch("SELECT cardinality(decisions) FROM llm_text_queue ORDER BY id")
    assert sorted(size for (size,) in sizes) == [20, 50, 100]
    assert (await indexed(sql)).keys() == set(done)


async def test_a_sweep_ends_while_decisions_keep_coming(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ever greater keys, as those that are made of times."""
    monkeypatch.setattr("tracker_daemon.text_index.SWEEP_ROWS", 7)
    await store_as_older(sql, *(UUID(int=number) for number in range(10)))
    index, last = TextIndex(dsn), 9
    async with connected(dsn) as connection:
        while await index._sweep(connection) and last < 20:
            last += 1
            await store_as_older(sql, UUID(int=last))
    assert last == 10
    assert len(await waiting(sql)) == 11


async def test_it_sweeps_now_and_again_and_one_daemon_at_a_time(dsn: str, sql: asyncpg.Connection) -> None:
    await store_as_older(sql, uuid4())
    other = Lease("text_index")
    await other.take(sql)
    index = TextIndex(dsn)
    assert await index.look() >= LOOK_SECONDS
    assert await nothing_waits(sql)
    await other.give_back(sql)
    while not await indexed(sql):
        await index.look()
    await store_as_older(sql, uuid4())
    assert await index.look() >= LOOK_SECONDS
    assert await nothing_waits(sql)
    await index.leave()


# What must not keep it from working.


@pytest.mark.usefixtures("_impatient")
async def test_what_cannot_be_indexed_holds_nothing_up_and_is_said(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE llm_text_index ADD CONSTRAINT sane CHECK (NOT document @@ 'poison')")
    ids = await store(dsn, *map(words, range(30)), "poison", *map(words, range(30)))
    with capture_logs() as lines:
        async with running(TextIndex(dsn)):
            await until(lambda: nothing_waits(sql))
            ids += await store(dsn, "another")
            await until(lambda: nothing_waits(sql))
    poisoned = ids.pop(30)
    assert (await indexed(sql)).keys() == set(ids)
    assert lines[0] == {
        "log_level": "warning",
        "event": "a decision that no search will find",
        "decision": str(poisoned),
        "reason": "SQLSTATE 23514 on llm_text_index, sane",
    }
    assert all(line == lines[0] for line in lines)  # once a sweep


# Beside the pruning.


async def old(dsn: str) -> None:
    """Store a decision that is old enough to go."""
    writer = Store(dsn)
    await writer.write(deliver(decision(timestamp=days_ago(31))))
    await writer.close()


async def pruned(dsn: str) -> None:
    async with connected(dsn) as connection:
        before = await cutoff(connection, timedelta(days=30))
        await move_horizon(connection, before)
        async for _ in prune(connection, before, unreplayed=False):
            pass


async def test_a_decision_that_is_pruned_in_the_middle_of_its_step_leaves_no_trace(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """The step has read it and not entered it yet: the pruning waits for the step."""
    await old(dsn)
    index = TextIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_text_index IN EXCLUSIVE MODE")
        step = asyncio.create_task(index.look())
        await until(lambda: blocked(sql, 1))
        pruning = asyncio.create_task(pruned(dsn))
        await until(lambda: blocked(sql, 2))
    await asyncio.gather(step, pruning)
    await index.leave()
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 0
    assert await indexed(sql) == {}
    assert await waiting(sql) == []


async def test_a_step_in_the_middle_of_a_pruning_enters_nothing_that_goes(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pruning has deleted it, and is not committed yet: the step waits for the pruning."""
    patient = pruning._LIMITS.replace("lock_timeout = '500ms'", "lock_timeout = '60s'")
    monkeypatch.setattr(pruning, "_LIMITS", patient)  # until the step has come, on a busy machine too
    await old(dsn)
    index = TextIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_embedding_queue IN EXCLUSIVE MODE")
        going = asyncio.create_task(pruned(dsn))
        await until(lambda: blocked(sql, 1))
        step = asyncio.create_task(index.look())
        await until(lambda: blocked(sql, 2))
    await asyncio.gather(step, going)
    await index.leave()
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 0
    assert await indexed(sql) == {}
    assert await waiting(sql) == []
