"""Where a true rate lies, given how often something was seen."""

from __future__ import annotations

from math import sqrt
from typing import Final

Z95: Final = 1.959963984540054
Z99: Final = 2.5758293035489004
"""Normal quantiles of two-sided intervals that hold the true rate in 95, or 99, of 100 cases."""


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Return lower and upper bound of a rate, by Wilson's score interval (JASA 22, 1927); of none: (0, 1)."""
    if not count:
        return 0.0, 1.0
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(rate * (1 - rate) / count + (z / count / 2) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)
