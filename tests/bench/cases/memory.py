"""A backlog of a million: the most memory that a daemon has resident while it drains all of it."""

from __future__ import annotations

from typing import Final

from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cases.drain import figure
from tests.bench.contestants import Daemons
from tests.bench.figures import spread
from tests.bench.rows import DEFAULT, SEED

COUNT: Final = 1_000_000
ORIGINALS: Final = 20_000
"""Decisions that are published over and over, each time under another id."""

GOAL: Final = Goal(200, 120, least=False)


async def run(bench: Bench) -> Result:
    """Drain it once, with default settings."""
    result, daemons = Result(), Daemons()
    count = bench.scaled(COUNT)
    originals = list(rows.payloads(DEFAULT, min(count, ORIGINALS)))
    async with bench.stage() as stage:
        bench.say(f"memory: filling the stream with {count:,} messages")
        await stage.fill(rows.renamed(originals, count, SEED))
        await stage.settle()
        drained = await daemons.drain(stage, count)
        if (stored := await stage.stored(daemons.table)) != count:
            raise RuntimeError(f"{stored} of {count} rows are stored")
    megabytes = daemons.peak_rss[0] / 1e6
    result.record(drained, rows=DEFAULT.name, contestant="daemon", peak_rss_bytes=daemons.peak_rss[0])
    result.lines += [
        Line(f"peak of the daemon, {count:,} waiting, MB", f"{megabytes:.0f} MB", spread([megabytes]), GOAL),
        Line(f"drained {count:,} of {DEFAULT.name}", figure([drained])),
    ]
    return result
