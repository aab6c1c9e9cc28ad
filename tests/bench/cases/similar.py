"""Similar situations among a million decisions: how fast the ten nearest are found, and if it is these."""

from __future__ import annotations

import random
import time
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from msgspec import Struct

from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cpu import on_cpu
from tests.bench.figures import percentile, spread
from tests.bench.growing import FILLING, grow
from tests.bench.rows import DEFAULT
from tracker_daemon.backlog import LOOK_SECONDS
from tracker_daemon.demo.market import load
from tracker_daemon.demo.reading import read
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.queries import Filter, Precedents, Situation, reading, similar_decisions
from tracker_daemon.situations.index import SituationIndex
from tracker_daemon.situations.learning import learn

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from tests.bench.stage import Stage

COUNT: Final = 1_000_000
QUESTIONS: Final = 60
"""Of each kind, by each filter."""
NEAREST: Final = 10

_RECALL: Final = Goal(0.98, 1)
_P95: Final = Goal(30, 15, least=False)
_SYMBOL: Final = "S3"
_SYMBOLS: Final = 20
_AGENTS: Final = 3
_TREND: Final = "trend"
_PRICES: Final = (
    *("macd.line", "macd.signal", "macd.histogram", "atr", "donchian.high", "donchian.low"),
    *("price.close", "price.ema_20", "price.sma_50"),
)
_NUMBERS: Final = (*_PRICES, "rsi", "volatility", "price.change_percent")


def _chance(stream: int) -> str:
    return f"((hashint8extended(number, {stream}) & 1048575) / 1048576.0)::numeric"


def _number(path: str) -> str:
    """SQL for an indicator: a real one, times the price of another stock, and a little more or less."""
    value = f"(kept.context #>> '{{{path.replace('.', ',')}}}')::numeric"
    if path in _PRICES:
        return f"round({value} * (0.5 + (number % {_SYMBOLS}) / 10.0) * (0.9 + 0.2 * {_chance(1)}), 4)"
    return f"round({value} * (0.95 + 0.1 * {_chance(2 + _NUMBERS.index(path))}), 2)"


def _object(*paths: str) -> str:
    keys = (f"'{path.rpartition('.')[2]}', {_number(path)}" for path in paths)
    return f"jsonb_build_object({', '.join(keys)})"


_ALL: Final = (
    f"{_object('rsi', 'atr', 'volatility')} || jsonb_build_object('trend', kept.context -> 'trend', 'macd', "
    f"{_object('macd.line', 'macd.signal', 'macd.histogram')}, 'donchian', "
    f"{_object('donchian.high', 'donchian.low')}, 'price', "
    f"{_object('price.close', 'price.ema_20', 'price.sma_50', 'price.change_percent')})"
)
# One agent of three says less.
_VALUES: Final = {
    "id": "gen_random_uuid()",
    "created_at": "$1::timestamptz - interval '730 days' * (1 - number / $2::float8)",
    "symbol": f"'S' || number % {_SYMBOLS}",
    "agent_name": f"'agent-' || number / {_SYMBOLS} % {_AGENTS}",
    "context": f"({_ALL}) - CASE WHEN number / {_SYMBOLS} % {_AGENTS} = 2 THEN '{{macd,donchian}}' "
    "ELSE '{}' END::text[]",
    "outcome": f"CASE WHEN {_chance(40)} < 0.9 THEN 'SUCCESS' END",
}
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "a symbol": {"symbol": _SYMBOL},
    "a symbol and an agent": {"symbol": _SYMBOL, "agent_name": "agent-1"},
    "a symbol, resolved": {"symbol": _SYMBOL, "resolved": True},
    "an agent": {"agent_name": "agent-1"},
    "no filter": {},
}


class Record(Struct):
    """All decisions, column by column, to compute distances by that share nothing with the product."""

    symbols: np.ndarray
    agents: np.ndarray
    resolved: np.ndarray
    numbers: dict[str, np.ndarray]
    trends: np.ndarray
    spreads: dict[str, float]

    def nearest(self, situation: dict[str, Any], chosen: dict[str, Any]) -> np.ndarray:
        """The distances of the nearest, in order."""
        far, shared = np.zeros(len(self.trends)), np.zeros(len(self.trends))
        for path, value in situation.items():
            if path == _TREND:
                apart, has = self.trends != value, np.ones(len(self.trends), dtype=bool)
            else:
                column = self.numbers[path]
                has = ~np.isnan(column)
                apart = np.where(has, np.minimum(np.abs(column - value) / self.spreads[path], 1), 0)
            far += apart
            shared += has
        keep = shared >= 0.5 * len(situation)
        if "symbol" in chosen:
            keep &= self.symbols == chosen["symbol"]
        if "agent_name" in chosen:
            keep &= self.agents == chosen["agent_name"]
        if "resolved" in chosen:
            keep &= self.resolved
        found = np.sort(far[keep] / shared[keep])[:NEAREST]
        return found[found <= 0.25]


async def run(bench: Bench) -> Result:
    """Ask for the nearest of full and of sparse situations, by each filter."""
    result = Result()
    count = bench.scaled(COUNT)
    async with bench.stage(FILLING) as stage:
        bench.say(f"similar: filling a table with {count:,} rows")
        readings = list(_readings())
        await fill(stage, readings, count)
        bench.say("similar: making the index")
        result.lines += await _index(stage, count)
        record = await _record(stage.sql)
        filtered: list[float] = []
        for kind, (name, chosen) in product(("full", "sparse"), _FILTERS.items()):
            chance = random.Random(f"{kind} {name}")  # noqa: S311 - the same questions each time
            asked = [_situation(chance, readings, sparse=kind == "sparse") for _ in range(QUESTIONS)]
            lines, milliseconds = await _ask(stage, record, asked, chosen, f"{kind}, {name}")
            filtered += milliseconds if chosen else []
            for line in lines:
                bench.say(f"similar: {line.measure}: {line.figure}")
            result.lines += lines
    result.lines.append(_line("all that have a filter: milliseconds", filtered))
    return result


async def fill(stage: Stage, readings: list[dict[str, Any]], count: int) -> None:
    """Decisions with the demo's situations, and what is learnt of them."""
    originals = []
    for payload, context in zip(rows.payloads(DEFAULT, len(readings)), readings, strict=True):
        originals.append(orjson.dumps(orjson.loads(payload) | {"context": context}))
    await grow(stage, originals, count, _VALUES)
    await stage.sql.execute("VACUUM ANALYZE", timeout=1_800)
    async with connected(stage.dsn, statement_cache=False) as connection:
        await learn(connection, rows.FIRST)


async def _index(stage: Stage, count: int) -> list[Line]:
    """Have the index made, as a daemon does, but without its rests."""
    index = SituationIndex(stage.dsn)
    began = time.perf_counter()
    while await index.look() < LOOK_SECONDS or await stage.stored("llm_situation_queue"):
        pass
    await index.leave()
    seconds = time.perf_counter() - began
    await stage.sql.execute("VACUUM ANALYZE llm_situation_index", timeout=1_800)
    size = await stage.sql.fetchval("SELECT pg_total_relation_size('llm_situation_index')")
    return [
        Line("index: decisions a second", f"{count / seconds:,.0f} (a daemon works a quarter of the time)"),
        Line("index: size", f"{size / 1e6:,.0f} MB"),
    ]


def _readings() -> Iterator[dict[str, Any]]:
    """The situations of the demo's market in which nothing is missing."""
    for bars in load(rows.FIRST).bars.values():
        for each in read(bars):
            context = each.context()
            if each.sma_50 is not None and _TREND in context:
                yield context


def _situation(chance: random.Random, readings: list[dict[str, Any]], *, sparse: bool) -> dict[str, Any]:
    """A situation by path, like one of the record but not the same: all of it, or two to four indicators."""
    context = chance.choice(readings)
    price = 0.5 + chance.randrange(_SYMBOLS) / 10
    paths = chance.sample([*_NUMBERS, _TREND], chance.randint(2, 4)) if sparse else [*_NUMBERS, _TREND]
    asked = {path: _at(context, path) for path in paths}
    return {
        path: value
        if path == _TREND
        else round(value * chance.uniform(0.97, 1.03) * (price if path in _PRICES else 1), 4)
        for path, value in asked.items()
    }


def _at(context: Any, path: str) -> Any:
    for key in path.split("."):
        context = context[key]
    return context


def _nested(situation: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = {}
    for path, value in situation.items():
        outer, _, key = path.rpartition(".")
        (context.setdefault(outer, {}) if outer else context)[key] = value
    return context


async def _record(sql: asyncpg.Connection) -> Record:
    paths = ", ".join(f"(context #>> '{{{path.replace('.', ',')}}}')::float8" for path in _NUMBERS)
    found = await sql.fetch(
        f"SELECT symbol, agent_name, outcome IS NOT NULL, context ->> 'trend', {paths} FROM llm_decisions",
        timeout=600,
    )
    symbols, agents, resolved, trends, *numbers = zip(*found, strict=True)
    [scales] = await sql.fetchrow("SELECT scales FROM llm_scales ORDER BY learnt_at DESC LIMIT 1")
    return Record(
        np.array(symbols),
        np.array(agents),
        np.array(resolved),
        {path: np.array(column, dtype=float) for path, column in zip(_NUMBERS, numbers, strict=True)},
        np.array(trends),
        {path: scale["spread"] for path, scale in orjson.loads(scales).items()},
    )


async def _ask(
    stage: Stage, record: Record, asked: list[dict[str, Any]], chosen: dict[str, Any], measure: str
) -> tuple[list[Line], list[float]]:
    """How many of the ten nearest each answer holds, and how long it takes, which is returned as well.

    As a daemon answers an agent that asks again about the same indicators: its statements are prepared.
    """
    recalls, milliseconds, cpu = [], [], []
    async with connected(stage.dsn) as connection:
        for situation in asked:
            await _timed(connection, situation, chosen)
            answer, took, used = await _timed(connection, situation, chosen)
            nearest = record.nearest(situation, chosen)
            hits = sum(one.distance <= nearest[-1] + 1e-9 for one in answer.precedents) if len(nearest) else 0
            recalls.append(hits / len(nearest) if len(nearest) else 1.0)
            milliseconds.append(took)
            cpu.append(used)
    recall = sum(recalls) / len(recalls)
    lines = [
        Line(f"{measure}: recall@{NEAREST}", f"least {min(recalls):.2f}", spread([recall]), _RECALL),
        _line(f"{measure}: milliseconds", milliseconds),
        Line(f"{measure}: of these at work", _both(cpu)),
    ]
    return lines, milliseconds


def _line(measure: str, milliseconds: list[float]) -> Line:
    return Line(measure, _both(milliseconds), spread([percentile(milliseconds, 0.95)]), _P95)


def _both(milliseconds: list[float]) -> str:
    return f"p50 {percentile(milliseconds, 0.5):.1f} · p95 {percentile(milliseconds, 0.95):.1f}"


async def _timed(
    connection: Connection, situation: dict[str, Any], chosen: dict[str, Any]
) -> tuple[Precedents, float, float]:
    """An answer, its milliseconds, and those of them that client and server were at work."""
    wanted = Filter(**{name: value for name, value in chosen.items() if name != "resolved"})
    server = connection.get_server_pid()
    start, used = time.perf_counter(), time.process_time() + on_cpu(server)
    async with reading(connection):
        answer = await similar_decisions(
            connection, Situation(context=_nested(situation)), wanted, NEAREST, resolved="resolved" in chosen
        )
    took, used = time.perf_counter() - start, time.process_time() + on_cpu(server) - used
    return answer, took * 1000, used * 1000
