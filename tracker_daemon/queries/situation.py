"""A situation to find the like of: what it says, how much each part counts, and what is near."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from msgspec import Struct, field

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.situations import MAX_DEPTH, MAX_INDICATORS, Indicator, indicators

MAX_DISTANCE: Final = 0.25
"""What is farther away is not near, unless the question says otherwise."""
MIN_OVERLAP: Final = 0.5
"""The part of a situation, by weight, that a decision must share to be compared; likewise."""
MAX_WEIGHT: Final = 1000.0


class Situation(Struct, frozen=True, kw_only=True):
    """A context, as decisions have them; `weights` by the path of an indicator, 1 where there is none."""

    context: dict[str, Any]
    weights: dict[str, float] = field(default_factory=dict)
    max_distance: float = MAX_DISTANCE
    min_overlap: float = MIN_OVERLAP

    def __post_init__(self) -> None:
        """Refuse bounds that nothing, or everything, would meet."""
        if not 0 <= self.max_distance <= 1:
            raise InvalidQuestion(f"max_distance must be from 0 to 1, not {self.max_distance:g}")
        if not 0 < self.min_overlap <= 1:
            raise InvalidQuestion(f"min_overlap must be more than 0, and at most 1, not {self.min_overlap:g}")

    def weighted(self) -> list[tuple[Indicator, float]]:
        """The indicators that count, in the order of the context, with their weights.

        Raises `InvalidQuestion` where there is none, or too much, and for weights of what is not there.
        """
        found = list(islice(indicators(self.context), MAX_INDICATORS + 1))
        if len(found) > MAX_INDICATORS:
            raise InvalidQuestion(
                f"a situation has at most {MAX_INDICATORS} indicators, this one has more: leave out what "
                "does not matter"
            )
        if any(len(indicator.steps) > MAX_DEPTH for indicator in found):
            raise InvalidQuestion(f"an indicator lies at most {MAX_DEPTH} steps deep in its situation")
        for indicator in found:
            if indicator.is_beyond:
                raise InvalidQuestion(
                    f"{indicator.path} is a number that no decision has: beyond a float64, or none at all"
                )
        self._check_weights({indicator.path for indicator in found})
        pairs = ((indicator, self.weights.get(indicator.path, 1.0)) for indicator in found)
        counting = [(indicator, weight) for indicator, weight in pairs if weight]
        if not counting:
            raise InvalidQuestion(
                'the situation says nothing that counts: give it indicators, such as {"rsi": 62.1}'
            )
        return counting

    def _check_weights(self, paths: set[str]) -> None:
        for path, weight in self.weights.items():
            if path not in paths:
                raise InvalidQuestion(f"there is a weight for {path}, which the situation does not have")
            if not 0 <= weight <= MAX_WEIGHT:
                raise InvalidQuestion(
                    f"the weight of {path} must be from 0 to {MAX_WEIGHT:g}, not {weight:g}"
                )
