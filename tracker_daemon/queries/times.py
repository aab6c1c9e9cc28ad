"""Times that Python has: those of an adopted table may be infinite, before the year 1 or after 9999."""

from __future__ import annotations

from typing import Final

FIRST: Final = "'0001-01-01 00:00:00Z'"
LAST: Final = "'9999-12-31 23:59:59.999999Z'"


def bounded(column: str) -> str:
    """A TIMESTAMPTZ as SQL that is told as the first or the last time that there is, if it lies beyond."""
    return f"CASE WHEN {column} < {FIRST} THEN {FIRST} WHEN {column} > {LAST} THEN {LAST} ELSE {column} END"
