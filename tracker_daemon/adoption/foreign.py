"""Someone else's `llm_decisions`: how it differs from ours, and how it gets our shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.history import exists
from tracker_daemon.migrate import STATEMENT_SECONDS

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

RENAMED: Final = {"outcome_pnl": "pnl", "metadata": "context"}
"""What an older shape calls some columns."""
ALWAYS_WRITTEN: Final = (
    *("id", "decision_type", "symbol", "prompt", "response", "model", "agent_name", "created_at"),
)
"""No decision is without these, so they must be there, and may be required."""
OWN: Final = ("outcome_at", "outcome_sequence", "content_hash")
"""What these say, nobody else can have known."""
TYPES: Final = {
    "id": "uuid",
    "session_id": "uuid",
    "decision_type": "character varying(50)",
    "symbol": "character varying(20)",
    "prompt": "text",
    "prompt_embedding": "vector({dimensions})",
    "response": "text",
    "model": "character varying(100)",
    "tokens_used": "integer",
    "latency_ms": "integer",
    "outcome": "character varying(20)",
    "pnl": "numeric(20,8)",
    "context": "jsonb",
    "agent_name": "character varying(100)",
    "confidence": "numeric(5,4)",
    "created_at": "timestamp with time zone",
    "action": "character varying(20)",
    "cost_usd": "numeric(14,6)",
    "extra": "jsonb",
    "experiment": "character varying(100)",
    "variant": "character varying(100)",
    "propensity": "numeric(11,10)",
    "embedding_model": "character varying(100)",
    "ingested_at": "timestamp with time zone",
}
DEFAULTS: Final = {"outcome": "DROP DEFAULT", "pnl": "DROP DEFAULT", "ingested_at": "SET DEFAULT now()"}
"""Of the columns that a new decision is stored without: the first two show what the ledger has."""
INDEXES: Final = {
    "llm_decisions_session_id": ["session_id"],
    "llm_decisions_symbol": ["symbol"],
    "llm_decisions_decision_type": ["decision_type"],
    "llm_decisions_outcome": ["outcome"],
    "llm_decisions_agent_name": ["agent_name", "created_at"],
    "llm_decisions_created_at": ["created_at"],
}
"""Those that migration 001 makes."""

_IS_TABLE: Final = "SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = 'llm_decisions'::regclass"
_COLUMNS: Final = """
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required,
       attgenerated <> '' AS generated
FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""
# A plain index over these columns, whatever the direction, does the same as ours.
_SAME_INDEX: Final = """
SELECT quote_ident(relname)
FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am am ON am.oid = relam
WHERE indrelid = 'llm_decisions'::regclass AND amname = 'btree' AND NOT indisunique AND indisvalid
  AND indpred IS NULL AND indexprs IS NULL AND indnatts = cardinality($1::text[])
  AND $1::text[] = ARRAY(
      SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS key (number, place)
      JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place
  )
"""


class Column(Struct, frozen=True):
    """A column: its type in PostgreSQL's own words, whether it may not be NULL, whether it is computed."""

    name: str
    type: str
    required: bool
    generated: bool


async def is_table(connection: Connection) -> bool:
    """Whether it is a table at all, and not a view, say."""
    return await connection.fetchval(_IS_TABLE) is True


async def rename(connection: Connection) -> None:
    """Give the columns of the older shape, and indexes that do the same as ours, our names."""
    columns = await columns_of(connection, "llm_decisions")
    for old, new in RENAMED.items():
        if old in columns and new not in columns:
            await connection.execute(f"ALTER TABLE llm_decisions RENAME {old} TO {new}")
    for name, covered in INDEXES.items():
        theirs = await same_index(connection, covered)
        if theirs and not await exists(connection, name):
            await connection.execute(f"ALTER INDEX {theirs} RENAME TO {name}")


async def convert(connection: Connection, dimensions: int) -> None:
    """Give the columns that are there our types and defaults, and let be NULL what may be NULL here."""
    columns = await columns_of(connection, "llm_decisions")
    changes = [
        f"ALTER COLUMN {column.name} TYPE {target} USING {column.name}::{target}"
        for column, target in mistyped(columns, dimensions)
    ]
    changes += [
        f"ALTER COLUMN {name} DROP NOT NULL"
        for name in TYPES
        if name in columns and columns[name].required and name not in ALWAYS_WRITTEN
    ]
    changes += [f"ALTER COLUMN {name} {default}" for name, default in DEFAULTS.items() if name in columns]
    await connection.execute(f"ALTER TABLE llm_decisions {', '.join(changes)}", timeout=STATEMENT_SECONDS)


async def same_index(connection: Connection, covered: list[str]) -> str | None:
    """The name, quoted for SQL, of an index that does the same as ours over these columns; None: no such."""
    name: str | None = await connection.fetchval(_SAME_INDEX, covered)
    return name


async def columns_of(connection: Connection, table: str) -> dict[str, Column]:
    """The columns of a table by their names; none where there is no table."""
    if not await exists(connection, table):
        return {}
    return {row["name"]: Column(**row) for row in await connection.fetch(_COLUMNS, table)}


def mistyped(columns: dict[str, Column], dimensions: int) -> list[tuple[Column, str]]:
    """The columns that have another type than ours, with ours."""
    targets = {name: target.format(dimensions=dimensions) for name, target in TYPES.items()}
    return [
        (columns[name], target)
        for name, target in targets.items()
        # pgvector may live in a schema of its own.
        if name in columns and columns[name].type.rpartition(".")[2] != target
    ]
