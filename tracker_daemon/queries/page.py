"""Pages: a bounded number of rows in a fixed order, and a cursor that says where the next ones begin."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.filter import TIMES, Filter, holdable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.postgres import Connection

MAX_LIMIT: Final = 1000
"""Rows of a page."""
MAX_CHARS: Final = 4 << 20
"""Characters of text and JSON after which a page ends: decoded, they take ten times as much memory."""
MAX_SECONDS: Final = 5.0
"""After so long a page ends with what there is: the limit of a statement is that of a few rows here."""

# A row may have megabytes, so few are held while it is not known how many fit.
_FEW: Final = 10
_OPEN: Final = "DECLARE {name} NO SCROLL CURSOR FOR {query}"
_NEXT: Final = f"FETCH {_FEW} FROM {{name}}"
_CLOSE: Final = "CLOSE {name}"

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Rows in their order; `cursor` asks for those that follow, None: there are none.

    Where rows are large, or hard to find, there are less of them than were asked for.
    """

    rows: tuple[T, ...]
    cursor: str | None

    def joined(self, more: Self) -> Self:
        """This page and the one that its cursor led to, as one."""
        return replace(more, rows=self.rows + more.rows)


class Place(Struct, frozen=True, array_like=True):
    """Where a page ends: the values that its last row is ordered by, and which question it answers."""

    question: str
    values: list[Any]

    def cursor(self) -> str:
        """A text that says so, safe in URLs and subjects."""
        return urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def question(name: str, wanted: Filter, *more: object) -> str:
    """What tells cursors apart: the order, the filter and whatever else chooses rows, but for times.

    `--since 24h` is another time for each page; what follows a row is well-defined whatever the time.
    """
    conditions = [getattr(wanted, field) for field in Filter.__struct_fields__ if field not in TIMES]
    return _digest(msgspec.json.encode([name, conditions, *more]))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=9).hexdigest()


def place(cursor: str | None, question_: str, types: Any) -> tuple[Any, ...] | None:
    """Return the values, of these types, that a cursor holds; raise `InvalidQuestion` for a foreign one."""
    if cursor is None:
        return None
    try:
        found = msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=Place)
        values: tuple[Any, ...] = msgspec.convert(found.values, types)
        ours = all(value.is_nan() or holdable(value) for value in values if isinstance(value, Decimal))
    except (ValueError, RecursionError):
        ours = False
    if not ours:
        raise InvalidQuestion("the cursor is none of ours: leave it out to begin anew")
    if found.question != question_:
        raise InvalidQuestion("the cursor belongs to another question: repeat its filters, or leave it out")
    return values


async def rows_of(
    connection: Connection, query: str, values: Sequence[Any], limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return the first rows of a query, as many as a page holds, and whether there are more."""
    loop = asyncio.get_running_loop()
    end = loop.time() + MAX_SECONDS
    # Of its own for each query: a driver that keeps statements would take one FETCH for another.
    name = f"page_{_digest(query.encode())}"
    await connection.execute(_OPEN.format(name=name, query=query), *values)
    rows: list[dict[str, Any]] = []
    chars, full = 0, False
    while not full and (some := await connection.fetch(_NEXT.format(name=name))):
        for row in some:
            if full := len(rows) == limit or chars >= MAX_CHARS:
                break
            rows.append(dict(row))
            chars += sum(len(value) for value in row.values() if isinstance(value, str))
        else:
            if len(some) < _FEW:
                break
            full = loop.time() > end
    await connection.execute(_CLOSE.format(name=name))
    return rows, full


def check_limit(limit: int) -> None:
    """Raise `InvalidQuestion` for a page that is empty, or too large to be held."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuestion(f"limit must be from 1 to {MAX_LIMIT}, not {limit}: go on with the cursor")
