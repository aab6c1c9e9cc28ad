"""Experiments begun, assigned, filled and read, on a real record; numbers compared with plain Python's."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from scipy.stats import chi2_contingency
from scipy.stats import t as student

from tests.factory import decision, deliver, outcome
from tests.plans import explained, nodes
from tests.record import BEGIN, backdate, known
from tests.trials import definition
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import (
    Arm,
    Definition,
    assign,
    begin,
    experiment_results,
    experiments,
    find,
    stop,
)
from tracker_daemon.queries import reading
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    import asyncpg

    from tests.record import Row
    from tracker_daemon.experiments import Results, WeightedMean


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    store = Store(dsn)
    yield store
    await store.close()


async def fill(store: Store, trial: Definition, *, units: int, of_unit: int = 1, seed: int = 1) -> None:
    """Store decisions of units that were assigned, an hour apart, and what came of nine in ten."""
    chance = random.Random(seed)  # noqa: S311 - a test's data
    decisions, events = [], []
    for number in range(units):
        told = assign(trial, f"unit-{number}")
        luck = chance.random() / 4
        for _ in range(chance.randint(1, of_unit)):
            id_ = str(UUID(int=chance.getrandbits(128), version=4))
            when = BEGIN + timedelta(hours=number)
            decisions.append(
                decision(
                    id=id_,
                    model=told.model,
                    experiment=told.experiment,
                    variant=told.variant,
                    propensity=str(told.propensity),
                    extra={"experiment_unit": f"unit-{number}"} if of_unit > 1 else None,
                    timestamp=when.isoformat(),
                )
            )
            if chance.random() < 0.9:
                won = chance.random() < (0.7 if told.variant == "b" else 0.4) + luck
                pnl = round(chance.lognormvariate(3, 1) * (1 if won else -1), 2)
                word = "SUCCESS" if won else "FAILURE"
                events.append(
                    outcome(
                        id_,
                        chance.choice([word, word, word, "PENDING"]),
                        pnl=chance.choice([None, str(pnl), str(pnl)]),
                        timestamp=(when + timedelta(hours=chance.randrange(100))).isoformat(),
                    )
                )
    await store.write(deliver(*decisions))
    await store.write(deliver(*events))


async def ask(sql: asyncpg.Connection, name: str, **more: Any) -> Results:
    async with reading(sql):
        return await experiment_results(sql, await find(sql, name), **more)


def check(told: Results, rows: list[Row], mature_until: datetime) -> None:
    """Compare each arm with what plain Python makes of its rows."""
    arms: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["experiment"] == told.experiment:
            arms[row["variant"]].append(row)
    for arm in told.arms:
        mine = arms[arm.name]
        mature = [row for row in mine if row["created_at"] <= mature_until]
        resolved = [row for row in mature if row["outcome"] in {"SUCCESS", "FAILURE"}]
        priced = [row for row in resolved if row["pnl"] is not None]
        assert arm.exposures == len(mine)
        assert arm.units == len({_unit(row) for row in mine})
        assert arm.immature == len(mine) - len(mature)
        assert arm.pending == len(mature) - len(resolved)
        assert (arm.success.decisions, arm.pnl.decisions) == (len(resolved), len(priced))
        assert arm.success.units == len({_unit(row) for row in resolved})
        won = sum(row["outcome"] == "SUCCESS" for row in resolved)
        assert arm.success.mean == pytest.approx(won / len(resolved))
        assert arm.pnl.mean == pytest.approx(float(sum(row["pnl"] for row in priced)) / len(priced))


def _unit(row: Row) -> str:
    return str(orjson.loads(row["extra"] or "{}").get("experiment_unit", row["id"]))


@pytest.mark.parametrize("of_unit", [1, 5])
async def test_results_are_those_of_the_rows(store: Store, sql: asyncpg.Connection, of_unit: int) -> None:
    trial = definition("0.5", "0.3", "0.2")
    await begin(sql, trial)
    await fill(store, trial, units=400, of_unit=of_unit)
    await fill(store, definition("0.5", "0.5", name="another"), units=20, seed=2)
    check(await ask(sql, "trial"), await known(sql), BEGIN + timedelta(days=3650))


async def test_p_values_hold_for_all_arms_together(store: Store, sql: asyncpg.Connection) -> None:
    """Of two that are compared with the control, the less probable one counts twice (Holm)."""
    trial = definition("0.4", "0.3", "0.3")
    await begin(sql, trial)
    await fill(store, trial, units=300)
    control, *others = (await ask(sql, "trial")).arms
    alone, told = [], []
    for arm in others:
        counts = [
            (round(each.success.mean * each.success.units), each.success.units) for each in (arm, control)
        ]
        table = [[won, units - won] for won, units in counts]
        alone.append(chi2_contingency(table, correction=False).pvalue)
        told.append(arm.success_difference.p_value)
    assert min(alone) < 0.05 < max(alone)
    assert sorted(told) == pytest.approx([2 * min(alone), max(alone)], rel=1e-6)


@pytest.mark.parametrize("of_unit", [1, 5])
async def test_what_was_chosen_adaptively_is_weighted_by_its_propensity(
    store: Store, sql: asyncpg.Connection, of_unit: int
) -> None:
    trial = definition("0.5", "0.3", "0.2")
    await begin(sql, trial)
    await fill(store, trial, units=900, of_unit=of_unit)
    # As if b had been chosen more and more often; c as its share says.
    await sql.execute(
        "UPDATE llm_decisions SET propensity = 0.1 + 0.8 * extract(day FROM created_at - $1) / 40 "
        "WHERE variant = 'b'",
        BEGIN,
    )
    await sql.execute(
        "UPDATE llm_decisions SET propensity = CASE hashtext(id::text) % 3 WHEN 0 THEN NULL ELSE 0 END "
        "WHERE variant = 'b' AND hashtext(id::text) % 10 IN (0, 5)"
    )
    told = await ask(sql, "trial")
    assert [arm.weighted is None for arm in told.arms] == [True, False, True]
    weighted = told.arms[1].weighted
    assert weighted is not None
    rows = [row for row in await known(sql) if row["variant"] == "b"]
    resolved = [row for row in rows if row["outcome"] in {"SUCCESS", "FAILURE"}]
    assert weighted.left_out == sum(not row["propensity"] for row in resolved) > 0
    usable = [row for row in resolved if row["propensity"]]
    priced = [row for row in usable if row["pnl"] is not None]
    _check_weighted(weighted.success, usable, lambda row: row["outcome"] == "SUCCESS")
    _check_weighted(weighted.pnl, priced, lambda row: float(row["pnl"]))


def _check_weighted(told: WeightedMean, rows: list[Row], value: Callable[[Row], float]) -> None:
    """Hajek's estimate, Kish's size and Student's interval, unit by unit, by numpy."""
    units = sorted({_unit(row) for row in rows})
    weights, values = np.zeros(len(units)), np.zeros(len(units))
    for row in rows:
        weight = 1 / float(row["propensity"])
        weights[units.index(_unit(row))] += weight
        values[units.index(_unit(row))] += weight * value(row)
    mean = values.sum() / weights.sum()
    error = np.std(values - mean * weights, ddof=1) * np.sqrt(len(units)) / weights.sum()
    effective = weights.sum() ** 2 / (weights**2).sum()
    half = student.ppf(0.975, effective - 1) * error
    expected = [len(units), effective, mean, mean - half, mean + half]
    assert [told.units, told.effective, told.mean, told.lower, told.upper] == pytest.approx(expected)


async def test_results_at_a_time_know_nothing_later(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5")
    await begin(sql, trial)
    await fill(store, trial, units=400)
    await backdate(sql)
    then = BEGIN + timedelta(hours=250)
    told = await ask(sql, "trial", as_of=then, maturity=timedelta(hours=30))
    check(told, await known(sql, then), then - timedelta(hours=30))
    assert sum(arm.exposures for arm in told.arms) == 251
    assert sum(arm.immature for arm in told.arms) == 30


async def test_an_experiment_is_begun_once_and_stopped_for_good(sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5")
    begun = await begin(sql, trial)
    assert await begin(sql, trial) == begun
    for changed in (definition("0.6", "0.4"), definition("0.5", "0.5", names="ax")):
        with pytest.raises(InvalidQuestion, match="cannot change in mid-flight"):
            await begin(sql, changed)
    other = await begin(sql, definition("0.5", "0.5", name="another", metric="pnl", minimum_effect=20))
    stopped = await stop(sql, "trial")
    assert stopped.stopped_at is not None
    assert await stop(sql, "trial") == stopped
    with pytest.raises(InvalidQuestion, match="trial has been stopped"):
        await begin(sql, trial)
    assert (await experiments(sql)).legible == [other, stopped]
    with pytest.raises(InvalidQuestion, match="there is no experiment third"):
        await find(sql, "third")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "x" * 101}, "length <= 100"),
        ({"name": ""}, "length >= 1"),
        ({"name": "\ud800"}, "there is no JSON for it"),
        ({"metric": "luck"}, "Invalid enum value 'luck'"),
        ({"arms": [{"model": "m" * 101}, {}]}, "length <= 100"),
        ({"arms": [{"parameters": {"temperature": float("nan")}}, {}]}, "hold what JSON has not"),
    ],
)
async def test_what_could_not_be_kept_is_not_begun(
    sql: asyncpg.Connection, fields: dict[str, Any], said: str
) -> None:
    arms = fields.pop("arms", [{}, {}])
    made = tuple(
        Arm(**{"name": name, "share": Decimal("0.5")} | more) for name, more in zip("ab", arms, strict=True)
    )
    with pytest.raises(InvalidQuestion, match=said):
        await begin(sql, Definition(**{"name": "trial", "arms": made, "minimum_effect": 0.1} | fields))
    assert (await experiments(sql)).legible == []


async def test_numbers_that_are_none_tell_of_nothing(store: Store, sql: asyncpg.Connection) -> None:
    """Written by somebody's hand: the results are those without them."""
    trial = definition("0.5", "0.5", metric="pnl", minimum_effect=5)
    await begin(sql, trial)
    await fill(store, trial, units=200, of_unit=3)
    await sql.execute("UPDATE llm_decisions SET propensity = 0.3 WHERE hashtext(id::text) % 2 = 0")
    some = "hashtext(id::text) % 7 IN (0, 3)"
    await sql.execute(f"UPDATE llm_decisions SET pnl = NULL, propensity = NULL WHERE {some}")
    without = await ask(sql, "trial")
    # The columns of our schema hold no infinite number.
    await sql.execute("DROP VIEW llm_monitoring CASCADE")
    await sql.execute("ALTER TABLE llm_decisions ALTER pnl TYPE numeric")
    for pnl, propensity in (("NaN", "NaN"), ("Infinity", "-0.5"), ("-Infinity", "1.5")):
        await sql.execute(f"UPDATE llm_decisions SET pnl = '{pnl}', propensity = '{propensity}' WHERE {some}")
        told = await ask(sql, "trial")
        assert (told.arms, told.verdict) == (without.arms, without.verdict)


async def test_an_agent_whose_clock_is_ahead_has_no_pace(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5", minimum_effect=0.02)
    await begin(sql, trial)
    await fill(store, trial, units=400)
    await sql.execute("UPDATE llm_decisions SET created_at = now() + interval '1 hour'")
    told = await ask(sql, "trial")
    assert told.progress.needed is not None
    assert told.progress.days_to_go is None
    assert "days to go" not in told.verdict.text


async def test_a_leader_is_told_by_how_much(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5")
    await begin(sql, trial)
    await fill(store, trial, units=1500)
    told = await ask(sql, "trial")
    assert told.verdict.word == "leader"
    assert told.verdict.text.startswith("Leader: b is better than a by ")
    difference = told.arms[1].success_difference
    assert difference is not None
    assert 0 < difference.always_lower < difference.lower < difference.estimate < difference.upper < 1


async def test_an_arm_that_is_worse_is_harmful(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5", names="ba")
    await begin(sql, trial)
    await fill(store, trial, units=1500)
    assert (await ask(sql, "trial")).verdict.word == "harmful"


async def test_a_new_experiment_has_no_evidence(sql: asyncpg.Connection) -> None:
    await begin(sql, definition("0.5", "0.5"))
    told = await ask(sql, "trial")
    assert told.verdict.word == "not enough evidence"
    assert [(arm.units, arm.success.mean, arm.pnl.mean) for arm in told.arms] == [(0, None, None)] * 2
    assert (told.progress.telling, told.progress.needed, told.progress.days_to_go) == (0, None, None)


async def test_an_arm_without_pnl_is_compared_by_its_successes_alone(
    store: Store, sql: asyncpg.Connection
) -> None:
    trial = definition("0.5", "0.5", metric="pnl", minimum_effect=5)
    await begin(sql, trial)
    await fill(store, trial, units=300)
    await sql.execute("UPDATE llm_decisions SET pnl = NULL WHERE variant = 'b'")
    told = await ask(sql, "trial")
    assert told.arms[1].success_difference is not None
    assert told.arms[1].pnl_difference is None
    assert told.verdict.word == "not enough evidence"
    assert "tell of pnl" in told.verdict.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("SET variant = 'a'", "units do not go where the shares send them"),
        (
            "SET variant = 'x' WHERE id IN (SELECT id FROM llm_decisions LIMIT 3)",
            "3 decisions name an arm that",
        ),
        ('SET extra = \'{"experiment_unit": "one"}\'', "1 units were decided by more than one arm"),
    ],
)
async def test_what_was_not_assigned_by_its_shares_is_broken(
    store: Store, sql: asyncpg.Connection, change: str, said: str
) -> None:
    trial = definition("0.5", "0.5")
    await begin(sql, trial)
    await fill(store, trial, units=300)
    await sql.execute(f"UPDATE llm_decisions {change}")
    told = await ask(sql, "trial")
    assert told.verdict.word == "broken"
    assert said in told.verdict.text


async def test_days_to_go_are_those_at_the_pace_so_far(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5", minimum_effect=0.02)
    await begin(sql, trial)
    await fill(store, trial, units=400)
    await backdate(sql)
    then = BEGIN + timedelta(days=20)
    told = await ask(sql, "trial", as_of=then)
    progress = told.progress
    assert progress.needed is not None
    assert progress.needed > progress.telling
    assert progress.days_to_go == pytest.approx(20 / progress.telling * (progress.needed - progress.telling))
    await stop(sql, "trial")
    assert (await ask(sql, "trial", as_of=then)).progress.days_to_go is None


@pytest.mark.not_on_citus("its nodes plan for themselves")
async def test_results_are_found_by_the_experiments_index(store: Store, sql: asyncpg.Connection) -> None:
    trial = definition("0.5", "0.5")
    await begin(sql, trial)
    await fill(store, trial, units=40)
    await sql.execute("ANALYZE llm_decisions; SET enable_seqscan = off")
    async with explained(sql) as plans, reading(sql):
        await experiment_results(sql, await find(sql, "trial"))
    scanned = [
        node.get("Index Name")
        for plan in plans
        for node in nodes(plan["Plan"])
        if node.get("Relation Name") == "llm_decisions" or node["Node Type"] == "Bitmap Index Scan"
    ]
    assert {"llm_decisions_experiment"} == set(scanned) - {None}
