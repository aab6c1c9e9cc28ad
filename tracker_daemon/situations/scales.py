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
"""Without so many, or so many texts, nothing is said of an indicator."""
MAX_PATHS: Final = 2000
"""Indicators of a sample with numbers, and with texts; those that come later are passed over."""


class Scale(Struct, frozen=True, omit_defaults=True):
    """`spread` is the interquartile range; where that is 0, the range of the middle 90 %.

    Where that is 0, too, nearly all numbers are the same, and only equality tells. Neither range is moved by
    what is rare and huge. Quantiles are numbers that there are, the least such that so many are not greater.
    Without enough numbers there is neither. `identifier`: more than half of its texts are different ones.
    """

    median: float | None = None
    spread: float | None = None
    identifier: bool = False


class Sample:
    """Numbers and texts out of contexts, indicator by indicator."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._numbers: dict[str, array[float]] = {}
        self._texts: dict[str, array[int]] = {}  # their hashes: a million texts may be gigabytes

    def add(self, context: Mapping[str, Any]) -> None:
        """Take the numbers and texts among the first `MAX_INDICATORS` indicators of a context."""
        for indicator in islice(indicators(context), MAX_INDICATORS):
            if indicator.is_beyond or len(indicator.steps) > MAX_DEPTH:
                continue
            path, value = indicator.path, indicator.value
            if isinstance(value, str):
                if path in self._texts or len(self._texts) < MAX_PATHS:
                    self._texts.setdefault(path, array("q")).append(hash(value))
            elif indicator.is_number and (path in self._numbers or len(self._numbers) < MAX_PATHS):
                self._numbers.setdefault(path, array("d")).append(float(value))

    def scales(self) -> Iterator[tuple[str, Scale]]:
        """Yield path and scale of each indicator of which there is something to say."""
        for path in {**self._numbers, **self._texts}:
            numbers, texts = self._numbers.get(path, ()), self._texts.get(path, ())
            identifier = len(texts) >= MIN_NUMBERS and len(set(texts)) > len(texts) / 2
            if len(numbers) >= MIN_NUMBERS:
                yield path, _scale(sorted(numbers), identifier=identifier)
            elif identifier:
                yield path, Scale(identifier=True)


def _scale(numbers: Sequence[float], *, identifier: bool) -> Scale:
    low, lower, median, upper, high = (
        numbers[ceil(len(numbers) * percent / 100) - 1] for percent in (5, 25, 50, 75, 95)
    )
    return Scale(median, min(upper - lower or high - low, sys.float_info.max), identifier)
