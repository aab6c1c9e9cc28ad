"""`tracker-daemon check`."""

from __future__ import annotations

import asyncio

import msgspec
import orjson
import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tracker_daemon import logs
from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.terminal import Terminal
from tracker_daemon.config import Settings
from tracker_daemon.doctor import Finding, examine

_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


def check(config_file: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """Check the settings, then what they lead to: PostgreSQL, its schema, NATS, stream, consumer.

    Exit code 2: the settings are wrong, every mistake is named. 1: something that they lead to is broken.
    0: nothing is; there may be warnings, of what works today and may not on a bad day.
    """
    loaded = load(config_file, settings)
    quiet = loaded.log.model_copy(update={"level": "critical"})  # the findings say it all
    logs.configure(quiet, loaded.redact.redactor)
    findings = asyncio.run(examine(loaded))
    if as_json:
        document = {"settings": dict(loaded.listing()), "findings": msgspec.to_builtins(findings)}
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    else:
        _print(findings, loaded)
    raise typer.Exit(1 if any(finding.level == "broken" for finding in findings) else 0)


def _print(findings: list[Finding], settings: Settings) -> None:
    console = Terminal()
    table = Table("part", "", "what was found", title="Set-up", title_justify="left", box=None)
    for finding in findings:
        table.add_row(finding.part, Text(finding.level, _COLOURS[finding.level]), escape(finding.seen))
    console.print(table)
    listing = Table("setting", "value", title="Settings", title_justify="left", box=None)
    for name, value in settings.listing():
        listing.add_row(name, Text(value, overflow="fold"))
    console.print(listing)
