"""The vector index against a real PostgreSQL: what comes into it; `test_backlog.py` shows how."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.chores import running
from tests.conftest import DIMENSIONS
from tests.embeddings import direction, indexed, nearest, nothing_waits, queue, store, waiting
from tests.factory import decision, deliver, outcome
from tests.waiting import until, until_metric
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.errors import Misconfigured
from tracker_daemon.migrate import migrate, migrations
from tracker_daemon.postgres import connected
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


def some(count: int) -> list[list[float]]:
    """Embeddings by chance, the same ones each time."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    return [[chance.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(count)]


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
    expected = zip(first + rest, map(direction, embeddings), strict=True)
    assert await indexed(sql) == dict(expected)


@pytest.mark.usefixtures("_impatient")
async def test_what_has_no_embedding_any_more_leaves_the_queue_too(dsn: str, sql: asyncpg.Connection) -> None:
    kept, without, pruned, emptied = await store(sql, [1, 2, 3], None, [4, 5, 6], [7, 8, 9])
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", pruned)
    await sql.execute("UPDATE llm_decisions SET prompt_embedding = NULL WHERE id = $1", emptied)
    await queue(sql, uuid4())
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: nothing_waits(sql))
    assert await indexed(sql) == {kept: direction([1, 2, 3])}
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
    near = await nearest(sql, embeddings[0], None, 5)
    before = await versions(sql)
    assert await writer.write(deliver(*(outcome(id_, pnl=1) for id_ in ids))) == ["stored"] * 20
    await writer.close()
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == 20
    assert await versions(sql) == before
    assert await waiting(sql) == 0
    assert await nearest(sql, embeddings[0], None, 5) == near
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
    assert len(await nearest(empty, [1, 1, 1], None, 10)) == 10
    async with running(EmbeddingIndex(database)):
        await until(lambda: nothing_waits(empty))
    assert (await indexed(empty)).keys() == set(ids)
    assert {near.id for near in await nearest(empty, [1, 1, 1], None, 10)} == set(ids)
