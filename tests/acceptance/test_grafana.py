"""What *Pipeline* shows: through a real Prometheus, of a real daemon that is at work."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import pytest

from tests.acceptance.command import until
from tests.acceptance.prometheus import prometheus
from tests.factory import decision, outcome
from tests.grafana import targets
from tracker_daemon.config import BatchSettings
from tracker_daemon.scores.score import Score

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

    Series = dict[str, float]

RATE_INTERVAL = "1m"
"""What `$__rate_interval` stands for: four times the scrape interval or more, in Grafana too."""
DECISIONS, OUTCOMES, REPEATED = 300, 200, 7
SCORED = ("steady agent", "gpt-y model")
"""Name and scope of those that decided before the daemon's first look."""


async def ask(server: str, expression: str) -> Series:
    """What Prometheus answers now, by the values of the labels; values that are no number are left out."""
    query = {"query": expression.replace("$__rate_interval", RATE_INTERVAL)}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{server}/api/v1/query", params=query) as response:
                answer: dict[str, Any] = await response.json()
        except aiohttp.ClientError:  # it is still starting
            return {}
    assert answer["status"] == "success", f"{expression}: {answer['error']}"
    found = {_labels(series["metric"]): float(series["value"][1]) for series in answer["data"]["result"]}
    return {labels: value for labels, value in found.items() if math.isfinite(value)}


def _labels(metric: dict[str, str]) -> str:
    return " ".join(value for label, value in sorted(metric.items()) if label != "__name__")


def shares(series: Series) -> Series:
    """What part of the whole each is, those that are nothing left out."""
    return {labels: value / sum(series.values()) for labels, value in series.items() if value}


async def scored(sql: asyncpg.Connection) -> None:
    """Store ten decisions of one agent and model, of which eight succeeded."""
    await sql.executemany(
        "INSERT INTO llm_decisions (agent_name, model, decision_type, symbol, prompt, response, outcome) "
        "VALUES ('steady', 'gpt-y', 'signal', 'BTC', '?', '!', $1)",
        [("FAILURE" if number % 5 == 0 else "SUCCESS",) for number in range(10)],
    )


async def publish(stream: Stream) -> int:
    """Publish decisions, some of them twice, outcomes, and what is wrong in three ways; return how many."""
    payloads = [decision(id=str(uuid4()), prompt_embedding=[1, 2, 3]) for _ in range(DECISIONS)]
    await stream.publish(*payloads, *payloads[:REPEATED])
    outcomes = [outcome(each["id"], pnl="1.5") for each in payloads[:OUTCOMES]]
    await stream.publish(*outcomes, outcome("no id"), subject=stream.outcomes)
    bad = [b"[]"] * 3 + [b"{"] * 2
    await stream.publish(*bad)
    return len(payloads) + REPEATED + len(outcomes) + 1 + len(bad)


async def counted(
    sql: asyncpg.Connection, stream: Stream, daemon: str
) -> tuple[dict[str, Series], dict[str, Series]]:
    """What the rows say that the queries of a panel find: numbers, and shares of a whole.

    `daemon`: the labels of its own series.
    """
    published = await sql.fetch("SELECT FROM llm_decisions WHERE agent_name <> 'steady'")
    letters = await sql.fetch("SELECT subject, reason FROM llm_dead_letters")
    rows = {
        "llm_decisions": len(published),
        "llm_outcomes": await sql.fetchval("SELECT count(*) FROM llm_outcomes"),
        "llm_dead_letters": len(letters),
    }
    settled = {
        "stored": rows["llm_decisions"] + rows["llm_outcomes"],
        "duplicate": REPEATED,
        "dead_letter": len(letters),
        "released": 0,
    }
    received = Counter(row["subject"] for row in letters)
    received[stream.decisions] += rows["llm_decisions"] + REPEATED
    received[stream.outcomes] += rows["llm_outcomes"]
    lower, upper = Score("agent", "steady", successes=8, failures=2).interval
    calm = {
        **{f"Connections {which}": {daemon: 1.0} for which in "AB"},
        **{f"{panel} A": {daemon: 0.0} for panel in ("Paused", "Buffers against their limit")},
        "Buffers against their limit B": {"": float(BatchSettings().max_buffered_bytes)},
        "Waiting in the stream A": {"": 0.0},
        "Outcomes without their decision A": {"": 0.0},
        **{f"Redeliveries, retries, losses {which}": {"": 0.0} for which in "ACD"},
    }
    numbers: dict[str, Series] = calm | {
        "Every message accounted for A": {"": received.total()},
        "Every message accounted for B": settled,
        "Every message accounted for C": {"": 0},
        "Rows committed A": rows,
        "Share of dead letters A": {"": len(letters) / received.total()},
        "Scores of agents and models A": dict.fromkeys(SCORED, 0.8),
        "Scores of agents and models B": dict.fromkeys(SCORED, lower),
        "Scores of agents and models C": dict.fromkeys(SCORED, upper),
        "Scores of agents and models D": dict.fromkeys(SCORED, 10),
        "Resolved success rate over time A": dict.fromkeys(SCORED, 0.8),
    }
    parts = {
        "Messages received A": received,
        "Messages settled, by result A": settled,
        "Rows committed a second A": rows,
        "Dead letters by reason A": Counter(row["reason"] for row in letters),
    }
    return numbers, {name: shares(whole) for name, whole in parts.items()}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)")
async def test_each_panel_has_data_and_its_counters_are_the_rows(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Rates are compared as shares of a whole: all counters of a daemon are scraped at once."""
    await scored(sql)
    daemon = await (await run(settings)).ready()
    address = (await daemon.said("started"))["http"].removeprefix("http://")
    async with prometheus(tmp_path / "prometheus", address) as server:
        await until("all is scraped before there is work", lambda: ask(server, "tracker_postgres_up == 1"))
        await stream.settled(await publish(stream))
        numbers, parts = await counted(sql, stream, f"{address} tracker-daemon")

        async def shows(panel: str, expression: str) -> bool:
            found = await ask(server, expression)
            if panel in parts:
                return shares(found) == pytest.approx(parts[panel])
            expected = numbers.get(panel, {})
            return bool(found) and {name: found.get(name) for name in expected} == pytest.approx(expected)

        panels = {f"{title} {target['refId']}": target["expr"] for title, target in targets("pipeline")}
        assert numbers.keys() | parts.keys() <= panels.keys()
        for panel, expression in panels.items():
            await until(f"{panel} shows what the rows say", partial(shows, panel, expression))
