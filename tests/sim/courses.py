"""Worlds whose truth is known, and what policies make of them: seeded, and each played once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.sim.bandit import Arm, Course, among, late, steady

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Draw = Callable[[np.random.Generator, float], float]

CHANGE_DAY = 20
"""On which the two arms of a drift change places."""
UNIFORM: dict[str, Any] = {"policy": "epsilon", "epsilon": 1.0}
"""What one does who learns nothing."""


def played(
    arms: Mapping[str, Arm], count: int = 6, decisions: int = 4000, **fields: Any
) -> tuple[Course, ...]:
    policy = among(arms, **fields)
    return tuple(Course(policy, arms, decisions=decisions, seed=seed) for seed in range(count))


def cost(courses: tuple[Course, ...], first: int = 0, last: int | None = None) -> float:
    """The regret of a course, in the mean of these, over some of its decisions."""
    return float(np.mean([course.regret[first:last].sum() for course in courses]))


def share(courses: tuple[Course, ...], name: str, last: int = 1000) -> float:
    """How many of the last decisions an arm got, in the mean."""
    return float(np.mean([course.share(name, -last) for course in courses]))


@cache
def stationary(policy: str) -> tuple[Course, ...]:
    arms = {"a": steady(0.5), "b": steady(0.55), "c": steady(0.65)}
    fields = UNIFORM if policy == "uniform" else {"policy": policy}
    return played(arms, half_life_days=60.0, **fields)


@cache
def drifting(half_life_days: float) -> tuple[Course, ...]:
    arms = {
        "a": Arm(lambda day: 0.65 if day < CHANGE_DAY else 0.45),
        "b": Arm(lambda day: 0.45 if day < CHANGE_DAY else 0.65),
    }
    return played(arms, half_life_days=half_life_days)


@cache
def delayed(days: float = 0.0, missing: float = 0.0) -> tuple[Course, ...]:
    arms = {
        name: steady(rate, delay=late(days), missing=missing)
        for name, rate in (("a", 0.5), ("b", 0.55), ("c", 0.65))
    }
    return played(arms, half_life_days=60.0)


@cache
def slow(rate: float) -> tuple[Course, ...]:
    """The outcomes of b come ten times later than those of a, of which 55 in 100 are a success."""
    return played({"a": steady(0.55, delay=late(0.5)), "b": steady(rate, delay=late(5))})


@cache
def late_wins(maturity_days: float) -> tuple[Course, ...]:
    """The better arm's failures show within hours, its successes after a week."""

    def delay(chance: np.random.Generator, value: float) -> float:
        return float(chance.exponential(8 if value else 0.2))

    arms = {"a": steady(0.55), "b": steady(0.65, delay=delay)}
    return played(arms, 4, 6000, half_life_days=5.0, maturity_days=maturity_days)


def student(chance: np.random.Generator, mean: float) -> float:
    return mean + float(chance.standard_t(2.5))


def lognormal(chance: np.random.Generator, mean: float) -> float:
    return mean + float(chance.lognormal(0, 1.2) - np.exp(1.2**2 / 2))


def normal(chance: np.random.Generator, mean: float) -> float:
    return float(chance.normal(mean, 1))


def rarely(chance: np.random.Generator, mean: float) -> float:
    return 20 * mean * (chance.random() < 0.05)


@cache
def heavy(draw: Draw, policy: str) -> tuple[Course, ...]:
    arms = {name: steady(mean, draw=draw) for name, mean in (("a", 0.0), ("b", 0.2), ("c", 0.6))}
    fields = UNIFORM if policy == "uniform" else {"policy": policy}
    return played(arms, 4, metric="pnl", half_life_days=60.0, **fields)


@cache
def rare_gains() -> tuple[Course, ...]:
    """One decision of b in twenty gains 40, the others nothing; those of a gain 1, or nearly."""
    arms = {"a": steady(1.0, draw=normal), "b": steady(2.0, draw=rarely)}
    return played(arms, metric="pnl", half_life_days=60.0)


@cache
def recovering() -> tuple[Course, ...]:
    """Much too bad until the fifteenth day, c is the best afterwards."""
    arms = {"a": steady(0.6), "b": steady(0.58), "c": Arm(lambda day: 0.3 if day < 15 else 0.75)}
    return played(arms, 6, floor=0.45, policy="epsilon", epsilon=0.3)


@cache
def above_the_floor(points: float) -> tuple[Course, ...]:
    """Arm a lies so far above the floor, and is looked at 100 times."""
    arms = {"a": steady(0.5), "b": steady(0.6)}
    return played(arms, 40, 2000, floor=0.5 - points, **UNIFORM)


@cache
def equal_and_rising() -> tuple[Course, ...]:
    """Two arms of one rate, which rises from 3 in 10 to 7 in 10 over five days."""
    arm = Arm(lambda day: 0.3 + 0.08 * day)
    return played({"a": arm, "b": arm}, 200, 500, half_life_days=1.0)
