"""One agent that decides by whichever of the demo's rules it is told, occasion by occasion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from tracker_daemon.demo.agents import AGENTS
from tracker_daemon.demo.payloads import HOLDING_BARS, Turn, decision, outcome
from tracker_daemon.demo.reading import read

if TYPE_CHECKING:
    from tracker_daemon.demo.market import Market

MODELS: Final = ("rules/rsi-14", "rules/macd-12-26-9")
"""The two rules that are compared: the demo's first, and one that ought to be better."""
DECISION_TYPE: Final = "signal"


class Occasion(NamedTuple):
    """A stock at the close of a bar, and what it is called."""

    ticker: str
    place: int
    key: str


class Desk:
    """An agent of a name of its own, with one session."""

    def __init__(self, market: Market, name: str, limit: int | None = None) -> None:
        """Find every occasion on which both rules know what to do, or only the latest `limit`."""
        self.name = name
        self._market = market
        self._session = uuid4()
        self._rules = {agent.model: agent for agent in AGENTS if agent.model in MODELS}
        self._readings = {ticker: read(bars) for ticker, bars in market.bars.items()}
        found = [
            Occasion(ticker, index, f"{ticker} {market.bars[ticker][index].day}")
            for day in market.by_day()
            for ticker, index in day
            if self._decidable(ticker, index)
        ]
        self.occasions = found if limit is None else found[-limit:]

    def decide(self, occasion: Occasion, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the payloads of the decision by a rule, and of what came of it five bars later."""
        ticker, index, _ = occasion
        rule = self._rules[model]
        choice = rule.decide(self._readings[ticker][index])
        if choice is None:
            raise ValueError(occasion)
        bars = self._market.bars[ticker]
        now, later = bars[index], bars[index + HOLDING_BARS]
        turn = Turn(replace(rule, name=self.name), ticker, index, choice)
        made = decision(turn, self._readings[ticker][index], self._session, self._market.decided_at(now))
        came = outcome(made["id"], choice.action, (now.close, later.close), self._market.decided_at(later))
        return made, came

    def _decidable(self, ticker: str, index: int) -> bool:
        if index + HOLDING_BARS >= len(self._market.bars[ticker]):
            return False
        return all(rule.decide(self._readings[ticker][index]) for rule in self._rules.values())
