"""Answers as they leave the program: JSON and CSV for others, cells of tables for a reader."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.text import Text

from tracker_daemon.cli.terminal import visible
from tracker_daemon.queries import as_json

Csv = Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")]

# A spreadsheet takes a cell that begins so for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: Any, style: str = "") -> Text:
    """A value for a table: no markup, nothing that controls the terminal, times in UTC."""
    if value is None:
        return Text("-", "dim")
    if isinstance(value, datetime):
        value = f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Text(visible(str(value)), style, overflow="fold")


def number(value: float | Decimal | None, sign: str = "") -> str:
    """A number for a reader: thousands parted, four places or as many digits; `sign` is + or nothing."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:{sign},}"
    exact = Decimal(value)
    if not exact.is_finite():  # the table of somebody else may hold such a P&L
        return str(exact)
    places = 4 if abs(exact) >= 1 or not exact else 3 - exact.adjusted()
    return f"{exact:{sign},.{places}f}".rstrip("0").rstrip(".")


def money(amount: float | Decimal | None) -> str:
    """A P&L for a reader, with its sign: as `number`, and two places at least."""
    told = number(amount, "+")
    whole, point, places = told.partition(".")
    return f"{whole}.{places:0<2}" if point or told[-1].isdigit() else told


def indented(value: dict[str, Any] | None) -> str | None:
    """An object as JSON for a reader."""
    return None if value is None else msgspec.json.format(as_json(value), indent=2).decode()


def write(data: bytes) -> None:
    """Write UTF-8 to the standard output, to a terminal as `visible`."""
    if sys.stdout.isatty():
        data = visible(data.decode().replace("\r\n", "\n")).encode()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_json(answer: Any) -> None:
    """Print an answer as `as_json` has it, on a line."""
    write(as_json(answer) + b"\n")


def print_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str], *, header: bool = True) -> None:
    """Print rows by RFC 4180, in UTF-8: None empty, decimals with all their digits, objects as JSON.

    A text that a spreadsheet would take for a formula gets an apostrophe ahead.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    columns = list(columns)
    if header:
        writer.writerow(columns)
    writer.writerows([_plain(row[column]) for column in columns] for row in rows)
    write(buffer.getvalue().encode())


def _plain(value: Any) -> Any:
    match value:
        case str() if value.startswith(_FORMULA):
            return f"'{value}"
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.astimezone(UTC).isoformat()
        case dict():
            return as_json(value).decode()
        case bool():
            return str(value).lower()
    return value
