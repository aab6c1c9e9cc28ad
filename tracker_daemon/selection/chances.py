"""How probably each of several candidates is the best one, or lies below a bound: by adding up densities."""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import exp, prod, sinh
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.selection.posterior import Posterior

# Around each posterior's mean, dense there and ever wider outwards: the tails of Student's t reach far.
_PLACES: Final = tuple(sinh(place / 8) for place in range(-40, 41))


class Chances:
    """Several posteriors over the same cells of a line, each with its part of the probability in each cell.

    No draws: the same evidence has the same chances, in each process, to some three places.
    """

    def __init__(self, posteriors: Mapping[str, Posterior]) -> None:
        """Tabulate the posteriors."""
        ends = sorted({place for posterior in posteriors.values() for place in _places(posterior)})
        self._cells = [((low + high) / 2, high - low) for low, high in pairwise(ends)]
        self._ends = ends[1:]
        self._masses = {name: self._tabulated(posterior) for name, posterior in posteriors.items()}
        self._below = {name: list(accumulate(masses)) for name, masses in self._masses.items()}

    def best(self, names: Sequence[str]) -> list[float]:
        """Return for each of these how probably its mean is the greatest of theirs; they add up to 1."""
        middles = [
            [below - mass / 2 for below, mass in zip(self._below[name], self._masses[name], strict=True)]
            for name in names
        ]
        greatest = [prod(column) for column in zip(*middles, strict=True)]
        shares = [
            sum(
                mass * all_below / below
                for mass, all_below, below in zip(self._masses[name], greatest, own, strict=True)
                if mass and below
            )
            for name, own in zip(names, middles, strict=True)
        ]
        total = sum(shares)
        return [share / total for share in shares]

    def below(self, name: str, bound: float) -> float:
        """Return how probably a mean lies below a bound."""
        below = 0.0
        for end, (_, width), mass in zip(self._ends, self._cells, self._masses[name], strict=True):
            if end > bound:
                return below + mass * max(0.0, 1 - (end - bound) / width)
            below += mass
        return below

    def _tabulated(self, posterior: Posterior) -> list[float]:
        logarithms = [posterior.log_density(middle) for middle, _ in self._cells]
        highest = max(logarithms)
        masses = [
            exp(logarithm - highest) * width
            for logarithm, (_, width) in zip(logarithms, self._cells, strict=True)
        ]
        total = sum(masses)
        return [mass / total for mass in masses]


def _places(posterior: Posterior) -> list[float]:
    low, high = posterior.ends
    return [min(max(posterior.mean + posterior.spread * place, low), high) for place in _PLACES]
