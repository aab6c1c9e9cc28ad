"""The script holds every decision and outcome of the market in the order of its days, and six flaws."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tracker_daemon.demo.agents import AGENTS
from tracker_daemon.demo.market import load
from tracker_daemon.demo.payloads import FLAWS
from tracker_daemon.demo.script import Message, Script
from tracker_daemon.messages import Contract, decode
from tracker_daemon.messages import Message as Received

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2031, 7, 9, 12, tzinfo=UTC)
MARKET = load(NOW)


@cache
def whole() -> tuple[Script, list[Message]]:
    """The script of the whole market and its messages: 105 MB, made once."""
    script = Script(MARKET)
    return script, list(script.messages())


def bodies(messages: Iterable[Message], kind: str) -> list[dict[str, Any]]:
    """The payloads of one kind, parsed."""
    return [orjson.loads(message.payload) for message in messages if message.kind == kind]


def test_the_whole_market_makes_this_many_messages() -> None:
    """Each agent, each stock, each bar once warm: 12,154 bars three times, less 68 warm-up bars a stock."""
    script, messages = whole()
    assert Counter(message.kind for message in messages) == {
        "decision": 36_122,
        "outcome": 36_047,
        "malformed": 6,
    }
    assert (script.decisions, script.outcomes) == (36_122, 36_047)
    assert 3 * 12_154 - 5 * (14 + 34 + 20) == 36_122


def test_every_message_but_the_flaws_keeps_the_contract() -> None:
    contract = Contract()
    subjects = {"decisions": contract.decisions_subject, "outcomes": contract.outcomes_subject}
    for message in whole()[1]:
        if message.kind != "malformed":
            decode(
                Received(
                    subjects[message.subject], message.payload, stream="LLM", sequence=1, published_ns=0
                ),
                contract,
            )


def test_ids_are_unique_and_sessions_one_for_each_agent() -> None:
    script, messages = whole()
    assert len({message.message_id for message in messages}) == len(messages)
    decisions = bodies(messages, "decision")
    assert {(body["agent_name"], body["session_id"]) for body in decisions} == {
        (agent.name, str(script.sessions[agent.name])) for agent in AGENTS
    }
    assert Script(MARKET, limit=1).sessions != script.sessions


def test_days_never_go_back_and_outcomes_stand_before_the_days_decisions() -> None:
    order = [
        (message.day, message.kind == "decision") for message in whole()[1] if message.kind != "malformed"
    ]
    assert order == sorted(order)


def test_all_stocks_of_a_day_are_decided_together() -> None:
    messages = whole()[1]
    last = [orjson.loads(message.payload) for message in messages if message.day == NOW.date()]
    decided = [(body["symbol"], body["agent_name"]) for body in last if "symbol" in body]
    assert decided == [(ticker, agent.name) for ticker in MARKET.bars for agent in AGENTS]


def test_an_outcome_comes_five_bars_after_its_decision_at_that_bars_price() -> None:
    decisions = {body["id"]: body for body in bodies(whole()[1], "decision")}
    indexes = {
        (ticker, MARKET.decided_at(bar).isoformat()): index
        for ticker, bars in MARKET.bars.items()
        for index, bar in enumerate(bars)
    }
    for body in bodies(whole()[1], "outcome"):
        decision = decisions[body["decision_id"]]
        bars, index = MARKET.bars[decision["symbol"]], indexes[decision["symbol"], decision["timestamp"]]
        assert body["timestamp"] == MARKET.decided_at(bars[index + 5]).isoformat()
        sign = {"BUY": 1, "SELL": -1, "HOLD": 0}[orjson.loads(decision["response"])["action"]]
        earned = sign * 10_000 * (bars[index + 5].close / bars[index].close - 1)
        assert float(body["pnl"]) == pytest.approx(earned, abs=0.0051)


def test_only_the_last_five_bars_of_each_stock_are_pending() -> None:
    decisions, settled = (bodies(whole()[1], kind) for kind in ("decision", "outcome"))
    pending = {body["id"] for body in decisions} - {body["decision_id"] for body in settled}
    assert len(settled) == len({body["decision_id"] for body in settled})
    found = Counter((body["symbol"], body["timestamp"]) for body in decisions if body["id"] in pending)
    assert found == {
        (ticker, MARKET.decided_at(bar).isoformat()): 3
        for ticker, bars in MARKET.bars.items()
        for bar in bars[-5:]
    }


def test_nothing_is_dated_later_than_now() -> None:
    for kind in ("decision", "outcome"):
        assert max(datetime.fromisoformat(body["timestamp"]) for body in bodies(whole()[1], kind)) <= NOW


def test_flaws_divide_the_run_into_equal_parts() -> None:
    messages = whole()[1]
    places = [index / len(messages) for index, message in enumerate(messages) if message.kind == "malformed"]
    assert places == pytest.approx([part / 7 for part in range(1, 7)], abs=0.01)


def test_flaws_go_to_their_subjects_in_order() -> None:
    flawed = [message for message in whole()[1] if message.kind == "malformed"]
    assert [message.subject for message in flawed] == [
        "outcomes" if flaw.is_outcome else "decisions" for flaw in FLAWS
    ]


def test_two_scripts_of_one_market_decide_alike() -> None:
    def told(messages: Iterable[Message]) -> list[dict[str, Any]]:
        own = ("id", "session_id")
        return [{k: v for k, v in body.items() if k not in own} for body in bodies(messages, "decision")]

    assert told(Script(MARKET, 2000).messages()) == told(Script(MARKET, 2000).messages())


@pytest.mark.parametrize("limit", [1, 5, 80, 300])
def test_a_limit_keeps_the_latest_decisions_and_their_outcomes(limit: int) -> None:
    """The same decisions as at the end of the whole run, on indicators of the whole history."""
    script = Script(MARKET, limit)
    messages = list(script.messages())
    decisions, settled = (bodies(messages, kind) for kind in ("decision", "outcome"))
    assert (
        (script.decisions, script.outcomes) == (len(decisions), len(settled)) == (limit, max(0, limit - 75))
    )
    ends = bodies(whole()[1][-3 * limit - 50 :], "decision")[-limit:]
    assert [(body["prompt"], body["context"]) for body in decisions] == [
        (body["prompt"], body["context"]) for body in ends
    ]
    assert {body["decision_id"] for body in settled} <= {body["id"] for body in decisions}
    assert sum(message.kind == "malformed" for message in messages) == 6
