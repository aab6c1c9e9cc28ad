"""A question, as the index of situations has it: on which axes it asks, and what a difference there costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tracker_daemon.situations.axes import Axes, Axis
    from tracker_daemon.situations.indicators import Indicator

MIN_PART: Final = 0.75
"""The part of the situation, by weight, that must have axes."""

_STEEPEST: Final = 1000.0
_FLATTEST: Final = 1e-9


class Asked(Struct, frozen=True):
    """What a question says on an axis: its coordinate, and how much a step of 1 away from it costs.

    `share`: the weight of the indicator, among those of the question that have axes, and the most that a
    difference costs. `unusual`: nearly all differ by so much.
    """

    coordinate: float
    slope: float
    share: float
    unusual: bool = False


class Asking(Struct, frozen=True):
    """The axes on which a question asks, and by the number of its first axis the share of each indicator.

    The shares add up to 1. `part` is what they are of all that can be compared, by weight. A decision that
    has less than `min_shared` of them cannot share enough of the situation.
    """

    axes: dict[int, Asked]
    shares: dict[int, float]
    part: float
    min_shared: float

    @property
    def bits(self) -> int:
        """The axes as bits."""
        return sum(1 << number for number in self.axes)

    def sloped(self, count: int) -> tuple[list[float], list[float]]:
        """What coordinates are multiplied by, axis by axis, and where the question then lies.

        All 0 on an axis where nothing is asked, or what is unusual.
        """
        slopes, target = [0.0] * count, [0.0] * count
        for number, one in self.axes.items():
            if not one.unusual:
                slopes[number], target[number] = one.slope, one.coordinate * one.slope
        return slopes, target

    def apart(self, present: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far each place is: no indicator farther than its share; what is lacking counts neither way.

        `present`: the axes that a place has, as bits. `at`: a row of coordinates for each.
        """
        far, shared = np.zeros(len(present)), np.ones(len(present))
        for number, one in self.axes.items():
            away = np.minimum(np.abs(at[:, number] - one.coordinate) * one.slope, one.share)
            far += away * (present >> number & 1)
        for number, share in self.shares.items():
            shared -= share * (present >> number & 1 == 0)
        return far / shared


def asking_on(
    axes: Axes,
    counting: Sequence[tuple[Indicator, float]],
    spreads: Mapping[str, float],
    min_overlap: float,
) -> Asking | None:
    """Translate a question; `spreads` by path are those it is to be answered by. None: too little has axes.

    The shares that are not known here are those of what can be compared and has no axis, or is too far out.
    """
    comparable = [
        (indicator, weight)
        for indicator, weight in counting
        if not indicator.is_number or indicator.path in spreads
    ]
    placed = [
        (indicator, weight, numbers) for indicator, weight in comparable if (numbers := axes.of(indicator))
    ]
    everything = _weight(comparable)
    chosen = [one for one in placed if all(axes.all[number].reaches(one[0].value) for number in one[2])]
    if not chosen or _weight(placed) < MIN_PART * everything:
        return None
    covered = _weight(chosen)
    asked, shares = {}, {}
    for indicator, weight, numbers in chosen:
        shares[numbers[0]] = share = weight / covered
        for number in numbers:
            spread = None if axes.all[number].category is not None else spreads[indicator.path]
            asked[number] = _asked(axes.all[number], indicator, share, spread)
    least = min_overlap * _weight(counting)
    return Asking(asked, shares, covered / everything, max((least - everything + covered) / covered, 0.0))


def _weight(chosen: Sequence[tuple[Any, ...]]) -> float:
    return float(sum(weight for _, weight, *_ in chosen))


def _asked(axis: Axis, indicator: Indicator, share: float, spread: float | None) -> Asked:
    """What an indicator asks on one of its axes; `spread` of a number."""
    slope = share if spread is None else share * _slope(axis.spread, spread)
    return Asked(
        axis.coordinate(indicator.value),
        slope if slope > _FLATTEST else 0.0,
        share,
        unusual=not axis.usual(indicator.value),
    )


def _slope(spread: float, asked: float) -> float:
    """What a step of 1 is by the spread of another time; where that is 0, all that differs is far."""
    if not spread:
        return 1.0
    return min(spread / asked, _STEEPEST) if asked else _STEEPEST
