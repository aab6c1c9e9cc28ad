"""The locks of a database: who waits for one, and which are kept. Its server may serve others meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
# By what else they have locked: `pg_stat_activity` stays as it was for as long as a transaction lasts.
_BLOCKED = f"""
SELECT count(*) = $1 FROM pg_locks
WHERE NOT granted AND pid IN (SELECT pid FROM pg_locks WHERE database = {_DATABASE})
"""
_BLOCKED_ON_CITUS = f"""
SELECT count(*) = $1 FROM citus_locks
WHERE NOT granted AND global_pid IN (
    SELECT global_pid FROM citus_locks WHERE nodeid = citus_coordinator_nodeid() AND database = {_DATABASE}
)
"""
_ADVISORY = f"""
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = {_DATABASE}
"""


async def blocked(sql: asyncpg.Connection, sessions: int) -> bool:
    """Whether so many sessions wait for a lock, on whichever node of a cluster."""
    on_citus = await sql.fetchval("SELECT to_regclass('citus_locks') IS NOT NULL")
    return bool(await sql.fetchval(_BLOCKED_ON_CITUS if on_citus else _BLOCKED, sessions))


async def advisory_locks(sql: asyncpg.Connection) -> int:
    """How many are held, or waited for."""
    return int(await sql.fetchval(_ADVISORY))
