"""The tables on Citus: what belongs to a decision lies where that does, spread over the nodes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon.errors import SchemaError
from tracker_daemon.migrate import STATEMENT_SECONDS, briefly_locked, locked
from tracker_daemon.postgres import connected, translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

REFERENCE: Final = "trading_sessions"
"""The table that each node has a copy of: foreign keys of all nodes lead to it."""
DISTRIBUTED: Final = {
    "llm_decisions": "id",
    "llm_outcomes": "decision_id",
    "llm_embedding_queue": "decision_id",
    "llm_embedding_index": "decision_id",
    "llm_text_index": "decision_id",
    "llm_dead_letters": "id",
}
"""The tables that are spread, all of them alike, and the column that says where a row lies.

Every other table stays on the coordinator: it is small, or, the index of situations, has a trigger.
"""
MOST_ROWS: Final = 20_000
"""Of a table that is spread while daemons are at work: they wait until its rows are copied."""

_HAS_CITUS: Final = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
# Citus knows local tables, too, those that a foreign key leads to.
_DONE: Final = """
SELECT EXISTS (
    SELECT FROM pg_dist_partition
    WHERE logicalrelid = to_regclass($1) AND (partmethod = 'h' OR repmodel = 't')
)
"""
_SPREAD: Final = {
    REFERENCE: f"SELECT create_reference_table('{REFERENCE}')",
    "llm_decisions": "SELECT create_distributed_table('llm_decisions', 'id')",
} | {
    table: f"SELECT create_distributed_table('{table}', '{column}', colocate_with => 'llm_decisions')"
    for table, column in DISTRIBUTED.items()
    if table != "llm_decisions"
}
_CLEAR: Final = "SELECT truncate_local_data_after_distributing_table('{table}')"
# Only one that was made before there was Citus is not on each node already.
_SPREAD_FUNCTION: Final = "SELECT create_distributed_function('llm_searched_text(text, text)')"


async def distribute(dsn: str) -> list[str]:
    """Spread what is not spread yet, all of it or nothing, and return those tables; daemons may be at work.

    Raise `SchemaError`, with nothing changed, where there is no Citus or too much to be copied.
    """
    async with locked(dsn), connected(dsn, statement_cache=False) as connection:
        with translated():
            if not await connection.fetchval(_HAS_CITUS):
                raise SchemaError(
                    "this database has no Citus, nothing was distributed: it takes CREATE EXTENSION citus "
                    "here and in the database of this name on each other node, and citus_add_node for those"
                )
            missing = [table for table in _SPREAD if not await connection.fetchval(_DONE, table)]
            for table in missing:
                await _check_size(connection, table)
            await briefly_locked(connection, partial(_spread, connection, missing))
    for table in missing:
        log.info("table distributed", table=table)
    return missing


async def _check_size(connection: Connection, table: str) -> None:
    rows = await connection.fetchval(f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {MOST_ROWS + 1}) rows")
    if rows > MOST_ROWS:
        raise SchemaError(
            f"{table} has more than {MOST_ROWS} rows, and daemons would wait while they are copied; nothing "
            "was distributed. Stop the daemons, the stream keeps what comes, and take the way for a full "
            "history in deploy/README.md"
        )


async def _spread(connection: Connection, tables: list[str]) -> None:
    for table in tables:
        await connection.execute(_SPREAD[table], timeout=STATEMENT_SECONDS)
    for table in tables:  # what was copied
        await connection.execute(_CLEAR.format(table=table), timeout=STATEMENT_SECONDS)
    await connection.execute(_SPREAD_FUNCTION)
