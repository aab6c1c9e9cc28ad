"""`tracker-daemon search`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.padding import Padding

from tracker_daemon.cli.decisions import Cursor, Everything, Limit, page_as_json, print_table, walk
from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import Csv, cell, print_csv
from tracker_daemon.cli.question import filtered
from tracker_daemon.cli.terminal import console
from tracker_daemon.queries import Filter, Searched, Told
from tracker_daemon.queries import search as search_for


@filtered
def search(
    wanted: Filter,
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help='Words that are all there: breakout "moving average" -btc.'),
    ],
    limit: Limit = None,
    cursor: Cursor = None,
    everything: Everything = False,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Search prompts and responses: the latest decisions that hold what is looked for, and where.

    Words in quotes stand beside each other, -word is not there, `or` is between words of which one is
    enough. Where TEXT begins with a minus, -- goes ahead of it.
    """
    last = walk(
        load(config_file, settings),
        lambda connection, *place: search_for(connection, text, wanted, *place),
        page_as_json if as_json else _page_as_csv if as_csv else _page_as_table,
        limit=limit,
        cursor=cursor,
        everything=everything,
    )
    if last.cursor and not as_json:
        what = "There are more"
        if last.looked_at:
            what = f"Many decisions hold the words, and {last.looked_at:,} were looked at; there may be more"
        typer.echo(f"{what}: --cursor {last.cursor}", err=as_csv)


def _page_as_csv(page: Searched, *, first: bool) -> None:
    rows = ({**msgspec.structs.asdict(row.decision), "snippet": row.snippet} for row in page.rows)
    print_csv(rows, [*Told.__struct_fields__, "snippet"], header=first)
    _say_left_out(page, err=True)


def _page_as_table(page: Searched, *, first: bool) -> None:
    if first and not page.rows and not page.looked_at:
        typer.echo("No decision is like that.")
    for place, row in enumerate(page.rows):
        print_table([row.decision], header=first and not place)
        console().print(Padding(cell(row.snippet), (0, 0, 1, 2)))
    _say_left_out(page, err=False)


def _say_left_out(page: Searched, *, err: bool) -> None:
    if page.left_out:
        typer.echo(f"{page.left_out:,} decisions are not indexed yet, and were not looked at.", err=err)
