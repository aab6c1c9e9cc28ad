"""`tracker-daemon embed`."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tracker_daemon.cli.options import ConfigFile, Set, load
from tracker_daemon.config import Settings
from tracker_daemon.embeddings import LACKING, Provider, Which, backfill, estimate, of_models, provider_of
from tracker_daemon.errors import SettingsError
from tracker_daemon.migrate import check_schema
from tracker_daemon.postgres import Connection, connected


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


def embed(
    backfilling: Annotated[
        bool, typer.Option("--backfill", help="Give one to every decision that was stored without.")
    ] = False,
    renewed: Annotated[
        list[str] | None,
        typer.Option(
            "--renew",
            metavar="MODEL",
            help="Give a new one to every decision that has one of this model, an older one; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only count, of many in a sample, and change nothing."),
    ] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Make embeddings of prompts, by the provider of the settings (TRACKER_EMBEDDING_PROVIDER).

    Batch by batch, beside running daemons, which make those of new decisions by themselves. --renew names the
    model whose embeddings are replaced, as embedding_model has it, whoever has made them: agents, too.

    Exit code 1: it was stopped, or a server is away; run it again for the rest.
    """
    if backfilling == bool(renewed):
        raise typer.BadParameter("say what to embed: --backfill, or --renew and the name of a model")
    loaded = load(config_file, settings)
    provider = provider_of(loaded.embedding)
    if provider is None:
        raise SettingsError(["TRACKER_EMBEDDING_PROVIDER: must be local or openai: none makes no embeddings"])
    if provider.model in (renewed or ()):
        raise typer.BadParameter(f"{provider.model} is what the provider makes: name the model before it")
    run = _Run(loaded, provider, of_models(renewed) if renewed else LACKING)
    try:
        asyncio.run(run.work(dry_run=dry_run))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo(f"stopped: {run.said()}; run it again for the rest", err=True)
        raise typer.Exit(1) from None
    if not dry_run:
        typer.echo(run.said())


class _Run:
    """What one run has embedded so far."""

    def __init__(self, settings: Settings, provider: Provider, which: Which) -> None:
        self._settings = settings
        self._which = which
        self._provider = provider
        self._embedded = 0
        self._refused = 0

    def said(self) -> str:
        """In words."""
        done = f"{self._embedded:,} decisions were given an embedding ({self._provider.model})"
        return f"{done}, {self._refused:,} were refused, see above" if self._refused else done

    async def work(self, *, dry_run: bool) -> None:
        if task := asyncio.current_task():
            for number in (signal.SIGTERM, signal.SIGHUP):  # as asyncio.run does for SIGINT
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        postgres, embedding = self._settings.postgres, self._settings.embedding
        dsn = postgres.dsn.get_secret_value()
        await check_schema(dsn, embedding.dimensions)
        async with connected(dsn, statement_cache=postgres.statement_cache) as connection:
            expected = await estimate(connection, embedding.max_characters, self._which)
            if dry_run:
                about = "" if expected.exact else "about "
                typer.echo(
                    f"{about}{expected.decisions:,} decisions would be given an embedding "
                    f"({self._provider.model}), of {about}{expected.characters:,} characters in all; nothing "
                    "was changed"
                )
                return
            try:
                await self._fill(connection, expected.decisions)
            finally:
                await self._provider.close()

    async def _fill(self, connection: Connection, count: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), TextColumn("left"))
        console = Console(stderr=True)
        batches = backfill(connection, self._provider, self._settings.embedding, self._which)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            shown = bar.add_task("", total=count)
            async with aclosing(batches):
                async for batch in batches:
                    self._embedded += batch.embedded
                    self._refused += batch.refused
                    bar.update(shown, advance=batch.embedded + batch.refused)
