"""The commands, and what becomes of their errors."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections import UserDict
from importlib import import_module
from io import TextIOWrapper
from select import poll
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from tracker_daemon import __version__
from tracker_daemon.cli.terminal import visible
from tracker_daemon.errors import SchemaError, SettingsError, TrackerError

UNREAD: Final = 128 + signal.SIGPIPE
"""Exit code where the reader of the output has left: that of a program which the signal ends."""


# Each command's module, in the order of the help: the function of the command's name, or a group named `app`.
_MODULES: Final = {
    "run": "run",
    "demo": "demo",
    "migrate": "migrate",
    "check": "check",
    "verify": "verify",
    "prune": "prune",
    "embed": "embed",
    "stats": "stats",
    "recent": "decisions",
    "successful": "decisions",
    "failed": "decisions",
    "search": "search",
    "similar": "similar",
    "context": "context",
    "prompts": "prompts",
    "show": "decisions",
    "calibration": "calibration",
    "export": "export",
    "plan": "plan",
    "dead-letters": "dead_letters",
    "experiment": "experiment",
    "select": "select",
}


class _OnDemand(UserDict[str, Any]):
    """Commands by their names, each imported once it is asked for: few need all that the daemon does."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"tracker_daemon.cli.{super().__getitem__(name)}")
        alone = typer.Typer()
        if hasattr(module, "app"):
            alone.add_typer(module.app, name=name)
        else:
            alone.command(name)(getattr(module, name))
        return get_group(alone).commands[name]


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _OnDemand(_MODULES)

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
