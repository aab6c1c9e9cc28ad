"""Pages: a bounded number of rows in a fixed order, and a cursor that says where the next ones begin."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, Generic, Self, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.filter import TIMES, Filter, holdable

MAX_LIMIT: Final = 1000
"""Rows of a page."""

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """Rows in their order; `cursor` asks for those that follow, None: there are none."""

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
    return blake2b(msgspec.json.encode([name, conditions, *more]), digest_size=9).hexdigest()


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


def check_limit(limit: int) -> None:
    """Raise `InvalidQuestion` for a page that is empty, or too large to be held."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuestion(f"limit must be from 1 to {MAX_LIMIT}, not {limit}: go on with the cursor")
