"""Textbook indicators over lists of floats, oldest first.

Each function returns one value for each input value, None while it is not warm; the value at an index depends
only on inputs up to that index.

Sources: J. Welles Wilder, "New Concepts in Technical Trading Systems" (1978), for RSI, true range, ATR and
their smoothing; John J. Murphy, "Technical Analysis of the Financial Markets" (1999), for Gerald Appel's MACD
and Richard Donchian's channel. An exponential average starts from the simple average of its first period, as
on StockCharts.
"""

from __future__ import annotations

from itertools import pairwise
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Macd(NamedTuple):
    """MACD line (fast less slow average), its signal line, and the histogram between them; in USD."""

    line: float
    signal: float
    histogram: float


class Channel(NamedTuple):
    """Highest high and lowest low of a Donchian channel."""

    high: float
    low: float


def sma(values: Sequence[float], period: int) -> list[float | None]:
    """Return the simple moving average over `period` values."""
    return [
        fsum(values[end - period : end]) / period if end >= period else None
        for end in range(1, len(values) + 1)
    ]


def ema(values: Sequence[float], period: int) -> list[float | None]:
    """Return the exponential moving average: weight 2 / (period + 1), seeded with a simple average."""
    return _smoothed(values, period, 2 / (period + 1))


def rsi(closes: Sequence[float], period: int = 14) -> list[float | None]:
    """Return Wilder's relative strength index, 0 to 100; a market that never moved counts as 50."""
    changes = [later - earlier for earlier, later in pairwise(closes)]
    gains = _smoothed([max(change, 0.0) for change in changes], period, 1 / period)
    losses = _smoothed([max(-change, 0.0) for change in changes], period, 1 / period)
    # 100 - 100 / (1 + gain / loss), written so that a loss of zero needs no exception.
    return [None, *map(_relative_strength, gains, losses)][: len(closes)]


def macd(closes: Sequence[float], fast: int = 12, slow: int = 26, signal: int = 9) -> list[Macd | None]:
    """Return MACD; warm from the close number `slow + signal - 1`."""
    lines = [
        quick - calm
        for quick, calm in zip(ema(closes, fast), ema(closes, slow), strict=True)
        if quick is not None and calm is not None
    ]
    warm = [
        None if smooth is None else Macd(line, smooth, line - smooth)
        for line, smooth in zip(lines, ema(lines, signal), strict=True)
    ]
    return [None] * (len(closes) - len(lines)) + warm


def true_range(highs: Sequence[float], lows: Sequence[float], closes: Sequence[float]) -> list[float]:
    """Return Wilder's true range: the day's range, stretched to the close before it; always warm."""
    if not closes:
        return []
    # The first day has no close before it; its own low stretches nothing.
    before = [lows[0], *closes[:-1]]
    return [max(high, close) - min(low, close) for high, low, close in zip(highs, lows, before, strict=True)]


def atr(
    highs: Sequence[float], lows: Sequence[float], closes: Sequence[float], period: int = 14
) -> list[float | None]:
    """Return Wilder's average true range, in USD."""
    return _smoothed(true_range(highs, lows, closes), period, 1 / period)


def donchian(highs: Sequence[float], lows: Sequence[float], period: int = 20) -> list[Channel | None]:
    """Return the channel of the last `period` bars, the current one included."""
    return [
        Channel(max(highs[end - period : end]), min(lows[end - period : end])) if end >= period else None
        for end in range(1, len(highs) + 1)
    ]


def _smoothed(values: Sequence[float], period: int, weight: float) -> list[float | None]:
    """Average recursively: the mean of the first `period` values, then each value with `weight`."""
    if len(values) < period:
        return [None] * len(values)
    average = fsum(values[:period]) / period
    smoothed: list[float | None] = [*[None] * (period - 1), average]
    for value in values[period:]:
        average += weight * (value - average)
        smoothed.append(average)
    return smoothed


def _relative_strength(gain: float | None, loss: float | None) -> float | None:
    if gain is None or loss is None:
        return None
    return 100 * (gain / (gain + loss)) if gain + loss else 50.0
