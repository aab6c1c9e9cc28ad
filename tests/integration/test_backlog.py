"""Both indexes against a real PostgreSQL: who keeps them, in what steps, and despite what.

What comes into each is shown by `test_text_index.py` and `test_embedding_index.py`.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tests import embeddings, texts
from tests.chaos.proxy import PostgresProxy
from tests.chores import running
from tests.conftest import DIMENSIONS
from tests.locks import advisory_locks, blocked
from tests.servers import Away
from tests.waiting import until, until_metric
from tracker_daemon.backlog import FIRST_ROWS, LOOK_SECONDS, MAX_ROWS
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import connected
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    import asyncpg

    from tracker_daemon.backlog import Backlog
    from tracker_daemon.embedded import PostgresServer

Content = dict["UUID", Any]


class Texts:
    """Decisions with a word of their own."""

    chore: ClassVar[type[Backlog]] = TextIndex
    name = "text_index"
    indexed: Callable[[asyncpg.Connection], Awaitable[Content]] = staticmethod(texts.indexed)
    nothing_waits = staticmethod(texts.nothing_waits)

    async def store(self, dsn: str, count: int) -> Content:
        """Store and queue so many, and return what the index has to hold of them."""
        words = [f"word{uuid4().hex}" for _ in range(count)]
        return dict(zip(await texts.store(dsn, *words), ({word} for word in words), strict=True))


class Embeddings:
    """Decisions with embeddings by chance."""

    chore: ClassVar[type[Backlog]] = EmbeddingIndex
    name = "embedding_index"
    indexed: Callable[[asyncpg.Connection], Awaitable[Content]] = staticmethod(embeddings.indexed)
    nothing_waits = staticmethod(embeddings.nothing_waits)

    def __init__(self) -> None:
        """Begin with the same ones each time."""
        self._chance = random.Random(7)  # noqa: S311 - a test's data

    async def store(self, dsn: str, count: int) -> Content:
        """Store and queue so many, and return what the index has to hold of them."""
        some = [[self._chance.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(count)]
        async with connected(dsn) as sql:
            ids = await embeddings.store(sql, *some)
        return dict(zip(ids, map(embeddings.direction, some), strict=True))


Kind = Texts | Embeddings


@pytest.fixture(params=[Texts, Embeddings], ids=["texts", "embeddings"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return what is indexed."""
    made: Kind = request.param()
    return made


# Who works, and how much at a time.


async def test_a_step_takes_the_lease_and_gives_it_back_once_there_is_no_more(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await Embeddings().store(dsn, FIRST_ROWS + 1)
    index, other = EmbeddingIndex(dsn), Lease("embedding_index")
    assert await index.look() < LOOK_SECONDS
    assert not await other.take(sql)
    assert await index.look() == LOOK_SECONDS
    assert await other.take(sql)
    await index._close()


@pytest.mark.usefixtures("_impatient")
async def test_while_another_holds_the_lease_it_only_counts(
    kind: Kind, dsn: str, sql: asyncpg.Connection
) -> None:
    other, waiting = Lease(kind.name), f"tracker_{kind.name}_waiting"
    await other.take(sql)
    stored = await kind.store(dsn, 11)
    async with running(kind.chore(dsn)):
        await until_metric(waiting, 11)
        stored |= await kind.store(dsn, 2)
        await until_metric(waiting, 13)
        assert await kind.indexed(sql) == {}
        await other.give_back(sql)
        await until_metric(waiting, 0)
    assert await kind.indexed(sql) == stored


@pytest.mark.usefixtures("_impatient")
async def test_the_lease_of_one_that_ends_in_the_middle_is_free(
    kind: Kind, dsn: str, sql: asyncpg.Connection
) -> None:
    """A restart need not wait for it to expire."""
    await kind.store(dsn, FIRST_ROWS)
    index = kind.chore(dsn)
    await index.look()
    assert not await Lease(kind.name).take(sql)
    await index.leave()
    assert await Lease(kind.name).take(sql)


@pytest.mark.usefixtures("_impatient")
async def test_what_the_database_refuses_holds_nothing_up_and_is_said(
    kind: Kind, dsn: str, sql: asyncpg.Connection
) -> None:
    """Such as by a constraint of the operator's own."""
    stored = await kind.store(dsn, 20)
    poison = [*stored][7]
    del stored[poison]
    await sql.execute(f"ALTER TABLE llm_{kind.name} ADD CHECK (decision_id <> '{poison}')")
    with capture_logs() as lines:
        async with running(kind.chore(dsn)):
            await until(lambda: kind.nothing_waits(sql))
            stored |= await kind.store(dsn, 3)
            await until(lambda: kind.nothing_waits(sql))
    assert await kind.indexed(sql) == stored
    assert lines[0]["event"].startswith("a decision that no")
    assert lines[0]["decision"] == str(poison)
    assert lines[0]["reason"].startswith(f"SQLSTATE 23514 on llm_{kind.name}")
    assert all(line == lines[0] for line in lines)  # once a sweep


@pytest.mark.parametrize(("busy", "times"), [(False, 3), (True, 19)])
async def test_after_a_slow_step_it_rests_and_takes_fewer_rows(
    busy: bool, times: int, dsn: str, sql: asyncpg.Connection
) -> None:
    """Three times as long, and nineteen times while messages wait."""
    await sql.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$"
    )
    await sql.execute("CREATE TRIGGER slow AFTER INSERT ON llm_embedding_index EXECUTE FUNCTION dawdle()")
    await Embeddings().store(dsn, FIRST_ROWS)
    index = EmbeddingIndex(dsn, busy=lambda: busy)
    assert await index.look() >= 0.3 * times
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


async def test_after_a_failure_it_begins_with_few_rows(dsn: str, sql: asyncpg.Connection) -> None:
    """Or a step that takes longer than a statement may would be tried again and again."""
    index = EmbeddingIndex(dsn)
    index._rows = MAX_ROWS
    await sql.execute("ALTER TABLE llm_embedding_queue RENAME TO gone")
    with capture_logs() as lines:
        async with running(index):
            await until(lambda: lines)
            assert index._rows == FIRST_ROWS


# Several of them.


@pytest.mark.usefixtures("_impatient")
async def test_several_share_one_queue_without_loss(kind: Kind, dsn: str, sql: asyncpg.Connection) -> None:
    stored: Content = {}
    async with running(*(kind.chore(dsn) for _ in range(3))):
        for _ in range(10):
            stored |= await kind.store(dsn, 40)
        await until(lambda: kind.nothing_waits(sql))
    assert await kind.indexed(sql) == stored


@pytest.mark.usefixtures("_impatient")
async def test_two_that_have_the_same_in_hand_neither_lose_nor_double_one(
    kind: Kind, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lease that was lost: both are in their transactions before either can commit."""

    async def take(*_: object) -> bool:
        return True

    monkeypatch.setattr(Lease, "take", take)
    stored = await kind.store(dsn, FIRST_ROWS)
    indexes = kind.chore(dsn), kind.chore(dsn)
    with capture_logs() as lines:
        async with sql.transaction():
            await sql.execute(f"LOCK TABLE llm_{kind.name} IN EXCLUSIVE MODE")
            looks = [asyncio.create_task(index.look()) for index in indexes]
            await until(lambda: blocked(sql, 2))
        await asyncio.gather(*looks)
    assert lines == []
    for index in indexes:
        await index.leave()
    assert await kind.nothing_waits(sql)
    assert await kind.indexed(sql) == stored


@pytest.mark.usefixtures("_impatient")
async def test_one_that_freezes_in_the_middle_holds_up_nobody(
    kind: Kind, dsn: str, sql: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    """The server ends the step that it has begun; the next one is another's once the lease has expired."""
    stored = await kind.store(dsn, FIRST_ROWS)
    async with PostgresProxy(lambda: postgres_server.port) as proxy, AsyncExitStack() as exits:
        frozen = kind.chore(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        async with sql.transaction():
            await sql.execute(f"LOCK TABLE llm_{kind.name} IN EXCLUSIVE MODE")
            await exits.enter_async_context(running(frozen))
            await until(lambda: blocked(sql, 1))
            proxy.hold()
        await until(lambda: kind.nothing_waits(sql))
        stored |= await kind.store(dsn, 12)
        # However slow the machine is.
        await sql.execute("UPDATE tracker_leases SET expires_at = 'infinity'")
        assert not await Lease(kind.name).take(sql)
        async with running(kind.chore(dsn)):
            await sql.execute("UPDATE tracker_leases SET expires_at = renewed_at")
            await until(lambda: kind.nothing_waits(sql))
        assert await kind.indexed(sql) == stored
        proxy.release()
        stored |= await kind.store(dsn, 1)
        await until(lambda: kind.nothing_waits(sql))
    assert await kind.indexed(sql) == stored


# What it waits out, and how it ends.


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.usefixtures("_impatient")
async def test_an_outage_is_waited_out_and_said_once(
    how: str, kind: Kind, dsn: str, postgres_server: PostgresServer
) -> None:
    stored = await kind.store(dsn, 10)
    with capture_logs() as lines:
        async with running(kind.chore(dsn)):
            await until_metric(f"tracker_{kind.name}_waiting", 0)
            async with Away(postgres_server, how):
                await until(lambda: lines)
            stored |= await kind.store(dsn, 10)
            async with connected(dsn) as sql:
                await until(lambda: kind.nothing_waits(sql))
                assert await kind.indexed(sql) == stored
            await until(lambda: len(lines) > 1)
    assert [(line["log_level"], line["event"], line["chore"]) for line in lines] == [
        ("warning", "a chore fails, trying again and again", kind.name),
        ("info", "a chore is done again", kind.name),
    ]


@pytest.mark.usefixtures("_impatient")
async def test_a_missing_table_is_waited_for(kind: Kind, dsn: str, sql: asyncpg.Connection) -> None:
    stored = await kind.store(dsn, 3)
    await sql.execute(f"ALTER TABLE llm_{kind.name} RENAME TO gone")
    with capture_logs() as lines:
        async with running(kind.chore(dsn)):
            await until(lambda: lines)
            assert f"llm_{kind.name}" in lines[0]["reason"]
            assert not await kind.nothing_waits(sql)
            await sql.execute(f"ALTER TABLE gone RENAME TO llm_{kind.name}")
            await until(lambda: kind.nothing_waits(sql))
    assert await kind.indexed(sql) == stored


async def test_one_that_is_cancelled_as_its_connection_is_cut_ends(dsn: str, sql: asyncpg.Connection) -> None:
    """A transaction's end fails on the cut connection: that must not pass for an outage to wait out."""
    await Embeddings().store(dsn, 3)
    index = EmbeddingIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_embedding_index")
        task = asyncio.create_task(index.run())
        await until(lambda: blocked(sql, 1))
        index.abort()
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()


@pytest.mark.parametrize("where", ["queue", "index"])
async def test_it_ends_while_the_server_is_frozen(
    where: str, kind: Kind, dsn: str, postgres_server: PostgresServer
) -> None:
    """As it counts, in a transaction that would have to be rolled back, or in the middle of a step."""
    await kind.store(dsn, FIRST_ROWS)
    index = kind.chore(dsn)
    async with connected(dsn) as sql:
        await sql.execute(f"BEGIN; LOCK TABLE llm_{kind.name.replace('index', where)}")
        task = asyncio.create_task(index.run())
        await until(lambda: blocked(sql, 1))
        async with Away(postgres_server, "frozen"):
            index.abort()
            task.cancel()
            await asyncio.wait({task}, timeout=20)
            assert task.cancelled()


async def test_it_needs_no_session_of_its_own(kind: Kind, dsn: str, sql: asyncpg.Connection) -> None:
    """As behind PgBouncer in transaction mode: nothing is left in the session, and each look has another."""
    stored = await kind.store(dsn, 150)
    index = kind.chore(dsn, statement_cache=False)
    while not await kind.nothing_waits(sql):
        await index.look()
        assert index._connection is not None
        assert await index._connection.fetch("SELECT * FROM pg_prepared_statements") == []
        assert not await advisory_locks(sql)
        await index._close()
    await index.leave()
    assert await kind.indexed(sql) == stored
