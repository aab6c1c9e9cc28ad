"""A question, as the index of situations has it: on which axes it asks, and what a difference there costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.situations.axes import Axes
    from tracker_daemon.situations.indicators import Indicator

MIN_PART: Final = 0.75
"""The part of the situation, by weight, that must have axes."""

_STEEPEST: Final = 1000.0
_FLATTEST: Final = 1e-9


class Asked(Struct, frozen=True):
    """What a question says on an axis: its coordinate, and how much a step of 1 away from it costs.

    `share`: the weight of the indicator, among those of the question that have axes.
    """

    coordinate: float
    slope: float
    share: float


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

    def slopes(self, count: int) -> list[float]:
        """By which coordinates are multiplied, axis by axis; 0 where nothing is asked."""
        return [self.axes[number].slope if number in self.axes else 0.0 for number in range(count)]

    def target(self, count: int) -> list[float]:
        """Where the question lies among places that were multiplied so."""
        return [
            self.axes[number].coordinate * self.axes[number].slope if number in self.axes else 0.0
            for number in range(count)
        ]


def askings(
    axes: Axes,
    counting: Sequence[tuple[Indicator, float]],
    spreads: Mapping[str, float],
    min_overlap: float,
) -> list[Asking]:
    """Translate a question; `spreads` by path are those it is to be answered by. None: too little has axes.

    Where a number is unusual there are two: one finds what is as unusual. To all else it is equally far,
    which the index does not know; so the other one asks for the rest of the situation.
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
    if _weight(placed) < MIN_PART * everything:
        return []
    least = min_overlap * _weight(counting)
    found = [one for one in placed if all(axes.all[number].reaches(one[0].value) for number in one[2])]
    usual = [one for one in found if all(axes.all[number].usual(one[0].value) for number in one[2])]
    return [
        _asking(axes, chosen, spreads, everything, least)
        for chosen in ([found, usual] if len(usual) < len(found) else [found])
        if chosen
    ]


def _weight(chosen: Sequence[tuple[Any, ...]]) -> float:
    return float(sum(weight for _, weight, *_ in chosen))


def _asking(
    axes: Axes,
    chosen: Sequence[tuple[Indicator, float, list[int]]],
    spreads: Mapping[str, float],
    everything: float,
    least: float,
) -> Asking:
    """What these indicators ask; what is shared of all others, up to `everything`, is not known here."""
    covered = _weight(chosen)
    asked, shares = {}, {}
    for indicator, weight, numbers in chosen:
        shares[numbers[0]] = share = weight / covered
        for number in numbers:
            axis = axes.all[number]
            slope = share
            if axis.category is None:
                slope *= _slope(axis.spread, spreads[indicator.path])
            coordinate = axis.coordinate(indicator.value)
            asked[number] = Asked(coordinate, slope if slope > _FLATTEST else 0.0, share)
    return Asking(asked, shares, covered / everything, max((least - everything + covered) / covered, 0.0))


def _slope(spread: float, asked: float) -> float:
    """What a step of 1 is by the spread of another time; where that is 0, all that differs is far."""
    if not spread:
        return 1.0
    return min(spread / asked, _STEEPEST) if asked else _STEEPEST
