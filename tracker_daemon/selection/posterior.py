"""What is believed of a candidate's mean, after its evidence: Beta of a rate, Student's t of a P&L."""

from __future__ import annotations

from math import inf, log, log1p, sqrt
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracker_daemon.experiments import Metric
    from tracker_daemon.selection.evidence import Evidence

PRIOR_DECISIONS: Final = 10.0
"""How many decisions the spread of all candidates' P&L counts as, for that of each."""
LEAST_SPREAD: Final = 1e-8
"""The last place of a P&L, and the last that its sums are good for: nothing is known more exactly."""


class Posterior(Protocol):
    """A density over the means that a candidate may have, and where to look for it."""

    @property
    def mean(self) -> float:
        """What is expected of the candidate."""

    @property
    def spread(self) -> float:
        """A standard deviation, or what stands for one."""

    @property
    def ends(self) -> tuple[float, float]:
        """Between which means it can lie."""

    def log_density(self, x: float) -> float:
        """The logarithm of the density at a place between the ends, but for a constant."""


class Beta(Struct, frozen=True):
    """Of a rate of success, after so many of either, and before them all rates alike (Bayes and Laplace)."""

    wins: float
    losses: float

    @property
    def mean(self) -> float:
        """(wins + 1) / (decisions + 2)."""
        return (self.wins + 1) / (self.wins + self.losses + 2)

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return sqrt(self.mean * (1 - self.mean) / (self.wins + self.losses + 3))

    @property
    def ends(self) -> tuple[float, float]:
        """Those of a rate."""
        return 0.0, 1.0

    def log_density(self, x: float) -> float:
        """Of the Beta distribution with wins + 1 and losses + 1."""
        return self.wins * log(x) + self.losses * log1p(-x)


class Student(Struct, frozen=True):
    """Of a mean whose variance is not known either: Student's t, moved and stretched."""

    mean: float
    spread: float
    freedom: float

    @property
    def ends(self) -> tuple[float, float]:
        """None."""
        return -inf, inf

    def log_density(self, x: float) -> float:
        """Of Student's t."""
        return -(self.freedom + 1) / 2 * log1p(((x - self.mean) / self.spread) ** 2 / self.freedom)


def posteriors(metric: Metric, evidence: Mapping[str, Evidence]) -> dict[str, Posterior]:
    """Return what is believed of each candidate."""
    if metric == "success":
        return {name: Beta(told.total, max(0.0, told.weight - told.total)) for name, told in evidence.items()}
    weight = sum(told.weight for told in evidence.values())
    mean = sum(told.total for told in evidence.values()) / weight if weight else 0.0
    squares = sum(told.squares for told in evidence.values())
    variance = max(squares / weight - mean * mean, (LEAST_SPREAD * max(1, abs(mean))) ** 2) if weight else 1.0
    return {name: _student(told, mean, variance) for name, told in evidence.items()}


def _student(told: Evidence, prior_mean: float, prior_variance: float) -> Student:
    """Return what a normal-inverse-gamma prior and the evidence come to (Murphy 2007, section 3).

    The prior is as good as one decision of the mean of all candidates, and `PRIOR_DECISIONS` of their
    variance. No value is clipped, however far out: an expensive rarity is part of the mean that is asked for,
    and what it does to the variance keeps the candidate in doubt.
    """
    mean = told.total / told.weight if told.weight else prior_mean
    deviations = max(0.0, told.squares - told.weight * mean * mean)
    decisions, freedom = told.weight + 1, told.weight + PRIOR_DECISIONS
    moved = told.weight / decisions * (mean - prior_mean) ** 2
    variance = (PRIOR_DECISIONS * prior_variance + deviations + moved) / freedom
    return Student((prior_mean + told.weight * mean) / decisions, sqrt(variance / decisions), freedom)
