"""All places, divided into cells of about as many decisions, most of which a question need not look into."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from statistics import median_low
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from tracker_daemon.situations.axes import Place

ELSEWHERE: Final = 0
"""The leaf of places that lack what none of the sample lacked."""
_LOOKED_AT: Final = 200
"""Places that choose the axis of a cut."""


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
    """Divides a sample of places, each time by the axis on which they lie farthest apart, by rank."""

    def __init__(self, most: int) -> None:
        """Leave no more than so many in a cell, unless they are all in one place."""
        self._most = most
        self._leaves = ELSEWHERE
        self._sorted: list[list[float]] = []

    async def grow(self, places: list[Place]) -> Tree:
        """The tree that divides these places. Others are asked for their turn between two cuts."""
        self._sorted = []
        for axis in range(len(places[0].coordinates) if places else 0):
            has = [place.coordinates[axis] for place in places if place.present >> axis & 1]
            self._sorted.append(sorted(has))
            await asyncio.sleep(0)
        return await self._divide(places, ())

    async def _divide(self, places: list[Place], before: tuple[int, ...]) -> Tree:
        """The same for those that cuts on the axes `before` have left together."""
        await asyncio.sleep(0)
        axis = self._widest(places, before) if len(places) > self._most else None
        if axis is None:
            self._leaves += 1
            return self._leaves
        has = [place for place in places if place.present >> axis & 1]
        lacks = [place for place in places if not place.present >> axis & 1]
        at = _cut([place.coordinates[axis] for place in has])
        return Cut(
            axis,
            at,
            await self._divide([place for place in has if place.coordinates[axis] < at], (*before, axis)),
            await self._divide([place for place in has if place.coordinates[axis] >= at], (*before, axis)),
            await self._divide(lacks, before) if lacks else ELSEWHERE,
        )

    def _widest(self, places: list[Place], before: tuple[int, ...]) -> int | None:
        """The axis on which the places, or enough of them, are the farthest apart; None: on none are they.

        Each cut before makes an axis less wanted: a question may ask about any two or three of them.
        """
        some = places[:: max(len(places) // _LOOKED_AT, 1)]
        widest, most = None, 0.0
        for axis, every in enumerate(self._sorted):
            found = [place.coordinates[axis] for place in some if place.present >> axis & 1]
            if not found:
                continue
            middle = bisect_left(every, median_low(found))
            far = sum(abs(bisect_left(every, one) - middle) for one in found)
            apart = far / len(every) / (1 + before.count(axis))
            if apart > most:
                widest, most = axis, apart
        return widest


def leaf(tree: Tree, place: Place) -> int:
    """The leaf in which a place lies."""
    while isinstance(tree, Cut):
        if not place.present >> tree.axis & 1:
            tree = tree.without
        else:
            tree = tree.below if place.coordinates[tree.axis] < tree.at else tree.above
    return tree


def _cut(coordinates: list[float]) -> float:
    """The median, or what is next to it where nothing is less."""
    middle = median_low(coordinates)
    return middle if middle > min(coordinates) else min(one for one in coordinates if one > middle)
