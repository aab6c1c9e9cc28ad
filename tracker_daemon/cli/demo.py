"""`tracker-daemon demo`: real servers, a real daemon in a process of its own, real markets."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final

import aiohttp
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from tracker_daemon.cli import trial
from tracker_daemon.cli.options import DataDir
from tracker_daemon.demo import market, report
from tracker_daemon.demo.payloads import FLAWS, OUTCOME_RULE
from tracker_daemon.demo.replay import Progress as Published
from tracker_daemon.demo.replay import replay
from tracker_daemon.demo.script import Script
from tracker_daemon.embedded import EmbeddedServers, default_data_dir
from tracker_daemon.errors import TrackerError
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.signals import STOPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEFAULT_RATE: Final = 2000.0
LOOK_SECONDS: Final = 0.5
READY_POLL_SECONDS: Final = 0.2
STALL_SECONDS: Final = 60
STOP_SECONDS: Final = 30

console = Console(highlight=False)


class DemoError(TrackerError):
    """The demo cannot go on."""


def demo(
    rate: Annotated[float, typer.Option(min=1, help="Messages a second.")] = DEFAULT_RATE,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the latest so many decisions.")] = None,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Stay up until Ctrl-C.")] = False,
    experiment: Annotated[
        bool,
        typer.Option(
            "--experiment", help="Compare two rules instead, and let the better one decide (extra learn)."
        ),
    ] = False,
    data_dir: DataDir = None,
    nats_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Only publish, to this server, where a daemon listens already."),
    ] = None,
) -> None:
    """Replay thirteen years of five stocks through the real pipeline, on servers it brings along."""
    if nats_url is not None and (keep_running or data_dir or experiment):
        raise typer.BadParameter(
            "--nats-url starts nothing: leave out --keep-running, --data-dir and --experiment"
        )
    for number in STOPS:
        signal.signal(number, signal.default_int_handler)
    try:
        if nats_url is not None:
            _publish(nats_url, _script(limit), rate)
        else:
            folder = data_dir or default_data_dir() / "demo"
            _play(folder, None if experiment else rate, limit, keep_running=keep_running)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _script(limit: int | None) -> Script:
    return Script(market.load(datetime.now(UTC)), limit)


def _play(folder: Path, rate: float | None, limit: int | None, *, keep_running: bool) -> None:
    """Replay at a rate, or, without one, the experiment."""
    console.print(f"Starting nats-server and PostgreSQL in {folder} …")
    with EmbeddedServers(folder) as servers, _daemon(servers) as (process, http):
        asyncio.run(_ready(process, http, servers.data_dir / "daemon.log"))
        ready = f"The daemon is ready: {http}/readyz."
        if rate is None:
            console.print(ready)
            asyncio.run(trial.run(servers, limit))
        else:
            script = _script(limit)
            console.print(f"{ready} Replaying {script.decisions:,} decisions …")
            asyncio.run(_Run(servers, process, script).play(rate))
        _print_next_steps(servers, http, keep_running=keep_running)
        if keep_running:
            process.wait()


def _publish(nats_url: str, script: Script, rate: float) -> None:
    """Publish the script to a server that is none of the demo's, and say what its stream has stored."""
    console.print(f"Publishing {script.decisions:,} decisions and what came of them …")
    stored = asyncio.run(replay(nats_url, script, rate=rate))
    console.print(
        f"Stream {stored.stream} has stored {stored.decisions:,} decisions, {stored.outcomes:,} outcomes "
        f"and {stored.malformed} malformed messages."
    )


@contextmanager
def _daemon(servers: EmbeddedServers) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `tracker-daemon run` for the length of a block; yield the process and its HTTP address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("TRACKER_", "PG"))
    } | {
        "TRACKER_NATS_SERVERS": servers.nats.url,
        "TRACKER_POSTGRES_DSN": servers.postgres.dsn(),
        "TRACKER_HTTP_PORT": str(port),
        "TRACKER_LOG_FORMAT": "json",
    }
    with (servers.data_dir / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker_daemon", "run"],
            env=environment,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the daemon before its servers
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        console.print(f"The daemon has drained and left with exit code {code}.")


class _Run:
    """One replay under way: the script, what the stream has of it, what the database has of it."""

    def __init__(self, servers: EmbeddedServers, process: subprocess.Popen[bytes], script: Script) -> None:
        self._servers = servers
        self._process = process
        self._script = script
        self._published = Published()
        self._total = script.decisions + script.outcomes + len(FLAWS)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            TextColumn("{task.completed:>7,.0f}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )

    async def play(self, rate: float) -> None:
        """Publish everything at `rate` messages a second, wait until all is committed, print the records."""
        publishing = asyncio.create_task(
            replay(self._servers.nats.url, self._script, rate=rate, on_progress=self._note)
        )
        try:
            async with connected(self._servers.postgres.dsn()) as connection:
                with self._progress:
                    await self._watch(connection, publishing)
                await publishing
                await self._print_records(connection)
        finally:
            publishing.cancel()

    def _note(self, published: Published) -> None:
        self._published = published

    async def _watch(self, connection: Connection, publishing: asyncio.Task[Published]) -> None:
        """Show what is published and committed until both are everything; raise if nothing moves."""
        sent_bar = self._progress.add_task("published", total=self._total, note="")
        kept_bar = self._progress.add_task("committed", total=self._total, note="")
        clock = asyncio.get_running_loop().time
        began = moved_at = clock()
        done = 0
        while done < self._total:
            if publishing.done() and publishing.exception():
                return
            if self._process.poll() is not None or clock() - moved_at > STALL_SECONDS:
                log = self._servers.data_dir / "daemon.log"
                raise DemoError(f"the daemon does not store anything: see {log}")
            kept = await report.committed(connection, self._script.sessions.values(), self._published)
            published = self._published.decisions + self._published.outcomes + self._published.malformed
            now, before = clock(), done
            done = kept.decisions + kept.outcomes + kept.dead_letters
            if done > before:
                moved_at = now
            day = f"{self._published.day:%b %Y}" if self._published.day else ""
            self._progress.update(sent_bar, completed=published, note=day)
            self._progress.update(
                kept_bar,
                completed=done,
                note=f"{kept.outcomes:,} outcomes, {kept.dead_letters} dead letters, "
                f"{done / (now - began + 0.001):,.0f}/s",
            )
            await asyncio.sleep(LOOK_SECONDS)

    async def _print_records(self, connection: Connection) -> None:
        records = _table("What each agent decided, and what came of it", "agent", "model")
        for heading in ("decisions", "resolved", "success", "P&L USD"):
            records.add_column(heading, justify="right", no_wrap=True)
        for agent in await report.agent_records(connection, self._script.sessions.values()):
            rate = "-" if agent.resolved_success_rate is None else f"{agent.resolved_success_rate:.1%}"
            records.add_row(
                agent.agent_name,
                agent.model,
                f"{agent.decisions:,}",
                f"{agent.resolved:,}",
                rate,
                f"{agent.pnl:+,.2f}",
            )
        letters = _table("Malformed on purpose: dead letters", "subject", "reason", "field")
        letters.add_column("detail")
        for letter in await report.rejected(connection, self._published):
            letters.add_row(letter.subject, letter.reason, letter.field or "", escape(letter.detail))
        for block in (records, f"[dim]{OUTCOME_RULE}[/]", letters):
            console.print()
            console.print(block)
        console.print()


def _table(title: str, *headings: str) -> Table:
    """A table that fits a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


async def _ready(process: subprocess.Popen[bytes], http: str, log: Path) -> None:
    """Wait until the daemon says that it is ready."""
    async with aiohttp.ClientSession() as session:
        for _ in range(int(STALL_SECONDS / READY_POLL_SECONDS)):
            if process.poll() is not None:
                break
            with suppress(aiohttp.ClientError):
                async with session.get(f"{http}/readyz") as response:
                    if response.status == HTTPStatus.OK:
                        return
            await asyncio.sleep(READY_POLL_SECONDS)
    raise DemoError(f"the daemon does not get ready: see {log}")


def _print_next_steps(servers: EmbeddedServers, http: str, *, keep_running: bool) -> None:
    command = shlex.quote(sys.argv[0])
    if keep_running:
        console.print(
            f"[bold]Look around[/] (Ctrl-C ends it):\n"
            f"  curl {http}/readyz\n"
            f"  curl {http}/metrics\n"
            f"  export TRACKER_NATS_SERVERS={servers.nats.url}\n"
            f"  export TRACKER_POSTGRES_DSN={shlex.quote(servers.postgres.dsn())}\n"
            f"  {command} dead-letters list\n"
            f"  {command} check\n"
            f'  psql "$TRACKER_POSTGRES_DSN" -c "SELECT symbol, action, outcome, pnl FROM llm_decisions"',
            soft_wrap=True,
        )
    else:
        folder = shlex.quote(str(servers.data_dir))
        console.print(
            f"[bold]Try next[/], everything is kept in {folder}:\n"
            f"  {command} demo --limit 300 --keep-running\n"
            f"  {command} run --embedded --data-dir {folder}",
            soft_wrap=True,
        )
