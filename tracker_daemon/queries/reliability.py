"""How far stated confidences are from what came of them: sums by buckets, and what follows from them."""

from __future__ import annotations

from fractions import Fraction
from math import log, sqrt
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.intervals import Z95, chernoff

if TYPE_CHECKING:
    from collections.abc import Sequence

RISK: Final = 0.05
"""The share of cases in which the truth may lie outside of an interval."""


class Part(Struct, frozen=True):
    """A bucket by sums over its decisions: of confidences (`stated`, 0 to 1), of results (`came`, 0 or 1).

    Of the squares of the former, of the products of both, and of the fourth powers of their difference.
    """

    bucket: int
    decisions: int
    came: int
    stated: Fraction
    stated_2: Fraction
    stated_came: Fraction
    error_4: Fraction

    @property
    def mean(self) -> Fraction:
        """What was stated."""
        return self.stated / self.decisions

    @property
    def rate(self) -> Fraction:
        """What came of it."""
        return Fraction(self.came, self.decisions)

    @property
    def gap(self) -> Fraction:
        """How far apart these are."""
        return abs(self.mean - self.rate)


def summary(parts: Sequence[Part]) -> dict[str, Any]:
    """The numbers of `Calibration` about these buckets, at least one; exact until they become floats."""
    count = sum(part.decisions for part in parts)
    rate = Fraction(sum(part.came for part in parts), count)

    def mean(totals: Sequence[Fraction]) -> Fraction:
        return sum(totals, Fraction()) / count

    exact = {
        "avg_confidence": mean([part.stated for part in parts]),
        "resolved_success_rate": rate,
        "brier_score": mean([part.stated_2 - 2 * part.stated_came + part.came for part in parts]),
        "reliability": mean([part.decisions * part.gap**2 for part in parts]),
        "resolution": mean([part.decisions * (part.rate - rate) ** 2 for part in parts]),
        "uncertainty": rate * (1 - rate),
        "within_bucket_variance": mean([part.stated_2 - part.stated * part.mean for part in parts]),
        "within_bucket_covariance": 2 * mean([part.stated_came - part.stated * part.rate for part in parts]),
        "expected_calibration_error": mean([part.decisions * part.gap for part in parts]),
        "maximum_calibration_error": max(part.gap for part in parts),
    }
    intervals = {
        "brier_score": _brier_interval(exact["brier_score"], mean([part.error_4 for part in parts]), count),
        "expected_calibration_error": _expected_interval(parts, float(exact["expected_calibration_error"])),
        "maximum_calibration_error": _maximum_interval(parts),
    }
    numbers: dict[str, Any] = {name: float(value) for name, value in exact.items()}
    for name, (lower, upper) in intervals.items():
        numbers |= {f"{name}_lower": lower, f"{name}_upper": upper}
    return numbers


def _brier_interval(
    score: Fraction, mean_of_squares: Fraction, count: int
) -> tuple[float, float] | tuple[None, None]:
    """A mean and its standard error: the normal interval."""
    if count < 2:
        return None, None
    half = Z95 * sqrt((mean_of_squares - score**2) / (count - 1))
    return _clipped(float(score) - half, float(score) + half)


def _expected_interval(parts: Sequence[Part], found: float) -> tuple[float, float]:
    """One outcome moves the error by 1 / count at most: by McDiarmid (1989) it keeps near its expectation.

    This is not below the truth, and above it only by what chance adds to the gaps: a rate is off, on average,
    by 1 / (2 sqrt(decisions)) or less.
    """
    count = sum(part.decisions for part in parts)
    reach = sqrt(log(2 / RISK) / (2 * count))
    excess = sum(sqrt(part.decisions) for part in parts) / (2 * count)
    return _clipped(found - excess - reach, found + reach)


def _maximum_interval(parts: Sequence[Part]) -> tuple[float, float]:
    """By Bonferroni the rates of all buckets lie within their bounds at once, and so does the largest gap."""
    lowest = highest = 0.0
    for part in parts:
        mean = float(part.mean)
        lower, upper = chernoff(part.came, part.decisions, RISK / len(parts))
        lowest = max(lowest, lower - mean, mean - upper)
        highest = max(highest, upper - mean, mean - lower)
    return lowest, highest


def _clipped(lower: float, upper: float) -> tuple[float, float]:
    return max(0.0, lower), min(1.0, upper)
