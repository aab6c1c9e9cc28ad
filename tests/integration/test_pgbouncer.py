"""Through a real PgBouncer that speaks TLS: what works in both of its modes, and what is refused in words."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.asking import agent_on, served
from tests.certificates import Authority
from tests.conftest import DIMENSIONS
from tests.embeddings import nearest, waiting
from tests.factory import decision, deliver, outcome
from tests.locks import advisory_locks
from tests.waiting import until_metric
from tracker_daemon import metrics
from tracker_daemon.config import load
from tracker_daemon.doctor import Finding, examination, postgres
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.errors import Misconfigured, Unavailable
from tracker_daemon.lease import Lease
from tracker_daemon.migrate import check_schema, migrate, migrations
from tracker_daemon.postgres import check_statements, connect, connected
from tracker_daemon.queries import (
    QUESTIONS,
    Filter,
    Reader,
    Situation,
    reading,
    search,
    similar_decisions,
)
from tracker_daemon.situations.index import SituationIndex
from tracker_daemon.situations.learning import due, learn
from tracker_daemon.store import Poll, Store
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from tests.pgbouncer import PgBouncer
    from tracker_daemon.embedded import NatsServer
    from tracker_daemon.queries import Question

HOST = "127.0.0.1"

in_either_mode = pytest.mark.parametrize("bouncer", ["session", "transaction"], indirect=True)
in_session_mode = pytest.mark.parametrize("bouncer", ["session"], indirect=True)
in_transaction_mode = pytest.mark.parametrize("bouncer", ["transaction"], indirect=True)


@pytest.fixture
def pooled(bouncer: PgBouncer, authority: Authority, dsn: str) -> str:
    """Return the DSN of a migrated database through PgBouncer, whose certificate is verified."""
    return bouncer.dsn(urlsplit(dsn).path[1:], query=f"sslmode=verify-full&sslrootcert={authority.file}")


@contextlib.asynccontextmanager
async def crowd(dsn: str) -> AsyncIterator[None]:
    """Let others take and leave connections all the time: two transactions in a row meet another server."""

    async def one() -> None:
        async with connected(dsn, statement_cache=False) as connection:
            while True:
                async with connection.transaction():
                    await connection.fetchval("SELECT pg_backend_pid()")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(3)]
        yield
        for task in tasks:
            task.cancel()


@in_either_mode
async def test_decisions_outcomes_and_dead_letters_are_stored_once(
    pooled: str, sql: asyncpg.Connection
) -> None:
    """Twice the same, over two connections, while others are at work."""
    id_ = uuid4()
    batch = deliver(
        decision(id=str(id_), session_id=str(uuid4()), prompt_embedding=[1, 2, 3]),
        outcome(id_, pnl=1),
        b"bad",
    )
    stores = [Store(pooled, statement_cache=False) for _ in range(2)]
    async with crowd(pooled):
        results = [await store.write(batch) for store in stores]
    assert results == [["stored", "stored", "dead_letter"], ["duplicate"] * 3]
    for store in stores:
        await store.close()
    assert await sql.fetchval("SELECT pnl FROM llm_decisions WHERE id = $1", id_) == 1


@in_transaction_mode
async def test_the_indexes_their_leases_and_what_is_found(
    pooled: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = uuid4()
    store, index = Store(pooled, statement_cache=False), EmbeddingIndex(pooled, statement_cache=False)
    texts = TextIndex(pooled, statement_cache=False)
    monkeypatch.setattr("tracker_daemon.situations.index.FIRST", 1)
    situations = SituationIndex(pooled, statement_cache=False)
    mine, theirs = Lease("test"), Lease("test")
    async with crowd(pooled), connected(pooled, statement_cache=False) as connection:
        await store.write(deliver(decision(id=str(id_), prompt_embedding=[1, 2, 3], context={"trend": "up"})))
        assert [near.id for near in await nearest(connection, [1, 2, 3], None, 5)] == [id_]
        await index.look()
        assert [near.id for near in await nearest(connection, [1, 2, 3], None, 5)] == [id_]
        for _ in range(2):
            async with reading(connection):
                assert [hit.decision.id for hit in (await search(connection, "hold", Filter())).rows] == [id_]
            await texts.look()
        assert [await mine.take(connection), await theirs.take(connection)] == [True, False]
        await mine.give_back(connection)
        assert await theirs.take(connection)
        for _ in range(2):
            await situations.look()
        async with reading(connection):
            near = await similar_decisions(connection, Situation(context={"trend": "up"}), Filter())
        assert (near.by_index, near.looked_at) == (True, 1)
        await learn(connection, datetime.now(UTC))
        assert await due(connection) is None
    for each in (index, texts, situations):
        await each.leave()
    await store.close()
    assert await waiting(sql) == 0
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_index") == 1
    assert await sql.fetchval("SELECT count(*) FROM llm_text_index") == 1
    assert await sql.fetchval("SELECT count(*) FROM llm_situation_index") == 1


@in_transaction_mode
async def test_every_question(pooled: str) -> None:
    """Two at a time on two connections, each with its own snapshot and limits, while others are at work."""
    id_ = uuid4()
    store = Store(pooled, statement_cache=False)
    needed: dict[str, dict[str, Any]] = {
        "decision": {"id": id_},
        "search": {"text": "hold"},
        "similar": {"situation": {"rsi": 62.1}},
        "context": {"situation": {"rsi": 62.1}, "as_of": datetime.now(UTC)},
        "prompts": {"embedding": (1, 2, 3), "text": "hold", "hybrid": True},
    }
    asked = [kind(**needed.get(name, {})) for name, kind in QUESTIONS.items()]
    async with crowd(pooled), Reader(pooled, 3) as reader:
        await store.write(deliver(decision(id=str(id_))))

        async def ask(question: Question) -> object:
            async with reader.connection() as connection:
                return await question.answer(connection)

        answers = await asyncio.gather(*(ask(question) for question in asked * 2))
    await store.close()
    assert None not in answers
    assert answers[: len(asked)] * 2 == answers


@in_transaction_mode
@pytest.mark.parametrize("by", ["a DSN of their own", "the setting"])
async def test_questions_over_nats_without_prepared_statements(
    pooled: str, dsn: str, nats_server: NatsServer, by: str
) -> None:
    """By a DSN of their own although the daemon's, which is no pooler's, may keep them."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(crowd(pooled))
        agent = await stack.enter_async_context(agent_on(nats_server))
        serving = (
            served(agent, nats_server, pooled, statement_cache=False)
            if by == "the setting"
            else served(agent, nats_server, dsn, dsn=pooled)
        )
        await stack.enter_async_context(serving)
        replies = await asyncio.gather(*(agent.ask("stats") for _ in range(30)))
    assert {reply.code for reply in replies} == {"200"}


@in_transaction_mode
async def test_the_poll(pooled: str) -> None:
    store, poll = Store(pooled, statement_cache=False), Poll(pooled, statement_cache=False)
    metrics.outcomes_waiting.set(0)
    async with crowd(pooled):
        await store.write(deliver(outcome(uuid4())))
        polling = asyncio.create_task(poll.run())
        await until_metric("tracker_outcomes_waiting", 1)
        polling.cancel()
        await asyncio.wait({polling})
    await store.close()
    assert poll.trouble is None


@in_either_mode
async def test_migrations_of_which_one_waits_for_the_other(
    bouncer: PgBouncer, authority: Authority, database: str
) -> None:
    """And no lock is left behind with a server's connection that PgBouncer keeps."""
    name = urlsplit(database).path[1:]
    pooled = bouncer.dsn(name, query=f"sslmode=verify-full&sslrootcert={authority.file}")
    async with crowd(pooled):
        done = await asyncio.gather(*(migrate(pooled, DIMENSIONS) for _ in range(3)))
        await check_schema(pooled, DIMENSIONS)
    assert sorted(map(len, done)) == [0, 0, len(migrations())]
    async with connected(database) as connection:
        assert await advisory_locks(connection) == 0


@in_transaction_mode
async def test_prepared_statements_are_refused_before_one_is_lost(pooled: str) -> None:
    with pytest.raises(Misconfigured, match="set TRACKER_POSTGRES_STATEMENT_CACHE=off"):
        await check_statements(pooled)


@in_session_mode
async def test_prepared_statements_are_fine_in_session_mode(pooled: str) -> None:
    await check_statements(pooled)


async def found(dsn: str, **given: str) -> list[Finding]:
    """What `tracker-daemon check` finds about PostgreSQL."""
    environ = {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS), **given}
    looked_at = postgres.look(load(environ=environ))
    return [finding async for finding in examination._bounded("postgres", looked_at)]


@in_transaction_mode
async def test_check_names_the_setting_that_transaction_mode_needs(pooled: str) -> None:
    [finding] = await found(pooled)
    assert finding.level == "broken"
    assert "behind PgBouncer in transaction mode set TRACKER_POSTGRES_STATEMENT_CACHE=off" in finding.seen
    async with crowd(pooled):
        findings = await found(pooled, TRACKER_POSTGRES_STATEMENT_CACHE="off")
    assert all(finding.level != "broken" for finding in findings)


@in_session_mode
@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "another CA",
            "no CA that is trusted here has signed it; name the file of the right CA in sslrootcert",
        ),
        ("another name", "certificate is not valid for 'localhost'. Name the server as its certificate does"),
        ("expired", "it has expired; renew it on the server"),
        ("no TLS here", "SSL required); see user, password, database, sslmode of the DSN"),
        ("no TLS there", "PostgreSQL offers no TLS, which sslmode of the DSN demands"),
        ("another password", "SASL authentication failed); see user, password, database, sslmode of the DSN"),
    ],
)
async def test_what_tls_to_postgresql_fails_for_is_said(
    bouncer: PgBouncer, authority: Authority, dsn: str, tmp_path: Path, case: str, words: str
) -> None:
    if case == "expired":
        bouncer.stop()
        bouncer.certificate = authority.issue(HOST, expired=True)
        bouncer.start()
    trusted = Authority(tmp_path / "others") if case == "another CA" else authority
    query = "sslmode=disable" if case == "no TLS here" else f"sslmode=verify-full&sslrootcert={trusted.file}"
    host = "localhost" if case == "another name" else HOST
    database = urlsplit(dsn).path[1:]
    url = bouncer.dsn(database, host=host, query=query)
    if case == "no TLS there":
        url = f"{dsn}&{query}"
    if case == "another password":
        url = url.replace(bouncer.users["tracker"], "wr0ng")
    [finding] = await found(url)
    assert finding.level == "broken"
    assert words in finding.seen
    assert "_ssl.c" not in finding.seen
    assert finding.seen.count(bouncer.users["tracker"]) == 0


@in_session_mode
async def test_require_encrypts_and_trusts_whoever_answers(
    bouncer: PgBouncer, authority: Authority, tmp_path: Path
) -> None:
    """Unless it is given a CA: then that one counts, as verify-ca does, but any name will do."""
    other = Authority(tmp_path / "others")
    for query in ("sslmode=require", f"sslmode=require&sslrootcert={authority.file}"):
        await (await connect(bouncer.dsn("tracker", host="localhost", query=query))).close()
    with pytest.raises(Unavailable, match="no CA that is trusted here"):
        await connect(bouncer.dsn("tracker", query=f"sslmode=require&sslrootcert={other.file}"))


@in_session_mode
async def test_a_server_that_demands_a_certificate_is_shown_one(
    bouncer: PgBouncer, authority: Authority, dsn: str, tmp_path: Path
) -> None:
    bouncer.stop()
    bouncer.client_ca = authority.file
    bouncer.start()
    pooled = bouncer.dsn(urlsplit(dsn).path[1:], query=f"sslmode=verify-full&sslrootcert={authority.file}")
    ours, theirs = authority.issue("a.example.org"), Authority(tmp_path / "other").issue("b.example.org")
    assert all(finding.level != "broken" for finding in await found(f"{pooled}&sslcert={ours}&sslkey={ours}"))
    for own in ("", f"&sslcert={theirs}&sslkey={theirs}"):
        [finding] = await found(pooled + own)
        assert "sslcert of the DSN" in finding.seen
