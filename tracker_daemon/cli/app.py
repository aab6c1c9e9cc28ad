"""The commands, and what becomes of their errors."""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import TextIOWrapper
from select import poll
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from tracker_daemon import __version__
from tracker_daemon.cli import (
    calibration,
    check,
    context,
    dead_letters,
    decisions,
    demo,
    embed,
    experiment,
    export,
    migrate,
    plan,
    prompts,
    prune,
    run,
    search,
    select,
    similar,
    stats,
    verify,
)
from tracker_daemon.cli.output import visible
from tracker_daemon.errors import SchemaError, SettingsError, TrackerError

UNREAD: Final = 128 + signal.SIGPIPE
"""Exit code where the reader of the output has left: that of a program which the signal ends."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """End silently where the reader of the output has left, as `head` does once it has enough."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            output = poll()
            output.register(1, 0)
            if not output.poll(0):  # then it was another pipe
                raise
            _discard()
            raise typer.Exit(UNREAD) from None


app = typer.Typer(
    cls=_Commands,
    name="tracker-daemon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(demo.demo)
app.command()(migrate.migrate)
app.command()(check.check)
app.command()(verify.verify)
app.command()(prune.prune)
app.command()(embed.embed)
app.command()(stats.stats)
app.command("recent")(decisions.recent)
app.command("successful")(decisions.successful)
app.command("failed")(decisions.failed)
app.command()(search.search)
app.command()(similar.similar)
app.command()(context.context)
app.command()(prompts.prompts)
app.command()(decisions.show)
app.command()(calibration.calibration)
app.command()(export.export)
app.command()(plan.plan)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(experiment.app, name="experiment")
app.add_typer(select.app, name="select")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _tracker_daemon(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Record what trading agents decided, and why: from NATS into PostgreSQL, nothing lost, nothing twice.

    Settings come from flags, TRACKER_* variables, a TOML file (--config), in this order.

    Exit codes: 0 done or drained, 1 failed, 2 wrong usage or settings, 3 stopped, work left in the stream.
    """


def main() -> None:
    """Run the command line; an error meant for the reader becomes a sentence on stderr and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # bars that an encoding does not have are no reason to fail
    try:
        app()
    except TrackerError as error:
        for sentence in str(error).splitlines():
            typer.echo(visible(f"tracker-daemon: {sentence}"), err=True)
        sys.exit(2 if isinstance(error, SettingsError | SchemaError) else 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _discard()
        typer.echo(f"tracker-daemon: {error.strerror}: what was written is not whole", err=True)
        sys.exit(1)


def _discard() -> None:
    """Let nobody meet what cannot be written: Python writes what is left at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
