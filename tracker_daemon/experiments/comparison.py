"""Two arms compared: how their means differ, how sure that is, and what holds while one watches."""

from __future__ import annotations

import importlib
from math import ceil, log, sqrt
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.errors import TrackerError
from tracker_daemon.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.experiments.estimate import Sums
    from tracker_daemon.experiments.experiment import Metric

POWER: Final = 0.8
"""How often a difference as large as the minimum effect is to be seen."""
FEWEST: Final = 30
"""Units of an arm without which nothing is said of a difference: the intervals hold for many."""


class Unequipped(TrackerError):
    """Something that is not installed is needed."""


class Difference(Struct, frozen=True, kw_only=True):
    """An arm's mean less the control's.

    `lower` to `upper`, and the `p_value`, hold for one look at a time that was fixed before; `always_lower`
    to `always_upper` for as many looks as one likes. Of P&L `resampled` are those of the bootstrap; None: of
    too many units.
    """

    estimate: float
    lower: float
    upper: float
    p_value: float
    always_lower: float
    always_upper: float
    resampled_lower: float | None = None
    resampled_upper: float | None = None


def compare(arm: Sums, control: Sums, metric: Metric, planned: int, risk: float) -> Difference | None:
    """Return the difference of two arms' means; None: there are too few units, or none of them differ.

    Of rates with one decision a unit: Newcombe's interval (Statistics in Medicine 17, 1998, method 10) and
    the score test; else Welch's (Biometrika 34, 1947), on linearized means where units have more decisions.
    `planned`: units of both for which the interval that always holds is to be narrowest.
    """
    if min(arm.units, control.units) < FEWEST:
        return None
    variance = float(arm.variance + control.variance)
    if not variance:
        return None
    estimate = float(arm.mean - control.mean)
    if metric == "success" and arm.single and control.single:
        lower, upper, p_value = _newcombe(arm, control, risk)
    else:
        lower, upper, p_value = _welch(arm, control, estimate, risk)
    half = _always(sqrt(variance), arm.units + control.units, planned, risk)
    return Difference(
        estimate=estimate,
        lower=lower,
        upper=upper,
        p_value=p_value,
        always_lower=estimate - half,
        always_upper=estimate + half,
    )


def _newcombe(arm: Sums, control: Sums, risk: float) -> tuple[float, float, float]:
    normal = _scipy().norm
    z = float(normal.isf(risk / 2))
    rate, other = float(arm.mean), float(control.mean)
    low, high = wilson(float(arm.value), float(arm.size), z)
    other_low, other_high = wilson(float(control.value), float(control.size), z)
    difference = rate - other
    lower = difference - sqrt((rate - low) ** 2 + (other_high - other) ** 2)
    upper = difference + sqrt((high - rate) ** 2 + (other - other_low) ** 2)
    pooled = float((arm.value + control.value) / (arm.size + control.size))
    error = sqrt(pooled * (1 - pooled) * float(1 / arm.size + 1 / control.size))
    return lower, upper, float(2 * normal.sf(abs(difference) / error))


def _welch(arm: Sums, control: Sums, estimate: float, risk: float) -> tuple[float, float, float]:
    own, other = float(arm.variance), float(control.variance)
    freedom = (own + other) ** 2 / (own**2 / (arm.units - 1) + other**2 / (control.units - 1))
    student, error = _scipy().t, sqrt(own + other)
    half = float(student.isf(risk / 2, freedom)) * error
    return estimate - half, estimate + half, float(2 * student.sf(abs(estimate) / error, freedom))


def _always(error: float, units: int, planned: int, risk: float) -> float:
    """Half the width of an asymptotic confidence sequence, narrowest at `planned` units.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics 52, 2024: theorem 2.2, and the rho
    that they propose for a number of units.
    """
    rho_squared = (-2 * log(risk) + log(-2 * log(risk) + 1)) / planned
    scaled = units * rho_squared
    return error * sqrt((scaled + 1) / scaled * 2 * log(sqrt(scaled + 1) / risk))


def interval(sums: Sums, metric: Metric, risk: float) -> tuple[float, float] | None:
    """Return the interval of one arm's mean: Wilson's, or Student's; None: there are too few units.

    Too few are those that tell as little as less than `FEWEST` of one size.
    """
    if metric == "success" and sums.single:
        return wilson(float(sums.value), float(sums.size), float(_scipy().norm.isf(risk / 2)))
    if not sums.units or sums.effective < FEWEST:
        return None
    half = float(_scipy().t.isf(risk / 2, float(sums.effective) - 1)) * sqrt(sums.variance)
    return float(sums.mean) - half, float(sums.mean) + half


def needed(spread: float, effect: float, risk: float) -> int:
    """Return the units of both arms that show an effect with `POWER`.

    `spread` is the variance of the difference of the means, times the units that it comes from.
    """
    normal = _scipy().norm
    return ceil(float(normal.isf(risk / 2) + normal.ppf(POWER)) ** 2 * spread / effect**2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of them together (Holm, Scandinavian J. of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _scipy() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ImportError:
        raise Unequipped(
            "comparing takes scipy: pip install 'tracker-daemon[learn]', or build the image with "
            "--build-arg LOCK=learn"
        ) from None
