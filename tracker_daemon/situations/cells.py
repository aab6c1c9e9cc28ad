"""The cells of a tree, and how far what lies in them reaches: which a question has to look into."""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

from tracker_daemon.situations.tree import ELSEWHERE, Cut, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracker_daemon.situations.asking import Asking

_ROUNDED: Final = 1e-6
"""More than sums of shares are rounded by."""


class _Box:
    """The bounds of a cell, or of all cells below a cut; empty as long as nothing lies there."""

    __slots__ = ("around", "high", "leaf", "low", "parts", "present")

    def __init__(self, around: _Box | None, leaf: int | None = None) -> None:
        self.around = around
        self.leaf = leaf
        self.parts: list[_Box] = []
        self.present = 0
        self.low: array[float] | None = None
        self.high: array[float] | None = None

    def widen(self, present: int, low: Sequence[float], high: Sequence[float]) -> bool:
        """Take these bounds in; return whether it grew."""
        if self.low is None or self.high is None:
            self.present, self.low, self.high = present, array("f", low), array("f", high)
            return True
        grew = present | self.present != self.present
        self.present |= present
        for axis, least in enumerate(low):
            if least < self.low[axis]:
                self.low[axis], grew = least, True
        for axis, most in enumerate(high):
            if most > self.high[axis]:
                self.high[axis], grew = most, True
        return grew


class Cells:
    """The boxes of all cells, one in the other as the tree has them."""

    def __init__(self, tree: Tree) -> None:
        """Begin with empty ones."""
        self._root = _Box(None)
        self._leaves: dict[int, _Box] = {}
        self._leaf(ELSEWHERE, self._root)
        rest: list[tuple[Tree, _Box]] = [(tree, self._root)]
        while rest:
            node, around = rest.pop()
            if isinstance(node, Cut):
                box = _Box(around)
                around.parts.append(box)
                rest += [(child, box) for child in (node.below, node.above, node.without)]
            elif node != ELSEWHERE:
                self._leaf(node, around)

    def _leaf(self, number: int, around: _Box) -> None:
        box = self._leaves[number] = _Box(around, number)
        around.parts.append(box)

    def widen(self, leaf: int, present: int, low: Sequence[float], high: Sequence[float]) -> None:
        """Let a leaf reach so far: the axes that any of its places has, as bits, and bounds axis by axis.

        They are infinite where a place lacks the axis.
        """
        box: _Box | None = self._leaves[leaf]
        while box is not None and box.widen(present, low, high):
            box = box.around

    def reach(self, asking: Asking) -> Iterator[tuple[float, int]]:
        """Yield the leaves that may hold what shares enough, the nearest first, with the least distance."""
        asked = [
            (number, 1 << number, one.coordinate, one.slope, one.share, asking.shares.get(number, 0.0))
            for number, one in asking.axes.items()
        ]
        least = max(asking.min_shared - _ROUNDED, _ROUNDED)
        order = count()  # boxes have none of their own
        rest = [(0.0, next(order), self._root)]
        while rest:
            bound, _, nearest = heappop(rest)
            if nearest.leaf is not None:
                yield bound, nearest.leaf
            for box in nearest.parts:
                present, low, high = box.present, box.low, box.high
                if low is None or high is None:
                    continue
                far, shared = 0.0, 1.0
                for axis, bit, at, slope, most, share in asked:
                    if not present & bit:
                        shared -= share
                        continue
                    if at < low[axis]:
                        gap = (low[axis] - at) * slope
                    elif at > high[axis]:
                        gap = (at - high[axis]) * slope
                    else:
                        continue
                    far += min(gap, most)
                if shared >= least:
                    heappush(rest, (far / shared, next(order), box))
