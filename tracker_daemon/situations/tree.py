"""All places, divided into cells of about as many decisions, most of which a question need not look into."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count
from statistics import median_low
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracker_daemon.situations.axes import Place

ELSEWHERE: Final = 0
"""The leaf of places that lack what none of the sample lacked; however far, a question looks into it."""
_LOOKED_AT: Final = 200
"""Places that choose the axis of a cut."""


class Asked(Struct, frozen=True):
    """What a question says on an axis: its coordinate, and how much a step of 1 away from it costs.

    `gap`: at least so far is what a cut divides from it. `share`: the weight of the indicator, among those of
    the question that have axes.
    """

    coordinate: float
    slope: float
    gap: float
    share: float


class Cut(Struct, frozen=True, array_like=True):
    """The places whose coordinate is less, those where it is not, and those which lack it."""

    axis: int
    at: float
    below: Cut | int
    above: Cut | int
    without: Cut | int = ELSEWHERE


Tree = Cut | int
"""A cut, or a leaf by its number."""


class Grower:
    """Divides a sample of places, each time by the axis on which they lie farthest apart."""

    def __init__(self, most: int) -> None:
        """Leave no more than so many in a cell, unless they are all in one place."""
        self._most = most
        self._leaves = ELSEWHERE

    async def grow(self, places: list[Place], before: tuple[int, ...] = ()) -> Tree:
        """The tree that divides these places, which cuts on the axes `before` have left together.

        Others are asked for their turn between two cuts.
        """
        await asyncio.sleep(0)
        axis = _widest(places, before) if len(places) > self._most else None
        if axis is None:
            self._leaves += 1
            return self._leaves
        has = [place for place in places if place.present >> axis & 1]
        lacks = [place for place in places if not place.present >> axis & 1]
        at = _cut([place.coordinates[axis] for place in has])
        return Cut(
            axis,
            at,
            await self.grow([place for place in has if place.coordinates[axis] < at], (*before, axis)),
            await self.grow([place for place in has if place.coordinates[axis] >= at], (*before, axis)),
            await self.grow(lacks, before) if lacks else ELSEWHERE,
        )


def leaf(tree: Tree, place: Place) -> int:
    """The leaf in which a place lies."""
    while isinstance(tree, Cut):
        if not place.present >> tree.axis & 1:
            tree = tree.without
        else:
            tree = tree.below if place.coordinates[tree.axis] < tree.at else tree.above
    return tree


def reach(tree: Tree, asked: Mapping[int, Asked], min_shared: float) -> Iterator[tuple[float, int]]:
    """Yield the leaves that may hold what shares enough, the nearest first, with the least distance there."""
    yield 0.0, ELSEWHERE
    order = count()  # nodes have none of their own
    rest: list[tuple[float, int, Tree, float, float, Mapping[int, float]]] = []

    def put(node: Tree, far: float, shared: float, gaps: Mapping[int, float]) -> None:
        heappush(rest, (far / shared, next(order), node, far, shared, gaps))

    put(tree, 0.0, 1.0, {})
    while rest:
        bound, _, node, far, shared, gaps = heappop(rest)
        if isinstance(node, int):
            if node != ELSEWHERE:
                yield bound, node
            continue
        one = asked.get(node.axis)
        if one is None:
            for child in (node.below, node.above, node.without):
                put(child, far, shared, gaps)
            continue
        if shared - one.share >= min_shared and shared - one.share > 0:
            put(node.without, far, shared - one.share, gaps)
        near, other = (node.below, node.above) if one.coordinate < node.at else (node.above, node.below)
        put(near, far, shared, gaps)
        gap, before = max(abs(node.at - one.coordinate), one.gap), gaps.get(node.axis, 0.0)
        if gap > before:
            far, gaps = far + (gap - before) * one.slope, {**gaps, node.axis: gap}
        put(other, far, shared, gaps)


def _widest(places: list[Place], before: tuple[int, ...]) -> int | None:
    """The axis on which the places, or enough of them, are the farthest apart; None: on none are they.

    Each cut before makes an axis less wanted: a question may ask about any two or three of them.
    """
    some = places[:: max(len(places) // _LOOKED_AT, 1)]
    widest, most = None, 0.0
    for axis in range(len(some[0].coordinates) if some else 0):
        found = [place.coordinates[axis] for place in some if place.present >> axis & 1]
        if not found:
            continue
        middle = median_low(found)
        apart = sum(min(abs(one - middle), 1.0) for one in found) / (1 + before.count(axis))
        if apart > most:
            widest, most = axis, apart
    return widest


def _cut(coordinates: list[float]) -> float:
    """The median, or what is next to it where nothing is less."""
    middle = median_low(coordinates)
    return middle if middle > min(coordinates) else min(one for one in coordinates if one > middle)
