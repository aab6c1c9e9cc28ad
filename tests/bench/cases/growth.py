"""The same drain onto an empty table and onto five million rows.

No checkpoint comes between the runs: after one, the first touch of each index page is logged whole. A server
under full load has millions of rows between two checkpoints to spread that over; a run here has not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.bench import rows, tables
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cases.drain import figure
from tests.bench.contestants import Contestant, Daemons, RawCopy
from tests.bench.figures import ratios
from tests.bench.growing import FILLING, grow
from tests.bench.rows import DEFAULT
from tests.bench.tables import SHIPPED

if TYPE_CHECKING:
    from tests.bench.stage import Stage
    from tests.bench.yardstick import Drained

COUNT: Final = 5_000_000
ORIGINALS: Final = 500
GOAL: Final = Goal(0.8, 0.95)
EMPTY: Final = "tracker"
GROWN: Final = "grown"

_VALUES: Final = {
    "id": "gen_random_uuid()",
    "created_at": "$1::timestamptz - interval '180 days' * (1 - number / $2::float8)",
    "outcome": "CASE WHEN number % 10 < 7 THEN 'SUCCESS' ELSE 'FAILURE' END",
    "pnl": "number % 500",
}


async def run(bench: Bench) -> Result:
    """Drain, and copy, onto both tables in turn."""
    result = Result()
    originals = list(rows.payloads(DEFAULT, bench.rows))
    grown = bench.scaled(COUNT)
    async with bench.stage(FILLING) as stage:
        await stage.add_database(GROWN)
        bench.say(f"growth: filling a table with {grown:,} rows")
        await grow(stage, originals[:ORIGINALS], grown, _VALUES)
        await stage.sql.execute("VACUUM ANALYZE")
        await stage.restart_postgres({})
        stage.checkpoints = False
        found = await _rounds(bench, stage, originals, result, grown)
    for name in ("daemon", "raw COPY (shipped)"):
        empty, full = found[name, EMPTY], found[name, GROWN]
        ratio = ratios([drained.rate for drained in full], [drained.rate for drained in empty])
        result.lines += [
            Line(f"{name} onto an empty table", figure(empty)),
            Line(f"{name} onto {grown:,} rows", figure(full), ratio, GOAL if name == "daemon" else None),
        ]
    return result


async def _rounds(
    bench: Bench, stage: Stage, originals: list[bytes], result: Result, grown: int
) -> dict[tuple[str, str], list[Drained]]:
    found: dict[tuple[str, str], list[Drained]] = defaultdict(list)
    contestants: list[Contestant] = [Daemons(), RawCopy("raw COPY (shipped)", SHIPPED)]
    seed = 0
    for number in range(bench.rounds + 1):  # the first warms up
        for database in (EMPTY, GROWN):
            for contestant in contestants:
                seed += 1
                # Under new ids: those of an earlier run are still there.
                messages = list(rows.renamed(originals, bench.rows, seed))
                drained = await _play(stage, database, contestant, messages)
                if number == 0:
                    continue
                found[contestant.name, database].append(drained)
                table_rows = grown if database == GROWN else 0
                result.record(
                    drained,
                    rows=DEFAULT.name,
                    contestant=contestant.name,
                    table_rows=table_rows,
                    round=number,
                )
                what = f"{contestant.name} onto {table_rows:,}"
                bench.say(f"growth {number}/{bench.rounds} {what}: {drained.rate:,.0f}/s")
    return found


async def _play(stage: Stage, database: str, contestant: Contestant, messages: list[bytes]) -> Drained:
    await stage.use(database)
    if database == EMPTY:
        await tables.empty(stage.sql)
    # In memory, as those of a server that has been running are.
    await stage.sql.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    await stage.sql.execute(
        "SELECT pg_prewarm(indexrelid) FROM pg_index WHERE indrelid = 'llm_decisions'::regclass"
    )
    before = await stage.stored(contestant.table)
    drained = await contestant.run(stage, messages)
    if (stored := await stage.stored(contestant.table) - before) != len(messages):
        raise RuntimeError(f"{contestant.name} stored {stored} of {len(messages)} rows")
    return drained
