"""Embeddings made on the same machine: what they take from a full stream, and how long a burst waits."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from tests.acceptance.command import until
from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cases.drain import figure
from tests.bench.contestants import DURABLE, Daemons, RawCopy
from tests.bench.cpu import used, used_with_children
from tests.bench.figures import ratios, spread
from tests.bench.rows import DEFAULT, SEED
from tests.bench.tables import SHIPPED
from tests.bench.yardstick import Meter, drained
from tracker_daemon.config.settings import LOCAL_DIMENSIONS
from tracker_daemon.embedded.processes import family

if TYPE_CHECKING:
    from tests.acceptance.command import Daemon
    from tests.bench.stage import Stage
    from tests.bench.yardstick import Drained

PROVIDERS: Final = ("none", "local")
AHEAD: Final = 5_000
"""Decisions that wait for their embedding before anything is delivered: some do until the end."""
BURST: Final = 50_000
GOAL: Final = Goal(0.95, 0.98)
PAIRS: Final = 3
"""Of a round: one pair differs from the next by a third, so the median of five may be 0.9 or 1.1."""
LOOK_SECONDS: Final = 0.5

_QUEUE: Final = """
INSERT INTO llm_prompt_queue (decisions)
SELECT array_agg(id) FROM (SELECT id, row_number() OVER (ORDER BY id) / 100 AS number FROM llm_decisions) d
GROUP BY number
"""
_EMBEDDED: Final = "SELECT count(prompt_embedding) FROM llm_decisions"
_INDEXED: Final = "SELECT count(*) FROM llm_embedding_index"


async def run(bench: Bench) -> Result:
    """Drain the same stream without and with a provider at work; then let it catch up after a burst."""
    result = Result()
    async with bench.stage(dimensions=LOCAL_DIMENSIONS) as stage:
        await _beside(bench, stage, result)
        await _burst(bench, stage, result)
    return result


async def _beside(bench: Bench, stage: Stage, result: Result) -> None:
    messages = list(rows.payloads(DEFAULT, bench.rows))
    ahead = list(rows.payloads(DEFAULT, bench.scaled(AHEAD), SEED + 1))
    found: dict[str, list[Drained]] = defaultdict(list)
    pairs = bench.rounds * PAIRS
    for number in range(pairs + 1):  # the first warms up
        # Who comes second finds the machine as the first has left it: so they take turns at that, too.
        for provider in PROVIDERS[:: 1 if number % 2 else -1]:
            drained, embedded = await _play(stage, provider, messages, ahead)
            if not number:
                continue
            found[provider].append(drained)
            result.record(drained, rows=DEFAULT.name, contestant=provider, round=number, embedded=embedded)
            told = f"{drained.rate:,.0f}/s, {embedded:,} embeddings"
            bench.say(f"embedding {number}/{pairs} {provider}: {told}")
    rates = {provider: [one.rate for one in runs] for provider, runs in found.items()}
    result.lines += [
        Line("a full stream, no provider", figure(found["none"])),
        Line(
            "a full stream, local at work",
            figure(found["local"]),
            ratios(rates["local"], rates["none"]),
            GOAL,
        ),
    ]


async def _play(
    stage: Stage, provider: str, messages: list[bytes], ahead: list[bytes]
) -> tuple[Drained, int]:
    """One run on tables that hold what is ahead, and how many embeddings were made in all."""

    async def at_work(daemon: Daemon) -> None:
        await daemon.said("started")
        if provider != "none":
            await until("an embedding is made", lambda: stage.sql.fetchval(_EMBEDDED))

    await stage.clear()
    await RawCopy("", SHIPPED).run(stage, ahead)
    await stage.sql.execute(_QUEUE)
    daemons = Daemons(provider, settings=_settings(provider), first=at_work)
    found = await daemons.run(stage, messages)
    if (stored := await stage.stored(SHIPPED.name)) != len(messages) + len(ahead):
        raise RuntimeError(f"{stored} rows are stored, not {len(messages)} and {len(ahead)}")
    return found, await stage.sql.fetchval(_EMBEDDED)


async def _burst(bench: Bench, stage: Stage, result: Result) -> None:
    """Deliver so many decisions at once, and wait until each has its embedding, and is in the index."""
    count = bench.scaled(BURST)
    await stage.clear()
    await stage.fill(rows.payloads(DEFAULT, count))
    await stage.settle()
    async with Daemons(settings=_settings("local")).started(stage) as (daemon,):
        pid = daemon.process.pid
        stored = await drained(stage, DURABLE, count, lambda: used(pid), lambda: None)
        began, greatest = time.perf_counter(), [0.0, 0.0]
        meter = Meter(stage, lambda: used(pid))
        meter.start()
        provider = _helpers(pid)
        while True:
            waiting = await _waiting(daemon)
            greatest = [*map(max, greatest, waiting)]
            if not any(waiting) and await _done(stage) == [count, count]:
                break
            await asyncio.sleep(LOOK_SECONDS)
        caught_up = meter.stop(count)
        caught_up.cpu["provider"] = _helpers(pid) - provider
    seconds = stored.seconds + time.perf_counter() - began
    result.record(caught_up, contestant="burst", stored_seconds=stored.seconds, waiting=greatest)
    words = f"stored in {stored.seconds:.1f} s · at most {greatest[0]:,.0f} and {greatest[1]:,.0f} waiting"
    result.lines.append(
        Line(f"a burst of {count:,}, seconds until all are embedded and indexed", words, spread([seconds]))
    )
    cpu = " · ".join(f"{party} {caught_up.micros(party):.0f}" for party in ("client", "provider", "postgres"))
    result.lines.append(Line("and after they were stored", f"{caught_up.rate:,.0f}/s  ({cpu} µs)"))


def _settings(provider: str) -> dict[str, str]:
    return {
        "TRACKER_EMBEDDING_PROVIDER": provider,
        "TRACKER_EMBEDDING_DIMENSIONS": str(LOCAL_DIMENSIONS),
    }


async def _waiting(daemon: Daemon) -> list[float]:
    metrics = await daemon.metrics()
    return [metrics("embeddings_waiting"), metrics("embedding_index_waiting")]


async def _done(stage: Stage) -> list[Any]:
    """How many decisions have an embedding, and how many are in the index."""
    return [await stage.sql.fetchval(query) for query in (_EMBEDDED, _INDEXED)]


def _helpers(pid: int) -> float:
    """CPU seconds of a daemon's own processes."""
    return used_with_children(family(pid)) - used(pid)
