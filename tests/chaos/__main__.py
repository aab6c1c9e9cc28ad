"""Inject every fault of the matrix, round after round, and end in a table: `make chaos`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from tests.chaos import faults
from tests.chaos.fault import Fault, failed
from tests.chaos.scene import Report, new_seed
from tests.chaos.table import passed, table
from tests.conftest import QUICK
from tracker_daemon.embedded import NatsServer, PostgresServer

SHOWN = 5
"""How many findings of each kind are printed of a fault that was not survived."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each fault is injected.")] = 3,
    seed: Annotated[
        int | None, typer.Option(help="Repeat a run; another one each time if not given.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Scenes that play side by side.")] = 2,
    only: Annotated[str, typer.Option(help="Only the faults whose name holds this text.")] = "",
) -> None:
    """Run real daemons against real servers, break things, and look for what was lost or stored twice."""
    chosen = [fault for fault in faults.FAULTS if only in fault.name]
    if not chosen:
        raise typer.BadParameter(f"no fault's name holds {only!r}; there are: " + "; ".join(names()))
    seed = new_seed() if seed is None else seed
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    # PostgreSQL runs as a user of its own when root runs this, and must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="tracker-chaos-"))
    folder.chmod(0o755)
    reports = asyncio.run(play(chosen, rounds, seed, jobs, folder))
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table({fault.name: reports[fault.name] for fault in chosen}))
    red = [fault.name for fault in chosen if not passed(reports[fault.name])]
    for name in red:
        console.print(f"\n{name}", style="red")
        verdict = reports[name].verdict
        for kind, found in (("lost", verdict.lost), ("twice", verdict.twice), ("wrong", verdict.wrong)):
            for finding in found[:SHOWN]:
                console.print(f"  {kind}: {finding}", markup=False, highlight=False)
        if verdict.clean:
            console.print("  nothing was injected: that proves nothing")
    console.print(f"\nseed {seed}")
    if red:
        console.print(f"{len(red)} of {len(chosen)} faults not survived; the daemons' logs are in {folder}")
        raise typer.Exit(1)
    shutil.rmtree(folder)


def names() -> list[str]:
    """What can be injected."""
    return [fault.name for fault in faults.FAULTS]


async def play(chosen: list[Fault], rounds: int, seed: int, jobs: int, folder: Path) -> dict[str, Report]:
    """Play all faults, so many at a time, each lane with servers of its own."""
    waiting, reports = deque(chosen), {}

    async def lane(number: int) -> None:
        with contextlib.ExitStack() as servers:
            nats = servers.enter_context(NatsServer(folder / f"nats-{number}"))
            postgres = servers.enter_context(PostgresServer(folder / f"postgres-{number}", options=QUICK))
            while waiting:
                fault = waiting.popleft()
                logs = folder / fault.name.replace(" ", "-")
                logs.mkdir()
                try:
                    reports[fault.name] = await fault.run(nats, postgres, logs, rounds=rounds, seed=seed)
                except Exception as error:  # noqa: BLE001 - one fault that cannot be played leaves the others
                    reports[fault.name] = failed(error)
                    await asyncio.to_thread(_restart, nats, postgres)
                word = "survived" if passed(reports[fault.name]) else "NOT SURVIVED"
                typer.echo(f"{len(reports)}/{len(chosen)} {word}: {fault.name}", err=True)

    async with asyncio.TaskGroup() as lanes:
        for number in range(min(jobs, len(chosen))):
            lanes.create_task(lane(number))
    return reports


def _restart(*servers: NatsServer | PostgresServer) -> None:
    """Have the servers as they should be, whatever a fault has left them in."""
    for server in servers:
        server.stop()
        server.start()


if __name__ == "__main__":
    typer.run(main)
