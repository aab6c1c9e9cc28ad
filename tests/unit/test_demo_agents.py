"""The agents follow their rules, look at nothing later than the bar, and say how strong a signal is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.demo.agents import AGENTS, Agent, breakout, mean_reversion, trend
from tracker_daemon.demo.indicators import Channel, Macd
from tracker_daemon.demo.market import Bar, load
from tracker_daemon.demo.reading import BARS_SHOWN, Reading, read

DAY = date(2013, 2, 1)
CALM = Reading(
    recent=[Bar(DAY, 99.0, 101.0, 98.0, 100.0, 1000, traded_on=DAY)],
    rsi=50.0,
    macd=Macd(1.0, 0.5, 0.5),
    previous_macd=Macd(1.0, 0.6, 0.4),
    atr=2.0,
    previous_atr=2.0,
    true_range=3.0,
    previous_channel=Channel(high=110.0, low=90.0),
    ema_20=99.0,
    sma_50=98.0,
)


def closing_at(close: float, true_range: float = 3.0) -> Reading:
    """A calm reading but for its close and its true range."""
    return replace(CALM, recent=[replace(CALM.bar, close=close)], true_range=true_range)


def crossing(before: float, now: float) -> Reading:
    """A calm reading whose MACD histogram went from one value to another."""
    return replace(CALM, previous_macd=Macd(0.0, -before, before), macd=Macd(0.0, -now, now))


def bars_of(moves: list[float]) -> list[Bar]:
    """Bars whose closes follow the given relative moves, each with some range around it."""
    closes = [100.0]
    for move in moves:
        closes.append(closes[-1] * (1 + move))
    return [
        Bar(DAY + timedelta(days=n), close, close * 1.01, close * 0.98, close, 1000, DAY + timedelta(days=n))
        for n, close in enumerate(closes)
    ]


# Long enough that every agent decides before the end.
moves = st.lists(st.floats(-0.2, 0.2), min_size=55, max_size=80)


@pytest.mark.parametrize(
    ("rsi", "action", "confidence"),
    [
        (0.0, "BUY", "1.0000"),
        (15.0, "BUY", "0.7500"),
        (29.9, "BUY", "0.5017"),
        (30.0, "HOLD", "0.5000"),
        (50.0, "HOLD", "1.0000"),
        (60.0, "HOLD", "0.7500"),
        (70.0, "HOLD", "0.5000"),
        (85.0, "SELL", "0.7500"),
        (100.0, "SELL", "1.0000"),
    ],
)
def test_mean_reversion_buys_oversold_and_sells_overbought(rsi: float, action: str, confidence: str) -> None:
    choice = mean_reversion(replace(CALM, rsi=rsi))
    assert choice is not None
    assert (choice.action, choice.confidence) == (action, Decimal(confidence))


@pytest.mark.parametrize(
    ("before", "now", "action", "confidence", "said"),
    [
        (-0.1, 0.5, "BUY", "0.7500", "crossed above zero"),
        (0.4, 0.5, "BUY", "0.7500", "positive and growing"),
        (0.4, 5.0, "BUY", "1.0000", "positive and growing"),
        (0.6, 0.5, "HOLD", "0.7500", "fades"),
        (0.0, 0.0, "HOLD", "1.0000", "fades"),
        (0.1, -0.5, "SELL", "0.7500", "crossed below zero"),
        (-0.4, -0.5, "SELL", "0.7500", "negative and falling"),
        (-0.6, -0.5, "HOLD", "0.7500", "fades"),
    ],
)
def test_trend_follows_a_widening_histogram(
    before: float, now: float, action: str, confidence: str, said: str
) -> None:
    choice = trend(crossing(before, now))
    assert choice is not None
    assert (choice.action, choice.confidence) == (action, Decimal(confidence))
    assert said in choice.reasoning


@pytest.mark.parametrize(
    ("close", "true_range", "action", "confidence", "said"),
    [
        (111.0, 3.0, "BUY", "0.7500", "day of wide range"),
        (111.0, 2.0, "HOLD", "0.5000", "not confirmed"),
        (110.0, 3.0, "HOLD", "0.5000", "stays in"),
        (100.0, 3.0, "HOLD", "1.0000", "stays in"),
        (89.0, 3.0, "SELL", "0.7500", "day of wide range"),
        (50.0, 3.0, "SELL", "1.0000", "day of wide range"),
    ],
)
def test_breakout_needs_a_close_outside_the_channel_and_a_wide_day(
    close: float, true_range: float, action: str, confidence: str, said: str
) -> None:
    choice = breakout(closing_at(close, true_range))
    assert choice is not None
    assert (choice.action, choice.confidence) == (action, Decimal(confidence))
    assert said in choice.reasoning


@pytest.mark.parametrize(
    ("agent", "first"), list(zip(AGENTS, (14, 34, 20), strict=True)), ids=[agent.name for agent in AGENTS]
)
def test_an_agent_decides_at_every_bar_once_its_indicators_are_warm(agent: Agent, first: int) -> None:
    for bars in load(datetime(2031, 7, 9, 12, tzinfo=UTC)).bars.values():
        decided = [agent.decide(reading) is not None for reading in read(bars)]
        assert decided == [False] * first + [True] * (len(bars) - first)


@given(moves, moves)
def test_no_agent_looks_ahead(past: list[float], future: list[float]) -> None:
    """Whatever the market does later, readings and choices so far stay as they were, bit for bit."""
    known = bars_of(past)
    hindsight = read(bars_of(past + future))[: len(known)]
    assert hindsight == read(known)
    for agent in AGENTS:
        assert [agent.decide(reading) for reading in hindsight] == [
            agent.decide(reading) for reading in read(known)
        ]


@given(moves)
def test_confidence_is_at_least_one_half_and_at_most_one(path: list[float]) -> None:
    choices = [agent.decide(reading) for reading in read(bars_of(path)) for agent in AGENTS]
    for choice in choices:
        if choice is not None:
            assert Decimal("0.5") <= choice.confidence <= 1
            assert choice.confidence.as_tuple().exponent == -4


def test_a_market_that_never_moves_is_held() -> None:
    """No division by a range of zero; nothing to buy or sell."""
    still = [replace(bar, high=100.0, low=100.0) for bar in bars_of([0.0] * 60)]
    for agent in AGENTS:
        choice = agent.decide(read(still)[-1])
        assert choice is not None
        assert choice.action == "HOLD"


def test_a_reading_shows_the_last_bars_and_the_channel_before_this_one() -> None:
    bars = bars_of([0.01] * 40)
    reading = read(bars)[30]
    assert list(reading.recent) == bars[31 - BARS_SHOWN : 31]
    assert reading.bar == bars[30]
    assert reading.previous_channel == Channel(high=bars[29].high, low=bars[10].low)
    assert reading.change_percent == pytest.approx(1.0)


def test_context_nests_rounded_values_under_the_fields_names() -> None:
    assert CALM.context() == {
        "rsi": 50.0,
        "macd": {"line": 1.0, "signal": 0.5, "histogram": 0.5},
        "atr": 2.0,
        "donchian": {"high": 110.0, "low": 90.0},
        "trend": "uptrend",
        "volatility": 2.0,
        "price": {"close": 100.0, "ema_20": 99.0, "sma_50": 98.0, "traded_on": "2013-02-01"},
    }


def test_context_leaves_out_what_is_not_warm() -> None:
    first = read(bars_of([0.01]))[0]
    assert first.context() == {"price": {"close": 100.0, "traded_on": "2013-02-01"}}


@pytest.mark.parametrize(
    ("ema_20", "sma_50", "expected"),
    [
        (99.0, 98.0, "uptrend"),
        (101.0, 102.0, "downtrend"),
        (99.0, 99.5, "sideways"),
        (101.0, 100.5, "sideways"),
        (None, 98.0, None),
        (99.0, None, None),
    ],
)
def test_trend_of_a_reading_is_the_order_of_close_and_averages(
    ema_20: float | None, sma_50: float | None, expected: str | None
) -> None:
    assert replace(CALM, ema_20=ema_20, sma_50=sma_50).trend == expected
