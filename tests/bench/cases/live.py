"""Messages that come one by one: how long each takes from its publishing to its commit."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.contestants import DURABLE, Daemons
from tests.bench.figures import percentile, spread
from tests.bench.stage import DECISIONS, STREAM
from tests.bench.yardstick import drained

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.bench.stage import Stage

PERCENTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
INTERVALS: Final = (0.0, 0.1)
"""Flush intervals, in seconds."""


class Rate(Struct, frozen=True):
    """Messages per second, for so many seconds, so often at most."""

    rate: int
    seconds: int
    rounds: int


RATES: Final = (Rate(10, 20, 1), Rate(500, 8, 3), Rate(5_000, 6, 1))
GOALS: Final = {(500, 0.0): Goal(25, 10, least=False), (500, 0.1): Goal(150, 120, least=False)}


class Latencies(Struct):
    """Milliseconds from publishing to the commit's timestamp, and to the acknowledgement after it."""

    commit: list[float]
    acknowledged: list[float]


async def run(bench: Bench) -> Result:
    """Publish at every rate, with every flush interval."""
    result = Result()
    async with bench.stage({"track_commit_timestamp": "on"}) as stage:
        for interval in INTERVALS:
            for rate in RATES:
                rounds = [
                    await _publish(bench, stage, rate, interval, number)
                    for number in range(min(bench.rounds, rate.rounds))
                ]
                _add(bench, result, rate, interval, rounds)
    return result


def _add(bench: Bench, result: Result, rate: Rate, interval: float, rounds: list[Latencies]) -> None:
    found = {
        what: {
            name: [percentile(getattr(one, what), share) for one in rounds]
            for name, share in PERCENTILES.items()
        }
        for what in ("commit", "acknowledged")
    }
    result.records.append(
        {"rate": rate.rate, "interval": interval, "messages": len(rounds[0].commit), **found}
    )
    figure = " · ".join(
        f"{name} {spread(found['commit'][name]).median:.1f}/{spread(found['acknowledged'][name]).median:.1f}"
        for name in PERCENTILES
    )
    measure = f"{rate.rate:,}/s, interval {interval:g} s"
    judged = spread(found["acknowledged"]["p99"])
    bench.say(f"live {measure}: {figure}")
    result.lines.append(
        Line(f"{measure}, commit/ack", f"{figure} ms", judged, GOALS.get((rate.rate, interval)))
    )


async def _publish(bench: Bench, stage: Stage, rate: Rate, interval: float, number: int) -> Latencies:
    await stage.clear()
    await stage.fill([])
    count = max(2, round(rate.rate * rate.seconds * min(1.0, bench.scale)))
    acknowledged: dict[int, int] = {}

    async def note(message: Msg) -> None:
        # $JS.ACK.<stream>.<durable>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
        acknowledged.setdefault(int(message.subject.split(".")[5]), time.time_ns())

    watch = await stage.client.subscribe(f"$JS.ACK.{STREAM}.{DURABLE}.>", cb=note)
    daemons = Daemons(settings={"TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": str(interval)})
    async with daemons.started(stage) as (daemon,):
        await daemon.ready()
        publisher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.publisher", stage.nats.url),
            *(str(rate.rate), str(count), str(number)),
        )
        try:
            if code := await publisher.wait():
                raise RuntimeError(f"the publisher ended with exit code {code}")
        finally:
            if publisher.returncode is None:
                publisher.kill()
                await publisher.wait()
        await drained(stage, DURABLE, count, float, lambda: None)
        await stage.client.flush()
    await watch.unsubscribe()
    return await _latencies(stage, count, acknowledged)


async def _latencies(stage: Stage, count: int, acknowledged: dict[int, int]) -> Latencies:
    """Pair what was published, in its order, with what became of it; the first tenth warms up."""
    rows = await stage.sql.fetch(
        "SELECT (EXTRACT(EPOCH FROM created_at) * 1000)::float8 AS published, "
        "(EXTRACT(EPOCH FROM pg_xact_commit_timestamp(xmin)) * 1000)::float8 AS committed "
        "FROM llm_decisions ORDER BY created_at"
    )
    if len(rows) != count or acknowledged.keys() != set(range(1, count + 1)):
        raise RuntimeError(
            f"{count} {DECISIONS} published, {len(rows)} stored, {len(acknowledged)} acknowledged"
        )
    counted = list(enumerate(rows, start=1))[count // 10 :]
    return Latencies(
        [row["committed"] - row["published"] for _, row in counted],
        [acknowledged[sequence] / 1e6 - row["published"] for sequence, row in counted],
    )
