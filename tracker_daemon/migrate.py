"""Migrations: `schemas/sql/NNN_name.sql`, applied in order, each in a transaction of its own."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from tracker_daemon.errors import Misconfigured, SchemaError
from tracker_daemon.postgres import Connection, Rejected, connected, translated

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

log = structlog.get_logger(__name__)

LOCK_KEY: Final = 0x74726163  # "trac": one migrator at a time in a database
LOCK_POLL_SECONDS: Final = 0.2

_HISTORY = """
CREATE TABLE IF NOT EXISTS tracker_migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    breaking   BOOLEAN NOT NULL DEFAULT false,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""


class Migration(Struct, frozen=True):
    """One SQL file; `breaking` (first line `-- breaking`) keeps older daemons away from its result."""

    number: int
    name: str
    breaking: bool
    sql: str


def migrations() -> list[Migration]:
    """Every migration that this version brings, in order."""
    folder = files("tracker_daemon") / "schemas" / "sql"
    return sorted(
        (_read(file) for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda m: m.number
    )


def _read(file: Traversable) -> Migration:
    sql = file.read_text("utf-8")
    number, _, name = file.name.removesuffix(".sql").partition("_")
    return Migration(int(number), name, sql.startswith("-- breaking"), sql)


async def migrate(dsn: str, dimensions: int) -> list[Migration]:
    """Apply what is missing and return it; refuse what `check_schema` refuses."""
    async with connected(dsn) as connection:
        with translated():
            await _lock(connection)
            await _check_owner(connection)
            if not await _exists(connection, "tracker_migrations"):
                await _make_history(connection)
            applied = await _applied(connection)
            missing = [migration for migration in migrations() if migration.number not in applied]
            for migration in missing:
                await _apply(connection, migration, dimensions)
            await _check(connection, dimensions)
    return missing


async def check_schema(dsn: str, dimensions: int) -> None:
    """Raise `SchemaError` if this version must not write here, `Misconfigured` if it cannot yet."""
    async with connected(dsn) as connection:
        with translated():
            await _check_owner(connection)
            await _check(connection, dimensions)


async def _lock(connection: Connection) -> None:
    """Take the lock that the end of the connection gives back."""
    # Polled: CREATE INDEX CONCURRENTLY deadlocks with a session that waits inside pg_advisory_lock.
    waiting = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
        if not waiting:
            log.info("another process migrates this database, waiting")
        waiting = True
        await asyncio.sleep(LOCK_POLL_SECONDS)


async def _make_history(connection: Connection) -> None:
    try:
        with translated():
            await connection.execute(_HISTORY)
    except Misconfigured as error:
        raise Misconfigured(
            f"{error}; let TRACKER_POSTGRES_MIGRATE_DSN name a role that may make tables"
        ) from error


async def _apply(connection: Connection, migration: Migration, dimensions: int) -> None:
    sql = migration.sql.replace(":embedding_dimensions", str(dimensions))
    try:
        with translated():
            async with connection.transaction():
                await connection.execute(sql)
                await connection.execute(
                    "INSERT INTO tracker_migrations (number, name, breaking) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.breaking,
                )
    except (Misconfigured, Rejected) as error:
        remedy = (
            _REMEDY
            if "vector" in str(error)
            else "what it needs is in CONTRIBUTING.md, the SQL in schemas/sql"
        )
        raise Misconfigured(f"migration {migration.number:03}_{migration.name}: {error}; {remedy}") from error
    log.info("migration applied", number=migration.number, name=migration.name)


_REMEDY = (
    "install pgvector on the server (Debian: postgresql-NN-pgvector), "
    "or let a superuser run CREATE EXTENSION vector in this database"
)


async def _applied(connection: Connection) -> dict[int, bool]:
    rows = await connection.fetch("SELECT number, breaking FROM tracker_migrations")
    return {row["number"]: row["breaking"] for row in rows}


async def _exists(connection: Connection, table: str) -> bool:
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table) is True


async def _check_owner(connection: Connection) -> None:
    if await _exists(connection, "llm_decisions") and not await _exists(connection, "tracker_migrations"):
        raise SchemaError(
            "this database has a table llm_decisions that tracker-daemon did not make; nothing was changed. "
            "Give the daemon a database of its own (TRACKER_POSTGRES_DSN), or rename that table"
        )


async def _check(connection: Connection, dimensions: int) -> None:
    if not await _exists(connection, "tracker_migrations"):
        raise Misconfigured("the tables are not there yet: run tracker-daemon migrate")
    applied = await _applied(connection)
    known = {migration.number for migration in migrations()}
    if known - applied.keys():
        raise Misconfigured("the schema is older than this version: run tracker-daemon migrate")
    if ahead := [number for number, breaking in applied.items() if breaking and number not in known]:
        raise SchemaError(f"migration {ahead[0]} of a newer version breaks this one: upgrade tracker-daemon")
    width = await connection.fetchval(
        "SELECT atttypmod FROM pg_attribute "
        "WHERE attrelid = 'llm_decisions'::regclass AND attname = 'prompt_embedding'"
    )
    if width != dimensions:
        raise SchemaError(
            f"TRACKER_EMBEDDING_DIMENSIONS is {dimensions}, but this database was migrated with {width}: "
            "set it to that, or use another database"
        )
