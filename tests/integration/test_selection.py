"""Models selected out of a real record: policies, evidence, rulings; numbers compared with plain Python's."""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import jsonschema
import nats
import pytest

from tests.chores import running
from tests.factory import decision, deliver, outcome
from tests.plans import explained, nodes
from tests.record import moved
from tests.waiting import until
from tracker_daemon.config import AlertSettings, NatsSettings
from tracker_daemon.consumer import connect, disconnect, publish_surely
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Illegible
from tracker_daemon.queries import reading
from tracker_daemon.scores import ScoreWatch
from tracker_daemon.selection import (
    Choice,
    Policy,
    Snapshot,
    Standing,
    events,
    pin,
    policies,
    select_model,
    set_policy,
    switch_off,
    switch_on,
    unpin,
)
from tracker_daemon.selection.events import Overtaken, keep
from tracker_daemon.selection.evidence import HALF_LIVES, Evidence, gather
from tracker_daemon.selection.guardrail import rulings
from tracker_daemon.selection.referee import Referee, rule
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

    from tests.record import Row
    from tracker_daemon.embedded import NatsServer

SCHEMA = Path(__file__).parents[2] / "schemas/alert.schema.json"


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    store = Store(dsn)
    yield store
    await store.close()


def policy(*candidates: str, **fields: Any) -> Policy:
    """Say who decides the signals of momentum: a, b and c, and by default a."""
    names = candidates or ("a", "b", "c")
    known = {"agent_name": "momentum", "decision_type": "signal", "candidates": names, "default": names[0]}
    return Policy(**known | fields)


async def choose(sql: asyncpg.Connection, key: str = "1", candidates: list[str] | None = None) -> Choice:
    async with reading(sql):
        return await select_model(sql, "momentum", "signal", key, candidates)


async def snapshot(sql: asyncpg.Connection) -> Snapshot:
    async with reading(sql):
        return await Snapshot.load(sql)


async def decide(sql: asyncpg.Connection, model: str, word: str | None, count: int, **columns: Any) -> None:
    """Store so many decisions of an hour ago."""
    known = {
        "agent_name": "momentum",
        "decision_type": "signal",
        "symbol": "BTC",
        "prompt": "?",
        "response": "!",
        "model": model,
        "outcome": word,
        "created_at": datetime.now(UTC) - timedelta(hours=1),
        **columns,
    }
    values = ", ".join(f"${number}" for number in range(1, len(known) + 1))
    statement = f"INSERT INTO llm_decisions ({', '.join(known)}) VALUES ({values})"
    await sql.executemany(statement, [tuple(known.values())] * count)


async def pass_days(sql: asyncpg.Connection, days: float) -> None:
    """Let all have happened so much earlier."""
    for table in ("llm_decisions", "llm_selection_events"):
        earlier = moved("created_at", "- $1::interval")
        await sql.execute(f"UPDATE {table} SET created_at = {earlier}", timedelta(days=days))


async def test_without_any_evidence_all_candidates_are_chosen_alike(sql: asyncpg.Connection) -> None:
    await set_policy(sql, policy("a", "b"))
    known = await snapshot(sql)
    chosen = [known.choose("momentum", "signal", str(key)) for key in range(50)]
    assert {choice.model for choice in chosen} == {"a", "b"}
    assert {choice.propensity for choice in chosen} == {Decimal("0.5")}
    assert {choice.as_of for choice in chosen} == {known.as_of}
    assert (await choose(sql, "7")).model == chosen[7].model


async def test_a_pin_and_a_switch_take_the_choice_from_the_policy(sql: asyncpg.Connection) -> None:
    """Said twice they are one change; each is kept, with its reason and by whom."""
    await set_policy(sql, policy())
    await set_policy(sql, policy())
    for _ in range(2):
        await pin(sql, "momentum", "signal", "c", "the others are down")
    assert (await choose(sql)).model == "c"
    for _ in range(2):
        await switch_off(sql)
    assert (await choose(sql)).why == "switched_off"
    await switch_off(sql, "momentum", "signal")
    await switch_on(sql)
    assert (await choose(sql)).why == "switched_off"
    await switch_on(sql, "momentum", "signal")
    assert (await choose(sql)).why == "pinned"
    for _ in range(2):
        await unpin(sql, "momentum", "signal")
    assert (await choose(sql)).why == "policy"
    told = await events(sql)
    assert Counter(event.kind for event in told) == Counter(
        defined=1, pinned=1, unpinned=1, switched_off=2, switched_on=2
    )
    assert told[-2].reason == "c decides, whatever the policy says: the others are down"
    assert {event.role for event in told} == {await sql.fetchval("SELECT session_user")}
    assert [event.agent_name for event in told].count(None) == 2
    assert await events(sql, "another") == [event for event in told if event.agent_name is None]
    assert len(await events(sql, limit=3)) == 3
    [standing] = await policies(sql)
    assert standing.policy == policy()


async def test_what_nothing_can_be_chosen_for_is_refused_in_words(sql: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match="no policy says"):
        await choose(sql)
    with pytest.raises(InvalidQuestion, match="no policy says"):
        await switch_off(sql, "momentum", "signal")
    with pytest.raises(InvalidQuestion, match="both agent and decision type"):
        await switch_off(sql, "momentum")
    with pytest.raises(InvalidQuestion, match="this is no policy"):
        await set_policy(sql, policy(agent_name="m" * 101))
    await set_policy(sql, policy())
    with pytest.raises(InvalidQuestion, match="x is no candidate of momentum/signal; there are a, b, c"):
        await choose(sql, candidates=["a", "x"])
    with pytest.raises(InvalidQuestion, match="no candidate to choose"):
        await choose(sql, candidates=[])
    with pytest.raises(InvalidQuestion, match="x is no candidate"):
        await pin(sql, "momentum", "signal", "x")
    await pin(sql, "momentum", "signal", "c")
    with pytest.raises(InvalidQuestion, match=r"only c may decide \(pinned\)"):
        await choose(sql, candidates=["a", "b"])
    with pytest.raises(InvalidQuestion, match="c is pinned for momentum/signal"):
        await set_policy(sql, policy("a", "b"))


@pytest.mark.parametrize("metric", ["success", "pnl"])
@pytest.mark.parametrize("maturity_days", [0.0, 3.0])
async def test_the_evidence_is_what_plain_python_makes_of_the_rows(
    sql: asyncpg.Connection, metric: Any, maturity_days: float
) -> None:
    """Of this agent, type and window alone; pending ones apart, of one that was benched the later ones."""
    chance = random.Random(3)  # noqa: S311 - a test's data
    now = datetime.now(UTC)
    for _ in range(900):
        await decide(
            sql,
            chance.choice("abcx"),
            chance.choice(["SUCCESS", "FAILURE", "FAILURE", "PENDING", None]),
            1,
            agent_name=chance.choice(["momentum", "momentum", "risk"]),
            decision_type=chance.choice(["signal", "signal", "exit"]),
            pnl=chance.choice([None, Decimal(chance.randrange(-10_000, 10_000)) / 100]),
            cost_usd=chance.choice([None, Decimal(chance.randrange(1_000)) / 1_000]),
            created_at=now - timedelta(days=chance.uniform(-1, 40)),
        )
    rows = [dict(row) for row in await sql.fetch("SELECT * FROM llm_decisions")]
    wanted = policy(metric=metric, maturity_days=maturity_days, half_life_days=5.0)
    since = {"b": now - timedelta(days=20)}
    async with reading(sql):
        moment = await sql.fetchval("SELECT now()")
        found = await gather(sql, Standing(policy=wanted, defined_at=now, since=since))
    assert list(found) == ["a", "b", "c"]
    for name, evidence in found.items():
        mine = [
            row
            for row in rows
            if row["model"] == name and row["created_at"] >= since.get(name, row["created_at"])
        ]
        check(evidence, mine, wanted, moment)


def check(evidence: Evidence, rows: list[Row], wanted: Policy, moment: datetime) -> None:
    """Compare with what plain Python makes of a candidate's rows."""
    ages = [(row, (moment - row["created_at"]) / timedelta(days=1) - wanted.maturity_days) for row in rows]
    mature = [
        (0.5 ** (age / wanted.half_life_days), value(row, wanted.metric))
        for row, age in ages
        if 0 <= age <= HALF_LIVES * wanted.half_life_days
        and (row["agent_name"], row["decision_type"]) == ("momentum", "signal")
    ]
    told = [(weight, value) for weight, value in mature if value is not None]
    assert evidence.decisions == len(told) > 5
    assert evidence.pending == len(mature) - len(told) > 3
    assert evidence.weight == pytest.approx(sum(weight for weight, _ in told))
    assert evidence.total == pytest.approx(sum(weight * value for weight, value in told))
    assert evidence.squares == pytest.approx(sum(weight * value**2 for weight, value in told))


def value(row: Row, metric: str) -> float | None:
    if row["outcome"] not in ("SUCCESS", "FAILURE"):
        return None
    if metric == "success":
        return float(row["outcome"] == "SUCCESS")
    return None if row["pnl"] is None else float(row["pnl"] - (row["cost_usd"] or 0))


async def test_a_pnl_or_a_cost_that_is_no_number_is_pending(sql: asyncpg.Connection) -> None:
    await decide(sql, "a", "SUCCESS", 10, pnl=Decimal(5), cost_usd=Decimal(1))
    # The columns of our schema hold no infinite number.
    await sql.execute("DROP VIEW llm_monitoring CASCADE")
    await sql.execute("ALTER TABLE llm_decisions ALTER pnl TYPE numeric, ALTER cost_usd TYPE numeric")
    odd = ("NaN", "Infinity", "-Infinity")
    for number in map(Decimal, odd):
        await decide(sql, "a", "SUCCESS", 1, pnl=number)
        await decide(sql, "a", "SUCCESS", 1, pnl=Decimal(5), cost_usd=number)
    await set_policy(sql, policy(metric="pnl"))
    known = await snapshot(sql)
    told = known.contests["momentum", "signal"].evidence["a"]
    assert (told.decisions, told.pending) == (10, 6)
    assert told.total / told.weight == pytest.approx(4)
    assert sum(each.propensity for each in known.candidates("momentum", "signal")) == 1


async def test_a_policy_that_cannot_be_read_is_set_anew_and_stops_no_ruling(sql: asyncpg.Connection) -> None:
    await set_policy(sql, policy("a", "b", floor=0.4))
    await set_policy(sql, policy("c", "d", agent_name="risk"))
    await pin(sql, "risk", "signal", "d")
    await decide(sql, "b", "FAILURE", 60)
    await sql.execute(
        "UPDATE llm_selection_events SET figures = '{}' WHERE agent_name = 'risk' AND kind = 'defined'"
    )
    await rule(sql)
    assert (await choose(sql)).benched == ("b",)
    with pytest.raises(Illegible, match=r"the policy of risk/signal cannot be read: .*set it anew"):
        await pin(sql, "risk", "signal", "c")
    await set_policy(sql, policy("c", "e", agent_name="risk"))
    with pytest.raises(Illegible, match="d is pinned, and no candidate; set one in which it is"):
        await unpin(sql, "risk", "signal")
    await set_policy(sql, policy("c", "d", agent_name="risk"))
    await unpin(sql, "risk", "signal")
    assert [standing.pinned for standing in await policies(sql)] == [None, None]


async def test_of_two_operators_the_later_one_sees_what_the_other_did(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """One pins what the other lets be no candidate any more: one of the two is told."""
    operators = [await asyncpg.connect(dsn) for _ in range(2)]
    try:
        for number in range(10):
            kind = f"type {number}"
            await set_policy(sql, policy(decision_type=kind))
            done = await asyncio.gather(
                set_policy(operators[0], policy("a", "b", decision_type=kind)),
                pin(operators[1], "momentum", kind, "c"),
                return_exceptions=True,
            )
            [refused] = [each for each in done if each is not None]
            assert isinstance(refused, InvalidQuestion)
            assert str(refused).startswith(("c is pinned", "c is no candidate"))
    finally:
        for each in operators:
            await each.close()
    assert len(await policies(sql)) == 10


@pytest.mark.not_on_citus("its nodes plan for themselves")
async def test_evidence_is_read_without_reading_the_table(sql: asyncpg.Connection) -> None:
    await sql.execute(
        "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model, created_at) "
        "SELECT 'agent ' || n % 10, 'signal', 'BTC', '?', '!', 'a', now() - n * interval '1 minute' "
        "FROM generate_series(1, 20000) n"
    )
    await sql.execute("ANALYZE llm_decisions")
    await set_policy(sql, policy(agent_name="agent 3", half_life_days=0.5))
    async with explained(sql) as plans:
        await snapshot(sql)
    [plan] = [plan for plan in plans if " llm_decisions" in plan["Query Text"]]
    found = list(nodes(plan["Plan"]))
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]
    assert max(node["Actual Rows"] for node in found) < 1000


async def test_a_new_policy_lets_everybody_decide_again(sql: asyncpg.Connection) -> None:
    await set_policy(sql, policy(floor=0.4))
    await decide(sql, "b", "FAILURE", 60)
    await rule(sql)
    assert (await choose(sql)).benched == ("b",)
    await rule(sql)
    assert [event.kind for event in await events(sql)] == ["benched", "defined"]
    await set_policy(sql, policy())
    assert (await choose(sql)).benched == ()


async def test_changes_at_the_same_time_are_all_kept(dsn: str, sql: asyncpg.Connection) -> None:
    """By operators, who look again; and by a daemon, which gives way to them."""
    kinds = [f"type {number}" for number in range(8)]
    operators = [await asyncpg.connect(dsn) for _ in kinds]
    try:
        await asyncio.gather(
            *(
                set_policy(each, policy(decision_type=kind))
                for each, kind in zip(operators, kinds, strict=True)
            )
        )
    finally:
        for each in operators:
            await each.close()
    assert {standing.policy.decision_type for standing in await policies(sql)} == set(kinds)
    stale = await snapshot(sql)
    await pin(sql, "momentum", "type 1", "b")
    contest = stale.contests["momentum", "type 0"]
    contest.standing.benched["b"] = stale.as_of - timedelta(days=8)
    with pytest.raises(Overtaken, match="momentum has changed meanwhile"):
        await keep(sql, rulings(contest, stale.as_of), stale.known.numbers)


async def test_who_is_benched_tried_again_and_promoted_is_said_once_each(
    dsn: str, sql: asyncpg.Connection, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two daemons at work, by rows that stay and events on the alerts' subject."""
    for pause in ("scores.watch.LOOK_SECONDS", "selection.referee.LOOK_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.selection.referee.MAX_SHARE", 1)
    heard: list[dict[str, Any]] = []

    async def hear(message: Msg) -> None:
        heard.append(json.loads(message.data))

    subject = f"alerts.{uuid4()}"
    listener = await nats.connect(nats_server.url)
    await listener.subscribe(subject, cb=hear)
    await listener.flush()
    client = await connect(NatsSettings(servers=(nats_server.url,)), lambda _: None)
    publish = functools.partial(publish_surely, client, subject)
    await set_policy(sql, policy("a", "b", floor=0.4, bench_days=2.0, maturity_days=0.01))
    await decide(sql, "a", "SUCCESS", 40)
    await decide(sql, "b", "FAILURE", 40)
    async with running(ScoreWatch(dsn, AlertSettings(), publish), Referee(dsn), Referee(dsn)):
        await until(lambda: len(heard) >= 3)
        await decide(sql, "b", "FAILURE", 40)
        await pass_days(sql, 2)
        await until(lambda: len(heard) >= 4)
    await listener.close()
    await disconnect(client)
    assert [(event["state"], event.get("model")) for event in heard] == [
        ("defined", None),
        ("benched", "b"),
        ("promoted", "a"),
        ("retried", "b"),
    ]
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    for event in heard:
        validator.validate(event)
    assert heard[1]["figures"]["decisions"] == 40
    kept = await events(sql)
    assert [str(event.id) for event in reversed(kept)] == [event["id"] for event in heard]
    assert kept[0].reason.startswith("b is tried again after 2 days")
    assert (await choose(sql)).benched == ()


async def test_an_agent_that_asks_before_it_decides_finds_the_better_model(
    sql: asyncpg.Connection, store: Store
) -> None:
    """From the question to the record and back: what it was told is stored, and what came of it counts.

    Outcomes come a round late, and of two decisions in ten never; b is the best, c far below the floor.
    """
    chance = random.Random(5)  # noqa: S311 - a test's data
    rates = {"a": 0.5, "b": 0.75, "c": 0.15}
    await set_policy(sql, policy(floor=0.35, policy="epsilon", epsilon=0.3))
    waiting: list[dict[str, Any]] = []
    chosen: list[str] = []
    for round_ in range(30):
        known = await snapshot(sql)
        made, late = [], []
        for number in range(30):
            choice = known.choose("momentum", "signal", f"{round_} {number}")
            chosen.append(choice.model)
            made.append(decision(id=str(uuid4()), model=choice.model, propensity=str(choice.propensity)))
            word = "SUCCESS" if chance.random() < rates[choice.model] else "FAILURE"
            if chance.random() < 0.8:
                late.append(outcome(made[-1]["id"], word))
        await store.write(deliver(*made, *waiting))
        waiting = late
        await rule(sql)
    assert chosen[-300:].count("b") > 200
    assert "c" not in chosen[-150:]
    benched = [event.model for event in await events(sql) if event.kind == "benched"]
    assert benched == ["c"]
    rows = await sql.fetch("SELECT model, propensity, count(*) AS count FROM llm_decisions GROUP BY 1, 2")
    assert sum(row["count"] for row in rows) == 900
    # Weighted by inverse propensity, each candidate has decided all that there was to decide.
    for name in "ab":
        own = [(float(1 / row["propensity"]), row["count"]) for row in rows if row["model"] == name]
        error = sqrt(sum(count * weight * (weight - 1) for weight, count in own))
        assert sum(count * weight for weight, count in own) == pytest.approx(900, abs=4 * error)
