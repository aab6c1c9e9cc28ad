"""The demo's payloads keep the contract or break it, each where it should; money is exact."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.demo.agents import AGENTS, Agent
from tracker_daemon.demo.market import load
from tracker_daemon.demo.payloads import FLAWS, Flaw, Turn, decision, outcome
from tracker_daemon.demo.reading import read
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, Decision, Message, Outcome, decode

AT = datetime(2031, 7, 9, 12, tzinfo=UTC)
SESSION = uuid4()
READINGS = read(load(AT).bars["AAPL"])
close = st.floats(0.01, 10_000)


def decoded(payload: bytes, *, on_outcomes: bool = False) -> Decision | Outcome:
    """What the daemon makes of a payload."""
    contract = Contract()
    subject = contract.outcomes_subject if on_outcomes else contract.decisions_subject
    return decode(Message(subject, payload, stream="LLM", sequence=1, published_ns=0), contract)


def decided(agent: Agent = AGENTS[0], index: int = 1000) -> tuple[Turn, dict[str, object]]:
    """One real decision, as a turn and as a payload."""
    choice = agent.decide(READINGS[index])
    assert choice is not None
    turn = Turn(agent, "AAPL", index, choice)
    return turn, decision(turn, READINGS[index], SESSION, AT)


@pytest.mark.parametrize("index", [34, 1000, len(READINGS) - 1])
@pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
def test_a_decision_keeps_the_contract_and_arrives_whole(agent: Agent, index: int) -> None:
    turn, payload = decided(agent, index)
    record = decoded(orjson.dumps(payload))
    assert isinstance(record, Decision)
    assert record.id == UUID(str(payload["id"]))
    assert (record.agent_name, record.model, record.decision_type) == (agent.name, agent.model, "signal")
    assert (record.symbol, record.session_id, record.created_at) == ("AAPL", SESSION, AT)
    assert record.confidence == turn.choice.confidence
    assert record.context is not None
    assert orjson.loads(record.context) == READINGS[index].context()
    assert record.extra is None


@pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
def test_the_action_is_read_from_the_response(agent: Agent) -> None:
    turn, payload = decided(agent)
    assert "action" not in payload
    record = decoded(orjson.dumps(payload))
    assert isinstance(record, Decision)
    assert record.action == turn.choice.action
    assert orjson.loads(record.response) == {
        "action": turn.choice.action,
        "confidence": float(turn.choice.confidence),
        "reasoning": turn.choice.reasoning,
    }


def test_nothing_is_invented() -> None:
    """A rule has no tokens, no cost and no latency worth a column."""
    _, payload = decided()
    assert not payload.keys() & {
        "tokens_used",
        "cost_usd",
        "latency_ms",
        "prompt_embedding",
        "outcome",
        "pnl",
    }


def test_every_decision_has_an_id_of_its_own() -> None:
    assert decided()[1]["id"] != decided()[1]["id"]


@pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
def test_a_prompt_is_a_whole_question_without_later_prices(agent: Agent) -> None:
    _, payload = decided(agent)
    prompt, reading = str(payload["prompt"]), READINGS[1000]
    assert 1500 <= len(prompt.encode()) <= 2500
    for part in (agent.name, "Symbol: AAPL", f"Day: {reading.bar.day}", agent.rule, '"action": "BUY"'):
        assert part in prompt
    assert all(str(bar.day) in prompt for bar in reading.recent)
    assert str(READINGS[1001].bar.day) not in prompt


@pytest.mark.parametrize("flaw", FLAWS, ids=[f"{flaw.reason}-{flaw.field}" for flaw in FLAWS])
def test_a_flaw_is_refused_for_the_reason_that_it_names(flaw: Flaw) -> None:
    _, payload = decided()
    with pytest.raises(InvalidPayload) as refused:
        decoded(flaw.spoil(payload), on_outcomes=flaw.is_outcome)
    assert (refused.value.reason, refused.value.field) == (flaw.reason, flaw.field)


@pytest.mark.parametrize(
    ("action", "closes", "expected", "pnl"),
    [
        ("BUY", (100.0, 103.5), "SUCCESS", "350.00"),
        ("BUY", (100.0, 96.5), "FAILURE", "-350.00"),
        ("BUY", (100.0, 100.0), "FAILURE", "0.00"),
        ("SELL", (100.0, 103.5), "FAILURE", "-350.00"),
        ("SELL", (100.0, 96.5), "SUCCESS", "350.00"),
        ("SELL", (100.0, 100.0), "FAILURE", "0.00"),
        ("HOLD", (100.0, 102.0), "SUCCESS", "0.00"),
        ("HOLD", (100.0, 98.0), "SUCCESS", "0.00"),
        ("HOLD", (100.0, 102.01), "FAILURE", "0.00"),
        ("HOLD", (100.0, 97.99), "FAILURE", "0.00"),
        ("BUY", (3.0, 4.0), "SUCCESS", "3333.33"),
        ("SELL", (0.1, 0.3), "FAILURE", "-20000.00"),
    ],
)
def test_an_outcome_is_the_return_on_ten_thousand_dollars(
    action: str, closes: tuple[float, float], expected: str, pnl: str
) -> None:
    found = outcome("c0ffee", action, closes, AT)
    assert found == {
        "decision_id": "c0ffee",
        "outcome": expected,
        "pnl": pnl,
        "timestamp": AT.isoformat(),
        "source": "demo",
    }


def test_an_outcome_keeps_the_contract_to_the_cent() -> None:
    decision_id = uuid4()
    payload = outcome(str(decision_id), "SELL", (100.0, 96.57), AT + timedelta(days=7))
    record = decoded(orjson.dumps(payload), on_outcomes=True)
    assert isinstance(record, Outcome)
    assert (record.decision_id, record.outcome, record.pnl) == (decision_id, "SUCCESS", Decimal("343.00"))
    assert (record.observed_at, record.source) == (AT + timedelta(days=7), "demo")


@given(close, close)
def test_what_buying_earns_selling_loses(opened: float, closed: float) -> None:
    bought, sold = (outcome("c0ffee", action, (opened, closed), AT) for action in ("BUY", "SELL"))
    assert Decimal(bought["pnl"]) == -Decimal(sold["pnl"])
    assert not bought["outcome"] == sold["outcome"] == "SUCCESS"
    assert abs(float(bought["pnl"]) - 10_000 * (closed / opened - 1)) <= 0.0051 + 1e-9 * closed / opened
