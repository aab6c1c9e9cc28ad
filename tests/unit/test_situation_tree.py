"""Axes, places and cells: no cell is held to be farther away than what lies in it."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from tracker_daemon.situations import Indicator, indicators
from tracker_daemon.situations.asking import Asking, asking_on
from tracker_daemon.situations.axes import FAR, MAX_AXES, Axes, Axis, Place, Values
from tracker_daemon.situations.cells import Cells, bit_of
from tracker_daemon.situations.tree import Cut, Grower, Tree, leaf

SPREADS = {"rsi": 30.0, "macd.line": 1.5, "atr": 2.0, "flat": 0.0}


def context(chance: random.Random) -> dict[str, Any]:
    """A situation that may lack anything."""
    every = {
        "rsi": chance.uniform(0, 100),
        "macd": {"line": chance.gauss(0, 1)},
        "atr": chance.expovariate(1) ** 3,
        "trend": chance.choice(["up", "down", "sideways"]),
        "open": chance.choice([True, False]),
        "flat": chance.choice([0] * 30 + [1, 2]),
    }
    return {key: value for key, value in every.items() if chance.random() < 0.8}


async def learnt(contexts: list[dict[str, Any]]) -> Axes:
    values = Values()
    for each in contexts:
        values.add(each)
    return await values.axes()


def weighted(asked: dict[str, Any], **weights: float) -> list[Any]:
    return [(one, weights.get(one.path, 1.0)) for one in indicators(asked)]


def far(asking: Asking, place: Place) -> tuple[float, float]:
    """How far a place is, and how much it shares, by the definition."""
    first = {number: share for number, share in asking.shares.items() if place.present >> number & 1}
    shared = sum(first.values())
    gaps = (
        min(abs(place.coordinates[number] - one.coordinate) * one.slope, one.share)
        for number, one in asking.axes.items()
        if place.present >> number & 1
    )
    return (sum(gaps) / shared if shared else 0.0), shared


async def grown(places: list[Place], cells: float) -> Tree:
    grower = Grower(len(places[0].coordinates) if places else 0)
    for place in places:
        grower.add(place)
    return await grower.grow(cells)


def widen(cells: Cells, number: int, place: Place) -> None:
    """Let a place into its cell."""
    has = [place.present >> axis & 1 for axis in range(len(place.coordinates))]
    low = [at if known else -math.inf for at, known in zip(place.coordinates, has, strict=True)]
    high = [at if known else math.inf for at, known in zip(place.coordinates, has, strict=True)]
    present = np.array([place.present])
    cells.widen(np.array([number]), present, np.array([low], np.float32), np.array([high], np.float32))


def asked(
    axes: Axes, counting: list[tuple[Indicator, float]], spreads: dict[str, float], least: float
) -> Asking:
    """What a question asks there, most of which has axes."""
    asking = asking_on(axes, counting, spreads, least)
    assert asking is not None
    return asking


def reached(cells: Cells, asking: Asking) -> dict[int, float]:
    """The cells that may hold what shares enough, and how near."""
    bounds = cells.bounds(asking)
    return {int(number): float(bounds[number]) for number in np.flatnonzero(~np.isnan(bounds))}


@pytest.mark.parametrize("seed", range(8))
async def test_no_cell_is_farther_than_what_lies_in_it_and_none_is_missing(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's data
    contexts = [context(chance) for _ in range(1500)]
    axes = await learnt(contexts[:500])
    tree = await grown([axes.place(each) for each in contexts[:500]], 500 / 6)
    cells: dict[int, list[Place]] = {}
    boxes = Cells(len(axes.all))
    for place in map(axes.place, contexts):
        number = leaf(tree, place)
        cells.setdefault(number, []).append(place)
        widen(boxes, number, place)
    assert len(cells) > 50
    pruned = 0
    for _ in range(30):
        situation = context(chance) or {"rsi": 50}
        asking = asking_on(axes, weighted(situation, rsi=2.5), SPREADS, chance.choice([0.01, 0.5, 1]))
        if asking is None:
            continue
        bounds = reached(boxes, asking)
        for cell, places in cells.items():
            found = [far(asking, place) for place in places]
            enough = [gap for gap, shared in found if shared and shared >= asking.min_shared - 1e-9]
            if enough:
                assert bounds[cell] <= min(enough) + 1e-6  # a bound is a float32
                pruned += bounds[cell] > 0.25
    assert pruned > 100


async def test_a_cell_reaches_as_far_as_what_lies_in_it() -> None:
    """And no farther: a question looks into none that is empty, nor where too little is shared."""
    axes = Axes([Axis("a"), Axis("b", high=9.0)])
    asking = asked(axes, weighted({"a": 0.0, "b": 2.0}), {"a": 1.0, "b": 1.0}, 0.5)
    cells = Cells(2)
    assert reached(cells, asking) == {}
    widen(cells, 1, Place([0.25, 1.0], 0b11))
    widen(cells, 3, Place([0.75, 2.5], 0b11))
    assert reached(cells, asking) == pytest.approx({1: 0.625, 3: 0.625}, abs=1e-5)
    widen(cells, 1, Place([-1.0, 1.5], 0b11))
    assert reached(cells, asking) == pytest.approx({1: 0.25, 3: 0.625}, abs=1e-5)
    widen(cells, 1, Place([0.25, 0.0], 0b01))
    assert reached(cells, asking) == pytest.approx({1: 0.0, 3: 0.625}, abs=1e-5)
    widen(cells, 4, Place([0.75, 0.0], 0b01))
    assert reached(cells, asking) == pytest.approx({1: 0.0, 3: 0.625, 4: 0.75}, abs=1e-5)
    whole = asked(axes, weighted({"a": 0.0, "b": 2.0}), {"a": 1.0, "b": 1.0}, 1)
    assert reached(cells, whole) == pytest.approx({1: 0.0, 3: 0.625}, abs=1e-5)
    flat = asked(axes, weighted({"a": 0.0, "b": 2.0}, a=1e-12), {"a": 1.0, "b": 1.0}, 0.5)
    assert reached(cells, flat) == pytest.approx({1: 0.0, 3: 0.5}, abs=1e-5)


def test_a_cell_without_the_agent_or_the_symbol_is_known() -> None:
    """But for those whose bit another one has; and what is named before it reaches anywhere counts."""
    one, two, other, as_one = "agent 5", "agent 57", "agent 8", "agent 9"
    assert [bit_of(name) for name in (one, two, other, as_one)] == [5, 63, 30, 5]
    cells = Cells(0)
    assert cells.without(one, None).tolist() == []
    bits = [np.array([1 << bit_of(name)], dtype=np.uint64).astype(np.int64) for name in (one, two)]
    cells.name(np.array([2]), bits[0], bits[1])
    assert cells.without(one, None).tolist() == [True, True, False]
    cells.name(np.array([1]), bits[1], bits[1])
    cells.name(np.array([2]), bits[1], bits[1])
    for agent, symbol, without in (
        (None, None, [False, False, False]),
        (one, None, [True, True, False]),
        (two, None, [True, False, False]),
        (two, two, [True, False, False]),
        (one, one, [True, True, True]),
        (other, None, [True, True, True]),
        (as_one, None, [True, True, False]),
    ):
        assert cells.without(agent, symbol).tolist() == without


async def test_a_cell_holds_about_as_many_as_another() -> None:
    chance = random.Random(3)  # noqa: S311 - a test's data
    places = [Place([chance.gauss(0, 1), chance.gauss(0, 1)], 0b11) for _ in range(4096)]
    tree = await grown(places, 4096 / 70)
    counts: dict[int, int] = {}
    for place in places:
        cell = leaf(tree, place)
        counts[cell] = counts.get(cell, 0) + 1
    assert len(counts) == 64
    assert all(56 <= count <= 72 for count in counts.values())


@pytest.mark.parametrize("places", [[], [Place([0.0], 0)] * 9, [Place([2.0], 1)] * 9], ids=str)
async def test_where_all_places_are_the_same_there_is_one_cell(places: list[Place]) -> None:
    assert not isinstance(await grown(places, 4.5), Cut)


async def test_axes_are_those_of_the_most_frequent_indicators_and_of_frequent_categories() -> None:
    contexts = [
        {
            "n": number,
            "mostly": 0 if number % 50 else number,
            "word": f"w{number}",
            "side": ("buy", "sell")[number % 2],
        }
        for number in range(300)
    ]
    contexts[0]["rare"] = 1
    axes = {(axis.path, axis.category): axis for axis in (await learnt(contexts)).all}
    assert set(axes) == {("n", None), ("mostly", None), ("side", "buy"), ("side", "sell")}
    assert axes["mostly", None].spread == 0
    assert [axes["mostly", None].coordinate(value) for value in (0, 0.0, 7, -1e308)] == [0, 0, 1, 1]
    many = await learnt([{f"k{number:03}": number for number in range(200)}] * 3)
    assert len(many.all) == MAX_AXES


@pytest.mark.parametrize(
    ("value", "coordinate"),
    [(50, 0), (60, 0.4), (10**30, FAR), (-1.7e308, -FAR), (50 + 1e-9, 0)],
)
async def test_a_coordinate_is_bounded_and_never_too_small(value: float, coordinate: float) -> None:
    axes = await learnt([{"n": number} for number in (10, 37.5, 50, 62.5, 90) * 4])
    assert axes.place({"n": value}) == Place([coordinate], 1)


async def test_what_is_no_number_in_one_place_and_none_in_another_shares_no_axis() -> None:
    axes = await learnt([{"n": 5.0}, {"n": "5"}, {"n": True}, {"n": 7}] * 9)
    assert {(type(axis.category), axis.category) for axis in axes.all} == {
        (type(None), None),
        (str, "5"),
        (bool, True),
    }
    assert [axes.place({"n": value}).present.bit_count() for value in (5, "5", True, None, [5])] == [
        1,
        2,
        2,
        0,
        0,
    ]


async def test_what_is_unusual_is_told_and_what_is_beyond_any_axis_is_left_out() -> None:
    axes = await learnt([{"n": number, "m": number} for number in range(100)])
    spreads = {"n": 50.0, "m": 50.0}
    both = asked(axes, weighted({"n": 50, "m": 500}), spreads, 0.5)
    assert [(number, one.unusual) for number, one in both.axes.items()] == [(0, False), (1, True)]
    assert both.sloped(2) == ([0.5, 0], [pytest.approx(0.01), 0])
    assert sorted(asked(axes, weighted({"n": 50, "m": 1e300}), spreads, 0.5).axes) == [0]
    assert asking_on(axes, weighted({"m": 1e300}), spreads, 0.5) is None
    assert asking_on(axes, weighted({"n": 50, "other": "x"}), spreads, 0.5) is None
    one = asked(axes, weighted({"n": 50, "m": 60}, m=3.0), {"n": 25.0, "m": 0.0}, 0.5)
    assert one.shares == {0: 0.25, 1: 0.75}
    assert [axis.slope for axis in one.axes.values()] == [0.5, 750]


@pytest.mark.parametrize("beyond", [10**400, -(10**400), float("inf"), float("nan")])
async def test_a_number_beyond_a_float64_has_no_place_and_teaches_nothing(beyond: float) -> None:
    """As adopted tables may hold."""
    contexts = [{"rsi": number, "atr": beyond} for number in range(50)]
    axes = await learnt(contexts)
    assert [axis.path for axis in axes.all] == ["rsi"]
    assert axes.place({"rsi": beyond}) == Place([0.0], 0)
    assert axes.place({"rsi": 24, "atr": beyond}).present == 1
