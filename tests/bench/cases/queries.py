"""Questions about five million decisions, with everything in memory and with nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.figures import percentile, spread
from tests.bench.growing import FILLING, grow
from tests.bench.rows import DEFAULT
from tests.plans import explained
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.queries import (
    Filter,
    calibration,
    decision,
    decision_stats,
    failed_decisions,
    reading,
    recent_decisions,
    successful_decisions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.stage import Stage
    from tests.plans import Plan

COUNT: Final = 5_000_000
ORIGINALS: Final = 500
WARM: Final = 200
"""How often a question is asked, or for `WARM_SECONDS`."""
WARM_SECONDS: Final = 5.0

_DAY: Final = Goal(50, 10, least=False)
_EVER: Final = Goal(1_500, 500, least=False)
_LIST: Final = Goal(20, 5, least=False)

_AGENTS: Final = 50
_MODELS: Final = 5
_TYPICAL: Final = "agent-12"
"""With one of 50 decisions, as many as the mean; agent-0 has seven times as many."""


def _chance(stream: int) -> str:
    """SQL for a number from 0 to 1, another one in each row, and the same in each run."""
    return f"((hashint8extended(number, {stream}) & 1048575) / 1048576.0::float8)"


# 9 of 10 have an outcome, up to 6 days later; of what comes after the last decision nothing is known yet.
_CREATED_AT: Final = "$1::timestamptz - interval '730 days' * (1 - number / $2::float8)"
_OUTCOME_AT: Final = f"{_CREATED_AT} + interval '6 days' * {_chance(1)}"
_RESOLVED: Final = f"{_chance(2)} < 0.9 AND {_OUTCOME_AT} <= $1"
_WON: Final = f"{_chance(3)} < 0.6"
_VALUES: Final = {
    "id": "gen_random_uuid()",
    "created_at": _CREATED_AT,
    "agent_name": f"'agent-' || floor({_AGENTS} * {_chance(4)} ^ 2)",
    "model": f"'model-' || floor({_MODELS} * {_chance(5)})",
    "outcome": f"CASE WHEN {_RESOLVED} THEN CASE WHEN {_WON} THEN 'SUCCESS' ELSE 'FAILURE' END END",
    "pnl": f"CASE WHEN {_RESOLVED} THEN round((CASE WHEN {_WON} THEN 900 ELSE -900 END * {_chance(6)} ^ 4)"
    "::numeric, 2) END",
    "outcome_at": f"CASE WHEN {_RESOLVED} THEN {_OUTCOME_AT} END",
    "outcome_sequence": f"CASE WHEN {_RESOLVED} THEN number END",
}
_LEDGER: Final = """
INSERT INTO llm_outcomes (decision_id, event_id, outcome, pnl, observed_at, received_at, stream_sequence)
SELECT id, gen_random_uuid(), outcome, pnl, outcome_at, outcome_at, outcome_sequence
FROM llm_decisions WHERE outcome IS NOT NULL
"""


class Asked(Struct, frozen=True):
    """A question, and in how many milliseconds it is to be answered from memory."""

    measure: str
    ask: Callable[[Connection], Awaitable[object]]
    goal: Goal | None


async def run(bench: Bench) -> Result:
    """Ask each question with cold caches and with warm ones, and keep its plan."""
    result = Result()
    count = bench.scaled(COUNT)
    async with bench.stage(FILLING) as stage:
        bench.say(f"queries: filling a table with {count:,} rows")
        await fill(stage, count)
        for asked in await questions(stage):
            cold = [await _cold(stage, asked) for _ in range(bench.rounds)]
            warm = await _warm(stage, asked)
            result.records.append(
                {
                    "question": asked.measure,
                    "rows": count,
                    "cold_ms": cold,
                    "warm_ms": warm,
                    "plan": await _plan(stage, asked),
                }
            )
            p50, p99 = percentile(warm, 0.5), percentile(warm, 0.99)
            figure = f"p50 {p50:.1f} ms · p99 {p99:.1f} ms · cold {spread(cold).median:.0f} ms"
            result.lines.append(Line(asked.measure, figure, spread(warm), asked.goal))
            bench.say(f"queries: {asked.measure}: {figure}")
    return result


async def fill(stage: Stage, count: int) -> None:
    """Two years of decisions and outcomes, as autovacuum would have left them."""
    await grow(stage, list(rows.payloads(DEFAULT, ORIGINALS)), count, _VALUES)
    await stage.sql.execute(_LEDGER, timeout=1_800)
    await stage.sql.execute("VACUUM ANALYZE", timeout=1_800)


async def questions(stage: Stage) -> list[Asked]:
    """What is asked: about a typical agent, about the largest, and about all."""
    middle = rows.FIRST - timedelta(days=365)
    one = await stage.sql.fetchval("SELECT id FROM llm_decisions WHERE created_at >= $1 LIMIT 1", middle)
    agent, largest, everybody = Filter(agent_name=_TYPICAL), Filter(agent_name="agent-0"), Filter()
    day = Filter(agent_name=_TYPICAL, since=rows.FIRST - timedelta(days=1))
    lists = {
        "recent": recent_decisions,
        "successful": successful_decisions,
        "failed": failed_decisions,
    }
    return [
        Asked("stats of an agent, 24 h", lambda c: decision_stats(c, day), _DAY),
        Asked("stats of an agent, all time", lambda c: decision_stats(c, agent), _EVER),
        Asked("stats of the largest agent, all time", lambda c: decision_stats(c, largest), None),
        Asked("calibration of an agent, 24 h", lambda c: calibration(c, day), _DAY),
        Asked("calibration of an agent, all time", lambda c: calibration(c, agent), _EVER),
        Asked("calibration of the largest agent, all time", lambda c: calibration(c, largest), None),
        *(
            Asked(f"{name} decisions of {who}", lambda c, list_=list_, wanted=wanted: list_(c, wanted), _LIST)
            for name, list_ in lists.items()
            for who, wanted in (
                ("an agent", agent),
                ("the largest agent", largest),
                ("all agents", everybody),
            )
        ),
        Asked("one decision", lambda c: decision(c, one), _LIST),
    ]


async def _cold(stage: Stage, asked: Asked) -> float:
    """Milliseconds with nothing in memory, neither PostgreSQL's nor the kernel's."""
    await stage.restart_postgres({})
    _forget(stage.folder)
    async with connected(stage.dsn, statement_cache=False) as connection:
        return await _timed(connection, asked)


async def _warm(stage: Stage, asked: Asked) -> list[float]:
    """Milliseconds of each answer, once the question has been asked."""
    found: list[float] = []
    async with connected(stage.dsn, statement_cache=False) as connection:
        await _timed(connection, asked)
        while len(found) < WARM and sum(found) < WARM_SECONDS * 1000:
            found.append(await _timed(connection, asked))
    return found


async def _plan(stage: Stage, asked: Asked) -> list[Plan]:
    async with connected(stage.dsn, statement_cache=False) as connection, explained(connection) as plans:
        await _timed(connection, asked)
    return plans


async def _timed(connection: Connection, asked: Asked) -> float:
    start = time.perf_counter()
    async with reading(connection):
        await asked.ask(connection)
    return (time.perf_counter() - start) * 1000


def _forget(folder: Path) -> None:
    """Have the kernel drop what it keeps of the files in a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
