"""A stream full of outcomes of decisions that are stored: how fast they are projected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench import rows, tables
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cases.drain import figure
from tests.bench.contestants import Daemons, RawCopy
from tests.bench.figures import spread
from tests.bench.rows import DEFAULT, EMBEDDED, Kind
from tests.bench.stage import OUTCOMES
from tests.bench.tables import SHIPPED

if TYPE_CHECKING:
    from tests.bench.stage import Stage
    from tests.bench.yardstick import Drained

COUNTS: Final = {DEFAULT.name: 100_000, EMBEDDED.name: 20_000}
GOAL: Final = Goal(8_000, 20_000)


async def run(bench: Bench) -> Result:
    """Project outcomes onto plain decisions, and onto decisions whose embeddings are indexed."""
    result = Result()
    async with bench.stage() as stage:
        await _project(bench, stage, DEFAULT, result)
        if await tables.exists(stage.sql, "llm_embedding_index"):
            await _project(bench, stage, EMBEDDED, result)
    return result


async def _project(bench: Bench, stage: Stage, kind: Kind, result: Result) -> None:
    decisions = list(rows.payloads(kind, bench.scaled(COUNTS[kind.name])))
    messages = list(rows.outcomes(decisions))
    await tables.empty(stage.sql)
    await RawCopy("", SHIPPED).run(stage, decisions)
    await stage.sql.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM llm_decisions")
    runs: list[Drained] = []
    for number in range(1, bench.rounds + 1):
        await _restore(stage, indexed=kind.embedded)
        await stage.fill(messages, OUTCOMES)
        await stage.settle()
        runs.append(await Daemons().drain(stage, len(messages)))
        await _check(stage, len(messages))
        result.record(runs[-1], rows=kind.name, contestant="daemon", round=number)
        bench.say(f"outcomes of {kind.name} {number}/{bench.rounds}: {runs[-1].rate:,.0f}/s")
    of = "indexed embeddings" if kind.embedded else f"{kind.name} rows"
    rates = spread([run.rate for run in runs])
    result.lines.append(Line(f"{len(messages):,} outcomes of {of}", figure(runs), rates, GOAL))


async def _restore(stage: Stage, *, indexed: bool) -> None:
    """Have every decision again, without an outcome; with statistics, as autovacuum would have left them."""
    await tables.empty(stage.sql)
    async with tables.without_indexes(stage.sql, "llm_decisions"):
        await stage.sql.execute("INSERT INTO llm_decisions SELECT * FROM kept")
    if indexed:
        async with tables.without_indexes(stage.sql, "llm_embedding_index"):
            await stage.sql.execute(
                "INSERT INTO llm_embedding_index (decision_id, direction) "
                "SELECT id, l2_normalize(prompt_embedding)::halfvec FROM llm_decisions"
            )
    await stage.sql.execute("VACUUM ANALYZE")


async def _check(stage: Stage, count: int) -> None:
    shown = await stage.sql.fetchval(
        "SELECT count(*) FROM llm_decisions d JOIN llm_outcomes o ON o.decision_id = d.id "
        "WHERE (d.outcome, d.pnl, d.outcome_at) = (o.outcome, o.pnl, o.observed_at)"
    )
    if shown != count:
        raise RuntimeError(f"{shown} of {count} decisions show their outcome")
