"""The indexes that the migrations make, and those that are missing or of no use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from tracker_daemon.doctor.finding import Finding, findings
from tracker_daemon.migrate import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracker_daemon.postgres import Connection

_TABLE = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(\n(.*?)\n\);", re.MULTILINE | re.DOTALL)
_KEY_OF_A_COLUMN = re.compile(r"^ *(\w+) .*\bPRIMARY KEY\b", re.MULTILINE)
_KEY = re.compile(r"^ *(PRIMARY KEY|UNIQUE) (\(.*\))", re.MULTILINE)
_INDEX = re.compile(
    r"^CREATE (UNIQUE )?INDEX (?:IF NOT EXISTS )?(\w+ ON (\w+)(?: USING \w+)? (\([^()]*\))[^;]*);",
    re.MULTILINE,
)

# Keys as `Index.columns` has them. ON CONFLICT takes no key that is deferrable, or of some rows only. What is
# being built is not valid yet, and nobody's trouble.
_PRESENT = """
SELECT t.relname::text AS table, i.relname::text AS name,
       indisunique AND indimmediate AND indpred IS NULL AS unique,
       indisvalid OR indexrelid IN (SELECT index_relid FROM pg_stat_progress_create_index) AS valid,
       ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) FROM generate_series(1, indnkeyatts) k) AS columns
FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
WHERE indrelid IN (SELECT to_regclass(name) FROM unnest($1::text[]) name)
"""


class Index(Struct, frozen=True):
    """One index of the schema; `make` is the SQL that makes it, without holding up writers if it can."""

    table: str
    columns: tuple[str, ...]
    unique: bool
    make: str


def tables() -> list[str]:
    """Every table that the migrations make."""
    return [name for name, _ in _tables()]


def indexes() -> Iterator[Index]:
    """Every index that the migrations make, those behind keys included."""
    for table, body in _tables():
        for column in _KEY_OF_A_COLUMN.findall(body):
            yield Index(table, (column,), True, f"ALTER TABLE {table} ADD PRIMARY KEY ({column})")
        for kind, columns in _KEY.findall(body):
            yield Index(table, _names(columns), True, f"ALTER TABLE {table} ADD {kind} {columns}")
    for unique, definition, table, columns in _INDEX.findall(_sql()):
        make = f"CREATE {unique}INDEX CONCURRENTLY {definition}"
        yield Index(table, _names(columns), bool(unique), make)


async def look(connection: Connection) -> list[Finding]:
    """Compare what is there with what the migrations make; names do not matter, columns do."""
    present = await connection.fetch(_PRESENT, tables())
    there = {(row["table"], tuple(row["columns"])) for row in present}
    keys = {(row["table"], tuple(row["columns"])) for row in present if row["unique"] and row["valid"]}
    broken: list[str] = []
    warnings: list[str] = []
    for index in indexes():
        if (index.table, index.columns) not in (keys if index.unique else there):
            # Without its key nothing is written to a table; without another index questions are slow.
            (broken if index.unique else warnings).append(
                f"{index.table} lacks its index on {', '.join(index.columns)}: {index.make}"
            )
    warnings += [
        f"the index {row['name']} is invalid: REINDEX INDEX CONCURRENTLY {row['name']}"
        for row in present
        if not row["valid"]
    ]
    return findings("indexes", f"{len(present)} indexes, none missing", broken=broken, warnings=warnings)


def _sql() -> str:
    return re.sub(r"--.*", "", "\n".join(migration.sql for migration in migrations()))


def _tables() -> list[tuple[str, str]]:
    return _TABLE.findall(_sql())


def _names(columns: str) -> tuple[str, ...]:
    """The columns of a list, without operator classes."""
    return tuple(column.split()[0] for column in columns.strip("()").split(","))
