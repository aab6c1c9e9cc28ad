"""`tracker-daemon prune`."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from tracker_daemon import retention
from tracker_daemon.cli.options import ConfigFile, Json, Set, age_or_time, load
from tracker_daemon.cli.terminal import Terminal
from tracker_daemon.config import Settings
from tracker_daemon.migrate import check_schema
from tracker_daemon.postgres import connected


def _past(text: str) -> timedelta | datetime:
    parsed = age_or_time(text)
    if not parsed if isinstance(parsed, timedelta) else parsed >= datetime.now(UTC):
        raise typer.BadParameter(f"{text} has not passed: say how old rows must be, such as 90d")
    return parsed


OlderThan = Annotated[
    Any,  # a timedelta or a datetime
    typer.Option(parser=_past, metavar="AGE|TIME", help="90d, 12h, 2w, or a date such as 2026-08-01."),
]


def prune(
    older_than: OlderThan,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would go, and change nothing.")
    ] = False,
    unreplayed: Annotated[
        bool,
        typer.Option(
            "--unreplayed-dead-letters",
            help="Also dead letters that were never replayed: their messages are gone then.",
        ),
    ] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Delete for good what is older: decisions with their outcomes, stray outcomes, replayed dead letters.

    In small steps, beside running daemons. From then on nothing older is stored, however it comes.

    Exit code 1: it was stopped, or the server is away; run it again for the rest.
    """
    loaded = load(config_file, settings)
    run = _Run(older_than, unreplayed=unreplayed)
    stopped = False
    try:
        asyncio.run(run.work(loaded, dry_run=dry_run))
    except KeyboardInterrupt:
        stopped = True
        typer.echo("stopped: nothing is left by halves, run it again for the rest", err=True)
    if as_json:
        document = {"dry_run": dry_run, "complete": not stopped, "horizon": run.horizon, "rows": run.rows}
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    else:
        _print(run, "rows that would be deleted" if dry_run else "rows deleted")
    raise typer.Exit(1 if stopped else 0)


class _Run:
    """What one run is to delete, and what it has deleted, or counted, so far."""

    def __init__(self, older_than: timedelta | datetime, *, unreplayed: bool) -> None:
        self._older_than = older_than
        self._unreplayed = unreplayed
        self.horizon: datetime | None = None
        self.rows = Counter(dict.fromkeys(retention.TABLES, 0))

    async def work(self, settings: Settings, *, dry_run: bool) -> None:
        dsn = settings.postgres.dsn.get_secret_value()
        await check_schema(dsn, settings.embedding.dimensions)
        async with connected(dsn, statement_cache=settings.postgres.statement_cache) as connection:
            before = await retention.cutoff(connection, self._older_than)
            if dry_run:
                self.horizon = before
                self.rows.update(await retention.count(connection, before, unreplayed=self._unreplayed))
                return
            self.horizon = await retention.move_horizon(connection, before)
            with Console(stderr=True).status("Deleting …") as status:  # shown on a terminal alone
                async for deleted in retention.prune(connection, before, unreplayed=self._unreplayed):
                    self.rows.update(deleted)
                    status.update(f"{self.rows.total():,} rows deleted …")


def _print(run: _Run, title: str) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("table")
    table.add_column(title, justify="right")
    for name, rows in run.rows.items():
        table.add_row(name, f"{rows:,}")
    console = Terminal(highlight=False)
    console.print(table)
    if run.horizon:
        console.print(f"Horizon: {run.horizon:%Y-%m-%d %H:%M:%S %Z}")
