"""Similar decisions, compared with plain Python over the same rows, which shares nothing with the product."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.factory import decision, deliver, outcome
from tests.record import BEGIN, backdate, known, replay
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import Filter, Situation, reading, similar_decisions
from tracker_daemon.situations import indicators
from tracker_daemon.situations.learning import due, learn

if TYPE_CHECKING:
    import asyncpg

    from tests.record import Row
    from tracker_daemon.queries import Precedents
    from tracker_daemon.store import Store

Steps = tuple[str | int, ...]

NUMBERS = st.one_of(
    st.integers(0, 9),
    st.floats(40, 70).map(lambda number: round(number, 1)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e300, -1.7e308, 1.7e308, 5e-324, 10**30]),
)
TEXTS = st.sampled_from(["up", "down", "NaN", "62.1", "true", "", "\u00fcber " * 40])
LEAVES = st.none() | st.booleans() | TEXTS | NUMBERS
CONTEXTS = st.fixed_dictionaries(
    {"rsi": NUMBERS | LEAVES, "trend": TEXTS | LEAVES},
    optional={
        "constant": st.just(5) | NUMBERS,
        "macd": st.fixed_dictionaries({"line": NUMBERS}, optional={"flags": st.lists(LEAVES, max_size=3)})
        | LEAVES,
        'a.b "[0]\\': NUMBERS | st.dictionaries(st.sampled_from(["0", "", "\u00e9\n"]), LEAVES),
        "0": st.lists(NUMBERS, max_size=2) | NUMBERS,
        "levels": st.just([{"high": 5}]) | st.just({"high": 5}),
    },
)

KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4) | st.text(
    "\".[]*$\\/'@ ?(\n\u2028\U0001f4c8", max_size=4
)
STRANGE = st.dictionaries(
    KEYS,
    st.recursive(
        TEXTS | NUMBERS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=5,
    ),
    min_size=1,
    max_size=4,
)


def contexts(count: int, kind: st.SearchStrategy[dict[str, Any]] = CONTEXTS) -> list[dict[str, Any]]:
    """So many, the same ones each time."""
    made: list[dict[str, Any]] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind)
    def make(context: dict[str, Any]) -> None:
        made.append(context)

    make()
    return made


async def fill(store: Store, made: list[dict[str, Any]], seed: int = 7) -> None:
    """Store decisions with these contexts over two days, many at the same time, and outcomes of some."""
    chance = random.Random(seed)  # noqa: S311 - a test's data
    payloads = [
        decision(
            id=str(UUID(int=chance.getrandbits(128), version=4)),
            agent_name=chance.choice(["momentum", "risk"]),
            decision_type=chance.choice(["signal", "risk_approval"]),
            symbol=chance.choice(["BTC", "ETH"]),
            action=chance.choice(["BUY", "SELL", None]),
            response="no JSON",
            context=context,
            timestamp=(BEGIN + timedelta(hours=chance.randrange(48))).isoformat(),
        )
        for context in made
    ]
    await store.write(deliver(*payloads))
    events = [
        outcome(
            payload["id"],
            chance.choice(["SUCCESS", "FAILURE", "PENDING"]),
            pnl=chance.choice([None, "0", str(chance.randrange(-10_000, 10_000) / 8)]),
            timestamp=(BEGIN + timedelta(hours=chance.randrange(96))).isoformat(),
        )
        for payload in payloads
        for _ in range(chance.choice([0, 1, 2]))
    ]
    await store.write(deliver(*events))


async def study(sql: asyncpg.Connection) -> None:
    """Learn all scales that are due."""
    while (time := await due(sql)) is not None:
        await learn(sql, time)


@pytest.fixture
async def situations(store: Store, sql: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection to a record of contexts of every kind, with a past and the scales of it."""
    made = contexts(250)
    await fill(store, made + made[:50])
    await backdate(sql)
    await study(sql)
    return sql


def leaves(value: Any, steps: Steps = ()) -> dict[Steps, Any]:
    """What a context says, by the steps that lead there."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    elif value is not None:
        return {steps: value}
    return {path: leaf for key, part in inner for path, leaf in leaves(part, (*steps, key)).items()}


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def spelled(steps: Steps) -> str:
    """A path, as long as no key needs a backslash."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]


def is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def apart(one: Any, other: Any, spread: Fraction | None) -> Fraction | None:
    """How far two values of an indicator are from each other; None: they cannot be compared."""
    if is_number(one) != is_number(other):
        return None
    if not is_number(one):
        return Fraction((type(one), one) != (type(other), other))
    if spread is None:
        return None
    gap = abs(Fraction(one) - Fraction(other))
    return min(gap / spread, Fraction(1)) if spread else Fraction(gap > 0)


class Expected:
    """What should be answered."""

    def __init__(self, situation: dict[str, Any], scales: dict[str, Any], weights: dict[str, float]) -> None:
        """Nothing has been looked at."""
        self.asked = leaves(exact(json.dumps(situation)))
        self.scales = scales
        self.weights = {steps: Fraction(weights.get(spelled(steps), 1)) for steps in self.asked}
        self.identifiers = [
            spelled(steps)
            for steps, value in self.asked.items()
            if isinstance(value, str)
            and self.scale(steps).get("identifier")
            and spelled(steps) not in weights
        ]
        self.asked = {
            steps: value
            for steps, value in self.asked.items()
            if self.weights[steps] and spelled(steps) not in self.identifiers
        }

    def scale(self, steps: Steps) -> dict[str, Any]:
        keys = {'a.b "[0]\\': 'a\\.b "\\[0]\\\\'}
        path = spelled(tuple(keys.get(step, step) if isinstance(step, str) else step for step in steps))
        found: dict[str, Any] = self.scales.get(path, {})
        return found

    def spread(self, steps: Steps) -> Fraction | None:
        spread = self.scale(steps).get("spread")
        return None if spread is None else Fraction(spread)

    def unknown(self) -> int:
        """How many numbers have no scale."""
        return sum(is_number(value) and self.spread(steps) is None for steps, value in self.asked.items())

    def compared(self, row: Row) -> dict[Steps, Fraction]:
        """How far each indicator is that can be compared."""
        has = leaves(exact(row["context"]))
        gaps = {s: apart(self.asked[s], has[s], self.spread(s)) for s in self.asked if s in has}
        return {steps: gap for steps, gap in gaps.items() if gap is not None}

    def ranked(self, rows: list[Row], least: float) -> list[tuple[Fraction, Fraction, Row]]:
        """Distance, overlap and row of all that share enough, the nearest first."""
        found = []
        total = sum(self.weights[steps] for steps in self.asked)
        for row in rows:
            gaps = self.compared(row)
            shared = sum(self.weights[steps] for steps in gaps)
            if shared and shared / total >= Fraction(least):
                far = sum(self.weights[steps] * gap for steps, gap in gaps.items()) / shared
                found.append((round(far, 12), shared / total, row))
        found.sort(key=lambda one: (one[2]["created_at"], one[2]["id"]), reverse=True)
        return sorted(found, key=lambda one: one[0])


def chosen(wanted: Filter, row: Row) -> bool:
    """Whether a filter of these columns chooses it."""
    return row["context"] is not None and all(
        getattr(wanted, name) in {None, row[name]}
        for name in ("symbol", "agent_name", "decision_type", "outcome", "action")
    )


async def ask(
    sql: asyncpg.Connection,
    situation: Situation,
    wanted: Filter = Filter(),  # noqa: B008
    **more: Any,
) -> Precedents:
    async with reading(sql):
        return await similar_decisions(sql, situation, wanted, **more)


async def check(
    sql: asyncpg.Connection, situation: Situation, wanted: Filter, *, resolved: bool = False
) -> int:
    """Compare an answer, all of it, and return how many are near."""
    rows = [row for row in await known(sql, wanted.as_of) if chosen(wanted, row)]
    if resolved:
        rows = [row for row in rows if row["outcome"] in {"SUCCESS", "FAILURE"}]
    lessons = {
        row["learnt_at"]: json.loads(row["scales"]) for row in await sql.fetch("SELECT * FROM llm_scales")
    }
    time = max((time for time in lessons if wanted.as_of is None or time <= wanted.as_of), default=None)
    expected = Expected(situation.context, lessons[time] if time else {}, situation.weights)
    ranked = expected.ranked(rows, situation.min_overlap)
    near = [one for one in ranked if one[0] <= Fraction(repr(situation.max_distance))]
    answer = await ask(sql, situation, wanted, limit=100, resolved=resolved)
    assert [each.id for each in answer.precedents] == [row["id"] for *_, row in near[:100]]
    for each, (distance, overlap, row) in zip(answer.precedents, near, strict=False):
        assert each.distance == pytest.approx(float(distance), abs=1e-11)
        assert each.overlap == pytest.approx(float(overlap))
        gaps = expected.compared(row)
        assert [one.distance for one in each.indicators] == pytest.approx(
            [*map(float, gaps.values())], abs=1e-11
        )
        values = leaves(json.loads(row["context"]))
        assert [one.value for one in each.indicators] == [
            values[s][:100] if isinstance(values[s], str) else values[s] for s in gaps
        ]
        for name in ("created_at", "agent_name", "symbol", "decision_type", "action", "outcome", "pnl"):
            assert getattr(each, name) == row[name]
        if wanted.as_of:
            assert timedelta(seconds=each.age_seconds) == wanted.as_of - each.created_at
    assert (answer.near, answer.comparable, answer.looked_at) == (len(near), len(ranked), len(rows))
    assert answer.complete
    assert (answer.nearest, answer.scales_of) == (float(ranked[0][0]) if ranked else None, time)
    assert len(answer.unknown) == expected.unknown()
    assert list(answer.identifiers) == expected.identifiers
    return len(near)


THEN = BEGIN + timedelta(hours=30)
FILTERS = [
    Filter(),
    Filter(symbol="BTC"),
    Filter(agent_name="risk", decision_type="signal"),
    Filter(as_of=THEN),
    Filter(symbol="ETH", as_of=THEN, outcome="SUCCESS"),
]


async def test_distances_and_ranks_are_those_of_plain_python(situations: asyncpg.Connection) -> None:
    """For situations of every kind, by every filter: nulls, ties, extremes, and what has no scale."""
    near = 0
    heavy = {"rsi": 2.5, "trend": 0, "constant": 0.125}
    for number, context in enumerate(contexts(310)[::5]):
        if len(leaves(context)) > 1:
            situation = Situation(
                context=context,
                weights={key: heavy[key] for key in heavy if (key,) in leaves(context) and number % 3},
                max_distance=(0.25, 1, 0.5)[number % 3],
                min_overlap=(0.5, 0.01, 1)[number % 3],
            )
            near += await check(situations, situation, FILTERS[number % 5], resolved=number % 2 == 1)
    assert near > 1_000


async def test_whatever_keys_are_called_a_path_leads_to_its_value(sql: asyncpg.Connection) -> None:
    for context in contexts(100, STRANGE):
        there = [*indicators(context)]
        rows = await sql.fetch(
            "SELECT jsonb_path_query_first($1::jsonb, place::jsonpath, '{}', true)::text AS found "
            "FROM unnest($2::text[]) WITH ORDINALITY AS given (place, number) ORDER BY number",
            json.dumps(context),
            [indicator.jsonpath for indicator in there],
        )
        assert [exact(row["found"]) for row in rows] == [exact(json.dumps(one.value)) for one in there]


async def test_the_demos_situations(store: Store, sql: asyncpg.Connection) -> None:
    """Those of real markets, each of which is nearest to itself."""
    await replay(store, 300)
    await study(sql)
    rows = await known(sql)
    for row in random.Random(7).sample(rows, 5):  # noqa: S311 - a test's data
        context = json.loads(row["context"])
        for wanted in (Filter(symbol=row["symbol"]), Filter()):
            assert await check(sql, Situation(context=context, max_distance=0.4), wanted)
        answer = await ask(sql, Situation(context=context, weights={"rsi": 3}), Filter(symbol=row["symbol"]))
        assert answer.precedents[0].distance == 0
        assert {each.symbol for each in answer.precedents} == {row["symbol"]}


async def test_what_is_another_one_in_each_decision_counts_only_with_a_weight(
    store: Store, sql: asyncpg.Connection
) -> None:
    """A date or an id; as it was before that was learnt, it counts like any other."""
    made = [
        {"trend": "up", "on": f"2026-01-0{number % 5}", "trade": {"id": str(number)}} for number in range(60)
    ]
    await fill(store, made)
    await study(sql)
    context = made[7]
    left_out = await ask(sql, Situation(context=context))
    assert left_out.identifiers == ("trade.id",)
    assert (left_out.near, left_out.precedents[-1].distance) == (12, 0)
    assert {one.path for each in left_out.precedents for one in each.indicators} == {"trend", "on"}
    early = Filter(as_of=BEGIN - timedelta(hours=1))
    for weights in ({}, {"trade.id": 1}, {"trade.id": 0}, {"on": 2}):
        for wanted in (Filter(), Filter(as_of=THEN), early):
            await check(sql, Situation(context=context, weights=weights, max_distance=1), wanted)
    counted = await ask(sql, Situation(context=context, weights={"trade.id": 1}))
    assert (counted.identifiers, counted.near) == ((), 1)
    nothing = await ask(sql, Situation(context={"trade": {"id": "7"}}))
    assert (nothing.identifiers, nothing.precedents, nothing.nearest) == (("trade.id",), (), None)


async def test_the_future_changes_nothing(situations: asyncpg.Connection, store: Store) -> None:
    """Neither its decisions, nor its outcomes, nor what is learnt of it."""
    asked = Situation(context={"rsi": 55.5, "trend": "up", "constant": 5}, max_distance=1, min_overlap=0.1)
    moments = [BEGIN + timedelta(hours=hour) for hour in (-1, 5, 20, 40)]

    async def asked_then() -> list[Precedents]:
        return [await ask(situations, asked, Filter(symbol="BTC", as_of=then), limit=100) for then in moments]

    before = await asked_then()
    assert [bool(answer.precedents) for answer in before] == [False, True, True, True]
    await situations.execute("UPDATE llm_scales SET decisions = 20 WHERE learnt_at > $1", moments[-1])
    later = [{"rsi": number, "trend": "up"} for number in range(200)]
    payloads = [
        decision(
            context=context, symbol=symbol, timestamp=(moments[-1] + timedelta(minutes=minute)).isoformat()
        )
        for minute, context in enumerate(later, 1)
        for symbol in ("BTC", "ETH")
    ]
    await store.write(deliver(*payloads))
    told = [outcome(each.id, "SUCCESS", pnl=9) for answer in before for each in answer.precedents]
    await store.write(deliver(*told))
    lessons = await situations.fetchval("SELECT count(*) FROM llm_scales")
    await study(situations)
    assert await situations.fetchval("SELECT count(*) FROM llm_scales") > lessons
    assert await asked_then() == before
    assert await ask(situations, asked, Filter(symbol="BTC"), limit=100) != before[-1]


async def test_of_a_long_history_the_latest_are_looked_at(
    situations: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, late = Situation(context={"trend": "up"}, max_distance=1), Filter(as_of=BEGIN + timedelta(days=9))
    everything = await ask(situations, asked, late, limit=100)
    assert everything.complete
    rows = sorted(await known(situations), key=lambda row: (row["created_at"], row["id"]), reverse=True)
    for most in range(1, 40):
        monkeypatch.setattr("tracker_daemon.queries.similar.CANDIDATES", most)
        answer = await ask(situations, asked, late, limit=100)
        trends = {row["id"]: json.loads(row["context"])["trend"] for row in rows[:most]}
        assert {each.id for each in answer.precedents} == {
            id_ for id_, trend in trends.items() if isinstance(trend, str | bool)
        }
        assert (answer.looked_at, answer.complete) == (most, False)
    monkeypatch.setattr("tracker_daemon.queries.similar.CANDIDATES", len(rows))
    assert await ask(situations, asked, late, limit=100) == everything


async def test_where_nothing_is_near_the_answer_is_empty_and_says_so(situations: asyncpg.Connection) -> None:
    far = await ask(
        situations, Situation(context={"trend": "sideways", "rsi": 62.1}, max_distance=0.1, min_overlap=1)
    )
    assert (far.precedents, far.near, far.unknown) == ((), 0, ())
    assert far.nearest is not None
    assert far.comparable
    assert far.summary.text == (
        "In similar situations (sideways, rsi ~62.1) we decided nothing yet: not enough evidence."
    )
    strange = await ask(situations, Situation(context={"vix": 12, "regime": "calm", "n": {"x": 1e308}}))
    assert (strange.precedents, strange.comparable, strange.nearest) == ((), 0, None)
    assert strange.unknown == ("vix", "n.x")


async def test_without_scales_categories_alone_are_compared(store: Store, sql: asyncpg.Connection) -> None:
    """A decision that shares only these is not near unless that is asked for."""
    await store.write(deliver(decision(context={"rsi": 62, "macd": 1, "trend": "up"})))
    asked = {"rsi": 62, "macd": 1, "trend": "up"}
    answer = await ask(sql, Situation(context=asked))
    assert (answer.precedents, answer.unknown, answer.scales_of) == ((), ("rsi", "macd"), None)
    [found] = (await ask(sql, Situation(context=asked, min_overlap=0.3))).precedents
    assert ([one.path for one in found.indicators], found.overlap) == (["trend"], pytest.approx(1 / 3))


DEEP: dict[str, Any] = {"a": 1}
for _ in range(20):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"context": {}}, "says nothing that counts"),
        ({"context": {"a": None, "b": [{}, []]}}, "says nothing that counts"),
        ({"context": {"a": 1, "b": {"c": 10**400}}}, "b.c is a number that no decision has: beyond"),
        ({"context": {"a": 1, "b": float("-inf")}}, "b is a number that no decision has"),
        ({"context": {"a": 1, "b": float("nan")}}, "b is a number that no decision has"),
        ({"context": {"a": 1}, "weights": {"a": 0}}, "says nothing that counts"),
        ({"context": {str(n): n for n in range(10_000)}}, "at most 200 indicators"),
        ({"context": DEEP}, "at most 20 steps deep"),
        ({"context": {"a": 1}, "weights": {"b": 1}}, "a weight for b, which the situation does not have"),
        ({"context": {"a": 1}, "weights": {"a": -1}}, "the weight of a must be from 0 to 1000, not -1"),
        ({"context": {"a": 1}, "weights": {"a": float("nan")}}, "not nan"),
        ({"context": {"a\0": "b"}}, "the database cannot look for that"),
        ({"context": {"a": "\0"}}, "the database cannot look for that"),
        ({"context": {"\ud800": 1}}, "the database cannot look for that"),
        ({"context": {"a": "\ud800"}}, "the database cannot look for that"),
        ({"context": {"a": 1}, "max_distance": 1.5}, "max_distance must be from 0 to 1, not 1.5"),
        ({"context": {"a": 1}, "max_distance": float("nan")}, "not nan"),
        ({"context": {"a": 1}, "min_overlap": 0}, "min_overlap must be more than 0, and at most 1, not 0"),
    ],
)
async def test_what_is_no_situation_is_refused(
    asked: dict[str, Any], says: str, sql: asyncpg.Connection
) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        await ask(sql, Situation(**asked))


@pytest.mark.parametrize("limit", [0, 101])
async def test_a_limit_has_limits(limit: int, sql: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match=f"limit must be from 1 to 100, not {limit}"):
        await ask(sql, Situation(context={"a": 1}), limit=limit)


async def test_two_hundred_indicators_are_compared(store: Store, sql: asyncpg.Connection) -> None:
    context = {f"k{n}": {"value": [n, f"text {n}"]} for n in range(100)}
    await store.write(deliver(*(decision(context=context) for _ in range(25))))
    await study(sql)
    [found, *_] = (await ask(sql, Situation(context=context))).precedents
    assert (len(found.indicators), found.distance, found.overlap) == (200, 0, 1)
    assert isinstance(found.created_at, datetime)
