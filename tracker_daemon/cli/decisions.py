"""`tracker-daemon recent`, `successful`, `failed` and `show`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from uuid import UUID

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracker_daemon.cli.options import ConfigFile, Json, Set, load, moment
from tracker_daemon.cli.output import Csv, cell, indented, money, print_csv, print_json
from tracker_daemon.cli.question import answer, connected_to, filtered
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.config import Settings
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.postgres import Connection
from tracker_daemon.queries import (
    MAX_LIMIT,
    Event,
    Filter,
    Page,
    Told,
    Whole,
    decision,
    failed_decisions,
    reading,
    recent_decisions,
    successful_decisions,
)

P = TypeVar("P", bound=Page[Any])
Ask: TypeAlias = Callable[[Connection, Filter, int, str | None], Awaitable[Page[Told]]]

_LIMIT: Final = 20
_COLOURS: Final = {"SUCCESS": "green", "FAILURE": "red"}
# What `show` prints beside its list of columns, or not at all.
_APART: Final = ("prompt", "response", "context", "extra", "cut")

Limit = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_LIMIT, help=f"Decisions of a page; {_LIMIT}, with --all {MAX_LIMIT}."),
]
Cursor = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Go on behind a page, with the cursor at its end.")
]
Everything = Annotated[bool, typer.Option("--all", help="All pages; with --json, each on a line.")]
AsOf = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="AGE|TIME", help="As it was known then.")
]


def walk(
    settings: Settings,
    ask: Callable[[Connection, int, str | None], Awaitable[P]],
    print_: Callable[..., None],
    *,
    limit: int | None,
    cursor: str | None,
    everything: bool,
) -> P:
    """Print a page, or all from there on, and return the last; an empty one that goes on says nothing."""
    size = limit or (MAX_LIMIT if everything else _LIMIT)

    async def print_pages(cursor: str | None, *, first: bool = True) -> P:
        async with connected_to(settings) as connection:
            while True:
                async with reading(connection):
                    page = await ask(connection, size, cursor)
                goes_on = everything and page.cursor
                if page.rows or not goes_on:
                    print_(page, first=first)
                    first = False
                if not goes_on:
                    return page
                cursor = page.cursor

    return asyncio.run(print_pages(cursor))


def _list(ask: Ask, sentence: str) -> Callable[..., None]:
    def list_(
        wanted: Filter,
        limit: Limit = None,
        cursor: Cursor = None,
        everything: Everything = False,
        config_file: ConfigFile = None,
        settings: Set = None,
        as_json: Json = False,
        as_csv: Csv = False,
    ) -> None:
        print_ = page_as_json if as_json else _page_as_csv if as_csv else _page_as_table
        last = walk(
            load(config_file, settings),
            lambda connection, *place: ask(connection, wanted, *place),
            print_,
            limit=limit,
            cursor=cursor,
            everything=everything,
        )
        if last.cursor and not as_json:
            typer.echo(f"There are more: --cursor {last.cursor}", err=as_csv)

    list_.__doc__ = (
        f"{sentence}\n\nTexts are cut at 4000 characters, and a context of more than 8000 is left out; "
        "see show, or export."
    )
    return filtered(list_)


recent = _list(recent_decisions, "List the latest decisions.")
successful = _list(successful_decisions, "List the successful decisions, the greatest P&L first.")
failed = _list(failed_decisions, "List the failed decisions, the greatest loss first.")


def show(
    decision_id: Annotated[UUID, typer.Argument(metavar="ID", help="See recent.")],
    as_of: AsOf = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Show one decision whole, and what came of it, event by event; the last one is what counts."""
    loaded = load(config_file, settings)
    whole = answer(loaded, lambda connection: decision(connection, decision_id, as_of))
    if whole is None:
        then = f" that was known at {as_of:%Y-%m-%d %H:%M:%S %Z}" if as_of else ""
        raise InvalidQuestion(f"there is no decision {decision_id}{then}: see tracker-daemon recent")
    if as_json:
        print_json(whole)
    else:
        _print_whole(console(), whole)


def page_as_json(page: Page[Any], *, first: bool) -> None:  # noqa: ARG001 - each page is whole
    """Print a page of whatever."""
    print_json(page)


def _page_as_csv(page: Page[Told], *, first: bool) -> None:
    print_csv(map(msgspec.structs.asdict, page.rows), Told.__struct_fields__, header=first)


def _page_as_table(page: Page[Told], *, first: bool) -> None:
    if first and not page.rows:
        console().print("No decision is like that.")
    else:
        print_table(page.rows, header=first)


def print_table(rows: Iterable[Told], *, header: bool) -> None:
    """Print two lines a decision: with its id whole, and columns of a width that does not depend on it."""
    table = Table(box=None, pad_edge=False, show_header=header)
    table.add_column("id\nmade at", width=36)
    table.add_column("agent\nmodel", width=19)
    table.add_column("symbol\naction", width=9)
    table.add_column("outcome\npnl", justify="right", width=10, overflow="fold")
    for told in rows:
        table.add_row(
            cell(told.id).append("\n").append(cell(told.created_at)),
            cell(told.agent_name).append("\n").append(cell(told.model)),
            cell(told.symbol).append("\n").append(_action(told)),
            cell(told.outcome, _COLOURS.get(told.outcome or "", "")).append(f"\n{money(told.pnl)}"),
        )
    console().print(table)


def _action(told: Told) -> Text:
    confidence = "" if told.confidence is None else f" {told.confidence:.0%}"
    return cell(f"{told.action or '-'}{confidence}")


def _print_whole(out: Console, whole: Whole) -> None:
    told = whole.decision
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in Told.__struct_fields__:
        if name not in _APART:
            table.add_row(name, cell(getattr(told, name)))
    if whole.prompt_embedding is not None:
        table.add_row("prompt_embedding", f"{len(whole.prompt_embedding):,} numbers: see --json")
    out.print(table)
    for name, text in (
        ("context", indented(told.context)),
        ("extra", indented(told.extra)),
        ("prompt", told.prompt),
        ("response", told.response),
    ):
        if text is not None:
            out.print(Text(f"\n{name}", "bold"))
            typer.echo(visible(text))  # long lines are the terminal's to wrap
    out.print(Text("\noutcomes", "bold"))
    out.print(_ledger(whole.outcomes) if whole.outcomes else "None yet.")
    if not whole.complete:
        out.print(f"These are the last {len(whole.outcomes):,}: see --as-of, or export --ledger.")


def _ledger(events: tuple[Event, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("observed_at\nreceived_at", "outcome\npnl", "source", "note"):
        table.add_column(name, overflow="fold")
    for event in events:
        table.add_row(
            cell(event.observed_at).append("\n").append(cell(event.received_at)),
            cell(event.outcome, _COLOURS.get(event.outcome, "")).append(f"\n{money(event.pnl)}"),
            cell(event.source),
            cell(event.note),
        )
    return table
