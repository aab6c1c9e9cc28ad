"""Which arm, which model: how soon a daemon says so, at rest and beside a full stream."""

from __future__ import annotations

import contextlib
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors

from tests.acceptance.command import until
from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.contestants import Daemons
from tests.bench.figures import percentile, spread
from tests.bench.rows import DEFAULT
from tracker_daemon.experiments import Arm, Definition, begin
from tracker_daemon.selection import Policy, set_policy

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.acceptance.command import Daemon, Metrics
    from tests.bench.stage import Stage

COUNT: Final = 3_000
"""Questions of either kind."""
WITHIN: Final = "0.002"
"""Seconds, a bucket of the metric, in which nearly all are to be answered at the server."""
GOAL: Final = Goal(99.0, 99.9)
MODELS: Final = ("gpt-x", "gpt-y", "gpt-z")
ASKED: Final[dict[str, dict[str, str]]] = {
    "assign": {"experiment": "exits"},
    "select": {"agent_name": "momentum", "decision_type": "signal"},
}
KEYS: Final = {"assign": "unit", "select": "key"}
_PATIENCE_SECONDS: Final = 30.0


async def run(bench: Bench) -> Result:
    """Ask one question after the other, as an agent does that decides alone."""
    result = Result()
    async with bench.stage() as stage:
        for beside, messages in (("", 0), (", beside a full stream", bench.rows)):
            for name in ASKED:
                await stage.clear()
                await _prepare(stage)
                await stage.fill(rows.payloads(DEFAULT, messages))
                async with Daemons().started(stage) as (daemon,):
                    await _known(stage, name)
                    await _measure(bench, stage, daemon, name, beside, result)
    return result


async def _prepare(stage: Stage) -> None:
    half = Decimal("0.5")
    arms = tuple(Arm(name=model, share=half, model=model) for model in MODELS[:2])
    await begin(stage.sql, Definition(name="exits", arms=arms, minimum_effect=0.05))
    await set_policy(stage.sql, Policy(**ASKED["select"], candidates=MODELS, default=MODELS[0]))


async def _known(stage: Stage, name: str) -> None:
    """Wait until the daemon knows what it is asked for."""

    async def answered() -> bool:
        with contextlib.suppress(nats.errors.NoRespondersError):  # it has just been started
            return bool((await _ask(stage, name, "0")).data)
        return False

    await until(f"the daemon answers {name}", answered)


async def _measure(
    bench: Bench, stage: Stage, daemon: Daemon, name: str, beside: str, result: Result
) -> None:
    before, took = await daemon.metrics(), []
    for number in range(bench.scaled(COUNT)):
        began = time.perf_counter()
        reply = await _ask(stage, name, str(number))
        took.append((time.perf_counter() - began) * 1000)
        if not reply.data:
            raise RuntimeError(f"{name} was not answered: {reply.headers}")
    after = await daemon.metrics()
    within = _more(before, after, "query_seconds_bucket", endpoint=name, le=WITHIN)
    count = _more(before, after, "query_seconds_count", endpoint=name)
    mean = _more(before, after, "query_seconds_sum", endpoint=name) / count * 1000
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    share = within / count * 100
    figure = f"agent: p50 {p50:.2f} ms · p99 {p99:.2f} ms; server: {mean:.2f} ms, {share:.2f} % within 2 ms"
    result.records.append(
        {"question": f"{name}{beside}", "asked": count, "ms": took, "mean_ms": mean, "within_2_ms": share}
    )
    result.lines.append(Line(f"{name}{beside}", figure, spread([share]), GOAL))
    bench.say(f"choices: {name}{beside}: {figure}")


async def _ask(stage: Stage, name: str, key: str) -> Msg:
    question = msgspec.json.encode(ASKED[name] | {KEYS[name]: key})
    return await stage.client.request(f"llm.query.{name}", question, timeout=_PATIENCE_SECONDS)


def _more(before: Metrics, after: Metrics, name: str, **labels: Any) -> float:
    return after(name, **labels) - before(name, **labels)
