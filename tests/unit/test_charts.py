"""Charts of one line: where the marks are."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tracker_daemon.cli.charts import interval_bar, sparkline


@pytest.mark.parametrize(
    ("numbers", "bar"),
    [
        ((0.5, 0.2, 0.8), "··━━━●━━━··"),
        ((0.0, 0.0, 0.3), "●━━━·······"),
        ((1.0, 0.7, 1.0), "·······━━━●"),
        ((0.44, 0.44, 0.44), "····●······"),
    ],
)
def test_a_rate_between_its_bounds(numbers: tuple[float, float, float], bar: str) -> None:
    assert interval_bar(*numbers, 11) == bar


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 7, 3], "▁█▄"),
        ([-7, None, 0], "▁ █"),
        ([5], "▄"),
        ([5, 5], "▄▄"),
        ([None], ""),
        ([1, 1, 0, None, None, None, 4, 3], "▃▁ █"),  # two to a place: 2, 0, none, 7
    ],
)
def test_values_from_least_to_greatest(values: list[int | None], line: str) -> None:
    assert sparkline([value if value is None else Decimal(value) for value in values], 4) == line
