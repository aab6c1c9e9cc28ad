"""PostgreSQL: versions, what makes a commit last, upkeep, room for connections."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracker_daemon import migrate
from tracker_daemon.doctor import citus, clock, indexes, rights, schema
from tracker_daemon.doctor.finding import Finding, findings, oldest
from tracker_daemon.postgres import check_statements, connected, server_of, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.config import Settings
    from tracker_daemon.postgres import Connection

OLDEST_SERVER: Final = (14,)
OLDEST_VECTOR: Final = (0, 8)
BESIDE_WRITERS: Final = 7
"""Connections of its poll, three indexes, scores, scales and policies; retention is one more."""
LARGE_BYTES: Final = 8 << 20
"""A smaller table needs no statistics."""

_SETTINGS = """
SELECT pg_is_in_recovery() AS replica, current_setting('transaction_read_only') AS read_only,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit
"""
# Daemons' own connections are not counted as others': the doctor goes by the same name as they do.
_ROOM = """
SELECT LEAST(
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - COALESCE(current_setting('reserved_connections', true)::int, 0)
    - (SELECT sum(numbackends) FROM pg_stat_database)
    + (SELECT count(*) FROM pg_stat_activity WHERE application_name = current_setting('application_name')),
    (SELECT NULLIF(datconnlimit, -1) FROM pg_database WHERE datname = current_database()),
    (SELECT NULLIF(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
)::int
"""
_TABLES = """
SELECT relname::text AS name,
       EXISTS (SELECT FROM pg_options_to_table(reloptions)
               WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean) AS off,
       pg_relation_size(c.oid) > $2
       AND NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = nspname AND s.tablename = relname) AS blind
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) name)
ORDER BY 1
"""


async def look(settings: Settings) -> AsyncIterator[Finding]:
    """Everything found in PostgreSQL; the first error ends it."""
    dsn = settings.postgres.dsn.get_secret_value()
    prunes = settings.retention.older_than_days is not None
    embeds = settings.embedding.provider != "none"
    held = settings.postgres.writers + BESIDE_WRITERS + prunes + embeds
    if settings.query.enabled and settings.query.dsn is None:
        held += settings.query.connections + 1  # for choices
    if settings.postgres.statement_cache:
        await check_statements(dsn)
    async with connected(dsn, statement_cache=settings.postgres.statement_cache) as connection:
        with translated():
            yield await _server(connection, dsn)
            for look_at in (_durability, _vector):
                for finding in await look_at(connection):
                    yield finding
        found, ready = await schema.look(connection, settings)
        yield found
        if not ready:
            return
        with translated():
            for finding in await rights.look(connection, prunes=prunes, embeds=embeds):
                yield finding
            for look_at in (_sessions, indexes.look, _tables, citus.look, _clock):
                for finding in await look_at(connection):
                    yield finding
            yield await _connections(connection, held)


async def _server(connection: Connection, dsn: str) -> Finding:
    version = await connection.fetchval("SHOW server_version")
    seen = f"PostgreSQL {version} at {server_of(dsn)}"
    return oldest("postgres", seen, _numbers(version), OLDEST_SERVER)


async def _durability(connection: Connection) -> list[Finding]:
    [seen] = await connection.fetch(_SETTINGS)
    broken, warnings = [], []
    if seen["replica"]:
        broken.append("this server is a replica: let TRACKER_POSTGRES_DSN name the primary")
    elif seen["read_only"] == "on":
        broken.append(
            "transactions are read-only: set default_transaction_read_only = off for role and database"
        )
    if seen["fsync"] == "off":
        warnings.append("fsync is off: a crash of the machine can ruin the whole database; set fsync = on")
    if seen["synchronous_commit"] == "off":
        warnings.append(
            "synchronous_commit is off: a crash of the server takes rows whose messages are acknowledged; "
            "set synchronous_commit = on"
        )
    return findings("durability", "what is committed is on disk", broken=broken, warnings=warnings)


async def _vector(connection: Connection) -> list[Finding]:
    vector = await connection.fetchrow(
        "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'"
    )
    if vector is None:
        seen = "the server has no pgvector: install it there (Debian: postgresql-NN-pgvector)"
        return [Finding("vector", "broken", seen)]
    brings, installed = vector["default_version"], vector["installed_version"]
    fine = f"pgvector {installed}" if installed else f"pgvector {brings}, migrate will create it"
    needed = ".".join(map(str, OLDEST_VECTOR))
    broken = []
    if _numbers(brings) < OLDEST_VECTOR:
        broken.append(f"pgvector {brings} on the server is too old: install {needed} or newer there")
    elif installed and _numbers(installed) < OLDEST_VECTOR:
        broken.append(f"pgvector {installed} in this database is too old: ALTER EXTENSION vector UPDATE")
    return findings("vector", fine, broken=broken)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


async def _sessions(connection: Connection) -> list[Finding]:
    required = await migrate.required_columns(connection, "trading_sessions", ["id"])
    return [Finding("sessions", "broken", migrate.sessions_remedy(required))] if required else []


async def _tables(connection: Connection) -> list[Finding]:
    warnings = []
    if await connection.fetchval("SELECT current_setting('autovacuum') = 'off'"):
        warnings.append(
            "autovacuum is off on the whole server, so tables grow without end: set autovacuum = on"
        )
    for row in await connection.fetch(_TABLES, indexes.tables(), LARGE_BYTES):
        if row["off"]:
            warnings.append(
                f"autovacuum is off for {row['name']}, which grows without end: "
                f"ALTER TABLE {row['name']} RESET (autovacuum_enabled)"
            )
        if row["blind"]:
            warnings.append(
                f"{row['name']} was never analyzed, and questions to it are planned blindly: "
                f"ANALYZE {row['name']}"
            )
    return findings("tables", "autovacuum and statistics are as they should be", warnings=warnings)


async def _connections(connection: Connection, needed: int) -> Finding:
    room = await connection.fetchval(_ROOM)
    seen = f"a daemon holds up to {needed} connections, there is room for {room}, of all daemons together"
    remedy = (
        "raise max_connections, or the limit of the role or the database, or lower TRACKER_POSTGRES_WRITERS "
        "or TRACKER_QUERY_CONNECTIONS"
    )
    if room >= needed:
        return Finding("connections", "ok", seen)
    return Finding("connections", "warning", f"{seen}: {remedy}")


async def _clock(connection: Connection) -> list[Finding]:
    asked = datetime.now(UTC)
    theirs = await connection.fetchval("SELECT clock_timestamp()")
    return [clock.compare("postgres clock", asked, theirs, datetime.now(UTC))]
