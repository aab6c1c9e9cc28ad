"""`tracker-daemon migrate`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tracker_daemon import migrate as migrations
from tracker_daemon.adoption import adopt, parse_word
from tracker_daemon.cli.options import ConfigFile, Set, load
from tracker_daemon.distribution import distribute


def migrate(
    adopting: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Take over a table llm_decisions that someone else made, every row of it."
        ),
    ] = False,
    outcomes: Annotated[
        list[str] | None,
        typer.Option(
            "--outcome",
            metavar="WORD=OUTCOME",
            help="With --adopt: what a word of that table means, profitable=SUCCESS say; repeatable.",
        ),
    ] = None,
    distributing: Annotated[
        bool,
        typer.Option("--distribute", help="Then spread the tables over the nodes of Citus."),
    ] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Bring the database's schema up to date."""
    words = _words(outcomes or [], adopting=adopting)
    loaded = load(config_file, settings)
    dsn = (loaded.postgres.migrate_dsn or loaded.postgres.dsn).get_secret_value()
    if adopting:
        done = asyncio.run(adopt(dsn, loaded.embedding.dimensions, words))
        applied = done.applied
        if done.outcomes is not None:
            typer.echo(f"adopted llm_decisions, {done.outcomes} outcomes entered into the ledger")
    else:
        applied = asyncio.run(migrations.migrate(dsn, loaded.embedding.dimensions))
    for migration in applied:
        typer.echo(f"applied {migration.number:03}_{migration.name}")
    spread = asyncio.run(distribute(dsn)) if distributing else []
    for table in spread:
        typer.echo(f"distributed {table}")
    if not applied and not spread:
        also = ", every table is distributed" if distributing else ""
        typer.echo(f"nothing to do: every migration is applied{also}")


def _words(given: list[str], *, adopting: bool) -> dict[str, str]:
    if given and not adopting:
        raise typer.BadParameter("--outcome goes with --adopt")
    try:
        pairs = set(map(parse_word, given))
    except ValueError as error:
        raise typer.BadParameter(f"--outcome: {error}") from None
    words = dict(pairs)
    if len(words) < len(pairs):
        raise typer.BadParameter("--outcome: a word is given with two meanings")
    return words
