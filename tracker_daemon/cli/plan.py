"""`tracker-daemon plan`."""

from __future__ import annotations

from datetime import timedelta
from math import log10
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from tracker_daemon.capacity import DIMENSIONS, ROOM, UTILIZATION, Load, Plan
from tracker_daemon.capacity import plan as plan_of
from tracker_daemon.cli.options import Json, age_or_time
from tracker_daemon.cli.output import print_json
from tracker_daemon.cli.terminal import console

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def _age(text: str) -> timedelta:
    parsed = age_or_time(text)
    if not isinstance(parsed, timedelta):
        raise typer.BadParameter(f"{text} is a time: say for how long decisions are kept, such as 90d")
    return parsed


Retention = Annotated[
    Any,  # a timedelta
    typer.Option(parser=_age, metavar="AGE", help="How long decisions are kept, such as 90d."),
]


def plan(
    rate: Annotated[float, typer.Option(help="Decisions a second, on average.")],
    retention: Retention,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Each comes with an embedding.")] = False,
    dimensions: Annotated[int, typer.Option(help="Numbers of an embedding.")] = DIMENSIONS,
    size: Annotated[int, typer.Option(help="Bytes of a decision in JSON, without its embedding.")] = 2_700,
    outcomes: Annotated[float, typer.Option(help="Part of decisions that get an outcome, 0 to 1.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Say what machines so many decisions take: disk, memory, cores, network, and what gives first.

    From what a message was measured to take (the case sizes of the benchmark), not from your servers.
    """
    load = Load(
        rate=rate,
        kept=retention,
        size=size,
        outcomes=outcomes,
        dimensions=dimensions if embeddings else 0,
    )
    told = plan_of(load)
    if as_json:
        print_json(told)
        return
    out = console()
    out.print(_heading(told), "")
    out.print(_needs(told), "")
    out.print(_limits(told), "")
    out.print(
        f"Disk is {ROOM:g} times the rows, and cores are used at {UTILIZATION:.0%}. Peaks, replicas of the "
        "stream (each holds all of it), standbys and backups come on top. Measured on two cores of an x86-64 "
        "server with PostgreSQL 18: yours differ, and make bench measures them."
    )


def _heading(told: Plan) -> str:
    load = told.load
    with_embedding = f", an embedding of {load.dimensions:,} numbers" if load.dimensions else ""
    return (
        f"{load.rate:,g} decisions a second of {load.size:,} bytes{with_embedding}, an outcome for "
        f"{load.outcomes:.0%}, kept for {load.kept / timedelta(days=1):,g} days: "
        f"{told.decisions:,.0f} decisions"
    )


def _needs(told: Plan) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in told.disk_bytes.items())
    table.add_row("disk of PostgreSQL", _bytes(sum(told.disk_bytes.values())), parts)
    table.add_row("memory of PostgreSQL", _bytes(told.memory_bytes), "so that every index is in memory")
    log = f"{_bytes(told.log_bytes_per_second)}/s"
    table.add_row("log of PostgreSQL", log, "to disk, and to each standby")
    for name, cores in told.cores.items():
        processes = f"{told.daemons} for the ingest, on one durable consumer" if name == "daemon" else ""
        table.add_row(f"cores of {name}", f"{cores:,.2g}", processes)
    table.add_row("stream", f"{_bytes(told.stream_bytes_per_second)}/s", "in, and out to the daemons")
    table.add_row("to PostgreSQL", f"{_bytes(told.postgres_bytes_per_second)}/s", "over the network")
    outage = f"{timedelta(seconds=round(told.outage_seconds))}"
    table.add_row("an outage", outage, "of PostgreSQL, before 8 GiB of stream are full")
    return table


def _limits(told: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("from so many a second", justify="right")
    table.add_column("falls behind")
    table.add_column("what to do")
    for limit in told.limits:
        reached = " (here)" if limit.rate < told.load.rate else ""
        table.add_row(f"{limit.rate:,.0f}{reached}", limit.what, limit.then)
    return table


def _bytes(count: float) -> str:
    power = min(int(log10(max(count, 1)) // 3), len(_UNITS) - 1)
    return f"{count / 1000**power:,.3g} {_UNITS[power]}"
