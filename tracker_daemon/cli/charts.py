"""Numbers at a look: each chart is a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

_STEPS: Final = "▁▂▃▄▅▆▇█"


def interval_bar(rate: float, lower: float, upper: float, width: int = 15) -> str:
    """A rate (●) between the bounds of its interval (━), on a scale from 0 to 1."""
    last = width - 1
    first, point, end = (round(part * last) for part in (lower, rate, upper))
    cells = ["━" if first <= place <= end else "·" for place in range(width)]
    cells[point] = "●"
    return "".join(cells)


def sparkline(values: Sequence[Decimal | None], width: int = 60) -> str:
    """Values, of which there is one at least, from their least to their greatest, a gap for None.

    Where there are more than `width`, neighbours add up.
    """
    size = -(-len(values) // width)
    sums = [_sum(values[start : start + size]) for start in range(0, len(values), size)]
    told = [value for value in sums if value is not None]
    if not told:
        return ""
    low, span = min(told), max(told) - min(told)
    top = len(_STEPS) - 1
    return "".join(
        " " if value is None else _STEPS[round((value - low) / span * top) if span else top // 2]
        for value in sums
    )


def _sum(values: Sequence[Decimal | None]) -> Decimal | None:
    told = [value for value in values if value is not None]
    return sum(told, Decimal()) if told else None
