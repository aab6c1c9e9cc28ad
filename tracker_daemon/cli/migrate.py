"""`tracker-daemon migrate`."""

from __future__ import annotations

import asyncio

import typer

from tracker_daemon import migrate as migrations
from tracker_daemon.cli.options import ConfigFile, Set, load


def migrate(config_file: ConfigFile = None, settings: Set = None) -> None:
    """Bring the database's schema up to date."""
    loaded = load(config_file, settings)
    dsn = (loaded.postgres.migrate_dsn or loaded.postgres.dsn).get_secret_value()
    applied = asyncio.run(migrations.migrate(dsn, loaded.embedding.dimensions))
    for migration in applied:
        typer.echo(f"applied {migration.number:03}_{migration.name}")
    if not applied:
        typer.echo("nothing to do: every migration is applied")
