"""Experiments, and decisions that belong to them, for tests."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tracker_daemon.experiments import Arm, Definition
from tracker_daemon.experiments.estimate import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable


def definition(
    *shares: str, name: str = "trial", names: str = "abcdefghijklmnopqrstu", **fields: Any
) -> Definition:
    """An experiment whose arms are called a, b, c, with these shares, and models of their own."""
    arms = tuple(
        Arm(name=letter, share=Decimal(share), model=f"model-{letter}")
        for letter, share in zip(names, shares, strict=False)
    )
    return Definition(**{"name": name, "arms": arms, "minimum_effect": 0.1} | fields)


def sums(units: Iterable[tuple[Any, int]]) -> Sums:
    """What there is of units, each with its value and its size."""
    pairs = [(Fraction(value), Fraction(size)) for value, size in units]
    return Sums(
        units=len(pairs),
        size=sum((size for _, size in pairs), Fraction()),
        value=sum((value for value, _ in pairs), Fraction()),
        values_squared=sum((value**2 for value, _ in pairs), Fraction()),
        sizes_squared=sum((size**2 for _, size in pairs), Fraction()),
        products=sum((value * size for value, size in pairs), Fraction()),
    )
