"""What stands against adopting someone else's `llm_decisions`, each with its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.adoption.foreign import (
    ALWAYS_WRITTEN,
    INDEXES,
    OWN,
    RENAMED,
    TYPES,
    Column,
    columns_of,
    mistyped,
    same_index,
)
from tracker_daemon.errors import Misconfigured
from tracker_daemon.history import exists
from tracker_daemon.migrate import STATEMENT_SECONDS, required_columns
from tracker_daemon.postgres import Rejected, translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

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


async def objections(connection: Connection, dimensions: int) -> list[str]:
    """Why the table cannot be adopted, a sentence each.

    If there is none, only what hangs on a column can keep `convert` from success: a view, a default.
    """
    columns = await columns_of(connection, "llm_decisions")
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
        for column, target in mistyped(columns, dimensions)
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
        if await exists(connection, name) and not await same_index(connection, covered)
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
    sessions = await columns_of(connection, "trading_sessions")
    if sessions and ("id" not in sessions or sessions["id"].type != "uuid"):
        return ["trading_sessions has no column id of type uuid: rename it, the daemon makes its own"]
    return [
        f"the constraint {name} ties session_id to {table}, of which the daemon makes no rows: "
        f"ALTER TABLE llm_decisions DROP CONSTRAINT {name}, or rename {table} to trading_sessions"
        for name, table in await connection.fetch(_OTHER_SESSIONS)
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
