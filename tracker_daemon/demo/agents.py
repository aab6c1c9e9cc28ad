"""Three agents that decide by a published rule on one stock at the close of one bar.

Confidence says how far the indicator stands from the rule's threshold: 0.5 at the threshold, 1 at its far
end. It is the rule's own measure of strength, not a probability learnt from results.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.demo.reading import Reading

Action = Literal["BUY", "SELL", "HOLD"]

OVERSOLD, NEUTRAL, OVERBOUGHT = 30.0, 50.0, 70.0

# A histogram of half an average day's range is strong: nineteen of twenty in this market are smaller.
STRONG_HISTOGRAM_IN_ATR = 0.5


@dataclass(frozen=True, slots=True)
class Choice:
    """What an agent decided and why; confidence 0..1 with four places."""

    action: Action
    confidence: Decimal
    reasoning: str


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent: name, model, rule in words, and `decide`, a pure function (None while not warm)."""

    name: str
    model: str
    rule: str
    decide: Callable[[Reading], Choice | None]
    decision_type: str = "signal"


def mean_reversion(reading: Reading) -> Choice | None:
    """Wilder's RSI 14: buy what is oversold (below 30), sell what is overbought (above 70)."""
    rsi = reading.rsi
    if rsi is None:
        return None
    if rsi < OVERSOLD:
        return _choice(
            "BUY",
            (OVERSOLD - rsi) / OVERSOLD,
            f"RSI 14 at {rsi:.1f} is oversold (below 30): expect a rebound towards the mean.",
        )
    if rsi > OVERBOUGHT:
        return _choice(
            "SELL",
            (rsi - OVERBOUGHT) / (100 - OVERBOUGHT),
            f"RSI 14 at {rsi:.1f} is overbought (above 70): expect a pullback towards the mean.",
        )
    return _choice(
        "HOLD",
        1 - abs(rsi - NEUTRAL) / (OVERBOUGHT - NEUTRAL),
        f"RSI 14 at {rsi:.1f} lies between 30 and 70: nothing has been overdone.",
    )


def trend(reading: Reading) -> Choice | None:
    """Appel's MACD 12/26/9: buy a positive histogram that grows, sell a negative one that falls."""
    if reading.macd is None or reading.previous_macd is None or reading.atr is None:
        return None
    now, before = reading.macd.histogram, reading.previous_macd.histogram
    typical = STRONG_HISTOGRAM_IN_ATR * reading.atr
    strength = abs(now) / typical if typical else 0.0
    if now > max(before, 0):
        move = "crossed above zero" if before <= 0 else "is positive and growing"
        return _choice(
            "BUY", strength, f"The MACD histogram {move} ({before:+.4f} to {now:+.4f}): momentum is up."
        )
    if now < min(before, 0):
        move = "crossed below zero" if before >= 0 else "is negative and falling"
        return _choice(
            "SELL", strength, f"The MACD histogram {move} ({before:+.4f} to {now:+.4f}): momentum is down."
        )
    return _choice(
        "HOLD", 1 - strength, f"The MACD histogram fades ({before:+.4f} to {now:+.4f}): momentum is spent."
    )


def breakout(reading: Reading) -> Choice | None:
    """Donchian's channel: buy a close above the 20 days before, sell one below, where the range expands."""
    channel, usual = reading.previous_channel, reading.previous_atr
    if channel is None or usual is None:
        return None
    close = reading.bar.close
    expands = reading.true_range > usual
    beyond = max(close - channel.high, channel.low - close)
    span = f"{channel.low:.2f} to {channel.high:.2f}"
    if beyond > 0 and expands:
        action: Action = "BUY" if close > channel.high else "SELL"
        return _choice(
            action,
            beyond / usual if usual else 1.0,
            f"The close at {close:.2f} leaves the 20-day channel of {span} on a day of wide range.",
        )
    if beyond > 0:
        return _choice(
            "HOLD",
            0.0,
            f"The close at {close:.2f} leaves the channel of {span}, but on a quiet day: not confirmed.",
        )
    half = (channel.high - channel.low) / 2
    return _choice(
        "HOLD",
        -beyond / half if half else 0.0,
        f"The close at {close:.2f} stays in the 20-day channel of {span}.",
    )


def _choice(action: Action, strength: float, reasoning: str) -> Choice:
    confidence = 0.5 + 0.5 * min(max(strength, 0.0), 1.0)
    return Choice(action, Decimal(f"{confidence:.4f}"), reasoning)


AGENTS: Final = (
    Agent(
        "mean-reversion",
        "rules/rsi-14",
        "BUY when RSI 14 is below 30, SELL when it is above 70, otherwise HOLD.",
        mean_reversion,
    ),
    Agent(
        "trend",
        "rules/macd-12-26-9",
        "BUY while the MACD histogram is positive and growing, SELL while it is negative and falling, "
        "otherwise HOLD.",
        trend,
    ),
    Agent(
        "breakout",
        "rules/donchian-20",
        "BUY a close above the high of the 20 days before, SELL one below their low, each only when the "
        "day's true range exceeds its average; otherwise HOLD.",
        breakout,
    ),
)
