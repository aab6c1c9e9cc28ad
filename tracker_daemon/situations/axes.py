"""The axes of the index of situations: which indicators have a place in it, and where their values lie."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.situations.indicators import MAX_DEPTH, MAX_INDICATORS, Indicator, indicators

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_AXES: Final = 62
"""As many as a BIGINT has bits to say which of them are there."""
MAX_CATEGORIES: Final = 8
"""Of one indicator, the most frequent ones; the others have one place together."""
MIN_SHARE: Final = 0.01
"""Of the sample, for an indicator; of an indicator's values, for a category."""
FAR: Final = 100.0
"""As far as coordinates go: a wrong number has one, too."""
PLACES: Final = 6
"""Decimal places of a coordinate: so none is too small for a float32."""


class Axis(Struct, frozen=True, array_like=True):
    """The numbers of an indicator, `(value - middle) / spread`; or one of its categories, 0.5 if it is that.

    Else 0: so two different categories are 1 apart. Usual are coordinates from `low` to `high`, a spread
    beyond the middle 90 %; none is farther than `FAR`. Where the spread is 0, a number has 0 if it is the
    usual one, else 1.
    """

    path: str
    category: str | bool | None = None
    middle: float = 0.0
    spread: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def reaches(self, value: float | str | bool) -> bool:
        """Whether the coordinate of a value tells it from others."""
        return abs(self._unbounded(value)) < FAR

    def usual(self, value: float | str | bool) -> bool:
        """Whether many values are near it."""
        return self.low <= self._unbounded(value) <= self.high

    def coordinate(self, value: float | str | bool) -> float:
        """The coordinate of a value, within the bounds of any axis."""
        return round(min(max(self._unbounded(value), -FAR), FAR), PLACES)

    def _unbounded(self, value: float | str | bool) -> float:
        if self.category is not None:
            return 0.5 if (type(value), value) == (type(self.category), self.category) else 0.0
        number = float(value)
        return (number - self.middle) / self.spread if self.spread else float(number != self.middle)


class Place(Struct, frozen=True):
    """Where a context lies: a coordinate for each axis, 0 if it lacks that, and as bits which it has."""

    coordinates: list[float]
    present: int


class Axes:
    """The axes by the path of their indicator."""

    def __init__(self, axes: Iterable[Axis]) -> None:
        """Number them in their order."""
        self.all = list(axes)
        self._numbers: dict[str, int] = {}
        self._categories: dict[str, list[int]] = {}
        for number, axis in enumerate(self.all):
            if axis.category is None:
                self._numbers[axis.path] = number
            else:
                self._categories.setdefault(axis.path, []).append(number)

    def of(self, indicator: Indicator) -> list[int]:
        """The numbers of the axes on which the indicator has a coordinate."""
        if not indicator.is_number:
            return self._categories.get(indicator.path, [])
        number = None if indicator.is_beyond else self._numbers.get(indicator.path)
        return [] if number is None else [number]

    def place(self, context: Mapping[str, Any]) -> Place:
        """Where a context lies, by its first indicators."""
        coordinates, present = [0.0] * len(self.all), 0
        for indicator in islice(indicators(context), MAX_INDICATORS):
            for number in self.of(indicator):
                coordinates[number] = self.all[number].coordinate(indicator.value)
                present |= 1 << number
        return Place(coordinates, present)


class Values:
    """What contexts say, path by path, to choose axes by."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._contexts = 0
        self._numbers: dict[str, list[float]] = {}
        self._categories: dict[str, Counter[Any]] = {}

    def add(self, context: Mapping[str, Any]) -> None:
        """Take the first indicators of a context."""
        self._contexts += 1
        for indicator in islice(indicators(context), MAX_INDICATORS):
            if indicator.is_beyond or len(indicator.steps) > MAX_DEPTH:
                continue
            if indicator.is_number:
                self._numbers.setdefault(indicator.path, []).append(float(indicator.value))
            else:
                self._categories.setdefault(indicator.path, Counter())[indicator.value] += 1

    async def axes(self) -> Axes:
        """The axes of the most frequent indicators, as many as there may be."""
        least = max(self._contexts * MIN_SHARE, 1)
        found: list[tuple[int, list[Axis]]] = []
        for path, numbers in self._numbers.items():
            if len(numbers) >= least:
                found.append((len(numbers), [_axis(path, sorted(numbers))]))
                await asyncio.sleep(0)  # ten thousand numbers are sorted, indicator by indicator
        for path, counts in self._categories.items():
            total = counts.total()
            if total >= least:
                common = [
                    value for value, count in counts.most_common(MAX_CATEGORIES) if count >= total * MIN_SHARE
                ]
                found.append((total, [Axis(path, value, high=0.5) for value in common]))
        found.sort(key=lambda one: -one[0])
        chosen: list[Axis] = []
        for _, axes in found:
            if len(chosen) + len(axes) <= MAX_AXES:
                chosen += axes
        return Axes(chosen)


def _axis(path: str, numbers: list[float]) -> Axis:
    low, lower, middle, upper, high = (
        numbers[ceil(len(numbers) * percent / 100) - 1] for percent in (5, 25, 50, 75, 95)
    )
    spread = min(upper - lower or high - low, sys.float_info.max)
    if not spread:
        return Axis(path, None, middle, spread)
    return Axis(path, None, middle, spread, (low - middle) / spread - 1, (high - middle) / spread + 1)
