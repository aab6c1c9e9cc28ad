"""One, two and four daemons on one durable consumer: what they drain together."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tests.bench import rows
from tests.bench.bench import Bench, Line, Result
from tests.bench.cases.drain import figure
from tests.bench.contestants import Daemons, play
from tests.bench.figures import ratios
from tests.bench.rows import DEFAULT
from tests.bench.yardstick import Drained

COUNTS: Final = (1, 2, 4)


async def run(bench: Bench) -> Result:
    """Drain the same full stream with more and more daemons."""
    result, found = Result(), defaultdict[int, list[Drained]](list)
    messages = list(rows.payloads(DEFAULT, bench.rows))
    async with bench.stage() as stage:
        for number in range(1, bench.rounds + 1):
            for count in COUNTS:
                daemons = Daemons(
                    f"{count} daemons", count=count, first=lambda daemon: daemon.said("started")
                )
                drained = await play(stage, daemons, messages)
                found[count].append(drained)
                result.record(drained, rows=DEFAULT.name, contestant="daemon", daemons=count, round=number)
                bench.say(f"replicas {number}/{bench.rounds} {count}: {drained.rate:,.0f}/s")
    alone = [drained.rate for drained in found[1]]
    for count, runs in found.items():
        ratio = ratios([drained.rate for drained in runs], alone)
        result.lines.append(Line(f"{count} on one durable", figure(runs), ratio if count > 1 else None))
    return result
