"""The roles of `deploy/postgres/roles.sql`: each has what its part needs, and not more."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import DIMENSIONS, has_nodes
from tests.embeddings import nearest
from tests.factory import EMBEDDING, days_ago, decision, deliver, outcome
from tests.provider import MODEL, EmbeddingServer
from tests.waiting import until
from tracker_daemon.choices.known import Known
from tracker_daemon.config import EmbeddingSettings, load
from tracker_daemon.distribution import distribute
from tracker_daemon.doctor import examine, postgres
from tracker_daemon.embeddings import EmbeddingIndex, PromptEmbeddings
from tracker_daemon.embeddings.openai import OpenAI
from tracker_daemon.errors import Misconfigured
from tracker_daemon.experiments import Arm, Definition, begin
from tracker_daemon.migrate import check_schema, migrate
from tracker_daemon.postgres import connected, register_types, translated
from tracker_daemon.queries import QUESTIONS, Filter, Reader, reading, search
from tracker_daemon.retention import Retention
from tracker_daemon.scores.changes import mark_published, record_changes, waiting_changes
from tracker_daemon.scores.score import Score
from tracker_daemon.selection.events import Change, keep
from tracker_daemon.selection.standing import standings
from tracker_daemon.situations.index import SituationIndex
from tracker_daemon.situations.learning import due, learn
from tracker_daemon.store import Store
from tracker_daemon.store.projection import project
from tracker_daemon.store.tables import OUTCOMES_WAITING
from tracker_daemon.store.transaction import Transaction
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.embedded import PostgresServer

ROLES = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"
RETENTION = ROLES.with_name("retention.sql")
EMBEDDINGS = ROLES.with_name("embeddings.sql")

RECORDS = ["llm_decisions", "llm_outcomes", "llm_dead_letters", "trading_sessions"]
# What they must leave alone: it is another application's, in the same database.
SECRETS = "CREATE SCHEMA secrets; CREATE TABLE secrets.keys AS SELECT 's3cret' AS key"
PASSWORDS = "; ".join(
    f"ALTER ROLE tracker_{role} PASSWORD 'secret'" for role in ("owner", "writer", "reader")
)
GONE = "; ".join(
    f"DROP OWNED BY tracker_{role} CASCADE; DROP ROLE tracker_{role}"
    for role in ("owner", "writer", "reader")
)
# Every right of the writer's on tables.
RIGHTS = [
    "SELECT ON tracker_migrations",
    "SELECT ON tracker_retention",
    "INSERT ON trading_sessions",
    "SELECT ON trading_sessions",
    "SELECT ON llm_decisions",
    "INSERT ON llm_decisions",
    "UPDATE (outcome) ON llm_decisions",
    "UPDATE (pnl) ON llm_decisions",
    "UPDATE (outcome_at) ON llm_decisions",
    "UPDATE (outcome_sequence) ON llm_decisions",
    "SELECT ON llm_outcomes",
    "INSERT ON llm_outcomes",
    "SELECT ON llm_dead_letters",
    "INSERT ON llm_dead_letters",
    "SELECT ON llm_embedding_queue",
    "INSERT ON llm_embedding_queue",
    "DELETE ON llm_embedding_queue",
    "SELECT ON llm_embedding_index",
    "INSERT ON llm_embedding_index",
    "SELECT ON llm_text_queue",
    "INSERT ON llm_text_queue",
    "DELETE ON llm_text_queue",
    "SELECT ON llm_text_index",
    "INSERT ON llm_text_index",
    "SELECT ON llm_situation_queue",
    "INSERT ON llm_situation_queue",
    "DELETE ON llm_situation_queue",
    "SELECT ON llm_situation_index",
    "INSERT ON llm_situation_index",
    "UPDATE ON llm_situation_index",
    "SELECT ON llm_situation_axes",
    "INSERT ON llm_situation_axes",
    "UPDATE (swept_at) ON llm_situation_axes",
    "SELECT ON llm_situation_cells",
    "INSERT ON llm_situation_cells",
    "UPDATE ON llm_situation_cells",
    "SELECT ON llm_prompt_queue",
    "INSERT ON llm_prompt_queue",
    "SELECT ON tracker_leases",
    "INSERT ON tracker_leases",
    "UPDATE ON tracker_leases",
    "SELECT ON llm_alerts",
    "INSERT ON llm_alerts",
    "UPDATE (published_at) ON llm_alerts",
    "SELECT ON llm_scales",
    "INSERT ON llm_scales",
    "SELECT ON llm_selection_events",
    "INSERT ON llm_selection_events",
    "SELECT ON llm_experiments",
]
# And what Citus asks for besides, of tables that are spread.
ON_CITUS = [
    "UPDATE ON trading_sessions",
    *(f"USAGE ON SEQUENCE llm_{queue}_queue_id_seq" for queue in ("text", "situation", "prompt")),
]
# What nobody may who writes or reads.
NEITHER = [
    *(f"DELETE FROM {table}" for table in RECORDS),
    *(f"TRUNCATE {table}" for table in RECORDS),
    "DROP TABLE llm_decisions",
    "ALTER TABLE llm_decisions DROP COLUMN prompt",
    "CREATE INDEX ON llm_decisions (model)",
    "UPDATE llm_decisions SET prompt = 'another'",
    "UPDATE llm_outcomes SET pnl = 1",
    "UPDATE llm_dead_letters SET replayed_at = now()",
    "CREATE TABLE more ()",
    "CREATE SCHEMA more",
    "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE ROLE more",
    "SELECT lo_from_bytea(0, 'more')",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT FROM secrets.keys",
    "SELECT rolpassword FROM pg_authid",
    "SET ROLE tracker_owner",
    "COPY llm_decisions TO '/tmp/stolen'",
    "COPY llm_decisions TO PROGRAM 'cat'",
]


def login(dsn: str, role: str) -> str:
    """The DSN of the same database for one of the roles."""
    address = urlsplit(dsn)
    return f"postgresql://tracker_{role}:secret@{address.netloc.rpartition('@')[2]}{address.path}"


@pytest.fixture
async def _roles(dsn: str, sql: asyncpg.Connection) -> AsyncIterator[None]:
    """The roles; what PostgreSQL grants to everyone is revoked, so only their own rights count."""
    database = urlsplit(dsn).path.removeprefix("/")
    await sql.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
    await sql.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    await sql.execute(SECRETS)
    await sql.execute(ROLES.read_text("utf-8"))
    await sql.execute(PASSWORDS)
    yield
    await sql.execute(GONE)


@pytest.fixture
def writer(dsn: str, _roles: None) -> str:
    """Return the writer's DSN."""
    return login(dsn, "writer")


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each index of situations make a generation, of however few decisions."""
    for name, value in (("FIRST", 1), ("TIMES", 0)):
        monkeypatch.setattr(f"tracker_daemon.situations.index.{name}", value)


async def works(dsn: str) -> bool:
    """Do everything that a daemon does in the database, each batch twice; False where a right is missing."""
    id_ = uuid4()
    batch = deliver(
        decision(id=str(id_), session_id=str(uuid4()), prompt_embedding=[1, 2, 3], context={"trend": "up"}),
        outcome(id_, pnl=1),
        b"bad",
    )
    batch += deliver(decision(), contract=EMBEDDING)
    results = []
    indexes = EmbeddingIndex(dsn), TextIndex(dsn), SituationIndex(dsn)
    try:
        await check_schema(dsn, DIMENSIONS)
        async with connected(dsn) as connection:
            with translated():
                await register_types(connection)
                for _ in range(2):
                    results += (await Transaction(connection, batch).commit()).results
                    await project(connection, batch)
                await connection.fetch(OUTCOMES_WAITING)
                await connection.fetch("SELECT FROM llm_prompt_queue")
                await record_changes(connection, [Score("agent", str(uuid4()), 0, 30)], 0.4)
                for change, _ in await waiting_changes(connection):
                    await mark_published(connection, change)
                off = Change(agent_name=str(uuid4()), decision_type=None, kind="switched_off", reason="")
                async with connection.transaction():
                    await keep(connection, [off], (await standings(connection)).numbers)
                await learn(connection, datetime.now(UTC))
                await due(connection)
            for index in (*indexes, indexes[-1]):  # the last one sweeps first
                await index.look()
            near = await nearest(connection, [1, 2, 3], None, 10)
            async with reading(connection):
                hits = (await search(connection, "hold", Filter())).rows
                await Known.read(connection)
    except (Misconfigured, asyncpg.InsufficientPrivilegeError):
        return False
    finally:
        for index in indexes:
            await index.leave()
    assert id_ in {neighbour.id for neighbour in near} & {hit.decision.id for hit in hits}
    return results == ["stored", "stored", "dead_letter", "stored", *["duplicate"] * 4]


async def test_the_role_suffices_for_the_store(writer: str, sql: asyncpg.Connection) -> None:
    """Decisions, outcomes, dead letters, the projection and the poll."""
    assert await works(writer)
    id_ = uuid4()
    store = Store(writer)
    assert await store.write(deliver(decision(id=str(id_)), outcome(id_, pnl="2.5"), b"bad")) == [
        "stored",
        "stored",
        "dead_letter",
    ]
    await store.close()
    row = await sql.fetchrow("SELECT outcome, pnl FROM llm_decisions WHERE id = $1", id_)
    assert row is not None
    assert (row["outcome"], str(row["pnl"])) == ("SUCCESS", "2.50000000")


async def test_a_right_that_is_refused_is_told_with_the_file_that_gives_it(
    writer: str, sql: asyncpg.Connection
) -> None:
    """To readers of the daemon's log, which goes on once it has the right, and to who asks himself."""
    await sql.execute("REVOKE INSERT ON llm_decisions FROM tracker_writer")
    store = Store(writer)
    with capture_logs() as logs:
        writing = asyncio.create_task(store.write(deliver(decision())))
        await until(lambda: logs)
        assert "deploy/postgres/roles.sql" in logs[0]["reason"]
        await sql.execute("GRANT INSERT ON llm_decisions TO tracker_writer")
        assert await writing == ["stored"]
    await store.close()
    arms = tuple(Arm(name=name, share=Decimal("0.5")) for name in ("old", "new"))
    definition = Definition(name="any", arms=arms, minimum_effect=0.1)
    async with connected(writer) as connection:
        with pytest.raises(Misconfigured, match=r"deploy/postgres/roles\.sql .* the owner's to do"):
            await begin(connection, definition)


async def test_it_has_no_right_but_these(
    writer: str, sql: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    """To whole tables, and to columns of others."""
    granted = await sql.fetch(
        """
        WITH whole AS (
            SELECT privilege_type, table_name FROM information_schema.table_privileges
            WHERE grantee = $1 AND table_name !~ '_[0-9]+$'
        )
        SELECT format('%s ON %s', privilege_type, table_name) FROM whole
        UNION ALL
        SELECT format('%s (%s) ON %s', privilege_type, column_name, table_name)
        FROM information_schema.column_privileges
        WHERE grantee = $1 AND table_name !~ '_[0-9]+$'
          AND (privilege_type, table_name) NOT IN (TABLE whole)
        """,
        urlsplit(writer).username,
    )
    assert {right for (right,) in granted} == {*RIGHTS, *ON_CITUS[: has_nodes(postgres_server)]}


@pytest.mark.parametrize(
    "right",
    ["CONNECT ON DATABASE {database}", "TEMPORARY ON DATABASE {database}", "USAGE ON SCHEMA public", *RIGHTS],
)
async def test_no_right_is_superfluous(writer: str, sql: asyncpg.Connection, right: str) -> None:
    database = urlsplit(writer).path.removeprefix("/")
    await sql.execute(f"REVOKE {right.format(database=database)} FROM tracker_writer")
    assert not await works(writer)


async def sweeps(dsn: str, sql: asyncpg.Connection) -> bool:
    """Have the role queue what queues have missed; False where a right is missing."""
    settings = EmbeddingSettings(provider="openai", model=MODEL, dimensions=DIMENSIONS, max_characters=100)
    store, parts = Store(dsn), (TextIndex(dsn), PromptEmbeddings(dsn, OpenAI(settings), settings))
    await store.write(deliver(decision(timestamp=days_ago(0.5)), contract=EMBEDDING))
    await store.close()
    try:
        for queue, part in zip(("llm_text_queue", "llm_prompt_queue"), parts, strict=True):
            await sql.execute(f"DELETE FROM {queue}")
            await part.look()
            assert await sql.fetchval(f"SELECT count(*) FROM {queue}")
    except Misconfigured:
        return False
    finally:
        for part in parts:
            await part.leave()
    return True


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("right", ON_CITUS)
async def test_on_citus_check_tells_whoever_lacks_what_it_asks_for(
    writer: str, sql: asyncpg.Connection, right: str
) -> None:
    """Word by word, and none of it is superfluous."""
    assert await works(writer)
    assert await sweeps(writer, sql)
    await sql.execute(f"REVOKE {right} FROM tracker_writer")
    assert not (await works(writer) and await sweeps(writer, sql))
    ok, seen = await rights(writer)
    assert not ok
    await sql.execute(seen[seen.index("GRANT ") :])
    assert await works(writer)
    assert await sweeps(writer, sql)


@pytest.mark.parametrize(
    "statement",
    [
        *NEITHER,
        "UPDATE llm_decisions SET content_hash = NULL",
        "UPDATE llm_dead_letters SET payload = ''",
        pytest.param(
            "UPDATE trading_sessions SET created_at = now()",
            marks=pytest.mark.not_on_citus("ON CONFLICT asks there for the right to change a session"),
        ),
        "UPDATE llm_alerts SET body = '{}'",
        "DELETE FROM llm_alerts",
        "DELETE FROM llm_scales",
        "DELETE FROM llm_selection_events",
        "UPDATE llm_selection_events SET reason = ''",
        "INSERT INTO llm_experiments (name, definition) VALUES ('trial', '{}')",
        "DELETE FROM llm_experiments",
        "UPDATE llm_experiments SET definition = '{}'",
        "DELETE FROM llm_embedding_index",
        "DELETE FROM llm_text_index",
        "DELETE FROM llm_situation_index",
        "UPDATE llm_situation_axes SET tree = '0'",
        "DELETE FROM llm_situation_cells",
        "UPDATE llm_text_queue SET decisions = '{}'",
        "UPDATE tracker_migrations SET breaking = true",
        "INSERT INTO tracker_migrations (number, name) VALUES (999, 'more')",
        "UPDATE tracker_retention SET horizon = now()",
    ],
)
async def test_the_role_can_neither_change_nor_delete_what_was_recorded(writer: str, statement: str) -> None:
    connection = await asyncpg.connect(writer)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


async def test_running_the_file_again_changes_nothing(writer: str, sql: asyncpg.Connection) -> None:
    await sql.execute(ROLES.read_text("utf-8"))
    assert await works(writer)


@pytest.mark.usefixtures("_roles")
async def test_every_table_of_the_schema_has_its_grants(sql: asyncpg.Connection) -> None:
    """Each that a migration adds, for the reader unless its name says no record.

    Views are for it alone.
    """
    forgotten = await sql.fetch(
        "SELECT rolname, relname FROM pg_class, pg_roles "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') "
        "AND (rolname = 'tracker_writer' AND relkind NOT IN ('v', 'm') "
        "     OR rolname = 'tracker_reader' AND NOT starts_with(relname, 'tracker_')) "
        "AND NOT has_table_privilege(rolname, pg_class.oid, 'SELECT')"
    )
    assert [tuple(row) for row in forgotten] == []


async def test_the_role_may_use_pgvector_wherever_it_lives(writer: str, sql: asyncpg.Connection) -> None:
    """In a schema of its own, that nobody else may look into."""
    await sql.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
    assert not await works(writer)
    await sql.execute(ROLES.read_text("utf-8"))
    assert await works(writer)


async def fill(sql: asyncpg.Connection) -> None:
    """Put in, all of it old: a decision, an outcome without one, a replayed letter, a published alert."""
    await sql.execute(
        "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model, created_at) "
        "VALUES ('', '', '', '', '', '', now() - interval '31 days');"
        "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), 'SUCCESS', now() - interval '31 days', now());"
        "INSERT INTO llm_dead_letters "
        "(subject, published_at, received_at, reason, detail, payload, replayed_at) "
        "VALUES ('', now(), now() - interval '31 days', '', '', '', now());"
        "INSERT INTO llm_alerts (id, kind, scope, name, number, state, body, created_at, published_at) "
        "SELECT id, '', '', id, 1, 'cleared', '{}', now() - interval '31 days', now() "
        "FROM gen_random_uuid() id"
    )


async def prunes(dsn: str, sql: asyncpg.Connection) -> bool:
    """Have the role prune; False where a right is missing."""
    await fill(sql)
    retention = Retention(dsn, 30, unreplayed=False)
    try:
        await retention.look()
    except Misconfigured:
        return False
    finally:
        await retention.leave()
    return not await sql.fetchval("SELECT count(*) FROM llm_decisions")


async def test_with_the_second_file_the_role_suffices_for_pruning_and_no_right_is_superfluous(
    writer: str, sql: asyncpg.Connection
) -> None:
    """And for nothing else: still it cannot rewrite what was recorded."""
    assert not await prunes(writer, sql)
    await sql.execute(RETENTION.read_text("utf-8"))
    assert await prunes(writer, sql)
    assert await works(writer)
    for right in re.findall(r"(?m)^GRANT (.+) ON (.+) TO", RETENTION.read_text("utf-8")):
        for table in right[1].split(", "):
            await sql.execute(f"REVOKE {right[0]} ON {table} FROM tracker_writer")
            assert not await prunes(writer, sql), table
            await sql.execute(RETENTION.read_text("utf-8"))
    connection = await asyncpg.connect(writer)
    for statement in ("UPDATE llm_decisions SET prompt = ''", "UPDATE tracker_retention SET single = NULL"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def embeds(dsn: str) -> bool:
    """Have the role store a decision and give it an embedding; False where a right is missing."""
    [bare] = deliver(decision(), contract=EMBEDDING)
    async with EmbeddingServer() as server:
        settings = EmbeddingSettings(
            provider="openai", url=server.url, model=MODEL, dimensions=DIMENSIONS, max_characters=100
        )
        part = PromptEmbeddings(dsn, OpenAI(settings), settings)
        try:
            async with connected(dsn) as connection:
                with translated():
                    await register_types(connection)
                    await Transaction(connection, [bare]).commit()
                await part.look()
                left = await connection.fetchval("SELECT count(*) FROM llm_prompt_queue")
        except (Misconfigured, asyncpg.InsufficientPrivilegeError):
            return False
        finally:
            await part.leave()
    return not left


async def test_with_the_third_file_the_role_suffices_for_embeddings_and_no_right_is_superfluous(
    writer: str, sql: asyncpg.Connection
) -> None:
    """And for nothing else: still it cannot rewrite what was recorded."""
    file = EMBEDDINGS.read_text("utf-8")
    assert not await embeds(writer)
    await sql.execute(file)
    assert await embeds(writer)
    assert await works(writer)
    for verbs, table in re.findall(r"(?m)^GRANT (.+) ON (.+) TO", file):
        columns = re.search(r"\((.+)\)", verbs)
        for right in re.findall(r"\w+", columns[1]) if columns else verbs.split(", "):
            revoked = f"UPDATE ({right})" if columns else right
            await sql.execute(f"REVOKE {revoked} ON {table} FROM tracker_writer")
            assert not await embeds(writer), revoked
            await sql.execute(file)
    connection = await asyncpg.connect(writer)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("UPDATE llm_decisions SET prompt = ''")
    await connection.close()


async def test_without_the_right_to_delete_it_says_so_once_and_rows_are_stored(
    writer: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)
    await fill(sql)
    retention = Retention(writer, 30, unreplayed=False)
    with capture_logs() as logs:
        pruning = asyncio.create_task(retention.run())
        await until(lambda: logs)
        assert "permission denied for table tracker_retention" in logs[0]["reason"]
        assert "deploy/postgres/retention.sql" in logs[0]["reason"]
        assert await works(writer)
        await sql.execute(RETENTION.read_text("utf-8"))
        await until(
            lambda: sql.fetchval("SELECT count(*) = 0 FROM llm_dead_letters WHERE replayed_at < now()")
        )
        await until(lambda: len(logs) == 2)
        retention.abort()
        pruning.cancel()
        await asyncio.wait({pruning})
    assert [line["log_level"] for line in logs] == ["warning", "info"]


async def rights(dsn: str, **more: str) -> tuple[bool, str]:
    """What `tracker-daemon check` finds of the role's rights."""
    environ = {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS)}
    settings = load(environ=environ | more)
    findings = [finding async for finding in postgres.look(settings) if finding.part == "rights"]
    return findings[0].level == "ok", "; ".join(finding.seen for finding in findings)


async def test_check_names_the_rights_that_the_vector_index_lacks(
    writer: str, sql: asyncpg.Connection
) -> None:
    assert await rights(writer) == (True, "the role may write to every table")
    await sql.execute(
        "REVOKE DELETE ON llm_embedding_queue FROM tracker_writer; "
        "REVOKE UPDATE ON tracker_leases FROM tracker_writer"
    )
    ok, seen = await rights(writer)
    assert not ok
    assert "GRANT DELETE ON llm_embedding_queue TO tracker_writer; GRANT UPDATE ON tracker_leases" in seen
    await sql.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
    ok, seen = await rights(writer)
    assert not ok
    assert "GRANT USAGE ON SCHEMA extensions TO tracker_writer" in seen


@pytest.mark.parametrize(
    "right",
    [
        "TEMPORARY ON DATABASE {database}",
        "SELECT ON tracker_migrations",
        "USAGE ON SCHEMA public",
        "INSERT ON trading_sessions",
        *(f"UPDATE ({column}) ON llm_decisions" for column in ("outcome", "pnl", "outcome_at")),
        "UPDATE (outcome_sequence) ON llm_decisions",
        "UPDATE (published_at) ON llm_alerts",
    ],
)
async def test_what_check_says_of_a_right_that_is_missing_brings_it_back(
    writer: str, sql: asyncpg.Connection, right: str
) -> None:
    """Word by word; the schema's part stands for those without which no table is seen."""
    database = urlsplit(writer).path.removeprefix("/")
    await sql.execute(f"REVOKE {right.format(database=database)} FROM tracker_writer")
    environ = {"TRACKER_POSTGRES_DSN": writer, "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS)}
    findings = [finding async for finding in postgres.look(load(environ=environ))]
    [broken] = [finding for finding in findings if finding.level == "broken"]
    assert broken.part in {"rights", "schema"}
    await sql.execute(broken.seen[broken.seen.index("GRANT ") :])
    assert await works(writer)


async def test_a_server_without_room_is_not_to_be_started(writer: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER ROLE tracker_writer CONNECTION LIMIT 0")
    [found] = [
        finding
        for finding in await examine(load(environ={"TRACKER_POSTGRES_DSN": writer}))
        if finding.part == "postgres"
    ]
    assert found.level == "broken"
    assert "too many connections for role" in found.seen
    assert "start it" not in found.seen


async def test_check_names_the_rights_that_pruning_lacks(writer: str, sql: asyncpg.Connection) -> None:
    """Where the daemon is to prune."""
    ok, seen = await rights(writer, TRACKER_RETENTION_OLDER_THAN_DAYS="30")
    assert not ok
    assert "GRANT UPDATE (horizon) ON tracker_retention TO tracker_writer; GRANT DELETE ON llm_dec" in seen
    await sql.execute(RETENTION.read_text("utf-8"))
    assert (await rights(writer, TRACKER_RETENTION_OLDER_THAN_DAYS="30"))[0]


async def test_check_names_the_rights_that_embeddings_take(writer: str, sql: asyncpg.Connection) -> None:
    """Where a provider is set."""
    openai = {"TRACKER_EMBEDDING_PROVIDER": "openai", "TRACKER_EMBEDDING_MODEL": MODEL}
    ok, seen = await rights(writer, **openai)
    assert not ok
    for grant in ("DELETE ON llm_prompt_queue", "UPDATE (prompt_embedding) ON llm_decisions"):
        assert f"GRANT {grant} TO tracker_writer" in seen
    await sql.execute(EMBEDDINGS.read_text("utf-8"))
    assert (await rights(writer, **openai))[0]


# The reader


@pytest.fixture
async def reader(dsn: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """Yield the reader's DSN, in a database as PostgreSQL makes it, with its grants to everyone."""
    await sql.execute(SECRETS)
    await sql.execute(ROLES.read_text("utf-8"))
    await sql.execute(PASSWORDS)
    yield login(dsn, "reader")
    await sql.execute(GONE)


async def test_the_reader_finds_what_is_recorded(reader: str, dsn: str) -> None:
    """The tables, whether they fit this version, every question's answer, what is near, what holds a word."""
    id_ = uuid4()
    store, index, texts = Store(dsn), EmbeddingIndex(dsn), TextIndex(dsn)
    await store.write(deliver(decision(id=str(id_), prompt_embedding=[1, 2, 3]), outcome(id_), b"bad"))
    for each in (index, texts):
        await each.look()
        await each.leave()
    await store.close()
    await check_schema(reader, DIMENSIONS)
    async with Reader(reader) as pool, pool.connection() as connection:
        needed: dict[str, dict[str, Any]] = {
            "decision": {"id": id_},
            "search": {"text": "hold"},
            "similar": {"situation": {"rsi": 62.1}},
            "context": {"situation": {"rsi": 62.1}},
            "prompts": {"embedding": (1, 2, 3), "text": "hold", "hybrid": True},
        }
        for name, kind in QUESTIONS.items():
            assert await kind(**needed.get(name, {})).answer(connection)
        await Known.read(connection)
    async with connected(reader) as connection:
        for table in RECORDS:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == (table != "trading_sessions")
        assert [neighbour.id for neighbour in await nearest(connection, [1, 2, 3], None, 1)] == [id_]
        async with reading(connection):
            assert [hit.decision.id for hit in (await search(connection, "hold", Filter())).rows] == [id_]


@pytest.mark.parametrize(
    "statement",
    [
        *NEITHER,
        *(f"INSERT INTO {table} DEFAULT VALUES" for table in RECORDS),
        "UPDATE llm_decisions SET outcome = 'SUCCESS'",
        pytest.param(
            "SELECT FROM llm_decisions FOR UPDATE",
            marks=pytest.mark.not_on_citus("no FOR UPDATE of all shards"),
        ),
        "BEGIN; LOCK llm_decisions IN SHARE MODE",
        "DELETE FROM llm_embedding_queue",
        "DELETE FROM llm_text_queue",
        "SELECT FROM tracker_leases",
        "CREATE TEMPORARY TABLE more ()",
        "SET ROLE tracker_writer",
    ],
)
async def test_the_reader_can_do_nothing_else(reader: str, statement: str) -> None:
    connection = await asyncpg.connect(reader)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


# The owner


@pytest.fixture
async def owner(database: str) -> AsyncIterator[str]:
    """Yield the owner's DSN of a database that a superuser has prepared, and in which no table is yet."""
    async with connected(database) as operator:
        await operator.execute(SECRETS)
        await operator.execute(ROLES.read_text("utf-8"))
        await operator.execute(PASSWORDS)
        yield login(database, "owner")
        await operator.execute(GONE)


async def test_the_owner_migrates_and_the_writer_writes(owner: str, database: str) -> None:
    """As `deploy/README.md` has it: the file, the migrations, the file again."""
    assert await migrate(owner, DIMENSIONS)
    assert not await works(login(database, "writer"))
    async with connected(database) as operator:
        await operator.execute(ROLES.read_text("utf-8"))
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        assert [row[0] for row in await operator.fetch(owners)] == ["tracker_owner"]
    assert await works(login(database, "writer"))


@pytest.mark.usefixtures("cluster")
async def test_on_citus_the_owner_distributes_and_the_writer_writes(owner: str, database: str) -> None:
    await migrate(owner, DIMENSIONS)
    await distribute(owner)
    async with connected(database) as operator:
        await operator.execute(ROLES.read_text("utf-8"))
    assert await works(login(database, "writer"))


async def test_the_owner_can_store_what_is_replayed(owner: str) -> None:
    """`dead-letters replay` writes as a daemon does, and only the owner may mark the letters."""
    await migrate(owner, DIMENSIONS)
    assert await works(owner)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE more",
        "ALTER ROLE tracker_owner SUPERUSER",
        "SET ROLE {superuser}",
        "CREATE DATABASE more",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "CREATE SCHEMA more",
        "CREATE EXTENSION file_fdw",
        "SELECT FROM secrets.keys",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
    ],
)
async def test_the_owner_is_no_superuser(owner: str, database: str, statement: str) -> None:
    connection = await asyncpg.connect(owner)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement.format(superuser=urlsplit(database).username))
    await connection.close()
