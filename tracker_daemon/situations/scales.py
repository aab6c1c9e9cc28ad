"""The scale of each indicator: what its numbers usually are, and how far apart."""

from __future__ import annotations

import sys
from array import array
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.situations.indicators import MAX_DEPTH, MAX_INDICATORS, indicators

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MIN_NUMBERS: Final = 20
"""Without so many nothing is said of an indicator."""
MAX_PATHS: Final = 2000
"""Indicators of a sample; those that come later are passed over."""


class Scale(Struct, frozen=True):
    """`spread` is the interquartile range; where that is 0, the range of the middle 90 %.

    Where that is 0, too, nearly all numbers are the same, and only equality tells. Neither range is moved by
    what is rare and huge. Quantiles are numbers that there are, the least such that so many are not greater.
    """

    median: float
    spread: float


class Sample:
    """Numbers out of contexts, indicator by indicator."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._numbers: dict[str, array[float]] = {}

    def add(self, context: Mapping[str, Any]) -> None:
        """Take the numbers among the first `MAX_INDICATORS` indicators of a context."""
        for indicator in islice(indicators(context), MAX_INDICATORS):
            if not indicator.is_number or indicator.is_beyond or len(indicator.steps) > MAX_DEPTH:
                continue
            path = indicator.path
            if path in self._numbers or len(self._numbers) < MAX_PATHS:
                self._numbers.setdefault(path, array("d")).append(float(indicator.value))

    def scales(self) -> Iterator[tuple[str, Scale]]:
        """Yield path and scale of each indicator that has enough numbers."""
        for path, numbers in self._numbers.items():
            if len(numbers) >= MIN_NUMBERS:
                yield path, _scale(sorted(numbers))


def _scale(numbers: Sequence[float]) -> Scale:
    low, lower, median, upper, high = (
        numbers[ceil(len(numbers) * percent / 100) - 1] for percent in (5, 25, 50, 75, 95)
    )
    return Scale(median, min(upper - lower or high - low, sys.float_info.max))
