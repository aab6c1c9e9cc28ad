"""What the index of situations finds, against plain Python over the same rows: no code is shared."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from tests.factory import decision, deliver
from tests.integration.test_similar import Expected, ask, contexts, fill, leaves, study
from tests.record import BEGIN, backdate, known, replay
from tests.situations import few, index_all, waiting
from tracker_daemon.queries import Filter, Situation, candidates, places, reading, similar_decisions

if TYPE_CHECKING:
    import asyncpg

    from tests.record import Row
    from tracker_daemon.queries import Precedents
    from tracker_daemon.store import Store

__all__ = ["few"]

THEN = BEGIN + timedelta(hours=30)
FILTERS = [
    Filter(),
    Filter(symbol="BTC"),
    Filter(agent_name="risk", decision_type="signal"),
    Filter(as_of=THEN),
    Filter(symbol="ETH", as_of=THEN, outcome="SUCCESS"),
    Filter(outcome="PENDING", since=BEGIN + timedelta(hours=5), until=THEN),
]
LIMIT = 5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, few: None) -> None:  # noqa: ARG001 - a fixture
    """Compare few of what the index finds, and look into few cells at once."""
    monkeypatch.setattr(candidates, "PLACES", 30)
    monkeypatch.setattr(places, "_FIRST_CELLS", 4)
    monkeypatch.setattr(places, "_FIRST_CELLS_OF_SYMBOL", 4)


def lets_through(wanted: Filter, row: Row, *, resolved: bool) -> bool:
    """Whether a filter of these columns chooses it."""
    known_now = row["outcome"] in {"SUCCESS", "FAILURE"}
    return (
        row["context"] is not None
        and all(
            getattr(wanted, name) in {None, row[name]} for name in ("symbol", "agent_name", "decision_type")
        )
        and (wanted.since is None or row["created_at"] >= wanted.since)
        and (wanted.until is None or row["created_at"] < wanted.until)
        and (known_now or not resolved)
        and (wanted.outcome is None or wanted.outcome == (row["outcome"] if known_now else "PENDING"))
    )


async def check(
    sql: asyncpg.Connection, situation: Situation, wanted: Filter, *, resolved: bool = False
) -> tuple[int, int]:
    """Compare whatever is found; return how many there are of the nearest, and how many there should be."""
    rows = [row for row in await known(sql, wanted.as_of) if lets_through(wanted, row, resolved=resolved)]
    [scales] = [
        json.loads(text)
        for (text,) in await sql.fetch(
            "SELECT scales FROM llm_scales WHERE learnt_at <= $1 ORDER BY learnt_at DESC LIMIT 1",
            wanted.as_of or BEGIN + timedelta(days=9_999),
        )
    ]
    expected = Expected(situation.context, scales, situation.weights)
    ranked = expected.ranked(rows, situation.min_overlap)
    near = [one for one in ranked if one[0] <= Fraction(repr(situation.max_distance))]
    answer = await ask(sql, situation, wanted, limit=LIMIT, resolved=resolved)
    assert answer.by_index is not answer.complete
    distances = {row["id"]: distance for distance, _, row in near}
    outcomes = {row["id"]: row["outcome"] for row in rows}
    for each in answer.precedents:
        assert each.distance == pytest.approx(float(distances[each.id]), abs=1e-11)
        assert each.outcome == outcomes[each.id]
    if not near:
        return 0, 0
    nearest = [one[0] for one in near[:LIMIT]]
    return sum(distances[each.id] <= nearest[-1] for each in answer.precedents), len(nearest)


def vast(context: dict[str, Any]) -> bool:
    """Whether it has a number beside which all others lie at one place, to six decimal places."""
    return any(isinstance(value, int | float) and abs(value) > 1e4 for value in leaves(context).values())


def sparse(context: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A few of its indicators."""
    return {key: context[key] for key in chance.sample(sorted(context), min(3, len(context)))}


async def test_of_the_demos_situations_nearly_all_are_found(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """Full ones and sparse ones, by every filter, also where other agents say less."""
    await replay(store, 600)
    await study(sql)
    await sql.execute(
        "UPDATE llm_decisions SET context = context - '{macd,donchian}'::text[] WHERE agent_name = 'breakout'"
    )
    await index_all(dsn)
    rows = sorted(await known(sql), key=lambda row: (row["created_at"], row["symbol"], row["agent_name"]))
    chance = random.Random(7)  # noqa: S311 - a test's data
    now = max(row["created_at"] for row in rows)
    middle = sorted(row["created_at"] for row in rows)[len(rows) // 2]
    symbol = rows[0]["symbol"]
    filters = [
        Filter(),
        Filter(symbol=symbol),
        Filter(symbol=symbol, agent_name="trend"),
        Filter(as_of=now - timedelta(days=20)),
        Filter(symbol=symbol, as_of=now - timedelta(days=20), outcome="SUCCESS"),
        Filter(agent_name="breakout", since=middle),
        Filter(until=middle, outcome="FAILURE"),
    ]
    found = there = 0
    for number, row in enumerate(chance.sample(rows, 42)):
        context = {key: value for key, value in json.loads(row["context"]).items() if key != "price"}
        asked = sparse(context, chance) if number % 2 else context
        situation = Situation(context=asked, max_distance=0.4, weights={"rsi": 2.0} if "rsi" in asked else {})
        one, of = await check(sql, situation, filters[number % 7], resolved=number % 3 == 0)
        found, there = found + one, there + of
    assert there > 100
    assert found >= 0.98 * there


async def test_of_whatever_situations_most_are_found(store: Store, sql: asyncpg.Connection, dsn: str) -> None:
    """Of every kind: nulls, ties, large numbers, some that are texts elsewhere; what is said is true."""
    made = [context for context in contexts(250) if not vast(context)]
    await fill(store, made + made[:50])
    await backdate(sql)
    await study(sql)
    await index_all(dsn)
    found = there = 0
    for number, context in enumerate(contexts(310)[::5]):
        if {"rsi", "trend"} <= {str(steps[0]) for steps in leaves(context)} and not vast(context):
            situation = Situation(context={key: context[key] for key in ("rsi", "trend")}, max_distance=0.5)
            one, of = await check(sql, situation, FILTERS[number % 6], resolved=number % 2 == 1)
            found, there = found + one, there + of
    assert there > 50
    assert found >= 0.98 * there


async def test_what_waits_for_the_index_is_compared_too_and_of_a_long_queue_the_last(
    store: Store, sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write(deliver(*(decision(context={"rsi": number}) for number in range(40))))
    await study(sql)
    await index_all(dsn)
    new = deliver(*(decision(context={"rsi": 20.25}) for _ in range(250)))
    await store.write(new)
    assert len(await waiting(sql)) == 250
    asked = Situation(context={"rsi": 20.25})
    whole = await ask(sql, asked, limit=100)
    assert [each.distance for each in whole.precedents] == [0] * 100
    assert (whole.waiting, whole.near) == (0, 250 + 10)
    monkeypatch.setattr(candidates, "QUEUED_ROWS", 1)
    some = await ask(sql, asked, limit=100)
    assert [each.distance for each in some.precedents[:51]] == [0] * 50 + [0.25 / 20]
    assert some.waiting == 200
    last = {delivery.message.identity for delivery in new[-50:]}
    assert {each.id for each in some.precedents[:50]} == last


async def test_of_equally_near_ones_the_latest_are_found(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """Wherever they lie, in cells that are equally far."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    batch = deliver(
        *(
            decision(
                context={"trend": "up", "rsi": chance.random()},
                timestamp=(BEGIN + timedelta(minutes=chance.randrange(10_000))).isoformat(),
            )
            for _ in range(300)
        )
    )
    await store.write(batch)
    await study(sql)
    await index_all(dsn)
    answer = await ask(sql, Situation(context={"trend": "up"}), limit=20)
    latest = sorted(await known(sql), key=lambda row: (row["created_at"], row["id"]), reverse=True)
    assert [each.created_at for each in answer.precedents] == [row["created_at"] for row in latest[:20]]
    assert answer.by_index


async def test_a_cell_that_has_grown_is_looked_into(
    store: Store, sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by who has asked before, when another one was nearer."""
    monkeypatch.setattr(places, "_FIRST_CELLS", 1)
    numbers = [*range(31), *range(62, 95)]  # the first cut is at 62
    await store.write(deliver(*(decision(context={"rsi": number}) for number in numbers)))
    await study(sql)
    await index_all(dsn)
    asked = Situation(context={"rsi": 47}, max_distance=1)
    [before] = (await ask(sql, asked, limit=1)).precedents
    assert before.indicators[0].value == 62
    await store.write(deliver(decision(context={"rsi": 45})))
    await index_all(dsn)
    [after] = (await ask(sql, asked, limit=1)).precedents
    assert after.indicators[0].value == 45


async def test_those_of_the_nearest_are_compared_that_are_so_when_no_indicator_is_too_far(
    store: Store, sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sum of all differences others are nearer, more than are compared."""
    monkeypatch.setattr(places, "_FIRST_CELLS", 48)
    others = [(number, number, number) for number in range(100)]
    somewhat = [(38, 62, 32)] * 12  # 0.45 away
    elsewhere = [(20, 80, 114)] * LIMIT  # 0.53, of which 1/3 counts
    contexts = [dict(zip(("rsi", "vix", "atr"), at, strict=True)) for at in (*others, *somewhat, *elsewhere)]
    batch = deliver(*(decision(context=context) for context in contexts))
    await store.write(batch)
    await study(sql)
    await index_all(dsn)
    situation = Situation(context={"rsi": 20, "vix": 80, "atr": 50}, max_distance=0.6)
    found = await ask(sql, situation, limit=LIMIT)
    assert {each.id for each in found.precedents} == {each.message.identity for each in batch[-LIMIT:]}
    assert (found.by_index, found.looked_at) == (True, 2 * LIMIT)


async def test_what_has_no_time_is_no_precedent(store: Store, sql: asyncpg.Connection, dsn: str) -> None:
    """As in a table that was adopted; it is the nearest of all."""
    batch = deliver(*(decision(context={"rsi": number}) for number in range(60)))
    await store.write(batch)
    await sql.execute("ALTER TABLE llm_decisions ALTER created_at DROP NOT NULL")
    timeless = batch[30].message.identity
    await sql.execute("UPDATE llm_decisions SET created_at = NULL WHERE id = $1", timeless)
    await study(sql)
    await index_all(dsn)
    found = await ask(sql, Situation(context={"rsi": 30}), limit=LIMIT)
    assert [each.indicators[0].value for each in found.precedents] == [31, 29, 32, 28, 33]
    assert found.by_index


async def test_what_has_no_axis_may_bring_any_of_the_nearest_forward(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """More are as near in all else than would be compared without it."""
    alike = [{"rsi": 50, "vix": 3, "atr": 2, "note": f"text {number}"} for number in range(25)]
    others = [
        {"rsi": number, "vix": number % 7, "atr": number % 5, "note": f"other {number}"}
        for number in range(100)
    ]
    batch = deliver(*(decision(context=context) for context in (*alike, *others)))
    await store.write(batch)
    await study(sql)
    await index_all(dsn)
    situation = Situation(context=alike[7], weights={"note": 1})
    found = await ask(sql, situation, limit=1)
    assert [(each.id, each.distance) for each in found.precedents] == [(batch[7].message.identity, 0)]
    assert found.by_index


async def test_an_unusual_number_finds_what_is_so_too_and_else_hides_nothing(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """More are like the rest of it than are compared; and by the sum as many others would be nearer."""
    others = [(number, number % 10) for number in range(100)]
    at = [*others, *[(49, 0)] * 40, *[(50, 60)] * 40, *[(51, 300)] * LIMIT]
    contexts = [{"rsi": rsi, "vix": vix} for rsi, vix in at]
    await store.write(deliver(*(decision(context=context) for context in contexts)))
    await study(sql)
    await index_all(dsn)
    for asked, nearest in (({"rsi": 50, "vix": 299}, 51), ({"rsi": 50, "vix": -200}, 50)):
        found = await ask(sql, Situation(context=asked, max_distance=1), limit=LIMIT)
        assert found.by_index
        assert [each.indicators[0].value for each in found.precedents] == [nearest] * LIMIT


async def test_while_all_get_new_places_they_are_found_at_the_old_ones(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    batch = deliver(*(decision(context={"rsi": number}) for number in range(100)))
    await store.write(batch)
    await study(sql)
    await index_all(dsn)
    before = await ask(sql, Situation(context={"rsi": 50.25}), limit=20)
    await sql.execute("CREATE TEMPORARY TABLE old AS SELECT decision_id, cell FROM llm_situation_index")
    await sql.execute(
        "INSERT INTO llm_situation_axes (generation, decisions, axes, tree) "
        "SELECT 2, 1000, axes, '1' FROM llm_situation_axes"
    )
    await index_all(dsn)
    # As half way: every second one has not moved yet, and the sweep is not over.
    await sql.execute("UPDATE llm_situation_axes SET swept_at = NULL WHERE generation = 2")
    await sql.execute(
        "UPDATE llm_situation_index i SET cell = old.cell FROM old "
        "WHERE i.decision_id = old.decision_id AND old.decision_id = ANY($1)",
        [delivery.message.identity for delivery in batch[::2]],
    )
    after = await ask(sql, Situation(context={"rsi": 50.25}), limit=20)
    assert await sql.fetchval("SELECT count(DISTINCT cell >> 16) FROM llm_situation_index") == 2
    assert [each.id for each in after.precedents] == [each.id for each in before.precedents]


async def _answer(sql: asyncpg.Connection, wanted: Filter, **context: Any) -> Precedents:
    return await ask(sql, Situation(context=context, max_distance=1, min_overlap=0.01), wanted, limit=LIMIT)


async def test_where_the_index_cannot_say_the_latest_are_looked_at(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """Before a sweep is over; what most of the situation has no axis for; what it does not choose by."""
    made = [{"rsi": number, "note": f"text {number}", "trend": "up"} for number in range(120)]
    await store.write(deliver(*(decision(context=context, action="BUY") for context in made)))
    await study(sql)
    assert not (await _answer(sql, Filter(), rsi=50)).by_index
    await index_all(dsn)
    assert (await _answer(sql, Filter(), rsi=50)).by_index
    assert (await _answer(sql, Filter(), rsi=50, vix=3)).by_index  # without a scale it is compared by nobody
    for wanted, context in (
        (Filter(), {"note": "text 7"}),
        (Filter(), {"note": "text 7", "trend": "up"}),
        (Filter(), {"vix": 3}),
        (Filter(action="BUY"), {"rsi": 50}),
        (Filter(min_confidence=0), {"rsi": 50}),
    ):
        answer = await _answer(sql, wanted, **context)
        assert (answer.by_index, answer.complete) == (False, True)
    await sql.execute("UPDATE llm_situation_axes SET swept_at = NULL")
    assert not (await _answer(sql, Filter(), rsi=50)).by_index


async def test_where_few_of_the_nearest_have_the_outcome_more_are_looked_up_and_at_last_the_latest(
    store: Store, sql: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = deliver(*(decision(context={"rsi": number}) for number in range(200)))
    await store.write(batch)
    await study(sql)
    await index_all(dsn)
    far = [batch[number].message.identity for number in (0, 1, 2)]
    await sql.execute("UPDATE llm_decisions SET outcome = 'FAILURE' WHERE id = ANY($1)", far)
    failed = Filter(outcome="FAILURE")
    found = await _answer(sql, failed, rsi=60)
    assert ([each.id for each in found.precedents], found.by_index) == (far[::-1], True)
    monkeypatch.setattr(candidates, "MOST_PLACES", 20)
    found = await _answer(sql, failed, rsi=60)
    assert ([each.id for each in found.precedents], found.by_index) == (far[::-1], False)


@pytest.mark.parametrize(
    ("asked", "plans"), [({"rsi": 50}, "auto"), ({"note": "text 7", "rsi": 50}, "force_custom_plan")]
)
async def test_plans_are_kept_for_what_is_looked_up_by_cells_alone(
    store: Store, sql: asyncpg.Connection, dsn: str, asked: dict[str, Any], plans: str
) -> None:
    made = ({"rsi": number, "note": f"text {number}"} for number in range(200))
    await store.write(deliver(*(decision(context=context) for context in made)))
    await study(sql)
    await index_all(dsn)
    async with reading(sql):
        answer = await similar_decisions(sql, Situation(context=asked), Filter())
        assert await sql.fetchval("SHOW plan_cache_mode") == plans
    assert answer.by_index == (plans == "auto")


async def test_no_cell_of_others_alone_is_looked_into(
    store: Store, sql: asyncpg.Connection, dsn: str
) -> None:
    """Neither by agent nor by symbol; whoever comes into a cell later is found there."""
    for agent, symbol, numbers in (("momentum", "BTC", range(100)), ("risk", "ETH", range(100, 200))):
        batch = (decision(context={"rsi": one}, agent_name=agent, symbol=symbol) for one in numbers)
        await store.write(deliver(*batch))
    await study(sql)
    await index_all(dsn)
    [(theirs,)] = await sql.fetch(
        "SELECT array_agg(DISTINCT cell) FROM llm_situation_index WHERE agent_name = 'risk'"
    )
    looked_into: set[int] = set()

    def see(statement: Any) -> None:
        for cells in statement.args:
            if isinstance(cells, str) and cells.startswith("{"):
                looked_into.update(map(int, cells[1:-1].split(",")))

    for chosen in ({"agent_name": "risk"}, {"symbol": "ETH"}, {"agent_name": "risk", "symbol": "ETH"}):
        looked_into.clear()
        with sql.query_logger(see):
            answer = await ask(sql, Situation(context={"rsi": 95}), Filter(**chosen), limit=LIMIT)
        assert [one.indicators[0].value for one in answer.precedents] == [100, 101, 102, 103, 104]
        assert looked_into
        assert looked_into <= set(theirs)
    await store.write(deliver(decision(context={"rsi": 95}, agent_name="risk", symbol="ETH")))
    await index_all(dsn)
    answer = await ask(sql, Situation(context={"rsi": 95}), Filter(agent_name="risk"), limit=LIMIT)
    assert [one.indicators[0].value for one in answer.precedents] == [95, 100, 101, 102, 103]


async def test_nothing_near_is_said_by_the_index_too(store: Store, sql: asyncpg.Connection, dsn: str) -> None:
    await store.write(deliver(*(decision(context={"rsi": number, "vix": 5}) for number in range(200))))
    await study(sql)
    await index_all(dsn)
    answer = await ask(sql, Situation(context={"rsi": 250, "vix": 7}))
    assert (answer.precedents, answer.near, answer.by_index) == ((), 0, True)
    assert answer.nearest == ((250 - 199) / 80 + 1) / 2  # as learnt when there were 160
    assert answer.summary.text.endswith("not enough evidence.")
    other = await ask(sql, Situation(context={"rsi": 50}), Filter(symbol="ETH"))
    assert (other.precedents, other.looked_at, other.nearest) == ((), 0, None)
