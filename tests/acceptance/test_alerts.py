"""Alerts of a real daemon: through a real Prometheus to whoever is on duty, and over NATS to the agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema
import pytest

from tests.acceptance.command import PATIENCE_SECONDS, until
from tests.acceptance.prometheus import prometheus
from tests.factory import decision
from tests.servers import Away
from tracker_daemon.selection import Policy, set_policy

if TYPE_CHECKING:
    import asyncpg
    from nats.aio.msg import Msg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream
    from tracker_daemon.embedded import PostgresServer


SCHEMA = Path(__file__).parents[2] / "schemas/alert.schema.json"


async def firing(server: str) -> dict[str, dict[str, str]]:
    """The alerts that fire, by name, with their labels."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{server}/api/v1/alerts") as response:
                alerts: list[dict[str, Any]] = (await response.json())["data"]["alerts"]
        except aiohttp.ClientError:  # it is still starting
            return {}
    return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)")
async def test_an_alert_fires_while_postgres_is_away_and_resolves(
    run: Run, settings: dict[str, str], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    daemon = await run(settings)
    await daemon.ready()
    target = (await daemon.said("started"))["http"].removeprefix("http://")
    async with prometheus(tmp_path / "prometheus", target) as server:

        async def scraped() -> bool:
            async with aiohttp.ClientSession() as session:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{server}/api/v1/query?query=tracker_postgres_up") as response:
                        return bool((await response.json())["data"]["result"])
            return False

        async def away() -> dict[str, str] | None:
            return (await firing(server)).get("TrackerPostgresAway")

        async def resolved() -> bool:
            return not await away()

        async def quiet() -> bool:
            return await scraped() and not await firing(server)

        await until("the daemon is scraped, and all is well", quiet)
        async with Away(postgres_server, "stopped"):
            labels = await until("TrackerPostgresAway fires", away)
        assert labels["severity"] == "page"
        await until("TrackerPostgresAway resolves", resolved)


async def test_agents_hear_who_fell_below_the_floor(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """The first daemon records what the second one finds at its first look."""
    subject = f"{stream.name}.alerts"
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await stream.client.subscribe(subject, cb=heard.put)
    first = await (await run(settings)).ready()
    await stream.publish(*(decision(outcome="FAILURE") for _ in range(30)))
    await until("all are recorded", lambda: sql.fetchval("SELECT count(*) = 30 FROM llm_decisions"))
    assert await first.stop() == 0
    second = await run({**settings, "TRACKER_ALERTS_SUCCESS_FLOOR": "0.4", "TRACKER_ALERTS_SUBJECT": subject})
    async with asyncio.timeout(PATIENCE_SECONDS):
        alerts = [json.loads((await heard.get()).data) for _ in range(2)]
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for alert in alerts:
        validator.validate(alert)
        assert (alert["state"], alert["failed"], alert["successful"]) == ("raised", 30, 0)
    assert [alert.get("agent") for alert in alerts] == ["momentum", None]
    assert (await second.metrics())("resolved_success_rate_upper", scope="agent") < 0.4
    assert await second.stop() == 0


async def test_agents_hear_which_model_is_benched(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    subject = f"{stream.name}.alerts"
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await stream.client.subscribe(subject, cb=heard.put)
    models = ("gpt-x", "gpt-y")
    await set_policy(
        sql,
        Policy(agent_name="momentum", decision_type="signal", candidates=models, default="gpt-y", floor=0.4),
    )
    await sql.execute(
        "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model, outcome) "
        "SELECT 'momentum', 'signal', 'BTC', '?', '!', 'gpt-x', 'FAILURE' FROM generate_series(1, 40)"
    )
    daemon = await run({**settings, "TRACKER_ALERTS_SUBJECT": subject})
    async with asyncio.timeout(PATIENCE_SECONDS):
        alerts = [json.loads((await heard.get()).data) for _ in range(2)]
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for alert in alerts:
        validator.validate(alert)
    assert [(alert["state"], alert.get("model")) for alert in alerts] == [
        ("defined", None),
        ("benched", "gpt-x"),
    ]
    rulings = await daemon.metrics()
    assert rulings("selection_rulings_total", ruling="benched") == 1
    assert rulings("selection_rulings_total", ruling="promoted") == 0
    assert await daemon.stop() == 0
