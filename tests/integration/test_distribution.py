"""The tables on Citus: what is spread, what moves, what is refused; on a cluster, if one is named."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from tests.chores import running
from tests.conftest import DIMENSIONS, create_database
from tests.factory import CONTRACT, decision, deliver, outcome
from tests.waiting import until
from tracker_daemon import distribution, migrate
from tracker_daemon.config import load
from tracker_daemon.distribution import DISTRIBUTED, REFERENCE, distribute
from tracker_daemon.doctor import postgres
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.errors import SchemaError
from tracker_daemon.postgres import connected
from tracker_daemon.queries import Filter, Situation, reading, search, similar_decisions
from tracker_daemon.store import Store
from tracker_daemon.store.dead_letters import Filter as Letters
from tracker_daemon.store.dead_letters import replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.named import NamedServer
    from tracker_daemon.embedded import PostgresServer

SCRIPT = Path(__file__).parents[2] / "deploy" / "postgres" / "distribute.sql"
# What the coordinator alone has: queues of arrays, which belong to no one decision, and tables of a few rows.
LOCAL = {
    *("llm_text_queue", "llm_situation_queue", "llm_prompt_queue"),
    *("llm_alerts", "llm_scales", "llm_situation_axes", "llm_experiments", "llm_selection_events"),
    *("llm_situation_index", "llm_situation_cells"),
    *("tracker_leases", "tracker_retention", "tracker_migrations"),
}
PLACES = """
SELECT logicalrelid::text AS name, column_to_column_name(logicalrelid, partkey) AS by,
       colocationid = (SELECT colocationid FROM pg_dist_partition
                       WHERE logicalrelid = 'llm_decisions'::regclass) AS beside
FROM pg_dist_partition
"""


@pytest.fixture
async def plain(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Yield the DSN of an empty database without Citus."""
    async with create_database(postgres_server, template="template0") as dsn:
        yield dsn


@pytest.fixture
async def empty(cluster: NamedServer, database: str) -> str:  # noqa: ARG001 - skipped where there is none
    """Return the DSN of a migrated database of the cluster in which nothing is spread."""
    await migrate.migrate(database, DIMENSIONS)
    return database


async def rows(dsn: str) -> dict[str, list[Any]]:
    """Every row of the tables that are spread."""
    connection = await asyncpg.connect(dsn)
    try:
        return {
            table: sorted(map(tuple, await connection.fetch(f"SELECT {key} FROM {table}")))
            for table, key in DISTRIBUTED.items()
        }
    finally:
        await connection.close()


async def places(dsn: str) -> dict[str, tuple[str | None, bool]]:
    """By the tables that Citus knows: what says where a row lies, and whether decisions lie there too."""
    connection = await asyncpg.connect(dsn)
    try:
        return {row["name"]: (row["by"], row["beside"]) for row in await connection.fetch(PLACES)}
    finally:
        await connection.close()


SPREAD = {REFERENCE: (None, False)} | {table: (column, True) for table, column in DISTRIBUTED.items()}


async def test_every_table_has_its_place(sql: asyncpg.Connection) -> None:
    tables = await sql.fetch(
        "SELECT relname FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname !~ '_[0-9]+$'"
    )
    assert {row["relname"] for row in tables} == LOCAL | DISTRIBUTED.keys() | {REFERENCE}


async def test_without_citus_nothing_is_distributed(plain: str) -> None:
    await migrate.migrate(plain, DIMENSIONS)
    with pytest.raises(SchemaError, match="this database has no Citus, nothing was distributed"):
        await distribute(plain)
    await migrate.check_schema(plain, DIMENSIONS)


async def test_all_is_distributed_once_and_what_belongs_together_lies_together(empty: str) -> None:
    assert await distribute(empty) == list(SPREAD)
    assert await places(empty) == SPREAD
    assert await distribute(empty) == []
    await migrate.check_schema(empty, DIMENSIONS)


async def test_daemons_go_on_writing_meanwhile(empty: str) -> None:
    store, ids, done = Store(empty), [], asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            ids.append(uuid4())
            assert await store.write(deliver(decision(id=str(ids[-1])), outcome(ids[-1]))) == ["stored"] * 2

    writing = asyncio.create_task(write())
    try:
        await until(lambda: len(ids) > 3)
        await distribute(empty)
        before = len(ids)
        await until(lambda: len(ids) > before + 3)
    finally:
        done.set()
        await writing
        await store.close()
    stored = await rows(empty)
    assert stored["llm_decisions"] == stored["llm_outcomes"] == sorted((id_,) for id_ in ids)


async def test_the_rows_that_are_there_move(empty: str) -> None:
    store = Store(empty)
    ids = [uuid4() for _ in range(50)]
    new = [decision(id=str(id_), prompt_embedding=[1, 2, 3], session_id=str(uuid4())) for id_ in ids]
    await store.write(deliver(*new, *map(outcome, ids), b"no JSON"))
    await store.close()
    before = await rows(empty)
    assert len(before["llm_dead_letters"]) == 1
    await distribute(empty)
    assert await rows(empty) == before
    connection = await asyncpg.connect(empty)
    try:  # and nothing is left behind where they were
        for table in SPREAD:
            assert await connection.fetchval("SELECT pg_relation_size($1::regclass)", table) == 0
    finally:
        await connection.close()


async def test_a_full_history_is_refused_and_goes_by_the_script(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "MOST_ROWS", 2)
    store = Store(empty)
    await store.write(deliver(*(decision(prompt=f"{number}") for number in range(3))))
    await store.close()
    with pytest.raises(SchemaError, match=r"llm_decisions has more than 2 rows.*nothing was distributed"):
        await distribute(empty)
    assert await places(empty) == {}
    before = await rows(empty)
    connection = await asyncpg.connect(empty)
    try:
        await connection.execute(SCRIPT.read_text("utf-8"))
    finally:
        await connection.close()
    assert await places(empty) == SPREAD
    assert await rows(empty) == before
    assert await distribute(empty) == []


async def test_a_database_that_gets_citus_later(cluster: NamedServer, plain: str) -> None:
    """Functions and types that were made before are on every node, too."""
    await migrate.migrate(plain, DIMENSIONS)
    await cluster.join(plain.partition("?")[0].rpartition("/")[2])
    await distribute(plain)
    store = Store(plain)
    await store.write(deliver(decision(prompt="every word", prompt_embedding=[1, 2, 3])))
    await store.close()
    connection = await asyncpg.connect(plain)
    try:
        async with reading(connection):
            assert len((await search(connection, "word", Filter())).rows) == 1
    finally:
        await connection.close()


async def test_later_migrations_run_on_tables_that_are_spread(
    cluster: NamedServer,  # noqa: ARG001 - skipped where there is none
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_of_them = migrate.migrations()
    with monkeypatch.context() as earlier:
        earlier.setattr(migrate, "migrations", lambda: all_of_them[:14])
        await migrate.migrate(database, DIMENSIONS)
        await distribute(database)
    assert await migrate.migrate(database, DIMENSIONS) == all_of_them[14:]
    assert await places(database) == SPREAD


async def test_check_tells_whoever_connects_slowly_what_to_do(empty: str) -> None:
    async def found() -> list[str]:
        settings = load(environ={"TRACKER_POSTGRES_DSN": empty, "TRACKER_EMBEDDING_DIMENSIONS": "3"})
        return [finding.seen async for finding in postgres.look(settings) if finding.part == "citus"]

    connection = await asyncpg.connect(empty)
    try:
        database = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {database} RESET citus.override_table_visibility")
        [seen] = await found()
        assert "takes seconds" in seen
        await connection.execute(seen[seen.index("ALTER ") :])
        assert await found() == []
    finally:
        await connection.close()


@pytest.mark.usefixtures("_impatient")
async def test_what_comes_is_stored_once_wherever_it_lies(empty: str) -> None:
    """No statement on the way of a message is one that Citus refuses: new, again, in conflict, bad, early."""
    await distribute(empty)
    store = Store(empty)
    ids = sorted(uuid4() for _ in range(40))
    new = [decision(id=str(id_), prompt_embedding=[1, 2, 3], session_id=str(ids[0])) for id_ in ids]
    early = uuid4()
    assert set(await store.write(deliver(outcome(early), *new))) == {"stored"}
    again = deliver(*new[:20], new[20] | {"prompt": "another"}, *map(outcome, ids), decision(id=str(early)))
    assert await store.write(again) == ["duplicate"] * 20 + ["dead_letter"] + ["stored"] * 41
    assert await store.write(again) == ["duplicate"] * 62
    await store.close()
    stored = await rows(empty)
    assert stored["llm_decisions"] == stored["llm_outcomes"] == sorted((id_,) for id_ in [*ids, early])
    connection = await asyncpg.connect(empty)
    try:
        shown = await connection.fetch("SELECT id FROM llm_decisions WHERE outcome = 'SUCCESS' ORDER BY id")
        assert [row["id"] for row in shown] == sorted([*ids, early], key=lambda id_: id_.bytes)
        async with running(EmbeddingIndex(empty)):

            async def indexed() -> bool:
                return await connection.fetchval("SELECT count(*) FROM llm_embedding_index") == len(ids)

            await until(indexed)
    finally:
        await connection.close()


async def test_poison_holds_up_no_session_that_comes_after_it(empty: str) -> None:
    """Rows are spread before a session is made on every node, as the batch is divided to find the bad one."""
    await distribute(empty)
    async with connected(empty) as connection:
        await connection.execute("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')")
    store = Store(empty)
    without, within = [decision() for _ in range(8)], [decision(session_id=str(uuid4())) for _ in range(8)]
    batch = deliver(*without, decision(symbol="BAD"), *within)
    assert await store.write(batch) == [*["stored"] * 8, "dead_letter", *["stored"] * 8]
    await store.close()


async def test_letters_are_replayed_with_sessions_of_their_own(empty: str) -> None:
    await distribute(empty)
    store = Store(empty)
    async with connected(empty) as connection:
        await connection.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (symbol <> 'BAD')")
        bad = [decision(symbol="BAD", session_id=str(uuid4())) for _ in range(8)]
        assert await store.write(deliver(*bad)) == ["dead_letter"] * 8
        await store.close()
        await connection.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
        replayed = [letter.result async for letter in replay(connection, Letters(), CONTRACT)]
    assert replayed == ["stored"] * 8


@pytest.mark.parametrize("as_of", [None, datetime(2026, 3, 1, tzinfo=UTC)])
async def test_a_node_sends_no_more_situations_than_are_compared(empty: str, as_of: datetime | None) -> None:
    """Each its latest, of which the coordinator takes as many; without an index of situations."""
    await distribute(empty)
    asked: list[Any] = []
    async with connected(empty) as connection, reading(connection):
        with connection.query_logger(asked.append):
            await similar_decisions(connection, Situation(context={"rsi": 62}), Filter(as_of=as_of))
        plan = await connection.fetch(f"EXPLAIN {asked[-1].query}", *asked[-1].args)
    tasks = "\n".join(row[0] for row in plan).split("->  Task\n")
    of_decisions = [task for task in tasks if "llm_decisions_" in task]
    assert of_decisions
    assert all(re.match(r" *Node: .*\n *->  Limit", task) for task in of_decisions)
