"""What the commands that ask the record have in common: the options of the filter, and the way to ask."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Annotated, Any, Final, TypeVar, get_args, get_type_hints
from uuid import UUID

import msgspec
import typer

from tracker_daemon.cli.options import moment
from tracker_daemon.config import Settings
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.queries import Filter, holdable, reading

T = TypeVar("T")

SHORT: Final = {"agent_name": "agent", "decision_type": "type", "session_id": "session"}
"""What the command line calls columns that have a long name."""

_FIELDS: Final = {name: get_args(kind)[0] for name, kind in get_type_hints(Filter).items()}
_HELP: Final = {
    "context": 'Contained in this column, such as {"trend": "up"}.',
    "extra": "Contained in this column.",
    "since": "Made since: 24h, 30d, or an ISO time.",
    "until": "Made before: 24h, 30d, or an ISO time.",
    "as_of": "The record as it was then, without later decisions and outcomes.",
}


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, which takes a filter as `wanted`, an option for each field of it."""

    @wraps(command)
    def asked(**options: Any) -> None:
        wanted = Filter(**{name: options.pop(name) for name in _FIELDS})
        command(wanted=wanted, **options)

    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["wanted"]
    parameters = [*own.values(), *map(_parameter, _FIELDS)]
    asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asked.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return asked


def connected_to(settings: Settings) -> AbstractAsyncContextManager[Connection]:
    """A connection to where the settings say that questions are asked."""
    # Without statement cache: each question is planned anew, and PgBouncer may stand in between.
    dsn = settings.query.dsn or settings.postgres.dsn
    return connected(dsn.get_secret_value(), statement_cache=False)


def answer(settings: Settings, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Ask the database of the settings once."""

    async def ask() -> T:
        async with connected_to(settings) as connection, reading(connection):
            return await question(connection)

    return asyncio.run(ask())


def act(settings: Settings, deed: Callable[[Connection], Awaitable[T]]) -> T:
    """Change something in the database that the daemon writes to."""

    async def run() -> T:
        async with connected(settings.postgres.dsn.get_secret_value(), statement_cache=False) as connection:
            return await deed(connection)

    return asyncio.run(run())


def window(maturity: timedelta | None, settings: Settings) -> timedelta:
    """The maturity window that was asked for, or that of the settings."""
    return timedelta(seconds=settings.query.maturity_seconds) if maturity is None else maturity


def _parameter(name: str) -> inspect.Parameter:
    kind = _FIELDS[name]
    parser, metavar = _PARSERS[kind]
    if name == "since":
        parser = _past
    option = typer.Option(
        f"--{SHORT.get(name, name).replace('_', '-')}",
        parser=parser,
        metavar=metavar,
        help=_HELP.get(name, ""),
        rich_help_panel="Which decisions",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise typer.BadParameter("expected UTF-8")
    return text


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not holdable(number):
        raise typer.BadParameter(f"{text} is no number that a column could hold")
    return number


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise typer.BadParameter('expected a JSON object, such as {"trend": "up"}') from None


def _outcome(text: str) -> str:
    if text.upper() not in get_args(_FIELDS["outcome"]):
        raise typer.BadParameter(f"expected one of {', '.join(get_args(_FIELDS['outcome']))}")
    return text.upper()


def _past(text: str) -> datetime:
    parsed = moment(text)
    if parsed > datetime.now(UTC):
        raise typer.BadParameter(f"{text} has not come yet")
    return parsed


_PARSERS: Final[dict[Any, tuple[Callable[[str], Any] | None, str]]] = {
    str: (_text, "TEXT"),
    int: (None, "NUMBER"),
    Decimal: (_decimal, "NUMBER"),
    UUID: (None, "UUID"),
    dict[str, Any]: (json_object, "JSON"),
    datetime: (moment, "AGE|TIME"),
    _FIELDS["outcome"]: (_outcome, "OUTCOME"),
}
