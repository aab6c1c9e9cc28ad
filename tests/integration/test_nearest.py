"""What is nearest to an embedding: exact where it can be, never blind to what the index has not got yet."""

from __future__ import annotations

import asyncio
import importlib
import math
import random
from typing import TYPE_CHECKING

import pytest

from tests.conftest import create_database
from tests.embeddings import indexed, queue, store, waiting
from tracker_daemon.embeddings import EmbeddingIndex, Neighbour, nearest
from tracker_daemon.migrate import migrate
from tracker_daemon.postgres import Rejected, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    import asyncpg

    from tracker_daemon.embedded import PostgresServer

WIDE = 64
"""Dimensions in which signs tell something, and no two embeddings have the same ones."""


async def index_all(dsn: str) -> None:
    """Run the index until nothing waits."""
    index = EmbeddingIndex(dsn)
    async with connected(dsn) as sql:
        while await waiting(sql):
            await index.look()
    await index.leave()


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine distance, by its definition."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return 1 - product / math.hypot(*one) / math.hypot(*other)


def clustered(count: int) -> list[list[float]]:
    """Embeddings around 40 centres, as prompts of a few kinds have them."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    centres = [[chance.gauss(0, 1) for _ in range(WIDE)] for _ in range(40)]
    return [[x + chance.gauss(0, 0.5) for x in chance.choice(centres)] for _ in range(count)]


@pytest.fixture
async def wide_dsn(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Yield the DSN of a migrated database for embeddings of `WIDE` numbers."""
    async with create_database(postgres_server) as dsn:
        await migrate(dsn, WIDE)
        yield dsn


@pytest.fixture
async def wide(wide_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to the database of `wide_dsn`."""
    async with connected(wide_dsn) as connection:
        yield connection


async def test_where_nothing_is_stored_nothing_is_near(dsn: str, sql: asyncpg.Connection) -> None:
    assert await nearest(sql, [1, 2, 3], None, 10) == []
    await store(sql, None)
    await index_all(dsn)
    assert await nearest(sql, [1, 2, 3], None, 10) == []


async def test_neighbours_come_by_their_exact_distance_before_and_after_indexing(
    dsn: str, sql: asyncpg.Connection
) -> None:
    wanted, embeddings = [1.0, 0.5, -0.25], [[1, 0, 0], [-1, 0, 0], [2, 1, -0.5], [0, 0, 1], [1, 1, 1]]
    ids = await store(sql, *embeddings)
    expected = sorted(
        (distance(wanted, embedding), id_) for id_, embedding in zip(ids, embeddings, strict=True)
    )
    for _ in range(2):
        found = await nearest(sql, wanted, None, 10)  # more than there are
        assert [near.id for near in found] == [id_ for _, id_ in expected]
        assert [near.distance for near in found] == pytest.approx([d for d, _ in expected], abs=1e-6)
        assert await nearest(sql, wanted, None, 2) == found[:2]
        await index_all(dsn)
    assert len(await indexed(sql)) == len(ids)


async def test_one_that_is_in_queue_and_index_comes_once(dsn: str, sql: asyncpg.Connection) -> None:
    ids = await store(sql, [1, 2, 3], [3, 2, 1])
    await index_all(dsn)
    await queue(sql, *ids)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == ids


async def test_a_decision_is_seen_in_the_very_moment_in_which_it_moves(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """Out of the queue, then into the index, then committed: a look at each of these moments."""
    [id_] = await store(sql, [1, 2, 3])
    [moved] = await nearest(sql, [1, 2, 3], None, 10)
    async with connected(dsn) as mover, connected(dsn) as looker:
        move = mover.transaction()
        await move.start()
        await mover.execute("DELETE FROM llm_embedding_queue")
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
        await mover.execute("INSERT INTO llm_embedding_index VALUES ($1, B'111')", id_)
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
        await move.commit()
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
    assert moved == Neighbour(id_, pytest.approx(0, abs=1e-6))


async def test_not_one_is_missed_while_all_of_them_move(
    wide_dsn: str, wide: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other connections ask without a pause: each answer has every decision, once."""
    monkeypatch.setattr("tracker_daemon.backlog.MAX_ROWS", 3)
    monkeypatch.setattr("tracker_daemon.backlog.FIRST_ROWS", 1)
    monkeypatch.setattr("tracker_daemon.backlog.LOOK_SECONDS", 0)
    embeddings = clustered(150)
    ids = set(await store(wide, *embeddings))
    answers: list[set[UUID]] = []

    async def ask(looker: asyncpg.Connection) -> None:
        while await waiting(wide_looker):
            found = [near.id for near in await nearest(looker, embeddings[0], None, 150)]
            assert len(found) == len(set(found))
            answers.append(set(found))

    async with connected(wide_dsn) as looker, connected(wide_dsn) as wide_looker:
        running = asyncio.create_task(EmbeddingIndex(wide_dsn).run())
        await ask(looker)
        running.cancel()
        await asyncio.wait({running})
    assert len(answers) > 3
    assert all(answer == ids for answer in answers)


async def test_an_embedding_of_zeros_is_nobodys_neighbour_and_has_none(
    dsn: str, sql: asyncpg.Connection
) -> None:
    kept, _ = await store(sql, [1, 2, 3], [0, 0, 0])
    for _ in range(2):
        assert await nearest(sql, [0, 0, 0], None, 10) == []
        assert [near.id for near in await nearest(sql, [-1, -2, -3], None, 10)] == [kept]
        await index_all(dsn)
    assert len(await indexed(sql)) == 2


async def test_a_pruned_decision_is_skipped_in_queue_and_index(sql: asyncpg.Connection) -> None:
    gone, kept = await store(sql, [1, 2, 3], [3, 2, 1])
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", gone)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [kept]
    await queue(sql, kept)
    await sql.execute("INSERT INTO llm_embedding_index VALUES ($1, B'111'), ($2, B'111')", gone, kept)
    await sql.execute("DELETE FROM llm_embedding_queue")
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [kept]


async def explained(sql: asyncpg.Connection) -> str:
    """The plan by which neighbours are looked for."""
    module = importlib.import_module("tracker_daemon.embeddings.nearest")
    async with sql.transaction():
        await sql.execute(module._PREPARE.format(ef_search=200))
        statement = module._NEAREST.format(vector="public", candidates=200, limit=10)
        lines = await sql.fetch(f"EXPLAIN (VERBOSE) {statement}", clustered(1)[0], None)
    return "\n".join(line for (line,) in lines)


async def scan_the_index(sql: asyncpg.Connection) -> None:
    """Have the vector index used where, of so few rows, looking at each were as quick.

    Quicker, even, where an autovacuum has just been: then the rows are read off other indexes, and sorted.
    """
    await sql.execute("ANALYZE")
    await sql.execute("SET enable_seqscan = off; SET enable_sort = off")
    assert "Index Scan using llm_embedding_index_signs" in await explained(sql)


async def test_however_many_of_the_nearest_are_pruned_there_are_as_many_neighbours_as_wanted(
    wide_dsn: str, wide: asyncpg.Connection
) -> None:
    """More than the index gives at a time, so that its scan has to go on."""
    ids = await store(wide, *clustered(2000))
    await index_all(wide_dsn)
    wanted = clustered(1)[0]
    order = [near.id for near in await nearest(wide, wanted, None, 2000)]
    assert set(order) == set(ids)
    await wide.execute("DELETE FROM llm_decisions WHERE id = ANY($1)", order[:1000])
    await scan_the_index(wide)
    assert len(await nearest(wide, wanted, None, 10)) == 10


async def test_nearly_all_of_the_exact_neighbours_are_found_through_the_index(
    wide_dsn: str, wide: asyncpg.Connection
) -> None:
    embeddings = clustered(2020)
    await store(wide, *embeddings[:2000])
    await index_all(wide_dsn)
    await scan_the_index(wide)
    hits = 0
    for wanted in embeddings[2000:]:
        exact = await wide.fetch(
            "SELECT id FROM llm_decisions ORDER BY prompt_embedding <=> $1::float8[]::vector LIMIT 10", wanted
        )
        found = await nearest(wide, wanted, None, 10)
        hits += len({near.id for near in found} & {row["id"] for row in exact})
    assert hits >= 0.95 * 20 * 10


async def test_distances_are_taken_of_candidates_alone(wide_dsn: str, wide: asyncpg.Connection) -> None:
    """However the planner joins: below the join it would read the embedding of every decision there is."""
    await store(wide, *clustered(2000))
    await index_all(wide_dsn)
    await wide.execute("ANALYZE")
    for way in ("SELECT 1", "SET enable_seqscan = off", "RESET ALL; SET enable_nestloop = off"):
        await wide.execute(way)
        lines = (await explained(wide)).splitlines()
        [at] = [number for number, line in enumerate(lines) if "<=>" in line]
        node = lines[at - 1]
        assert "Join" in node or "Nested Loop" in node


async def test_what_is_no_such_embedding_is_refused_and_the_connection_stays_good(
    sql: asyncpg.Connection,
) -> None:
    [id_] = await store(sql, [1, 2, 3])
    for wrong in ([1.0, 2.0], [1.0, 2.0, math.nan], [1.0, 2.0, math.inf], [1.0, 2.0, 1e39]):
        with pytest.raises(Rejected):
            await nearest(sql, wrong, None, 10)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [id_]


async def test_nothing_of_it_stays_in_the_session(dsn: str) -> None:
    """Behind PgBouncer in transaction mode the session is somebody else's next."""
    async with connected(dsn, statement_cache=False) as connection:
        settings = "SELECT current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan')"
        await nearest(connection, [1, 2, 3], None, 10)
        assert [tuple(row) for row in await connection.fetch(settings)] == [("40", "off")]
        assert await connection.fetch("SELECT * FROM pg_prepared_statements") == []
