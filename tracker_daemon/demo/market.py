"""The demo's market: real daily bars from the file beside this module, the last one moved to today."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

from tracker_daemon.errors import TrackerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

FILE = "stocks.csv.gz"

# The last decision is as old as a decision that has just been made: in the past, and in every time window.
AGE_OF_LAST_BAR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Bar:
    """One stock's trading day: USD, adjusted for splits and dividends; volume in shares, as traded."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: int
    traded_on: date
    """The day of the real trade; `day` is the day on which the demo replays it."""


@dataclass(frozen=True, slots=True)
class Market:
    """Every stock's bars, oldest first, by ticker, and the time of day (UTC) at which a bar is decided on."""

    bars: Mapping[str, Sequence[Bar]]
    time_of_day: time

    def decided_at(self, bar: Bar) -> datetime:
        """Return the moment at which agents decide on this bar, aware, in UTC."""
        return datetime.combine(bar.day, self.time_of_day, UTC)

    def by_day(self) -> Iterator[list[tuple[str, int]]]:
        """Yield for each day, oldest first, the (ticker, index into its bars) of the stocks traded."""
        days: defaultdict[date, list[tuple[str, int]]] = defaultdict(list)
        for ticker, bars in self.bars.items():
            for index, bar in enumerate(bars):
                days[bar.day].append((ticker, index))
        for day in sorted(days):
            yield days[day]


def load(now: datetime) -> Market:
    """Read the packaged market and move its last bar to `now`'s day (aware; UTC counts), never past `now`."""
    now = now.astimezone(UTC).replace(microsecond=0)
    midnight = now.replace(hour=0, minute=0, second=0)
    packed = files(__package__).joinpath(FILE).read_bytes()
    return Market(
        bars=parse(gzip.decompress(packed).decode().splitlines(), last_day=now.date()),
        time_of_day=max(now - AGE_OF_LAST_BAR, midnight).time(),
    )


def parse(lines: Iterable[str], last_day: date) -> dict[str, list[Bar]]:
    """Turn CSV lines, header first, into bars by ticker; TrackerError names a line that is no trading day."""
    rows = csv.DictReader(lines)
    found = [(row["Ticker"], _bar(row, rows.line_num)) for row in rows]
    if not found:
        raise TrackerError(f"The demo's market file {FILE} holds no bars; reinstall the package.")
    shift = last_day - max(bar.day for _, bar in found)
    bars: defaultdict[str, list[Bar]] = defaultdict(list)
    for ticker, bar in sorted(found, key=lambda pair: (pair[0], pair[1].day)):
        if bars[ticker] and bars[ticker][-1].traded_on == bar.traded_on:
            raise TrackerError(
                f"The demo's market file {FILE} has two bars of {ticker} on {bar.traded_on}; "
                "reinstall the package."
            )
        bars[ticker].append(replace(bar, day=bar.day + shift))
    return dict(bars)


def _bar(row: dict[str, str], line: int) -> Bar:
    try:
        day = date.fromisoformat(row["Date"])
        prices = [float(row[name]) for name in ("Open", "High", "Low", "Close")]
        adjusted_close = float(row["Adj Close"])
        volume = int(row["Volume"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrackerError(
            f"Line {line} of the demo's market file {FILE} is not a bar ({error}); reinstall the package."
        ) from error
    raw_open, high, low, close = prices
    if not 0 < low <= min(raw_open, close) <= max(raw_open, close) <= high < float("inf"):
        raise TrackerError(
            f"Line {line} of the demo's market file {FILE} has prices that no trading day can have; "
            "reinstall the package."
        )
    if not 0 < adjusted_close < float("inf") or volume < 0:
        raise TrackerError(
            f"Line {line} of the demo's market file {FILE} has no usable adjusted close or volume; "
            "reinstall the package."
        )
    # Dividing first keeps the close exactly the adjusted close, and low <= open, close <= high as they were.
    opened, high, low, closed = (price / close * adjusted_close for price in prices)
    return Bar(day, opened, high, low, closed, volume, traded_on=day)
