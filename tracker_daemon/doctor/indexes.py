"""The indexes that the migrations make, and those that are missing or of no use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tracker_daemon.doctor.finding import Finding, findings
from tracker_daemon.migrate import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracker_daemon.postgres import Connection

_TABLE = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(\n(.*?)\n\);", re.MULTILINE | re.DOTALL)
_KEY_OF_A_COLUMN = re.compile(r"^ *(\w+) .*\bPRIMARY KEY\b", re.MULTILINE)
_KEY = re.compile(r"^ *(PRIMARY KEY|UNIQUE) \((.*)\)", re.MULTILINE)
_LIST = r"\(((?:[^()]|\([^()]*\))*)\)"
_INDEX = re.compile(
    r"^CREATE (UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?"
    rf"((\w+)\s+ON (\w+)(?: USING \w+)? {_LIST}(?:\s+INCLUDE {_LIST})?[^;]*);",
    re.MULTILINE,
)
_NAME = re.compile(r"(?:[^(),]|\([^()]*\))+")
_DROPPED = re.compile(r"^DROP INDEX (?:IF EXISTS )?(\w+);", re.MULTILINE)

# Keys as `Index.columns` has them. ON CONFLICT takes no key that is deferrable, or of some rows only. What is
# being built is not valid yet, and nobody's trouble.
_PRESENT = """
SELECT t.relname::text AS table, i.relname::text AS name,
       indisunique AND indimmediate AND indpred IS NULL AS unique,
       indisvalid OR indexrelid IN (SELECT index_relid FROM pg_stat_progress_create_index) AS valid,
       ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) FROM generate_series(1, indnkeyatts) k) AS columns,
       ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) FROM generate_series(indnkeyatts + 1, indnatts) k)
           AS included
FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
WHERE indrelid IN (SELECT to_regclass(name) FROM unnest($1::text[]) name)
"""


class Index(Struct, frozen=True):
    """One index of the schema; `make` is the SQL that makes it, without holding up writers if it can."""

    table: str
    columns: tuple[str, ...]
    unique: bool
    make: str
    included: tuple[str, ...] = ()

    def served_by(self, row: Mapping[str, Any]) -> bool:
        """Whether an index that is there, a row of `_PRESENT`, does the same."""
        return (
            (row["table"], tuple(row["columns"])) == (self.table, self.columns)
            and set(self.included) <= set(row["included"])
            and (not self.unique or (row["unique"] and row["valid"]))
        )


def tables() -> list[str]:
    """Every table that the migrations make."""
    return [name for name, _ in _tables()]


def indexes() -> Iterator[Index]:
    """Every index that the migrations make and do not drop, those behind keys included."""
    for table, body in _tables():
        for column in _KEY_OF_A_COLUMN.findall(body):
            yield Index(table, (column,), True, f"ALTER TABLE {table} ADD PRIMARY KEY ({column})")
        for kind, columns in _KEY.findall(body):
            yield Index(table, _names(columns), True, f"ALTER TABLE {table} ADD {kind} ({columns})")
    dropped = set(_DROPPED.findall(_sql()))
    for unique, definition, name, table, columns, included in _INDEX.findall(_sql()):
        if name not in dropped:
            make = f"CREATE {unique}INDEX CONCURRENTLY {' '.join(definition.split())}"
            yield Index(table, _names(columns), bool(unique), make, _names(included))


async def look(connection: Connection) -> list[Finding]:
    """Compare what is there with what the migrations make; names do not matter, columns do."""
    present = [dict(row) for row in await connection.fetch(_PRESENT, tables())]
    broken: list[str] = []
    warnings: list[str] = []
    for index in indexes():
        if not any(index.served_by(row) for row in present):
            # Without its key nothing is written to a table; without another index questions are slow.
            (broken if index.unique else warnings).append(
                f"{index.table} lacks its index on {', '.join(index.columns + index.included)}: {index.make}"
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
    """The columns and expressions of a list, without operator classes."""
    return tuple(re.sub(r" \w+_ops$", "", name.strip()) for name in _NAME.findall(columns))
