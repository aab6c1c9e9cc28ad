"""`tracker-daemon dead-letters`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import orjson
import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tracker_daemon.cli.options import ConfigFile, Json, Set, load, moment
from tracker_daemon.cli.terminal import Terminal
from tracker_daemon.contract import contract_of
from tracker_daemon.errors import TrackerError
from tracker_daemon.messages import REASONS
from tracker_daemon.migrate import check_schema
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.store import dead_letters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracker_daemon.config import Settings

app = typer.Typer(no_args_is_help=True, help="Messages that no table could take: list, show, replay, purge.")


def _reason(text: str) -> str:
    if text not in REASONS:
        raise typer.BadParameter(f"no such reason; there are {', '.join(REASONS)}")
    return text


Reason = Annotated[
    str | None,
    typer.Option(parser=_reason, metavar="CODE", help="Only this reason, such as missing_field."),
]
Subject = Annotated[str | None, typer.Option(metavar="SUBJECT", help="Only this subject.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=moment, metavar="AGE|TIME", help="Only those received since: 24h, 30d, or an ISO time."
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")]


@app.command("list")
def list_(
    reason: Reason = None,
    subject: Subject = None,
    since: Since = None,
    limit: Limit = 50,
    everything: Annotated[bool, typer.Option("--all", help="Replayed ones too.")] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    wanted = dead_letters.Filter(
        reason=reason, subject=subject, since=since, replayed=None if everything else False
    )
    rows = _with(load(config_file, settings), lambda c: dead_letters.list_letters(c, wanted, limit))
    if as_json:
        typer.echo(_json([dict(row) for row in rows]))
        return
    # Two lines a letter, so that a terminal of 80 columns shows the whole id, which the other commands take.
    table = Table(box=None, pad_edge=False)
    table.add_column("id, received, place in the stream", min_width=36)
    table.add_column("reason, field")
    table.add_column("detail")
    for row in rows:
        place = f"{row['received_at']:%m-%d %H:%M:%S} {row['subject']} #{row['stream_sequence'] or '-'}"
        table.add_row(
            Text(f"{row['id']}\n{place}", overflow="fold"),
            Text(f"{row['reason']}\n{row['field'] or ''}", overflow="fold"),
            Text(row["detail"]),
        )
    Terminal().print(table if rows else "No dead letters.")


@app.command()
def show(
    letter_id: Annotated[UUID, typer.Argument(metavar="ID", help="See dead-letters list.")],
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole, its payload included."""
    row = _with(load(config_file, settings), lambda c: dead_letters.read_letter(c, letter_id))
    if row is None:
        raise NotFound(f"no dead letter has the id {letter_id}: see tracker-daemon dead-letters list --all")
    if as_json:
        typer.echo(_json(dict(row)))
        return
    table = Table(show_header=False)
    for name, value in row.items():
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        table.add_row(name, escape(text) if value is not None else "")
    Terminal().print(table)


@app.command()
def replay(
    letter_ids: Annotated[
        list[UUID] | None, typer.Argument(metavar="[ID]...", help="Which ones; or see --all, --reason.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    reason: Reason = None,
    subject: Subject = None,
    since: Since = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Decode and store dead letters again, and mark those that are stored now.

    Safe to repeat. Exit code 1: some could not be stored this time either.
    """
    if not (letter_ids or everything or reason or subject or since):
        raise typer.BadParameter("say which: ids, --reason, --subject, --since, or --all")
    wanted = dead_letters.Filter(
        ids=letter_ids or None,
        reason=reason,
        subject=subject,
        since=since,
        replayed=None if letter_ids else False,
    )
    loaded = load(config_file, settings)

    async def replay_all(connection: Connection) -> list[dead_letters.Replayed]:
        # It writes, so what a daemon refuses to write to it refuses, too.
        await check_schema(loaded.postgres.dsn.get_secret_value(), loaded.embedding.dimensions)
        return [done async for done in dead_letters.replay(connection, wanted, contract_of(loaded))]

    replayed = _with(loaded, replay_all)
    missing = set(letter_ids or ()) - {letter.id for letter in replayed}
    if missing:
        raise NotFound(f"no dead letter has the id {', '.join(map(str, missing))}")
    if as_json:
        typer.echo(
            _json([{"id": letter.id, "result": letter.result, "why": _why(letter)} for letter in replayed])
        )
    else:
        for letter in replayed:
            typer.echo(f"{letter.id}  {letter.result}{f': {_why(letter)}' if letter.refusal else ''}")
        stored = sum(letter.refusal is None for letter in replayed)
        typer.echo(f"{stored} of {len(replayed)} dead letters replayed")
    raise typer.Exit(1 if any(letter.refusal for letter in replayed) else 0)


@app.command()
def purge(
    older_than: Annotated[
        datetime | None,
        typer.Option(
            parser=moment, metavar="AGE|TIME", help="Only those received before: 30d, or an ISO time."
        ),
    ] = None,
    unreplayed: Annotated[
        bool, typer.Option("--unreplayed", help="Also those never replayed: their messages are gone then.")
    ] = False,
    reason: Reason = None,
    subject: Subject = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, with --unreplayed.")] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Delete dead letters for good: those that were replayed, unless told otherwise."""
    if unreplayed and not yes:
        typer.confirm("Messages that were never stored will be gone for good. Go on?", abort=True, err=True)
    wanted = dead_letters.Filter(
        before=older_than, reason=reason, subject=subject, replayed=None if unreplayed else True
    )
    deleted = _with(load(config_file, settings), lambda c: dead_letters.purge(c, wanted))
    typer.echo(_json({"deleted": deleted}) if as_json else f"{deleted} dead letters deleted")


class NotFound(TrackerError):
    """What the command line names is not there."""


T = TypeVar("T")


def _with(settings: Settings, work: Callable[[Connection], Awaitable[T]]) -> T:
    async def connect_and_work() -> T:
        async with connected(
            settings.postgres.dsn.get_secret_value(), statement_cache=settings.postgres.statement_cache
        ) as connection:
            return await work(connection)

    return asyncio.run(connect_and_work())


def _why(letter: dead_letters.Replayed) -> str | None:
    return str(letter.refusal) if letter.refusal else None


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode()


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
