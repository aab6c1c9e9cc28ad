"""Migrations against a real PostgreSQL: what they make, what they refuse, what they leave alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
import structlog

from tests.conftest import DIMENSIONS
from tests.waiting import until
from tracker_daemon.errors import Misconfigured, SchemaError, Unavailable
from tracker_daemon.migrate import Migration, check_schema, migrate, migrations
from tracker_daemon.postgres import Locked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The columns that an installation counts on, in PostgreSQL's own words.
SEED = {
    "id": "uuid NOT NULL DEFAULT gen_random_uuid()",
    "session_id": "uuid",
    "decision_type": "character varying(50) NOT NULL",
    "symbol": "character varying(20) NOT NULL",
    "prompt": "text NOT NULL",
    "prompt_embedding": f"vector({DIMENSIONS})",
    "response": "text NOT NULL",
    "model": "character varying(100) NOT NULL",
    "tokens_used": "integer",
    "latency_ms": "integer",
    "outcome": "character varying(20)",
    "pnl": "numeric(20,8)",
    "context": "jsonb",
    "agent_name": "character varying(100) NOT NULL",
    "confidence": "numeric(5,4)",
    "created_at": "timestamp with time zone DEFAULT now()",
}


@pytest.fixture
async def empty(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of `database`, in which nothing was made yet."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def columns(connection: asyncpg.Connection, table: str) -> dict[str, str]:
    """Type, nullability and default of every column, as `SEED` writes them."""
    rows = await connection.fetch(
        """
        SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull,
               pg_get_expr(adbin, adrelid) AS "default"
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum
        """,
        table,
    )
    return {
        row["attname"]: row["type"]
        + (" NOT NULL" if row["attnotnull"] else "")
        + (f" DEFAULT {row['default']}" if row["default"] else "")
        for row in rows
    }


async def everything(connection: asyncpg.Connection) -> list[Any]:
    """Every relation and routine of the schema public: what a refused migration must not change."""
    return await connection.fetch(
        """
        SELECT relname::text AS name, relkind::text AS kind
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT proname::text, 'f' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT extname::text, 'e' FROM pg_extension
        ORDER BY 1, 2
        """
    )


async def test_a_fresh_database_gets_every_table_once(database: str, empty: asyncpg.Connection) -> None:
    assert [migration.number for migration in await migrate(database, DIMENSIONS)] == [
        migration.number for migration in migrations()
    ]
    before = await everything(empty)
    assert {
        "llm_decisions",
        "llm_outcomes",
        "llm_dead_letters",
        "trading_sessions",
        "tracker_migrations",
    } <= {name for name, kind in before if kind == "r"}
    assert await migrate(database, DIMENSIONS) == []
    assert await everything(empty) == before
    await check_schema(database, DIMENSIONS)


async def test_the_seeds_columns_have_their_names_and_types(sql: asyncpg.Connection) -> None:
    made = await columns(sql, "llm_decisions")
    assert {name: made.get(name) for name in SEED} == SEED
    assert list(made)[: len(SEED)] == list(SEED)
    added = {name: kind for name, kind in made.items() if name not in SEED}
    assert not [name for name, kind in added.items() if "NOT NULL" in kind and "DEFAULT" not in kind]
    assert {
        "action",
        "cost_usd",
        "extra",
        "experiment",
        "variant",
        "propensity",
        "outcome_at",
        "embedding_model",
        "content_hash",
        "ingested_at",
    } <= added.keys()
    constraints = await sql.fetch(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'llm_decisions'::regclass "
        "AND contype IN ('p', 'f') ORDER BY contype DESC"
    )
    assert [definition for (definition,) in constraints] == [
        "PRIMARY KEY (id)",
        "FOREIGN KEY (session_id) REFERENCES trading_sessions(id)",
    ]


async def test_the_ledger_takes_outcomes_whose_decision_is_not_there(sql: asyncpg.Connection) -> None:
    keys = await sql.fetch(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'llm_outcomes'::regclass "
        "AND contype IN ('p', 'f')"
    )
    assert [definition for (definition,) in keys] == ["PRIMARY KEY (decision_id, event_id)"]


async def test_indexes_serve_session_symbol_type_outcome_agent_and_time(sql: asyncpg.Connection) -> None:
    leading = await sql.fetch(
        """
        SELECT attname FROM pg_index
        JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = 'llm_decisions'::regclass AND indpred IS NULL AND indisvalid
        """
    )
    assert {"session_id", "symbol", "decision_type", "outcome", "agent_name", "created_at"} <= {
        name for (name,) in leading
    }


async def test_no_vector_index_stands_on_the_hot_table(sql: asyncpg.Connection) -> None:
    methods = await sql.fetch(
        "SELECT amname FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am ON pg_am.oid = relam "
        "WHERE indrelid = 'llm_decisions'::regclass"
    )
    assert {name for (name,) in methods} == {"btree"}


async def test_of_two_migrators_at_once_one_finds_nothing_to_do(
    database: str, empty: asyncpg.Connection
) -> None:
    done = await asyncio.gather(*(migrate(database, DIMENSIONS) for _ in range(4)))
    assert sorted(len(applied) for applied in done) == [0, 0, 0, len(migrations())]
    assert await empty.fetchval("SELECT count(*) FROM tracker_migrations") == len(migrations())


async def test_a_table_of_someone_else_is_refused_and_unchanged(
    database: str, empty: asyncpg.Connection
) -> None:
    await empty.execute("CREATE TABLE llm_decisions (id integer, note text)")
    await empty.execute("INSERT INTO llm_decisions VALUES (1, 'theirs')")
    before = await everything(empty)
    for refuse in (migrate, check_schema):
        with pytest.raises(
            SchemaError, match=r"did not make; .* tracker-daemon migrate --adopt takes it over"
        ):
            await refuse(database, DIMENSIONS)
    assert await everything(empty) == before
    assert await columns(empty, "llm_decisions") == {"id": "integer", "note": "text"}
    assert [tuple(row) for row in await empty.fetch("SELECT * FROM llm_decisions")] == [(1, "theirs")]


@pytest.mark.parametrize("path", ["public", "ours,public"])
async def test_an_operators_sessions_are_kept(path: str, database: str, empty: asyncpg.Connection) -> None:
    """In whatever schema of the search path they are."""
    await empty.execute("CREATE SCHEMA ours")
    await empty.execute("CREATE TABLE trading_sessions (id uuid PRIMARY KEY, name text DEFAULT 'none')")
    await empty.execute("INSERT INTO trading_sessions VALUES ($1, 'theirs')", id_ := uuid4())
    await migrate(f"{database}&search_path={path}", DIMENSIONS)
    assert await empty.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'trading_sessions'") == 1
    assert await columns(empty, "trading_sessions") == {
        "id": "uuid NOT NULL",
        "name": "text DEFAULT 'none'::text",
    }
    assert [tuple(row) for row in await empty.fetch("SELECT * FROM trading_sessions")] == [(id_, "theirs")]


async def test_another_dimension_than_the_columns_is_refused(dsn: str, sql: asyncpg.Connection) -> None:
    for refuse in (migrate, check_schema):
        with pytest.raises(SchemaError, match=f"TRACKER_EMBEDDING_DIMENSIONS is 4, .* with {DIMENSIONS}"):
            await refuse(dsn, 4)
    assert (await columns(sql, "llm_decisions"))["prompt_embedding"] == f"vector({DIMENSIONS})"


async def test_a_newer_schema_is_accepted_unless_it_breaks_this_version(
    dsn: str, sql: asyncpg.Connection
) -> None:
    add = "INSERT INTO tracker_migrations (number, name, breaking) VALUES ($1, 'of_a_later_version', $2)"
    await sql.execute(add, 998, False)
    await check_schema(dsn, DIMENSIONS)
    assert await migrate(dsn, DIMENSIONS) == []
    await sql.execute(add, 999, True)
    for refuse in (migrate, check_schema):
        with pytest.raises(SchemaError, match=r"migration 999 .* upgrade tracker-daemon"):
            await refuse(dsn, DIMENSIONS)


async def test_what_is_not_migrated_yet_is_worth_waiting_for(
    database: str, empty: asyncpg.Connection
) -> None:
    with pytest.raises(Misconfigured, match="run tracker-daemon migrate"):
        await check_schema(database, DIMENSIONS)
    assert "llm_decisions" not in {name for name, _ in await everything(empty)}
    await migrate(database, DIMENSIONS)
    await empty.execute("DELETE FROM tracker_migrations WHERE number = $1", migrations()[-1].number)
    with pytest.raises(Misconfigured, match="older than this version: run tracker-daemon migrate"):
        await check_schema(database, DIMENSIONS)


@pytest.fixture
async def weak(database: str, empty: asyncpg.Connection) -> AsyncIterator[str]:
    """The DSN of a role that may connect to the empty database, and nothing else."""
    role, parts = f"weak_{uuid4().hex}", urlsplit(database)
    await empty.execute(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    [sslmode] = parse_qs(parts.query).get("sslmode", ["prefer"])
    yield f"postgresql://{role}:s3cret@{parts.hostname}:{parts.port}{parts.path}?sslmode={sslmode}"
    await empty.execute(f"DROP OWNED BY {role}")
    await empty.execute(f"DROP ROLE {role}")


async def test_without_the_right_to_create_the_extension_the_remedy_is_named(
    weak: str, empty: asyncpg.Connection
) -> None:
    await empty.execute(f"GRANT CREATE ON SCHEMA public TO {urlsplit(weak).username}")
    with pytest.raises(Misconfigured) as caught:
        await migrate(weak, DIMENSIONS)
    assert 'permission denied to create extension "vector"' in str(caught.value)
    assert "let a superuser run CREATE EXTENSION vector in this database" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "llm_decisions" not in {name for name, _ in await everything(empty)}
    await empty.execute("CREATE EXTENSION vector")
    assert await migrate(weak, DIMENSIONS) == migrations()


async def test_without_the_right_to_create_tables_the_remedy_is_named(weak: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        await migrate(weak, DIMENSIONS)
    assert "permission denied for schema public" in str(caught.value)
    assert "TRACKER_POSTGRES_MIGRATE_DSN" in str(caught.value)


async def test_a_wrong_password_is_no_reason_to_give_up_and_is_not_said(weak: str) -> None:
    with pytest.raises(Misconfigured, match="password authentication failed") as caught:
        await migrate(weak.replace("s3cret", "wr0ng"), DIMENSIONS)
    assert "wr0ng" not in str(caught.value)
    assert f"(at {weak.rpartition('@')[2].partition('?')[0]})" in str(caught.value)


async def test_a_database_that_is_away_is_worth_waiting_for() -> None:
    with pytest.raises(Unavailable, match=r"\(at 127\.0\.0\.1:1/none\)"):
        await migrate("postgresql://127.0.0.1:1/none", DIMENSIONS)


async def test_what_sessions_require_is_said_at_every_start(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        """ALTER TABLE trading_sessions ADD "Desk" text NOT NULL, ADD note text NOT NULL DEFAULT ''"""
    )
    with structlog.testing.capture_logs() as lines:
        await check_schema(dsn, DIMENSIONS)
    [reason] = [line["reason"] for line in lines]
    assert reason.startswith('trading_sessions wants "Desk", of which')
    assert 'ALTER TABLE trading_sessions ALTER COLUMN "Desk" SET DEFAULT' in reason


LATER = "tracker_daemon.migrate.migrations"
BUILD = "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_reason ON llm_dead_letters (reason)"
BY_REASON = Migration(999, "by_reason", f"-- concurrently by_reason\n{BUILD};\n")


async def test_a_migration_that_gets_no_lock_gives_up_and_names_itself(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it has let everybody else pass, again and again; nothing of it is applied."""
    monkeypatch.setattr("tracker_daemon.migrate.LOCK_SECONDS", 0.05)
    monkeypatch.setattr("tracker_daemon.migrate.LOCK_ATTEMPTS", 3)
    later = [*migrations(), Migration(999, "desk", "ALTER TABLE llm_decisions ADD COLUMN desk text")]
    monkeypatch.setattr(LATER, lambda: later)
    before = await columns(sql, "llm_decisions")
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_decisions IN ACCESS SHARE MODE")
        with structlog.testing.capture_logs() as lines, pytest.raises(Locked) as caught:
            await migrate(dsn, DIMENSIONS)
    assert len(lines) == 2
    assert str(caught.value).startswith("migration 999_desk: PostgreSQL (55P03)")
    assert "pg_stat_activity" in str(caught.value)
    assert await columns(sql, "llm_decisions") == before
    assert await migrate(dsn, DIMENSIONS) == later[-1:]
    assert (await columns(sql, "llm_decisions"))["desk"] == "text"


@pytest.mark.not_on_citus("no unique index without the id")
async def test_an_index_whose_build_was_interrupted_is_built_anew(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it is there under its name, and no query would use it."""
    await sql.execute(
        "INSERT INTO llm_dead_letters (subject, published_at, reason, detail, payload) "
        "SELECT 's', now(), 'r', 'd', '' FROM generate_series(1, 2)"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute(BUILD.replace("INDEX", "UNIQUE INDEX"))
    later = [*migrations(), BY_REASON]
    monkeypatch.setattr(LATER, lambda: later)
    assert await migrate(dsn, DIMENSIONS) == [BY_REASON]
    valid = "SELECT indisvalid AND NOT indisunique FROM pg_index WHERE indexrelid = 'by_reason'::regclass"
    assert await sql.fetchval(valid)
    assert await migrate(dsn, DIMENSIONS) == []


async def test_an_index_is_built_while_another_migrator_waits_for_its_turn(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build waits for every older snapshot: who waits for the build must hold none."""
    later = [*migrations(), BY_REASON]
    monkeypatch.setattr(LATER, lambda: later)
    with structlog.testing.capture_logs() as lines:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group, sql.transaction():
            # A writer, for whose end the build waits before it looks for snapshots.
            await sql.execute("LOCK TABLE llm_dead_letters IN ROW EXCLUSIVE MODE")
            builder = group.create_task(migrate(dsn, DIMENSIONS))
            await until(lambda: sql.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'by_reason'"))
            other = group.create_task(migrate(dsn, DIMENSIONS))
            await until(lambda: any("another process migrates" in line["event"] for line in lines))
    assert (builder.result(), other.result()) == ([BY_REASON], [])
