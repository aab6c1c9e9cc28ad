"""A mean over decisions whose units were assigned, not they: with the variance that this leaves."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from msgspec import Struct


class Sums(Struct, frozen=True, kw_only=True):
    """What a mean takes, unit by unit: `sizes` are their decisions, `values` what these add up to."""

    units: int
    size: Fraction
    value: Fraction
    values_squared: Fraction
    sizes_squared: Fraction
    products: Fraction
    """Of a unit's value and its size."""

    @property
    def single(self) -> bool:
        """Whether each unit has one decision, so that the decisions are independent."""
        return self.sizes_squared == self.size == self.units

    @property
    def mean(self) -> Fraction:
        """Value / size: the mean of the decisions."""
        return self.value / self.size

    @property
    def effective(self) -> Fraction:
        """How many units of one size tell as much (Kish, Survey Sampling, 1965, 11.7). Asks for one unit."""
        return self.size**2 / self.sizes_squared

    @property
    def variance(self) -> Fraction:
        """Of the mean, by linearization of the ratio (Cochran, Sampling Techniques, 1977, 6.3).

        With one decision a unit it is the sample variance / n. Asks for two units.
        """
        mean = self.mean
        residuals = self.values_squared - 2 * mean * self.products + mean * mean * self.sizes_squared
        return residuals * self.units / (self.units - 1) / self.size**2


NONE: Final = Sums(
    units=0,
    size=Fraction(),
    value=Fraction(),
    values_squared=Fraction(),
    sizes_squared=Fraction(),
    products=Fraction(),
)
"""Of no decision at all."""
