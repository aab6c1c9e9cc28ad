"""The demo's market: every packaged bar, adjusted, moved to end today and never later than now."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.demo.market import Bar, load, parse
from tracker_daemon.errors import TrackerError

NOON = datetime(2031, 7, 9, 12, 0, 30, tzinfo=UTC)
HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close"
GOOD = "IBM,2013-02-28,200.0,210.0,190.0,205.0,1000,102.5"


def test_every_row_of_the_file_is_a_bar() -> None:
    market = load(NOON)
    assert {ticker: len(bars) for ticker, bars in market.bars.items()} == {
        "AAPL": 3270,
        "FB": 196,
        "GOOG": 2148,
        "IBM": 3270,
        "MSFT": 3270,
    }


def test_bars_are_in_order_and_each_is_a_possible_day() -> None:
    for bars in load(NOON).bars.values():
        days = [bar.day for bar in bars]
        assert days == sorted(set(days))
        assert all(0 < bar.low <= min(bar.open, bar.close) for bar in bars)
        assert all(max(bar.open, bar.close) <= bar.high for bar in bars)


def test_prices_are_adjusted_for_splits_and_dividends() -> None:
    """AAPL on 1 March 2000: 130.31 on the tape, 4.19 adjusted; the other prices by the same factor."""
    first = load(NOON).bars["AAPL"][0]
    factor = 4.186662803811 / 130.31
    assert first.traded_on == date(2000, 3, 1)
    assert first.close == 4.186662803811
    assert (first.open, first.high, first.low) == pytest.approx(
        (118.56 * factor, 132.06 * factor, 118.5 * factor)
    )
    assert first.volume == 9616100


def test_no_split_is_left_in_the_prices() -> None:
    """A split would halve a close; one real day did more: AAPL lost 52 % on 29 September 2000."""
    for ticker, bars in load(NOON).bars.items():
        for before, after in pairwise(bars):
            crashed = (ticker, after.traded_on) == ("AAPL", date(2000, 9, 29))
            assert crashed or 0.75 < after.close / before.close < 1.35


def test_the_last_bar_falls_on_today_and_all_moved_alike() -> None:
    market = load(NOON)
    bars = [bar for bars in market.bars.values() for bar in bars]
    assert max(bar.day for bar in bars) == NOON.date()
    assert {bar.day - bar.traded_on for bar in bars} == {NOON.date() - date(2013, 3, 1)}
    assert market.decided_at(market.bars["FB"][-1]) == NOON - timedelta(minutes=5)


@pytest.mark.parametrize(
    "now",
    [
        datetime(2031, 7, 9, 0, 0, 0, 17, tzinfo=UTC),
        datetime(2031, 7, 9, 0, 3, tzinfo=UTC),
        datetime(2031, 7, 9, 23, 59, 59, tzinfo=UTC),
        datetime(2031, 7, 9, 1, 0, tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_no_bar_is_decided_on_in_the_future(now: datetime) -> None:
    """Just after midnight too, and where the caller's day is not the day in UTC."""
    market = load(now)
    last = max(market.decided_at(bars[-1]) for bars in market.bars.values())
    assert now - timedelta(minutes=5, seconds=1) <= last <= now
    assert last.date() == now.astimezone(UTC).date()


def test_by_day_names_every_bar_once_oldest_day_first() -> None:
    market = load(NOON)
    days = list(market.by_day())
    assert sum(map(len, days)) == 12_154
    dates = [{market.bars[ticker][index].day for ticker, index in day} for day in days]
    assert all(len(day) == 1 for day in dates)
    assert [day for [day] in dates] == sorted(day for [day] in dates)


@given(st.floats(0.01, 1e4), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1), st.floats(1e-6, 1e4))
def test_adjusting_keeps_the_order_of_prices(
    low: float, up: float, more: float, part: float, adjusted: float
) -> None:
    """No rounding lets the close leave the day's range, and the close is exactly the adjusted close."""
    close, high = low + up, low + up + more
    opened = min(max(low + part * (high - low), low), high)
    row = f"IBM,2013-02-28,{opened!r},{high!r},{low!r},{close!r},1000,{adjusted!r}"
    [bar] = parse([HEADER, row], NOON.date())["IBM"]
    assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
    assert bar.close == adjusted


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("IBM,2013-02-28,200.0,210.0,190.0,205.0,1000,", "is not a bar"),
        ("IBM,2013-02-28,200.0,210.0", "is not a bar"),
        ("IBM,28/02/2013,200.0,210.0,190.0,205.0,1000,102.5", "is not a bar"),
        ("IBM,2013-02-28,200.0,180.0,190.0,205.0,1000,102.5", "no trading day can have"),
        ("IBM,2013-02-28,200.0,210.0,0,205.0,1000,102.5", "no trading day can have"),
        ("IBM,2013-02-28,200.0,210.0,nan,205.0,1000,102.5", "no trading day can have"),
        ("IBM,2013-02-28,200.0,210.0,190.0,211.0,1000,102.5", "no trading day can have"),
        ("IBM,2013-02-28,200.0,210.0,190.0,205.0,1000,0", "no usable adjusted close"),
        ("IBM,2013-02-28,200.0,210.0,190.0,205.0,-1,102.5", "no usable adjusted close"),
    ],
)
def test_a_broken_row_is_refused_with_its_line(row: str, complaint: str) -> None:
    with pytest.raises(TrackerError, match=f"Line 3 .*{complaint}"):
        parse([HEADER, GOOD, row.replace("02-28", "02-27")], NOON.date())


def test_a_day_that_comes_twice_is_refused() -> None:
    with pytest.raises(TrackerError, match="two bars of IBM on 2013-02-28"):
        parse([HEADER, GOOD, GOOD], NOON.date())


def test_a_file_without_bars_is_refused() -> None:
    with pytest.raises(TrackerError, match="holds no bars"):
        parse([HEADER], NOON.date())


def test_rows_in_any_order_make_the_same_bars() -> None:
    other = GOOD.replace("02-28", "02-27")
    assert parse([HEADER, GOOD, other], NOON.date()) == parse([HEADER, other, GOOD], NOON.date())
    assert parse([HEADER, GOOD], NOON.date()) == {
        "IBM": [Bar(NOON.date(), 100.0, 105.0, 95.0, 102.5, 1000, traded_on=date(2013, 2, 28))]
    }
