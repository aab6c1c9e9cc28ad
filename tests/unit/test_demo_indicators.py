"""The indicators are the textbook's: published tables, naive definitions, and no look at later bars."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.demo.indicators import atr, donchian, ema, macd, rsi, sma, true_range

if TYPE_CHECKING:
    from collections.abc import Callable

# StockCharts' ChartSchool, "Relative Strength Index": QQQQ closes, and the 14-day RSI from the 15th on.
RSI_CLOSES = [
    *(44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931),
    *(46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521),
    *(45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314),
]
RSI_VALUES = [
    *(70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38),
    *(54.71, 50.42, 39.99, 41.46, 41.87, 45.46, 37.30, 33.08, 37.77),
]

# StockCharts' ChartSchool, "Moving Averages": INTC closes, their 10-day simple and exponential averages.
AVERAGE_CLOSES = [
    *(
        22.27,
        22.19,
        22.08,
        22.17,
        22.18,
        22.13,
        22.23,
        22.43,
        22.24,
        22.29,
        22.15,
        22.39,
        22.38,
        22.61,
        23.36,
    ),
    *(
        24.05,
        23.75,
        23.83,
        23.95,
        23.63,
        23.82,
        23.87,
        23.65,
        23.19,
        23.10,
        23.33,
        22.68,
        23.10,
        22.40,
        22.17,
    ),
]
SMA_VALUES = [
    *(22.22, 22.21, 22.23, 22.26, 22.31, 22.42, 22.61, 22.77, 22.91, 23.08, 23.21),
    *(23.38, 23.53, 23.65, 23.71, 23.69, 23.61, 23.51, 23.43, 23.28, 23.13),
]
EMA_VALUES = [
    *(22.22, 22.21, 22.24, 22.27, 22.33, 22.52, 22.80, 22.97, 23.13, 23.28, 23.34),
    *(23.43, 23.51, 23.54, 23.47, 23.40, 23.39, 23.26, 23.23, 23.08, 22.92),
]

price = st.floats(min_value=0.01, max_value=10_000)
# Long enough that every indicator is warm before the end.
prices = st.lists(price, min_size=40, max_size=80)

# Each indicator as a function of closes alone; highs and lows stand a fixed way around them.
OVER_CLOSES: dict[str, Callable[[list[float]], list[Any]]] = {
    "sma": lambda closes: sma(closes, 5),
    "ema": lambda closes: ema(closes, 5),
    "rsi": rsi,
    "macd": macd,
    "atr": lambda closes: atr([c * 1.01 for c in closes], [c * 0.98 for c in closes], closes),
    "donchian": lambda closes: donchian([c * 1.01 for c in closes], [c * 0.98 for c in closes]),
}


def naive_ema(values: list[float], period: int) -> float:
    """The recursion as the textbook writes it, from the first simple average to the last value."""
    average = sum(values[:period]) / period
    for value in values[period:]:
        average = (value - average) * 2 / (period + 1) + average
    return average


def naive_rsi(closes: list[float], period: int) -> float:
    """Wilder's work sheet: yesterday's average times 13, plus today, divided by 14."""
    ups = [max(b - a, 0) for a, b in pairwise(closes)]
    downs = [max(a - b, 0) for a, b in pairwise(closes)]
    up, down = sum(ups[:period]) / period, sum(downs[:period]) / period
    for gain, loss in zip(ups[period:], downs[period:], strict=True):
        up, down = (up * (period - 1) + gain) / period, (down * (period - 1) + loss) / period
    return 100 - 100 / (1 + up / down)


def test_rsi_is_the_published_table() -> None:
    assert rsi(RSI_CLOSES)[:14] == [None] * 14
    assert rsi(RSI_CLOSES)[14:] == pytest.approx(RSI_VALUES, abs=0.01)


def test_rsi_is_wilders_work_sheet_at_every_close() -> None:
    for end in range(15, len(RSI_CLOSES) + 1):
        assert rsi(RSI_CLOSES)[end - 1] == pytest.approx(naive_rsi(RSI_CLOSES[:end], 14))


def test_rsi_of_a_market_that_only_rises_falls_or_rests() -> None:
    rising = [float(day) for day in range(1, 40)]
    assert rsi(rising)[-1] == 100
    assert rsi(rising[::-1])[-1] == 0
    assert rsi([7.0] * 40)[-1] == 50


def test_averages_are_the_published_tables() -> None:
    assert sma(AVERAGE_CLOSES, 10)[9:] == pytest.approx(SMA_VALUES, abs=0.01)
    assert ema(AVERAGE_CLOSES, 10)[9:] == pytest.approx(EMA_VALUES, abs=0.01)
    assert sma(AVERAGE_CLOSES, 10)[:9] == ema(AVERAGE_CLOSES, 10)[:9] == [None] * 9


def test_macd_is_the_difference_of_two_averages_and_its_own_average() -> None:
    closes = [100 + (day * 37 % 11) - (day * 17 % 7) + day / 3 for day in range(60)]
    lines = [naive_ema(closes[:end], 12) - naive_ema(closes[:end], 26) for end in range(26, 61)]
    found = macd(closes)
    assert found[:33] == [None] * 33
    for index in range(33, 60):
        line, signal = lines[index - 25], naive_ema(lines[: index - 24], 9)
        assert found[index] == pytest.approx((line, signal, line - signal))


def test_true_range_reaches_back_to_the_close_before() -> None:
    """Inside day, gap up, gap down: today's range, and today's far end from yesterday's close."""
    highs, lows, closes = [10.0, 9.5, 14.0, 8.0], [8.0, 8.5, 13.0, 6.0], [9.0, 9.0, 13.5, 7.0]
    assert true_range(highs, lows, closes) == [2.0, 1.0, 5.0, 7.5]


def test_atr_is_wilders_average_of_true_ranges() -> None:
    highs, lows, closes = [10.0, 9.5, 14.0, 8.0], [8.0, 8.5, 13.0, 6.0], [9.0, 9.0, 13.5, 7.0]
    assert atr(highs, lows, closes, period=2) == [None, 1.5, (1.5 + 5.0) / 2, (3.25 + 7.5) / 2]


def test_donchian_spans_the_last_bars_this_one_included() -> None:
    assert donchian([3.0, 5.0, 4.0, 2.0], [1.0, 2.0, 3.0, 0.5], period=3) == [
        None,
        None,
        (5.0, 1.0),
        (5.0, 0.5),
    ]


@given(prices)
def test_rsi_stays_within_its_bounds(closes: list[float]) -> None:
    assert all(0 <= value <= 100 for value in rsi(closes) if value is not None)


@given(price, st.integers(1, 60), st.integers(1, 30))
def test_the_average_of_a_constant_is_the_constant(value: float, count: int, period: int) -> None:
    warm = max(count - period + 1, 0)
    cold = count - warm
    for average in (sma, ema):
        assert average([value] * count, period)[cold:] == pytest.approx([value] * warm)


@pytest.mark.parametrize("name", OVER_CLOSES)
@given(prices, st.lists(price, max_size=40))
def test_no_value_depends_on_later_bars(name: str, past: list[float], future: list[float]) -> None:
    """Prefix stability, bit for bit: whatever comes later, the values so far stay as they are."""
    indicator = OVER_CLOSES[name]
    assert indicator(past + future)[: len(past)] == indicator(past)
    assert len(indicator(past)) == len(past)
