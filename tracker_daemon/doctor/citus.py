"""Citus: whether a daemon's sessions are what they should be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.doctor.finding import Finding

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

_ON_CITUS: Final = "SELECT to_regclass('pg_dist_partition') IS NOT NULL"
_HIDES: Final = """
SELECT format('ALTER DATABASE %I SET citus.show_shards_for_app_name_prefixes = %L',
              current_database(), current_setting('application_name'))
WHERE current_setting('citus.override_table_visibility')::boolean AND NOT EXISTS (
    SELECT FROM regexp_split_to_table(current_setting('citus.show_shards_for_app_name_prefixes'), ',') name
    WHERE trim(name, ' "') IN ('*', current_setting('application_name'))
)
"""


async def look(connection: Connection) -> list[Finding]:
    """Whether a connection is made slowly; nothing where there is no Citus."""
    remedy = await connection.fetchval(_HIDES) if await connection.fetchval(_ON_CITUS) else None
    seen = f"Citus hides its shards, so it takes seconds to learn types on each connection: {remedy}"
    return [Finding("citus", "warning", seen)] if remedy else []
