"""What simulations show, each figure with its bound: tests hold it to that, `python -m tests.sim` prints."""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

FIGURES: list[Figure] = []
"""What was shown so far, in order."""


class Figure(NamedTuple):
    """A number, and between which others it has to lie."""

    what: str
    value: float
    least: float
    most: float


def shown(what: str, value: float, *, least: float = -inf, most: float = inf) -> None:
    """Keep a figure, and fail where it misses its bound."""
    figure = Figure(what, float(value), least, most)
    FIGURES.append(figure)
    assert least <= value <= most, figure


def at_most(risk: float, count: int) -> float:
    """The share of `count` simulations below which one that is `risk` lies, but for one time in 700."""
    return risk + 3 * sqrt(risk * (1 - risk) / count)
