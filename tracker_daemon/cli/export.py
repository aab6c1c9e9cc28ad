"""`tracker-daemon export`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from tracker_daemon.cli import output
from tracker_daemon.cli.formats import Format, JsonLines, Output, Parquet
from tracker_daemon.cli.options import ConfigFile, Set, load
from tracker_daemon.cli.question import connected_to, filtered
from tracker_daemon.config import Settings
from tracker_daemon.errors import TrackerError
from tracker_daemon.queries import Filter, count_decisions, export_decisions

_FORMATS: Final[dict[str, type[JsonLines | Parquet]]] = {"jsonl": JsonLines, "parquet": Parquet}


class Unwritable(TrackerError):
    """The file cannot be written, or must not be."""


class _Terminal:
    """The standard output, fit for a terminal."""

    def write(self, data: bytes, /) -> None:
        output.write(data)


@filtered
def export(
    wanted: Filter,
    file: Annotated[
        Path, typer.Argument(metavar="[FILE|-]", show_default=False, help="By default standard output.")
    ] = Path("-"),
    format_name: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option("--format", show_default=False, help="By default what FILE ends in, else jsonl."),
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="With all events of each decision's ledger, as outcomes.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Write decisions whole, oldest first, as JSON Lines or Parquet (extra parquet).

    All from one snapshot, beside running daemons, in little memory. FILE is there once it is complete.

    Exit code 1: it was stopped, or a server is away; there is no FILE then.
    """
    loaded = load(config_file, settings)
    kind = _FORMATS[format_name or ("parquet" if file.suffix == ".parquet" else "jsonl")]
    try:
        if file == Path("-"):
            if kind is Parquet and sys.stdout.isatty():
                raise typer.BadParameter("Parquet is not for a terminal: name a FILE, or redirect")
            to = _Terminal() if sys.stdout.isatty() else sys.stdout.buffer
            with closing(kind(to, ledger=ledger)) as format_:
                asyncio.run(_export(loaded, wanted, format_, ledger=ledger))
            sys.stdout.flush()
        else:
            with _completed(file.resolve(), force=force) as to, closing(kind(to, ledger=ledger)) as format_:
                count = asyncio.run(_export(loaded, wanted, format_, ledger=ledger))
            typer.echo(f"{count:,} decisions are in {file}", err=True)
    except BrokenPipeError:
        raise  # whoever has read enough is no trouble
    except OSError as error:
        raise Unwritable(f"the standard output cannot be written: {error.strerror}") from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("stopped: the export is not complete", err=True)
        raise typer.Exit(1) from None


async def _export(settings: Settings, wanted: Filter, format_: Format, *, ledger: bool) -> int:
    """Write what the filter chooses; return how many decisions that were."""
    if task := asyncio.current_task():
        for number in (signal.SIGTERM, signal.SIGHUP):  # as asyncio.run does for SIGINT
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    count = 0
    async with connected_to(settings) as connection:
        total = await count_decisions(connection, wanted) if console.is_terminal else None
        decisions = export_decisions(connection, wanted, ledger=ledger)
        with bar:
            shown = bar.add_task("", total=total)
            async with aclosing(decisions):
                async for rows in decisions:
                    format_.write(rows)
                    count += len(rows)
                    bar.update(shown, completed=count)
    return count


@contextmanager
def _completed(file: Path, *, force: bool) -> Iterator[Output]:
    """A file beside this one, which takes its place at the end; after an error or a signal there is none."""
    beside = file.with_name(f".{file.name}.{token_hex(4)}.part")
    try:
        _check(file, force=force)
        with beside.open("xb") as to:
            try:
                yield to
                to.flush()
                os.fsync(to.fileno())
                _check(file, force=force)
                beside.replace(file)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise Unwritable(f"{file} cannot be written: {error.strerror}") from error


def _check(file: Path, *, force: bool) -> None:
    if file.exists() and not file.is_file():
        raise Unwritable(f"{file} is no regular file: name another, or - for the standard output")
    if file.exists() and not force:
        raise Unwritable(f"{file} is there already: name another, or replace it with --force")
