"""The interval of a difference by resampling its units: for P&L, whose tails are fatter than Student's."""

from __future__ import annotations

import importlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.experiments.evidence import Unit

MOST: Final = 10_000
"""Units of an arm that are resampled; a mean of more is near enough to normal."""
RESAMPLES: Final = 1_000


def resampled(
    arm: Sequence[Unit], control: Sequence[Unit], risk: float, seed: str
) -> tuple[float, float] | None:
    """Return the symmetric interval by bootstrap-t (Hall, JRSS B 50, 1988); None: nothing differs.

    Units are drawn by a generator that the seed begins: the same question has the same answer.
    """
    numpy: Any = importlib.import_module("numpy")
    random = numpy.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()[:8], "big"))
    sides = [_moments(numpy, units) for units in (arm, control)]
    estimate, error = _difference(numpy, [columns.sum(axis=0, keepdims=True) for columns in sides], sides)
    if not error[0]:
        return None
    drawn = [numpy.array([_draw(numpy, random, columns) for _ in range(RESAMPLES)]) for columns in sides]
    estimates, errors = _difference(numpy, drawn, sides)
    told = errors > 0
    half = numpy.quantile(numpy.abs(estimates[told] - estimate[0]) / errors[told], 1 - risk) * error[0]
    return float(estimate[0] - half), float(estimate[0] + half)


def _moments(numpy: Any, units: Sequence[Unit]) -> Any:
    """What `Sums` adds up, unit by unit."""
    value, size = numpy.asarray(units, dtype=float).T
    return numpy.stack([numpy.ones_like(size), size, value, value * value, size * size, value * size], axis=1)


def _draw(numpy: Any, random: Any, columns: Any) -> Any:
    """The sums of as many units, drawn with replacement."""
    count = len(columns)
    return numpy.bincount(random.integers(0, count, count), minlength=count) @ columns


def _difference(numpy: Any, drawn: Any, sides: Any) -> tuple[Any, Any]:
    """The difference of the means, and its standard error, for each row of sums."""
    means, variances = [], []
    for sums, columns in zip(drawn, sides, strict=True):
        _, size, value, values_squared, sizes_squared, products = sums.T
        mean = value / size
        residuals = values_squared - 2 * mean * products + mean * mean * sizes_squared
        variances.append(numpy.maximum(residuals, 0) * len(columns) / (len(columns) - 1) / size**2)
        means.append(mean)
    return means[0] - means[1], numpy.sqrt(variances[0] + variances[1])
