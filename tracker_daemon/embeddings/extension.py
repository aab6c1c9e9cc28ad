"""Where pgvector lives in a database: the search path of a role need not name its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_daemon.errors import Misconfigured
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection


async def schema_of_vector(connection: Connection) -> str:
    """The schema of pgvector's types, functions and operators, quoted for SQL; ask in a transaction."""
    with translated():
        schema = await connection.fetchval(
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        )
    if schema is None:
        raise Misconfigured("the extension vector is missing in this database: run tracker-daemon migrate")
    return str(schema)
