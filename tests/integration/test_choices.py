"""Arms and models that agents ask for over NATS: answered from memory, which is renewed, or too old."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from tests.asking import agent_on, served
from tests.factory import decision, deliver, outcome
from tests.servers import Away
from tests.trials import definition
from tests.waiting import until
from tracker_daemon import postgres
from tracker_daemon.choices import Assign, Select, known, memory
from tracker_daemon.experiments import assign, begin, stop
from tracker_daemon.queries import reading
from tracker_daemon.selection import Policy, pin, select_model, set_policy, switch_off, switch_on, unpin
from tracker_daemon.selection.events import Change, keep
from tracker_daemon.selection.standing import standings
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from tests.asking import Agent
    from tracker_daemon.embedded import NatsServer, PostgresServer

TRIAL = definition("0.5", "0.3", "0.2")
POLICY = Policy(
    agent_name="momentum", decision_type="signal", candidates=("gpt-x", "gpt-y", "gpt-z"), default="gpt-y"
)
WHOM = {"agent_name": "momentum", "decision_type": "signal"}


@pytest.fixture
async def agent(
    nats_server: NatsServer, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Agent]:
    """Yield one that asks a service which knows an experiment and a policy, and is quick to look for more."""
    monkeypatch.setattr(memory, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(postgres, "COMMAND_TIMEOUT_SECONDS", 1)
    await begin(sql, TRIAL)
    await set_policy(sql, POLICY)
    async with agent_on(nats_server) as asking, served(asking, nats_server, dsn):
        await until(lambda: knows(asking))
        yield asking


async def knows(agent: Agent) -> bool:
    return (await agent.ask("assign", experiment="trial", unit="1")).code == "200"


async def model(agent: Agent, key: str = "1", **more: Any) -> Any:
    return (await agent.ask("select", **WHOM, key=key, **more)).answer


async def test_arms_are_those_of_the_hash_and_recent(agent: Agent) -> None:
    for number in range(50):
        unit = f"unit-{number}"
        code, told, _ = await agent.ask("assign", experiment="trial", unit=unit)
        expected = assign(TRIAL, unit)
        assert code == "200"
        assert (told["variant"], told["model"]) == (expected.variant, expected.model)
        assert Decimal(told["propensity"]) == expected.propensity
        assert 0 <= told["age_seconds"] <= memory.BOUND_SECONDS


async def test_models_are_those_of_the_policy_and_its_evidence(
    agent: Agent, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "EVIDENCE_SECONDS", 0)
    store = Store(dsn)
    for name, word in (("gpt-x", "FAILURE"), ("gpt-y", "SUCCESS"), ("gpt-z", "FAILURE")):
        payloads = [decision(model=name, decision_type="signal", id=_id(name, n)) for n in range(30)]
        await store.write(deliver(*payloads))
        await store.write(deliver(*(outcome(payload["id"], word) for payload in payloads)))
    await store.close()

    async def weighed() -> bool:
        told = await model(agent)
        return bool(Decimal(told["propensity"]) > Decimal("0.9"))

    await until(weighed)
    for number in range(20):
        told = await model(agent, str(number))
        async with reading(sql):
            expected = await select_model(sql, "momentum", "signal", str(number))
        assert (told["model"], told["why"], told["benched"]) == (expected.model, "policy", [])


def _id(name: str, number: int) -> str:
    return f"00000000-0000-4000-8000-{ord(name[-1]):04}{number:08}"


async def test_switch_and_pin_take_effect(agent: Agent, sql: asyncpg.Connection) -> None:
    async def now(why: str, name: str | None) -> None:
        async def so() -> bool:
            told = await model(agent)
            return told["why"] == why and name in {None, told["model"]}

        await until(so)

    await pin(sql, **WHOM, model="gpt-z")
    await now("pinned", "gpt-z")
    await switch_off(sql)
    await now("switched_off", "gpt-y")
    await switch_on(sql)
    await unpin(sql, **WHOM)
    await now("policy", None)


async def test_where_all_are_benched_the_default_decides_and_that_is_said(
    agent: Agent, sql: asyncpg.Connection
) -> None:
    await bench(sql, *POLICY.candidates)

    async def benched() -> bool:
        told = await model(agent)
        return (told["model"], told["why"], set(told["benched"])) == (
            "gpt-y",
            "all_benched",
            set(POLICY.candidates),
        )

    await until(benched)


async def bench(sql: asyncpg.Connection, *models: str) -> None:
    """Have the daemon's ruling about each."""
    changes = [Change(**WHOM, kind="benched", model=name, reason="too low") for name in models]
    async with sql.transaction():
        await keep(sql, changes, (await standings(sql)).numbers)


@pytest.mark.parametrize(
    ("name", "question", "says"),
    [
        (
            "assign",
            {"experiment": "nobody", "unit": "1"},
            "there is no experiment nobody; see tracker-daemon",
        ),
        ("assign", {"experiment": "trial"}, "missing required field `unit`"),
        ("assign", {"experiment": "trial", "unit": ""}, "length >= 1"),
        (
            "select",
            {**WHOM, "agent_name": "nobody", "key": "1"},
            "no policy says which model decides for nobody",
        ),
        (
            "select",
            {**WHOM, "key": "1", "candidates": ["gpt-x", "gpt-0"]},
            "gpt-0 is no candidate of momentum",
        ),
        (
            "select",
            {**WHOM, "key": "1", "candidates": []},
            "length >= 1",
        ),
        (
            "select",
            {**WHOM, "key": "1", "candidates": [f"gpt-{number}" for number in range(1000)]},
            "gpt-0 is no candidate of momentum",
        ),
        ("select", {**WHOM, "key": "1" * 1001}, "length <= 1000"),
        ("assign", {"experiment": "trial", "unit": "1" * 1001}, "length <= 1000"),
        ("assign", {"experiment": "trial", "unit": "1" * 1_000_000}, "at most 65536 bytes"),
        ("assign", {"experiment": "tri\0al", "unit": "1"}, "there is no experiment tri\0al"),
    ],
)
async def test_what_cannot_be_chosen_is_said(agent: Agent, name: str, question: Any, says: str) -> None:
    found = await agent.ask(name, **question)
    assert found.code == "400"
    assert says in found.answer


async def test_a_candidate_that_is_named_twice_is_one(agent: Agent) -> None:
    told = await model(agent, candidates=["gpt-x"] * 1000)
    assert (told["model"], Decimal(told["propensity"])) == ("gpt-x", 1)


async def test_of_a_stopped_experiment_no_unit_gets_an_arm(agent: Agent, sql: asyncpg.Connection) -> None:
    await stop(sql, "trial")

    async def refused() -> bool:
        return (await agent.ask("assign", experiment="trial", unit="1")).code == "400"

    await until(refused)
    found = await agent.ask("assign", experiment="trial", unit="1")
    assert "trial is stopped since 20" in found.answer
    assert "decide by your default" in found.answer


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_a_database_it_is_answered_until_that_is_too_old(
    how: str, agent: Agent, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as lines:
        async with Away(postgres_server, how):
            assert await knows(agent)
            await until(lambda: any("cannot be read" in line["event"] for line in lines))
            code, told, _ = await agent.ask("assign", experiment="trial", unit="1")
            assert (code, told["age_seconds"] > 0) == ("200", True)
            monkeypatch.setattr(memory, "BOUND_SECONDS", 0)
            found = await agent.ask("select", **WHOM, key="1")
            assert found.code == "503"
            assert "have not been read for 0 s" in found.answer
        monkeypatch.setattr(memory, "BOUND_SECONDS", 30)
        await until(lambda: any("are read again" in line["event"] for line in lines))
    assert await knows(agent)
    told = [line["event"] for line in lines if line["event"].startswith("experiments and policies")]
    assert told == ["experiments and policies cannot be read", "experiments and policies are read again"]


async def test_what_nobody_can_understand_ends_nothing(agent: Agent, sql: asyncpg.Connection) -> None:
    """Written by an operator's hand, or by a version that knows more; whom it is about is told."""
    await set_policy(sql, replace(POLICY, agent_name="odd"))
    await set_policy(sql, replace(POLICY, agent_name="pinned"))
    with capture_logs() as lines:
        await sql.execute("INSERT INTO llm_experiments (name, definition) VALUES ('odd', '{}')")
        await sql.execute("UPDATE llm_selection_events SET figures = '{}' WHERE agent_name = 'odd'")
        async with sql.transaction():
            change = Change(**WHOM | {"agent_name": "pinned"}, kind="pinned", model="x", reason="?")
            await keep(sql, [change], (await standings(sql)).numbers)
        await until(lambda: len(_logged(lines)) == 3)
        for name, question, says in (
            (
                "assign",
                {"experiment": "odd", "unit": "1"},
                "the experiment odd cannot be read",
            ),
            ("select", {**WHOM, "agent_name": "odd", "key": "1"}, "the policy of odd/signal cannot be read"),
            ("select", {**WHOM, "agent_name": "pinned", "key": "1"}, "x is pinned, and no candidate"),
        ):
            found = await agent.ask(name, **question)
            assert (found.code, says in found.answer) == ("503", True)
            assert any(says in line["reason"] for line in _logged(lines))
        assert (await model(agent))["why"] == "policy"
        assert await knows(agent)
        await sql.execute("DELETE FROM llm_experiments WHERE name = 'odd'")
        await sql.execute("DELETE FROM llm_selection_events WHERE agent_name IN ('odd', 'pinned')")
        await until(lambda: any("can be read again" in line["event"] for line in lines))
    assert len(_logged(lines)) == 3
    assert not [line for line in lines if "are read again" in line["event"]]


def _logged(lines: Sequence[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "nothing is chosen by what cannot be read"]


async def test_a_defect_is_told_to_the_log_and_ends_nothing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    with capture_logs() as lines:
        with monkeypatch.context() as patch:
            patch.setattr(known.Known, "read", broken)
            await until(lambda: any(line.get("exc_info") for line in lines))
            assert await knows(agent)
        await until(lambda: any("are read again" in line["event"] for line in lines))
    assert len(lines) == 2


async def test_evidence_is_added_up_anew_where_it_is_old_or_its_policy_has_changed(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(sql, POLICY)
    seen = []
    for step in ("first", "again", "pinned", "old"):
        if step == "pinned":
            await pin(sql, **WHOM, model="gpt-z")
        if step == "old":
            monkeypatch.setattr(known, "EVIDENCE_SECONDS", 0)
        async with reading(sql):
            seen.append(await known.Known.read(sql, seen[-1] if seen else None))
    contests = [each.models.contests["momentum", "signal"] for each in seen]
    assert contests[0] is contests[1]
    assert len({id(each) for each in contests}) == 3


async def test_on_the_database_the_answer_is_the_same(sql: asyncpg.Connection) -> None:
    await begin(sql, TRIAL)
    await set_policy(sql, POLICY)
    for question in (Assign(experiment="trial", unit="7"), Select(**WHOM, key="7")):
        async with reading(sql):
            alone = await question.answer(sql)
        async with reading(sql):
            recalled = question.among(await known.Known.read(sql))
        own = {"as_of", "age_seconds"}
        for name in set(alone.__struct_fields__) - own:
            assert getattr(alone, name) == getattr(recalled, name)
