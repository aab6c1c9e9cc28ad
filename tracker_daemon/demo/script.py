"""The demo's script: which messages a replay publishes, and in which order.

Day by day, all stocks together: first the outcomes of the decisions five bars ago, then the new decisions.
Between them, spread over the whole run, stand six malformed messages.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import orjson

from tracker_daemon.demo.agents import AGENTS
from tracker_daemon.demo.payloads import FLAWS, HOLDING_BARS, Flaw, Turn, decision, outcome
from tracker_daemon.demo.reading import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

    from tracker_daemon.demo.market import Bar, Market
    from tracker_daemon.demo.reading import Reading


Subject = Literal["decisions", "outcomes"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish: its kind, the subject it belongs on, a unique id, and its bytes."""

    kind: Literal["decision", "outcome", "malformed"]
    subject: Subject
    message_id: str
    payload: bytes
    day: date


class Script:
    """One replay of a market, with a session of its own for each agent."""

    def __init__(self, market: Market, limit: int | None = None) -> None:
        """Plan every decision, or only the latest `limit` (1 or more), on indicators of the whole history."""
        self.sessions = {agent.name: uuid4() for agent in AGENTS}
        self._market = market
        self._readings = {ticker: read(bars) for ticker, bars in market.bars.items()}
        turns = [turn for day in market.by_day() for turn in _turns(self._readings, day)]
        self._turns = turns if limit is None else turns[-limit:]

    @property
    def decisions(self) -> int:
        """The number of decisions that this replay publishes."""
        return len(self._turns)

    @property
    def outcomes(self) -> int:
        """The number of outcomes that this replay publishes: none yet for a stock's last five bars."""
        return sum(self._exit(turn) is not None for turn in self._turns)

    def messages(self) -> Iterator[Message]:
        """Yield every message in order; an outcome always follows its decision."""
        due: defaultdict[date, list[Message]] = defaultdict(list)
        flaws = list(FLAWS)
        for taken, turn in enumerate(self._turns, start=1):
            day = self._bar(turn).day
            yield from due.pop(day, ())
            payload = self._payload(turn)
            yield Message("decision", "decisions", payload["id"], orjson.dumps(payload), day)
            if (later := self._exit(turn)) is not None:
                due[later.day].append(self._settled(turn, payload["id"], later))
            # The flaws divide the run into equal parts; a very short run takes several at once.
            while flaws and taken * (len(FLAWS) + 1) >= self.decisions * (len(FLAWS) + 1 - len(flaws)):
                yield _malformed(flaws.pop(0), payload, day)

    def _bar(self, turn: Turn) -> Bar:
        return self._market.bars[turn.ticker][turn.index]

    def _exit(self, turn: Turn) -> Bar | None:
        """Return the bar at which the turn's outcome is known; None while it is still to come."""
        bars = self._market.bars[turn.ticker]
        index = turn.index + HOLDING_BARS
        return bars[index] if index < len(bars) else None

    def _payload(self, turn: Turn) -> dict[str, Any]:
        at = self._market.decided_at(self._bar(turn))
        return decision(turn, self._readings[turn.ticker][turn.index], self.sessions[turn.agent.name], at)

    def _settled(self, turn: Turn, decision_id: str, later: Bar) -> Message:
        closes = (self._bar(turn).close, later.close)
        payload = outcome(decision_id, turn.choice.action, closes, self._market.decided_at(later))
        return Message("outcome", "outcomes", f"{decision_id}-outcome", orjson.dumps(payload), later.day)


def _turns(readings: Mapping[str, Sequence[Reading]], day: Sequence[tuple[str, int]]) -> Iterator[Turn]:
    """Let every agent whose indicators are warm choose about every stock of the day."""
    for ticker, index in day:
        for agent in AGENTS:
            if (choice := agent.decide(readings[ticker][index])) is not None:
                yield Turn(agent, ticker, index, choice)


def _malformed(flaw: Flaw, good: dict[str, Any], day: date) -> Message:
    """Spoil a decision as new as `good`, under an id of its own."""
    unsent = good | {"id": str(uuid4())}
    return Message(
        "malformed", "outcomes" if flaw.is_outcome else "decisions", unsent["id"], flaw.spoil(unsent), day
    )
