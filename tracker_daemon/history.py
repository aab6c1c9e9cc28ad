"""The history of a database: which migrations are applied, and whose `llm_decisions` it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.errors import Misconfigured
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

ADOPTION: Final = 0
"""The number of the migration that adopts someone else's table."""

_TABLE: Final = """
CREATE TABLE tracker_migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    breaking   BOOLEAN NOT NULL DEFAULT false,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""


async def exists(connection: Connection, relation: str) -> bool:
    """Whether the search path leads to a table, view or index of that name."""
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", relation) is True


async def make(connection: Connection) -> None:
    """Make the table that says what is applied, where it is missing."""
    if await exists(connection, "tracker_migrations"):
        return
    try:
        with translated():
            await connection.execute(_TABLE)
    except Misconfigured as error:
        raise Misconfigured(
            f"{error}; let TRACKER_POSTGRES_MIGRATE_DSN name a role that may make tables"
        ) from error


async def record(connection: Connection, number: int, name: str, *, breaking: bool) -> None:
    """Write down that a migration is applied."""
    await connection.execute(
        "INSERT INTO tracker_migrations (number, name, breaking) VALUES ($1, $2, $3)", number, name, breaking
    )


async def applied(connection: Connection) -> dict[int, bool]:
    """Whether it keeps older daemons away, by the number of each migration that is applied."""
    if not await exists(connection, "tracker_migrations"):
        return {}
    rows = await connection.fetch("SELECT number, breaking FROM tracker_migrations")
    return {row["number"]: row["breaking"] for row in rows}


async def is_foreign(connection: Connection) -> bool:
    """Whether someone else made `llm_decisions`: a history may be there, of a first migration that failed."""
    return await exists(connection, "llm_decisions") and not await applied(connection)


async def begin_adoption(connection: Connection) -> None:
    """Keep daemons away until it is finished: none must project an outcome before the first are entered."""
    await make(connection)
    await record(connection, ADOPTION, "adoption", breaking=True)


async def is_half_adopted(connection: Connection) -> bool:
    """Whether the adoption of someone else's table has begun and is not finished."""
    return (await applied(connection)).get(ADOPTION) is True


async def finish_adoption(connection: Connection) -> None:
    """Let daemons in."""
    await connection.execute("UPDATE tracker_migrations SET breaking = false WHERE number = $1", ADOPTION)
