"""What is known of a stock at the close of one bar: the bars so far and every indicator computed on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracker_daemon.demo.indicators import Channel, Macd, atr, donchian, ema, macd, rsi, sma, true_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.demo.market import Bar

BARS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """One bar and what precedes it; prices in USD, None for an indicator that is not warm yet."""

    recent: Sequence[Bar]
    """The last BARS_SHOWN bars or fewer, oldest first; the last one is the bar that has just closed."""
    rsi: float | None
    macd: Macd | None
    previous_macd: Macd | None
    atr: float | None
    previous_atr: float | None
    true_range: float
    previous_channel: Channel | None
    """The Donchian channel of the twenty bars before this one: what a breakout breaks out of."""
    ema_20: float | None
    sma_50: float | None

    @property
    def bar(self) -> Bar:
        """The bar that has just closed."""
        return self.recent[-1]

    @property
    def change_percent(self) -> float | None:
        """Change from the close before, in percent; None at the first bar."""
        return 100 * (self.bar.close / self.recent[-2].close - 1) if len(self.recent) > 1 else None

    @property
    def trend(self) -> str | None:
        """Where close, EMA 20 and SMA 50 stand in order `uptrend` or `downtrend`, else `sideways`."""
        if self.ema_20 is None or self.sma_50 is None:
            return None
        if self.bar.close > self.ema_20 > self.sma_50:
            return "uptrend"
        if self.bar.close < self.ema_20 < self.sma_50:
            return "downtrend"
        return "sideways"

    @property
    def volatility(self) -> float | None:
        """ATR 14 in percent of the close."""
        return None if self.atr is None else 100 * self.atr / self.bar.close

    def context(self) -> dict[str, Any]:
        """Return the context of a decision: rounded indicators and conditions, without those not warm."""
        close = self.bar.close
        channel = self.previous_channel
        return _known(
            {
                "rsi": _rounded(self.rsi, 1),
                "macd": None
                if self.macd is None
                else {k: round(v, 4) for k, v in self.macd._asdict().items()},
                "atr": _rounded(self.atr, 4),
                "donchian": None
                if channel is None
                else {k: round(v, 4) for k, v in channel._asdict().items()},
                "trend": self.trend,
                "volatility": _rounded(self.volatility, 2),
                "price": _known(
                    {
                        "close": round(close, 4),
                        "change_percent": _rounded(self.change_percent, 2),
                        "ema_20": _rounded(self.ema_20, 4),
                        "sma_50": _rounded(self.sma_50, 4),
                        "traded_on": self.bar.traded_on.isoformat(),
                    }
                ),
            }
        )


def read(bars: Sequence[Bar]) -> list[Reading]:
    """Return the reading at each bar; the one at an index knows no bar after it."""
    highs = [bar.high for bar in bars]
    lows = [bar.low for bar in bars]
    closes = [bar.close for bar in bars]
    # One leading None turns "at the bar before" into the same index.
    macds = [None, *macd(closes)]
    atrs = [None, *atr(highs, lows, closes)]
    channels = [None, *donchian(highs, lows)]
    columns = zip(
        rsi(closes),
        macds[1:],
        macds[:-1],
        atrs[1:],
        atrs[:-1],
        true_range(highs, lows, closes),
        channels[:-1],
        ema(closes, 20),
        sma(closes, 50),
        strict=True,
    )
    return [Reading(bars[max(0, end - BARS_SHOWN) : end], *row) for end, row in enumerate(columns, start=1)]


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
