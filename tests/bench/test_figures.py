"""What rounds come to."""

from __future__ import annotations

import pytest

from tests.bench.bench import Goal
from tests.bench.figures import Spread, percentile, ratios, spread


def test_a_spread_is_median_least_and_greatest() -> None:
    assert spread([5, 1, 4]) == Spread(4, 1, 5)
    assert spread([7]) == Spread(7, 7, 7)


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round slows both: the ratio of medians (10 / 16) would tell of something that never was."""
    assert ratios([10, 2, 40], [16, 4, 40]) == Spread(0.625, 0.5, 1)


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1, 100)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_a_goal_tells_more_from_less() -> None:
    more, less = Goal(0.8, 1.0), Goal(200, 120, least=False)
    assert [more.met(figure) for figure in (0.79, 0.8, 1.0)] == ["missed", "reach", "aim"]
    assert [less.met(figure) for figure in (201, 200, 120)] == ["missed", "reach", "aim"]
