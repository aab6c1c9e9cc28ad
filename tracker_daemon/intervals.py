"""Where a true rate lies, given how often something was seen."""

from __future__ import annotations

from math import log, sqrt
from typing import Final

Z95: Final = 1.959963984540054
Z99: Final = 2.5758293035489004
"""Normal quantiles of two-sided intervals that hold the true rate in 95, or 99, of 100 cases."""


def wilson(successes: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Return lower and upper bound of a rate, by Wilson's score interval (JASA 22, 1927); of none: (0, 1)."""
    if not count:
        return 0.0, 1.0
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(rate * (1 - rate) / count + (z / count / 2) ** 2)
    # Rounded, the two may miss a rate of 0 or 1, which is an end of its interval.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def chernoff(successes: int, count: int, risk: float) -> tuple[float, float]:
    """Return lower and upper bound of a rate that lies outside in `risk` (0..1) of cases or fewer.

    By Chernoff's inequality (Hoeffding 1963, theorem 1): it holds for any `count`, 1 or more, and where the
    single cases have rates of their own, for the mean of these.
    """
    rate, most = successes / count, log(2 / risk) / count
    lower, upper = (_farthest(rate, end, most) for end in (0.0, 1.0))
    return lower, upper


def _farthest(rate: float, end: float, most: float) -> float:
    """How far towards the end a rate may lie; by bisection, to 12 places."""
    inside, outside = rate, end
    for _ in range(40):
        middle = (inside + outside) / 2
        if _divergence(rate, middle) > most:
            outside = middle
        else:
            inside = middle
    return outside


def _divergence(seen: float, true: float) -> float:
    """Kullback's and Leibler's, of two rates."""
    return sum(x * log(x / y) for x, y in ((seen, true), (1 - seen, 1 - true)) if x)
