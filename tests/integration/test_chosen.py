"""What an agent decides by, over NATS and on PostgreSQL: an arm, a model, or its own default."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson
import pytest

from tests.asking import agent_on, served
from tests.integration.test_choices import POLICY, TRIAL, WHOM
from tests.servers import Away
from tests.waiting import until
from tracker_daemon.choices import memory
from tracker_daemon.client import DecisionTracker, chosen
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import assign, begin, stop
from tracker_daemon.selection import pin, set_policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.asking import Agent
    from tracker_daemon.client import Chosen
    from tracker_daemon.client.over_nats import OverNats
    from tracker_daemon.embedded import NatsServer, PostgresServer

SAID = {**WHOM, "symbol": "BTC", "prompt": "RSI is 62"}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not a slow service."""
    monkeypatch.setattr(chosen, "CHOICE_SECONDS", 20)
    monkeypatch.setattr(memory, "REFRESH_SECONDS", 0.05)


@pytest.fixture
async def agent(nats_server: NatsServer) -> AsyncIterator[Agent]:
    async with agent_on(nats_server) as agent:
        yield agent


@pytest.fixture
async def sides(
    agent: Agent, nats_server: NatsServer, dsn: str, sql: asyncpg.Connection
) -> AsyncIterator[dict[str, DecisionTracker]]:
    """Yield a tracker over NATS, with a service behind it, and one on its database."""
    await begin(sql, TRIAL)
    await set_policy(sql, POLICY)
    async with (
        served(agent, nats_server, dsn),
        DecisionTracker.over_nats(nats_server.url, query_subject=agent.subject) as one,
        DecisionTracker.on_postgres(dsn) as other,
    ):
        await until(lambda: answered(one))
        yield {"nats": one, "postgres": other}


async def answered(tracker: DecisionTracker) -> bool:
    return (await arm(tracker)).fallback is None


async def arm(tracker: DecisionTracker, unit: str | UUID = "7", experiment: str = "trial") -> Chosen:
    return await tracker.assign(experiment, unit, default="gpt-0")


both = pytest.mark.parametrize("side", ["nats", "postgres"])


@both
async def test_an_arm_goes_from_the_answer_to_the_row(
    side: str, sides: dict[str, DecisionTracker], dsn: str, sql: asyncpg.Connection
) -> None:
    unit = UUID(int=7)
    told = await arm(sides[side], unit)
    expected = assign(TRIAL, str(unit))
    assert (told.variant, told.model, told.fallback) == (expected.variant, expected.model, None)
    async with DecisionTracker.on_postgres(dsn) as tracker:
        async with tracker.decision(**SAID, **told.fields()) as decision:
            decision.response = "Wait."
        await tracker.flush()
    row = await sql.fetchrow("SELECT * FROM llm_decisions")
    assert row is not None
    assert (row["experiment"], row["variant"], row["model"]) == ("trial", expected.variant, expected.model)
    assert row["propensity"] == expected.propensity
    assert orjson.loads(row["extra"]) == {"experiment_unit": str(unit)}


@both
async def test_a_model_goes_from_the_answer_to_the_row(
    side: str, sides: dict[str, DecisionTracker], dsn: str, sql: asyncpg.Connection
) -> None:
    told = await sides[side].select_model(**WHOM, key="BTC", default="gpt-0")
    assert (told.why, told.fallback) == ("policy", None)
    assert told.model in POLICY.candidates
    async with DecisionTracker.on_postgres(dsn) as tracker:
        await tracker.track_signal_decision(
            agent_name="momentum", symbol="BTC", prompt="?", response="!", confirm=True, **told.fields()
        )
    row = await sql.fetchrow("SELECT * FROM llm_decisions")
    assert row is not None
    assert (row["model"], row["propensity"]) == (told.model, told.propensity)
    assert (row["experiment"], row["variant"]) == (None, None)
    assert orjson.loads(row["extra"]) == {"experiment_unit": "BTC"}
    await pin(sql, **WHOM, model="gpt-z")

    async def pinned() -> bool:
        told = await sides[side].select_model(
            **WHOM, key="BTC", candidates=["gpt-x", "gpt-z"], default="gpt-0"
        )
        return (told.model, told.why, told.propensity) == ("gpt-z", "pinned", Decimal(1))

    await until(pinned)


@both
async def test_both_are_told_the_same(side: str, sides: dict[str, DecisionTracker]) -> None:
    for number in range(20):
        assert (await arm(sides[side], f"{number}")).variant == assign(TRIAL, f"{number}").variant


@both
async def test_what_is_not_to_be_known_leaves_the_default(
    side: str, sides: dict[str, DecisionTracker], sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once in the log, however often it is asked for."""
    caplog.set_level(logging.INFO, "tracker_daemon.client.chosen")
    tracker = sides[side]
    for _ in range(3):
        told = await arm(tracker, experiment="nobody")
        assert (told.model, told.propensity, told.variant) == ("gpt-0", None, None)
        assert "there is no experiment nobody" in str(told.fallback)
        assert told.fields() == {"model": "gpt-0"}
        none = await tracker.select_model("nobody", "signal", "7", default="gpt-0")
        assert "no policy says which model decides for nobody/signal" in str(none.fallback)
        odd = await tracker.select_model(**WHOM, key="7", candidates=["gpt-1"], default="gpt-0")
        assert "gpt-1 is no candidate of momentum/signal" in str(odd.fallback)
    await stop(sql, "trial")
    await sql.execute("UPDATE llm_selection_events SET figures = '{}'")

    async def stopped() -> bool:
        return "trial is stopped since" in str((await arm(tracker)).fallback)

    async def illegible() -> bool:
        told = await tracker.select_model(**WHOM, key="7", default="gpt-0")
        return "the policy of momentum/signal cannot be read" in str(told.fallback)

    await until(stopped)
    await until(illegible)
    own = [record for record in caplog.records if record.name == chosen.__name__]
    said = [record.getMessage().partition(":")[0] for record in own]
    assert said == [
        f"the default decides in place of {whom}"
        for whom in ("nobody", "nobody/signal", "momentum/signal", "trial")
    ]


@both
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda tracker: tracker.assign("trial", "", default="gpt-0"), "length >= 1"),
        (lambda tracker: tracker.assign(7, "7", default="gpt-0"), "Expected `str`, got `int`"),
        (lambda tracker: tracker.assign("trial", "7" * 1_000_000, default="gpt-0"), "length <= 1000"),
        (lambda tracker: tracker.assign("trial", "\ud800", default="gpt-0"), "there is no JSON for it"),
        (lambda tracker: tracker.assign("trial", object(), default="gpt-0"), "there is no JSON for it"),
        (
            lambda tracker: tracker.assign("trial", "7", default=None),
            "the default must be the name of a model",
        ),
        (lambda tracker: tracker.select_model("a", "signal", "7", [], default="gpt-0"), "length >= 1"),
        (lambda tracker: tracker.select_model("a", "signal", "7", [7], default="gpt-0"), "Expected `str`"),
    ],
    ids=["unit", "experiment", "too long", "surrogate", "object", "default", "nobody", "candidate"],
)
async def test_what_is_no_name_raises(
    side: str, sides: dict[str, DecisionTracker], asked: Any, says: str
) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        await asked(sides[side])


async def test_nobody_at_home_is_said_and_so_is_somebody_later(
    agent: Agent, nats_server: NatsServer, dsn: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracker_daemon.client.chosen")
    await begin(sql, TRIAL)
    async with DecisionTracker.over_nats(nats_server.url, query_subject=agent.subject) as tracker:
        for _ in range(3):
            assert f"no daemon answers {agent.subject}.assign" in str((await arm(tracker)).fallback)
        async with served(agent, nats_server, dsn):
            await until(lambda: answered(tracker))
    first, *between, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("the default decides in place of trial: no daemon answers")
    assert between == []
    assert last == "trial decides again"


async def test_a_service_that_is_silent_is_not_waited_for(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "CHOICE_SECONDS", 0.2)
    asked = asyncio.Event()

    async def take(_: object) -> None:
        asked.set()

    await agent.client.subscribe(f"{agent.subject}.assign", cb=take)
    async with DecisionTracker.over_nats(agent.client, query_subject=agent.subject) as tracker:
        told = await arm(tracker)
        await asked.wait()
    assert (told.model, told.fallback) == ("gpt-0", "no answer within 0.2 s")


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_its_server_the_default_decides(
    how: str,
    sides: dict[str, DecisionTracker],
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await answered(sides["postgres"])
    monkeypatch.setattr(chosen, "CHOICE_SECONDS", 0.2)
    monkeypatch.setattr(memory, "BOUND_SECONDS", 0)  # else it would be answered for some seconds more
    async with Away(postgres_server, how):
        assert (await arm(sides["postgres"])).model == "gpt-0"
    async with Away(nats_server, how):
        assert (await arm(sides["nats"])).model == "gpt-0"
    monkeypatch.setattr(memory, "BOUND_SECONDS", 30)
    for tracker in sides.values():
        await until(lambda tracker=tracker: answered(tracker))


async def test_a_connection_is_made_however_short_it_is_waited_for(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "CHOICE_SECONDS", 0)
    async with DecisionTracker.over_nats(nats_server.url) as tracker:
        side = cast("OverNats", tracker._side)

        async def connected() -> bool:
            assert (await arm(tracker)).fallback is not None
            return side._client is not None and side._client.is_connected

        await until(connected)


async def test_on_postgres_the_first_answer_is_kept_however_short_it_is_waited_for(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(sql, TRIAL)
    monkeypatch.setattr(memory, "REFRESH_SECONDS", 10)
    monkeypatch.setattr(chosen, "CHOICE_SECONDS", 0)
    async with DecisionTracker.on_postgres(dsn) as tracker:
        await until(lambda: answered(tracker))
