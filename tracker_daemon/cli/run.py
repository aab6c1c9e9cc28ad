"""`tracker-daemon run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from tracker_daemon import daemon
from tracker_daemon.cli.options import ConfigFile, DataDir, Set, load
from tracker_daemon.embedded import EmbeddedServers, default_data_dir
from tracker_daemon.errors import TrackerError
from tracker_daemon.loop import timed_loop
from tracker_daemon.signals import STOPS

if TYPE_CHECKING:
    from tracker_daemon.config import Settings

log = structlog.get_logger(__name__)


def run(
    config_file: ConfigFile = None,
    settings: Set = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Bring nats-server and PostgreSQL along, from the wheels.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Run the daemon until SIGTERM, SIGINT or SIGHUP, then drain."""
    if data_dir and not embedded:
        raise typer.BadParameter("--data-dir is the folder of the embedded servers: add --embedded")
    loaded = load(config_file, settings)
    if not embedded:
        raise typer.Exit(_run(loaded))
    own = {"nats.servers", "postgres.dsn", "postgres.migrate_dsn"}
    if given := [name for text in settings or () if (name := text.partition("=")[0]) in own]:
        raise typer.BadParameter(f"--embedded brings its own servers: leave out --set {given[0]}")
    # Variables of libpq would go before the servers' own password.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    # Until the daemon takes the signals over, they end the servers' start in order.
    for number in STOPS:
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), EmbeddedServers(data_dir or default_data_dir()) as servers:
        addresses = {"nats.servers": servers.nats.url, "postgres.dsn": servers.postgres.dsn()}
        log.info("embedded servers", folder=str(servers.data_dir), **addresses)
        if sys.stdout.isatty():
            typer.echo("For agents, and for commands in other shells:")
            for name, address in addresses.items():
                typer.echo(f"export TRACKER_{name.replace('.', '_').upper()}={shlex.quote(address)}")
        try:
            # And it migrates no database but its own, whatever the environment names for others.
            migrations = {"postgres.migrate_dsn": servers.postgres.dsn()}
            code = _run(load(config_file, settings, **addresses, **migrations))
        finally:
            # The servers are stopped next, which must not be cut short.
            for number in STOPS:
                signal.signal(number, signal.SIG_IGN)
        raise typer.Exit(code)


def _run(settings: Settings) -> int:
    try:
        with asyncio.Runner(loop_factory=timed_loop) as runner:
            return runner.run(daemon.run(settings))
    except TrackerError:
        raise
    except Exception:  # a defect: it belongs into the log, in the log's form
        log.exception("stopped by a defect of this program")
        return 1
