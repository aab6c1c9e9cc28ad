"""The vector index against a real PostgreSQL: what comes into it, who keeps it, what it waits out."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.chaos.proxy import PostgresProxy
from tests.chores import running
from tests.conftest import DIMENSIONS
from tests.embeddings import indexed, queue, store, waiting
from tests.factory import decision, deliver, outcome
from tests.servers import Away
from tests.waiting import until, until_metric
from tracker_daemon.backlog import FIRST_ROWS, LOOK_SECONDS, MAX_ROWS
from tracker_daemon.embeddings import EmbeddingIndex, nearest
from tracker_daemon.errors import Misconfigured
from tracker_daemon.lease import Lease
from tracker_daemon.migrate import migrate, migrations
from tracker_daemon.postgres import connected
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.embedded import PostgresServer


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look and count without a pause."""
    for pause in ("LOOK_SECONDS", "COUNT_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.backlog.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)


def some(count: int) -> list[list[float]]:
    """Embeddings by chance, the same ones each time."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    return [[chance.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(count)]


def signs(embedding: list[float]) -> str:
    """What the index holds of an embedding."""
    return "".join("1" if number > 0 else "0" for number in embedding)


@pytest.mark.usefixtures("_impatient")
async def test_what_is_queued_comes_into_the_index_and_leaves_the_queue(
    dsn: str, sql: asyncpg.Connection
) -> None:
    embeddings = some(100)
    first = await store(sql, *embeddings[:60])
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: indexed(sql))
        rest = await store(sql, *embeddings[60:])
        await until(lambda: nothing_waits(sql))
        await until_metric("tracker_embedding_index_waiting", 0)
    expected = zip(first + rest, map(signs, embeddings), strict=True)
    assert await indexed(sql) == dict(expected)


async def nothing_waits(sql: asyncpg.Connection) -> bool:
    return not await waiting(sql)


@pytest.mark.usefixtures("_impatient")
async def test_what_has_no_embedding_any_more_leaves_the_queue_too(dsn: str, sql: asyncpg.Connection) -> None:
    kept, without, pruned, emptied = await store(sql, [1, 2, 3], None, [4, 5, 6], [7, 8, 9])
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", pruned)
    await sql.execute("UPDATE llm_decisions SET prompt_embedding = NULL WHERE id = $1", emptied)
    await queue(sql, uuid4())
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == {kept: "111"}
    assert without not in await indexed(sql)


@pytest.mark.usefixtures("_impatient")
async def test_what_is_indexed_already_may_be_queued_again(dsn: str, sql: asyncpg.Connection) -> None:
    ids = await store(sql, *some(5))
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: nothing_waits(sql))
        before = await indexed(sql)
        await queue(sql, *ids)
        await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == before


async def test_a_step_takes_the_lease_and_gives_it_back_once_there_is_no_more(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await store(sql, *some(FIRST_ROWS + 1))
    index, other = EmbeddingIndex(dsn), Lease("embedding_index")
    assert await index.look() < LOOK_SECONDS
    assert not await other.take(sql)
    assert await index.look() == LOOK_SECONDS
    assert await other.take(sql)
    await index._close()


@pytest.mark.usefixtures("_impatient")
async def test_while_another_holds_the_lease_it_only_counts(dsn: str, sql: asyncpg.Connection) -> None:
    other = Lease("embedding_index")
    await other.take(sql)
    await store(sql, *some(11))
    async with running(EmbeddingIndex(dsn)):
        await until_metric("tracker_embedding_index_waiting", 11)
        await store(sql, *some(2))
        await until_metric("tracker_embedding_index_waiting", 13)
        assert await indexed(sql) == {}
        await other.give_back(sql)
        await until_metric("tracker_embedding_index_waiting", 0)
    assert len(await indexed(sql)) == 13


@pytest.mark.usefixtures("_impatient")
async def test_the_lease_of_one_that_ends_in_the_middle_is_free(dsn: str, sql: asyncpg.Connection) -> None:
    """A restart need not wait for it to expire."""
    await store(sql, *some(FIRST_ROWS))
    index = EmbeddingIndex(dsn)
    await index.look()
    assert not await Lease("embedding_index").take(sql)
    await index.leave()
    assert await Lease("embedding_index").take(sql)


@pytest.mark.usefixtures("_impatient")
async def test_several_share_one_queue_without_loss(dsn: str, sql: asyncpg.Connection) -> None:
    embeddings = some(400)
    ids: list[UUID] = []
    async with running(*(EmbeddingIndex(dsn) for _ in range(3))):
        for start in range(0, 400, 40):
            ids += await store(sql, *embeddings[start : start + 40])
        await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == dict(zip(ids, map(signs, embeddings), strict=True))


@pytest.mark.usefixtures("_impatient")
async def test_two_that_have_the_same_ids_in_hand_neither_lose_nor_double_one(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lease that was lost: both are in their transactions before either can commit."""

    async def take(*_: object) -> bool:
        return True

    monkeypatch.setattr(Lease, "take", take)
    embeddings = some(FIRST_ROWS)
    ids = await store(sql, *embeddings)
    indexes = EmbeddingIndex(dsn), EmbeddingIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_embedding_index IN EXCLUSIVE MODE")
        looks = [asyncio.create_task(index.look()) for index in indexes]
        await until(lambda: blocked(sql, 2))
    await asyncio.gather(*looks)
    for index in indexes:
        await index.leave()
    assert await waiting(sql) == 0
    assert await indexed(sql) == dict(zip(ids, map(signs, embeddings), strict=True))


async def blocked(sql: asyncpg.Connection, sessions: int) -> bool:
    return bool(await sql.fetchval("SELECT count(*) = $1 FROM pg_locks WHERE NOT granted", sessions))


@pytest.mark.usefixtures("_impatient")
async def test_one_that_freezes_in_the_middle_holds_up_nobody(
    dsn: str, sql: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    """The server ends the step that it has begun; the next one is another's once the lease has expired."""
    embeddings = some(20)
    ids = await store(sql, *embeddings[:FIRST_ROWS])
    async with PostgresProxy(lambda: postgres_server.port) as proxy:
        frozen = EmbeddingIndex(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        async with running(frozen):
            async with sql.transaction():
                await sql.execute("LOCK TABLE llm_embedding_index IN EXCLUSIVE MODE")
                await until(lambda: blocked(sql, 1))
                proxy.hold()
            await until(lambda: nothing_waits(sql))
            ids += await store(sql, *embeddings[FIRST_ROWS:])
            assert not await Lease("embedding_index").take(sql)
            async with running(EmbeddingIndex(dsn)):
                await sql.execute("UPDATE tracker_leases SET expires_at = renewed_at")
                await until(lambda: nothing_waits(sql))
            expected = dict(zip(ids, map(signs, embeddings), strict=True))
            assert await indexed(sql) == expected
            proxy.release()
            [more] = await store(sql, [1, -1, 1])
            await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == expected | {more: "101"}


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.usefixtures("_impatient")
async def test_an_outage_is_waited_out_and_said_once(
    how: str, dsn: str, postgres_server: PostgresServer
) -> None:
    async with connected(dsn) as sql:
        ids = await store(sql, *some(10))
    with capture_logs() as lines:
        async with running(EmbeddingIndex(dsn)):
            await until_metric("tracker_embedding_index_waiting", 0)
            async with Away(postgres_server, how):
                await until(lambda: lines)
            async with connected(dsn) as sql:
                ids += await store(sql, *some(10))
                await until(lambda: nothing_waits(sql))
                assert (await indexed(sql)).keys() == set(ids)
            await until(lambda: len(lines) > 1)
    assert [(line["log_level"], line["event"], line["chore"]) for line in lines] == [
        ("warning", "a chore fails, trying again and again", "embedding_index"),
        ("info", "a chore is done again", "embedding_index"),
    ]


@pytest.mark.usefixtures("_impatient")
async def test_a_missing_table_is_waited_for(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE llm_embedding_index RENAME TO gone")
    ids = await store(sql, *some(3))
    with capture_logs() as lines:
        async with running(EmbeddingIndex(dsn)):
            await until(lambda: lines)
            assert "llm_embedding_index" in lines[0]["reason"]
            assert await waiting(sql) == 3
            await sql.execute("ALTER TABLE gone RENAME TO llm_embedding_index")
            await until(lambda: nothing_waits(sql))
    assert (await indexed(sql)).keys() == set(ids)


async def test_after_a_failure_it_begins_with_few_rows(dsn: str, sql: asyncpg.Connection) -> None:
    """Or a step that takes longer than a statement may would be tried again and again."""
    index = EmbeddingIndex(dsn)
    index._rows = MAX_ROWS
    await sql.execute("ALTER TABLE llm_embedding_queue RENAME TO gone")
    with capture_logs() as lines:
        async with running(index):
            await until(lambda: lines)
            assert index._rows == FIRST_ROWS


async def test_one_that_is_cancelled_as_its_connection_is_cut_ends(dsn: str, sql: asyncpg.Connection) -> None:
    """A transaction's end fails on the cut connection: that must not pass for an outage to wait out."""
    await store(sql, *some(3))
    index = EmbeddingIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_embedding_index")
        task = asyncio.create_task(index.run())
        await until(lambda: blocked(sql, 1))
        index.abort()
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()


@pytest.mark.parametrize("table", ["llm_embedding_queue", "llm_embedding_index"])
async def test_it_ends_while_the_server_is_frozen(
    table: str, dsn: str, postgres_server: PostgresServer
) -> None:
    """As it counts, in a transaction that would have to be rolled back, or in the middle of a step."""
    index = EmbeddingIndex(dsn)
    async with connected(dsn) as sql:
        await store(sql, *some(FIRST_ROWS))
        await sql.execute(f"BEGIN; LOCK TABLE {table}")
        task = asyncio.create_task(index.run())
        await until(lambda: blocked(sql, 1))
        async with Away(postgres_server, "frozen"):
            index.abort()
            task.cancel()
            await asyncio.wait({task}, timeout=20)
            assert task.cancelled()


async def test_after_a_slow_step_it_rests_three_times_as_long_and_takes_fewer_rows(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$; "
        "CREATE TRIGGER slow AFTER INSERT ON llm_embedding_index EXECUTE FUNCTION dawdle()"
    )
    await store(sql, *some(FIRST_ROWS))
    index = EmbeddingIndex(dsn)
    assert await index.look() >= 0.9
    assert index._rows == FIRST_ROWS // 2
    await index._close()


def test_steps_grow_while_they_are_quick_and_there_is_more() -> None:
    index = EmbeddingIndex("")
    for seconds, more, rows in (
        (0.01, True, FIRST_ROWS * 2),
        (0.01, False, FIRST_ROWS * 2),
        (0.2, True, FIRST_ROWS * 2),
        (0.3, True, FIRST_ROWS),
    ):
        index._adapt(seconds, more=more)
        assert index._rows == rows
    for _ in range(20):
        index._adapt(0.01, more=True)
    assert index._rows == MAX_ROWS
    for _ in range(20):
        index._adapt(9, more=True)
    assert index._rows == 1


@pytest.mark.usefixtures("_impatient")
async def test_it_needs_no_session_of_its_own(dsn: str, sql: asyncpg.Connection) -> None:
    """As behind PgBouncer in transaction mode: no prepared statement is left, each look may have another."""
    ids = await store(sql, *some(FIRST_ROWS * 3))
    index = EmbeddingIndex(dsn, statement_cache=False)
    while await waiting(sql):
        await index.look()
        assert index._connection is not None
        assert await index._connection.fetch("SELECT * FROM pg_prepared_statements") == []
        await index._close()
        index._connection = await asyncpg.connect(dsn, statement_cache_size=0)
    await index._close()
    assert (await indexed(sql)).keys() == set(ids)


@pytest.mark.usefixtures("_impatient")
async def test_projecting_outcomes_leaves_the_side_tables_alone(dsn: str, sql: asyncpg.Connection) -> None:
    """Each such UPDATE enters a row anew into every index of its table: here none is a vector index."""
    ids, embeddings = [uuid4() for _ in range(20)], some(20)
    writer = Store(dsn)
    decisions = [
        decision(id=str(id_), prompt_embedding=embedding)
        for id_, embedding in zip(ids, embeddings, strict=True)
    ]
    assert await writer.write(deliver(*decisions)) == ["stored"] * 20
    assert await waiting(sql) == 20
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: nothing_waits(sql))
    near = await nearest(sql, embeddings[0], 5)
    before = await versions(sql)
    assert await writer.write(deliver(*(outcome(id_, pnl=1) for id_ in ids))) == ["stored"] * 20
    await writer.close()
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == 20
    assert await versions(sql) == before
    assert await waiting(sql) == 0
    assert await nearest(sql, embeddings[0], 5) == near
    assert near[0].id == ids[0]


async def versions(sql: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await sql.fetch("SELECT decision_id, ctid, xmin FROM llm_embedding_index ORDER BY 1")
    return [tuple(row) for row in rows]


@pytest.fixture
async def empty(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of `database`, in which nothing was made yet."""
    async with connected(database) as connection:
        yield connection


async def test_what_was_stored_before_there_was_an_index_is_queued_by_the_migration(
    database: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tracker_daemon.migrate.migrations", lambda: migrations()[:1])
        await migrate(database, DIMENSIONS)
    await empty.execute("CREATE TABLE llm_embedding_queue (decision_id UUID PRIMARY KEY)")
    with_one, _, with_another = await store(empty, [1, 2, 3], None, [4, 5, 6])
    await empty.execute("DROP TABLE llm_embedding_queue")
    await migrate(database, DIMENSIONS)
    queued = await empty.fetch("SELECT decision_id FROM llm_embedding_queue")
    assert {id_ for (id_,) in queued} == {with_one, with_another}


async def test_too_old_a_pgvector_is_refused_with_what_to_do(
    database: str, empty: asyncpg.Connection
) -> None:
    await empty.execute("CREATE EXTENSION vector")
    await empty.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    with pytest.raises(Misconfigured, match=r"pgvector 0\.7\.4 .* 0\.8 or newer .*ALTER EXTENSION"):
        await migrate(database, DIMENSIONS)
    await empty.execute("UPDATE pg_extension SET extversion = '0.8.0' WHERE extname = 'vector'")
    await migrate(database, DIMENSIONS)


@pytest.mark.usefixtures("_impatient")
async def test_pgvector_may_live_in_a_schema_that_the_daemon_does_not_look_into(
    database: str, empty: asyncpg.Connection
) -> None:
    """Only the migration needs it on its search path, since its tables have columns of that type."""
    await empty.execute('CREATE SCHEMA "Our extensions"; CREATE EXTENSION vector SCHEMA "Our extensions"')
    await migrate(f'{database}&search_path=public,"Our extensions"', DIMENSIONS)
    await empty.execute('SET search_path = public, "Our extensions"')
    ids = await store(empty, *some(10))
    await empty.execute("SET search_path = public")
    assert len(await nearest(empty, [1, 1, 1], 10)) == 10
    async with running(EmbeddingIndex(database)):
        await until(lambda: nothing_waits(empty))
    assert (await indexed(empty)).keys() == set(ids)
    assert {near.id for near in await nearest(empty, [1, 1, 1], 10)} == set(ids)
