"""The tables: whether they are there, in sight, and of this version, or will be once a daemon starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon import migrate
from tracker_daemon.doctor.finding import Finding
from tracker_daemon.errors import SchemaError, TrackerError
from tracker_daemon.postgres import connected, translated

if TYPE_CHECKING:
    from tracker_daemon.config import Settings
    from tracker_daemon.postgres import Connection

_IN_SIGHT: Final = "SELECT to_regclass('tracker_migrations') IS NOT NULL"
_OUT_OF_SIGHT: Final = """
SELECT nspname AS name, format(
    CASE WHEN has_schema_privilege(n.oid, 'USAGE') THEN 'ALTER ROLE %2$I SET search_path = %1$I'
    ELSE 'GRANT USAGE ON SCHEMA %1$I TO %2$I' END, nspname, current_user) AS remedy
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'tracker_migrations' LIMIT 1
"""
_UNREADABLE: Final = """
SELECT format('GRANT SELECT ON tracker_migrations TO %I', current_user)
WHERE NOT has_table_privilege('tracker_migrations', 'SELECT')
"""
_COMPLETE: Final = "SELECT array_agg(number) @> $1::int[] FROM tracker_migrations"
_LACKS: Final = """
SELECT CASE
    WHEN current_schema() IS NULL THEN
        format('no schema of its search path is there: ALTER ROLE %I SET search_path = public', current_user)
    WHEN NOT has_schema_privilege(current_schema(), 'CREATE') THEN
        format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user)
    WHEN NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') AND NOT EXISTS (
        SELECT FROM pg_available_extension_versions
        WHERE name = 'vector' AND trusted AND has_database_privilege(current_database(), 'CREATE')
    ) AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        'let a superuser run CREATE EXTENSION vector in this database'
END
"""


async def look(connection: Connection, settings: Settings) -> tuple[Finding, bool]:
    """What is found of the tables, and whether they are there to be looked at."""
    postgres = settings.postgres
    try:
        await migrate.check_schema(postgres.dsn.get_secret_value(), settings.embedding.dimensions)
    except SchemaError as error:
        return _broken(str(error)), False
    except TrackerError as error:
        with translated():
            remedy = await _remedy(connection)
        if remedy or not settings.migrate.on_start:
            return _broken("; ".join(filter(None, (str(error), remedy)))), False
        dsn = (postgres.migrate_dsn or postgres.dsn).get_secret_value()
        return await _to_be_made(dsn), False
    with translated():
        newest = max(migration.number for migration in migrate.migrations())
        query = "SELECT count(*) FROM tracker_migrations WHERE number > $1"
        newer = await connection.fetchval(query, newest)
    if not newer:
        return Finding("schema", "ok", "every migration is applied"), True
    seen = f"the schema has {newer} migrations that this version does not know: upgrade tracker-daemon"
    return Finding("schema", "warning", seen), True


async def _remedy(connection: Connection) -> str | None:
    """What to do about tables that this version cannot see or read; None: they have to be migrated."""
    if not await connection.fetchval(_IN_SIGHT):
        elsewhere = await connection.fetchrow(_OUT_OF_SIGHT)
        return f"but {elsewhere['name']} has some: {elsewhere['remedy']}" if elsewhere else None
    if unreadable := await connection.fetchval(_UNREADABLE):
        return str(unreadable)
    complete = await connection.fetchval(_COMPLETE, [one.number for one in migrate.migrations()])
    return "every migration is applied, so restore what was dropped since" if complete else None


async def _to_be_made(dsn: str) -> Finding:
    """Whether a daemon's start can migrate over this connection."""
    try:
        async with connected(dsn, statement_cache=False) as connection:
            with translated():
                lacks = await connection.fetchval(_LACKS)
    except TrackerError as error:
        return _broken(f"not up to date, and the daemon cannot migrate it: {error}")
    if lacks:
        return _broken(
            f"not up to date, and the daemon's role cannot migrate it: {lacks}, or let "
            "TRACKER_POSTGRES_MIGRATE_DSN name a role that can"
        )
    return Finding("schema", "ok", "not up to date yet: the daemon migrates it at its start")


def _broken(seen: str) -> Finding:
    return Finding("schema", "broken", seen)
