"""All places, divided into cells of about as many decisions, most of which a question need not look into."""

from __future__ import annotations

import asyncio
import math
from array import array
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    def __init__(self, axes: int) -> None:
        """Begin without places; each has so many axes."""
        self._axes = axes
        self._most = 0
        self._leaves = ELSEWHERE
        self._sample = array("d")
        self._present = array("q")
        self._coordinates = np.zeros((0, axes))
        self._ranks = np.zeros((0, axes), dtype=np.float32)

    def add(self, place: Place) -> None:
        """Take a place into the sample."""
        self._sample.extend(place.coordinates)
        self._present.append(place.present)

    async def grow(self, cells: float) -> Tree:
        """The tree that divides the sample into so many cells or somewhat more, none of them empty.

        What is all in one place stays together. Others are asked for their turn between two cuts.
        """
        present = np.array(self._present)
        coordinates = np.array(self._sample).reshape(len(present), self._axes)
        ranks = np.full(coordinates.shape, np.nan, dtype=np.float32)
        for axis in range(self._axes):
            has = (present >> axis & 1).astype(bool)
            coordinates[~has, axis] = np.nan
            found = coordinates[has, axis]
            ranks[has, axis] = np.searchsorted(np.sort(found), found) / max(len(found), 1)
            await asyncio.sleep(0)
        self._coordinates, self._ranks, self._most = coordinates, ranks, math.ceil(len(present) / cells)
        return await self._divide(np.arange(len(present)), np.ones(self._axes))

    async def _divide(self, chosen: NDArray[np.intp], unwanted: NDArray[np.float64]) -> Tree:
        """The same for some of the sample; an axis is as unwanted as it was cut before, and once more."""
        await asyncio.sleep(0)
        axis = self._widest(chosen, unwanted) if len(chosen) > self._most else None
        if axis is None:
            self._leaves += 1
            return self._leaves
        coordinates = self._coordinates[chosen, axis]
        at = _cut(coordinates)
        lacks = chosen[np.isnan(coordinates)]
        again = unwanted.copy()
        again[axis] += 1
        return Cut(
            axis,
            at,
            await self._divide(chosen[coordinates < at], again),
            await self._divide(chosen[coordinates >= at], again),
            await self._divide(lacks, unwanted) if len(lacks) else ELSEWHERE,
        )

    def _widest(self, chosen: NDArray[np.intp], unwanted: NDArray[np.float64]) -> int | None:
        """The axis on which the places, or enough of them, are the farthest apart; None: on none are they.

        Each cut before makes an axis less wanted: a question may ask about any two or three of them.
        """
        ranks = self._ranks[chosen[:: max(len(chosen) // _LOOKED_AT, 1)]]
        known = np.count_nonzero(~np.isnan(ranks), axis=0)
        middle = np.sort(ranks, axis=0)[np.maximum(known - 1, 0) // 2, np.arange(self._axes)]
        apart = np.nansum(np.abs(ranks - middle), axis=0) / unwanted
        widest = int(np.argmax(apart))
        return widest if apart[widest] > 0 else None


def leaf(tree: Tree, place: Place) -> int:
    """The leaf in which a place lies."""
    while isinstance(tree, Cut):
        if not place.present >> tree.axis & 1:
            tree = tree.without
        else:
            tree = tree.below if place.coordinates[tree.axis] < tree.at else tree.above
    return tree


def _cut(coordinates: NDArray[np.float64]) -> float:
    """The median, or what is next to it where nothing is less."""
    known = np.sort(coordinates[~np.isnan(coordinates)])
    middle = known[(len(known) - 1) // 2]
    return float(middle if middle > known[0] else known[np.searchsorted(known, middle, side="right")])
