"""Someone else's `llm_decisions`: how it differs from ours, and what stands against adopting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.errors import Misconfigured
from tracker_daemon.migrate import STATEMENT_SECONDS, exists, required_columns
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
_UNLOGGED: Final = "SELECT relpersistence = 'u' FROM pg_class WHERE oid = 'llm_decisions'::regclass"
# Where tables are made, a second llm_decisions would be made too, and stand in front of this one.
_ELSEWHERE: Final = """
SELECT quote_ident(nspname), quote_ident(current_schema())
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE c.oid = 'llm_decisions'::regclass AND nspname <> current_schema()
"""
# The key of a table knows nothing of the rows in tables that inherit from it; that of a partitioned one does.
_KEYED: Final = """
SELECT EXISTS (
    SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND indkey::text = attnum::text
    JOIN pg_class c ON c.oid = indrelid
    WHERE indrelid = 'llm_decisions'::regclass AND attname = 'id' AND attnotnull
      AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
      AND (relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = indrelid))
)
"""
_OTHER_SESSIONS: Final = """
SELECT quote_ident(conname), confrelid::regclass::text
FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
WHERE conrelid = 'llm_decisions'::regclass AND contype = 'f' AND attname = 'session_id'
  AND conparentid = 0 AND confrelid IS DISTINCT FROM to_regclass('trading_sessions')
"""
_OUTCOMES: Final = ["SUCCESS", "FAILURE", "PENDING"]
# CHECK constraints on the outcome alone.
_OUTCOME_RULES: Final = """
SELECT conname, pg_get_expr(conbin, conrelid) AS rule
FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
WHERE conrelid = 'llm_decisions'::regclass AND contype = 'c' AND attname = 'outcome'
"""
_ALLOWED: Final = "SELECT bool_and({rule}) IS NOT FALSE FROM unnest($1::text[]) outcome"
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
    columns = await _columns(connection, "llm_decisions")
    for old, new in RENAMED.items():
        if old in columns and new not in columns:
            await connection.execute(f"ALTER TABLE llm_decisions RENAME {old} TO {new}")
    for name, covered in INDEXES.items():
        theirs = await connection.fetchval(_SAME_INDEX, covered)
        if theirs and not await exists(connection, name):
            await connection.execute(f"ALTER INDEX {theirs} RENAME TO {name}")


async def objections(connection: Connection, dimensions: int) -> list[str]:
    """Why the table cannot be adopted, a sentence each.

    If there is none, only what depends on a column can keep `convert` from success, a view say.
    """
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
        f"the column {name} is computed from others, and the daemon writes it: "
        f"ALTER TABLE llm_decisions ALTER COLUMN {name} DROP EXPRESSION"
        for name in TYPES
        if name in columns and columns[name].generated
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
    return [
        *found,
        *await _objectionable_places(connection),
        *await _objectionable_rules(connection),
        *await _objectionable_sessions(connection),
    ]


async def _objectionable_places(connection: Connection) -> list[str]:
    found = [
        f"llm_decisions is in the schema {theirs}, and the daemon would make its tables in {ours}: "
        f"let {theirs} be first in the search_path of TRACKER_POSTGRES_MIGRATE_DSN and TRACKER_POSTGRES_DSN"
        for theirs, ours in await connection.fetch(_ELSEWHERE)
    ]
    if await connection.fetchval(_UNLOGGED):
        found.append("a crash empties llm_decisions, it is UNLOGGED: ALTER TABLE llm_decisions SET LOGGED")
    found += [
        f"there is a {name} that is no index of llm_decisions on {', '.join(covered)}: rename it"
        for name, covered in INDEXES.items()
        if await exists(connection, name) and not await connection.fetch(_SAME_INDEX, covered)
    ]
    return found


async def _objectionable_rules(connection: Connection) -> list[str]:
    found = []
    if not await connection.fetchval(_KEYED):
        found.append(
            "no key keeps the ids of llm_decisions unique and not NULL: "
            "ALTER TABLE llm_decisions ADD PRIMARY KEY (id); or, where it has another primary key, "
            "ALTER TABLE llm_decisions ALTER COLUMN id SET NOT NULL, ADD UNIQUE (id); "
            "where it is partitioned, only by id can it be adopted"
        )
    found += [
        f"the constraint {name} of llm_decisions forbids one of {', '.join(_OUTCOMES)}: drop it"
        for name, rule in await connection.fetch(_OUTCOME_RULES)
        if not await _holds(connection, _ALLOWED.format(rule=rule), _OUTCOMES)
    ]
    return found


async def _objectionable_sessions(connection: Connection) -> list[str]:
    sessions = await _columns(connection, "trading_sessions")
    if sessions and ("id" not in sessions or sessions["id"].type != "uuid"):
        return ["trading_sessions has no column id of type uuid: rename it, the daemon makes its own"]
    return [
        f"the constraint {name} ties session_id to {table}, of which the daemon makes no rows: "
        f"ALTER TABLE llm_decisions DROP CONSTRAINT {name}, or rename {table} to trading_sessions"
        for name, table in await connection.fetch(_OTHER_SESSIONS)
    ]


async def convert(connection: Connection, dimensions: int) -> None:
    """Give the columns that are there our types and defaults, and let be NULL what may be NULL here."""
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
    changes += [f"ALTER COLUMN {name} {default}" for name, default in DEFAULTS.items() if name in columns]
    await connection.execute(f"ALTER TABLE llm_decisions {', '.join(changes)}", timeout=STATEMENT_SECONDS)


async def _columns(connection: Connection, table: str) -> dict[str, Column]:
    if not await exists(connection, table):
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
    lost = f"SELECT FROM llm_decisions WHERE {column.name} IS NOT NULL AND NOT ({same})"
    return await _holds(connection, f"SELECT NOT EXISTS ({lost})")


async def _holds(connection: Connection, question: str, *values: object) -> bool:
    """Whether the answer is yes; what cannot even be asked, for types that do not go together, is a no."""
    try:
        with translated():
            async with connection.transaction():
                return await connection.fetchval(question, *values, timeout=STATEMENT_SECONDS) is True
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
