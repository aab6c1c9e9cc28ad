"""Someone else's `llm_decisions`: how it differs from ours, and what stands against adopting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.errors import Misconfigured
from tracker_daemon.migrate import STATEMENT_SECONDS, required_columns
from tracker_daemon.postgres import Rejected, translated

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
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required
FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""
_KEYED: Final = """
SELECT EXISTS (
    SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND indkey::text = attnum::text
    WHERE indrelid = 'llm_decisions'::regclass AND attname = 'id'
      AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
)
"""
_OUTCOMES: Final = ["SUCCESS", "FAILURE", "PENDING"]
# CHECK constraints on the outcome alone.
_OUTCOME_RULES: Final = """
SELECT conname, pg_get_expr(conbin, conrelid) AS rule
FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
WHERE conrelid = 'llm_decisions'::regclass AND contype = 'c' AND attname = 'outcome'
"""
# A plain index over these columns, whatever the direction, does the same as ours, if that is not there yet.
_SAME_INDEX: Final = """
SELECT quote_ident(relname)
FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am am ON am.oid = relam
WHERE indrelid = 'llm_decisions'::regclass AND amname = 'btree' AND NOT indisunique AND indisvalid
  AND indpred IS NULL AND indexprs IS NULL AND indnatts = cardinality($1::text[])
  AND to_regclass($2) IS NULL
  AND $1::text[] = ARRAY(
      SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS key (number, place)
      JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place
  )
"""


class Column(Struct, frozen=True):
    """A column of the table, its type in PostgreSQL's own words, and whether it may not be NULL."""

    name: str
    type: str
    required: bool


async def is_table(connection: Connection) -> bool:
    """Whether it is a table at all, and not a view, say."""
    return await connection.fetchval(_IS_TABLE) is True


async def rename(connection: Connection) -> None:
    """Give the columns of the older shape, and indexes that do the same as ours, our names."""
    columns = await _columns(connection, "llm_decisions")
    for old, new in RENAMED.items():
        if old in columns and new not in columns:
            await connection.execute(f"ALTER TABLE llm_decisions RENAME {old} TO {new}")
    for name, covered in INDEXES.items():
        if theirs := await connection.fetchval(_SAME_INDEX, covered, name):
            await connection.execute(f"ALTER INDEX {theirs} RENAME TO {name}")


async def objections(connection: Connection, dimensions: int) -> list[str]:
    """Why the table cannot be adopted, a sentence each; if there is none, `convert` will succeed."""
    columns = await _columns(connection, "llm_decisions")
    found = [
        f"llm_decisions has no column {name}: add it, and fill it for the rows that are there"
        for name in ALWAYS_WRITTEN
        if name not in columns
    ]
    found += [
        f"llm_decisions has {new} and {old}, the same here: put into {new} what counts, and rename {old}"
        for old, new in RENAMED.items()
        if old in columns and new in columns
    ]
    found += [
        f"llm_decisions has a column {name} of its own, which the daemon needs: rename yours"
        for name in OWN
        if name in columns
    ]
    found += [
        _type_remedy(column, target)
        for column, target in _mistyped(columns, dimensions)
        if not await _lossless(connection, column, target)
    ]
    found += [
        f"llm_decisions wants a value for {name}, of which the daemon knows nothing: "
        f"ALTER TABLE llm_decisions ALTER COLUMN {name} SET DEFAULT …, or DROP NOT NULL"
        for name in await required_columns(connection, "llm_decisions", list(TYPES))
    ]
    return [*found, *await _objectionable_rules(connection)]


async def _objectionable_rules(connection: Connection) -> list[str]:
    found = []
    if not await connection.fetchval(_KEYED):
        found.append(
            "no key keeps the ids of llm_decisions unique: ALTER TABLE llm_decisions ADD PRIMARY KEY (id)"
        )
    for name, rule in await connection.fetch(_OUTCOME_RULES):
        if not await connection.fetchval(
            f"SELECT bool_and({rule}) FROM unnest($1::text[]) outcome", _OUTCOMES
        ):
            found.append(
                f"the constraint {name} of llm_decisions forbids one of {', '.join(_OUTCOMES)}: drop it"
            )
    sessions = await _columns(connection, "trading_sessions")
    if sessions and ("id" not in sessions or sessions["id"].type != "uuid"):
        found.append("trading_sessions has no column id of type uuid: rename it, the daemon makes its own")
    return found


async def convert(connection: Connection, dimensions: int) -> None:
    """Give the columns that are there our types, and let be NULL what may be NULL here."""
    columns = await _columns(connection, "llm_decisions")
    changes = [
        f"ALTER COLUMN {column.name} TYPE {target} USING {column.name}::{target}"
        for column, target in _mistyped(columns, dimensions)
    ]
    changes += [
        f"ALTER COLUMN {name} DROP NOT NULL"
        for name in TYPES
        if name in columns and columns[name].required and name not in ALWAYS_WRITTEN
    ]
    if changes:
        await connection.execute(f"ALTER TABLE llm_decisions {', '.join(changes)}", timeout=STATEMENT_SECONDS)


async def _columns(connection: Connection, table: str) -> dict[str, Column]:
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
        return {}
    return {row["name"]: Column(**row) for row in await connection.fetch(_COLUMNS, table)}


def _mistyped(columns: dict[str, Column], dimensions: int) -> list[tuple[Column, str]]:
    """The columns that have another type than ours, with ours."""
    targets = {name: target.format(dimensions=dimensions) for name, target in TYPES.items()}
    return [
        (columns[name], target)
        for name, target in targets.items()
        # pgvector may live in a schema of its own.
        if name in columns and columns[name].type.rpartition(".")[2] != target
    ]


async def _lossless(connection: Connection, column: Column, target: str) -> bool:
    """Whether every value is the same again after a way there and back."""
    if target == "timestamp with time zone" and not column.type.endswith(" with time zone"):
        return False  # nobody here knows in which zone the others' clock was read
    there = f"{column.name}::{target}"
    same = f"{there} IS NOT NULL" if column.type == "json" else f"{there}::{column.type} = {column.name}"
    lost = f"SELECT EXISTS (SELECT FROM llm_decisions WHERE {column.name} IS NOT NULL AND NOT ({same}))"
    try:
        with translated():
            async with connection.transaction():
                return not await connection.fetchval(lost, timeout=STATEMENT_SECONDS)
    except (Rejected, Misconfigured):
        return False


def _type_remedy(column: Column, target: str) -> str:
    if column.type.rpartition(".")[2].startswith("vector("):
        width = column.type.rpartition("(")[2].rstrip(")")
        return f"prompt_embedding is {column.type}, not {target}: set TRACKER_EMBEDDING_DIMENSIONS={width}"
    return (
        f"the column {column.name} is {column.type}, must be {target}, and not every value is sure to "
        f"survive that: ALTER TABLE llm_decisions ALTER COLUMN {column.name} TYPE {target} USING …"
    )
