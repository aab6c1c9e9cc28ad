"""What the demo's messages carry: decisions, outcomes, and six ways to be wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from tracker_daemon.demo.agents import Agent, Choice
    from tracker_daemon.demo.reading import Reading

HOLDING_BARS: Final = 5
NOTIONAL_USD: Final = Decimal(10_000)
MISSED_MOVE: Final = Decimal("0.02")

OUTCOME_RULE: Final = (
    "An outcome is known after five trading days. BUY earns the stock's return on 10,000 USD, SELL its "
    "negative, HOLD nothing; no costs. BUY and SELL succeed with a profit; HOLD succeeds if the stock moved "
    "by 2 % or less."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's choice about one stock, at `index` into the stock's bars."""

    agent: Agent
    ticker: str
    index: int
    choice: Choice


def decision(turn: Turn, reading: Reading, session: UUID, at: datetime) -> dict[str, Any]:
    """Return the payload of one agent's decision, with a new id."""
    agent, choice = turn.agent, turn.choice
    # No tokens, cost or latency: rules have none, and nothing here is made up.
    return {
        "id": str(uuid4()),
        "session_id": str(session),
        "agent_name": agent.name,
        "decision_type": agent.decision_type,
        "symbol": turn.ticker,
        "prompt": prompt(agent, turn.ticker, reading),
        "response": response(choice),
        "model": agent.model,
        "timestamp": at.isoformat(),
        "confidence": float(choice.confidence),
        "context": reading.context(),
    }


def prompt(agent: Agent, symbol: str, reading: Reading) -> str:
    """Return what a trading language model would be asked at this close, some 2 KB."""
    bars = "\n".join(
        f"{bar.day}  {bar.open:10.4f} {bar.high:10.4f} {bar.low:10.4f} {bar.close:10.4f} {bar.volume:12d}"
        for bar in reading.recent
    )
    return f"""\
You are the {agent.name} agent of a trading desk. You study one liquid US stock at a time on daily bars. A \
position is opened at the close, has a notional of 10,000 USD and is closed after five trading days.

Symbol: {symbol}
Day: {reading.bar.day}. Its close is known; nothing later is.
Prices are in USD, adjusted for splits and dividends. Volume is in shares, as traded.

Recent bars, oldest first:
day               open       high        low      close       volume
{bars}

Indicators at this close:
{_indicators(reading)}

Rule of this agent: {agent.rule}

Question: should the desk BUY, SELL or HOLD {symbol} at this close? Use only the figures above. Say how sure \
you are as a confidence from 0 to 1, where 0.5 means that the rule's threshold has only just been reached.

Answer with one JSON object and nothing else:
{{"action": "BUY" | "SELL" | "HOLD", "confidence": <from 0 to 1>, "reasoning": "<one or two sentences>"}}
"""


def response(choice: Choice) -> str:
    """Return the JSON text that answers the prompt."""
    answer = {"action": choice.action, "confidence": float(choice.confidence), "reasoning": choice.reasoning}
    return orjson.dumps(answer).decode()


def outcome(decision_id: str, action: str, closes: tuple[float, float], at: datetime) -> dict[str, Any]:
    """Return the outcome's payload, given the closes at the decision and five bars later, by OUTCOME_RULE."""
    opened, closed = (Decimal(repr(close)) for close in closes)
    move = closed / opened - 1
    sign = {"BUY": 1, "SELL": -1, "HOLD": 0}[action]
    # Adding zero turns a negative zero into a plain one.
    pnl = (sign * NOTIONAL_USD * move).quantize(Decimal("0.01"), ROUND_HALF_EVEN) + 0
    succeeded = pnl > 0 if sign else abs(move) <= MISSED_MOVE
    return {
        "decision_id": decision_id,
        "outcome": "SUCCESS" if succeeded else "FAILURE",
        "pnl": str(pnl),
        "timestamp": at.isoformat(),
        "source": "demo",
    }


@dataclass(frozen=True, slots=True)
class Flaw:
    """One way to spoil a decision, and the reason and field that its dead letter is to name."""

    reason: str
    field: str | None
    spoil: Callable[[dict[str, Any]], bytes]
    is_outcome: bool = False


FLAWS: Final = (
    Flaw("invalid_json", None, lambda good: orjson.dumps(good)[:-40]),
    Flaw(
        "missing_field", "model", lambda good: orjson.dumps({k: v for k, v in good.items() if k != "model"})
    ),
    Flaw("nul_character", "prompt", lambda good: orjson.dumps(good | {"prompt": f"\0{good['prompt']}"})),
    Flaw("invalid_field", "confidence", lambda good: orjson.dumps(good | {"confidence": 1.7})),
    Flaw(
        "wrong_dimension",
        "prompt_embedding",
        lambda good: orjson.dumps(good | {"prompt_embedding": [0.1, 0.2, 0.3]}),
    ),
    Flaw(
        "invalid_field",
        "decision_id",
        lambda good: orjson.dumps({"decision_id": f"{good['id']}-5", "outcome": "SUCCESS", "source": "demo"}),
        is_outcome=True,
    ),
)


def _indicators(reading: Reading) -> str:
    """List the warm indicators, a line each."""
    lines = []
    if reading.rsi is not None:
        lines.append(f"- RSI 14 (Wilder): {reading.rsi:.1f}")
    if reading.macd is not None:
        lines.append("- MACD 12/26/9: line {:+.4f}, signal {:+.4f}, histogram {:+.4f}".format(*reading.macd))
    if reading.previous_macd is not None:
        lines.append(f"- MACD histogram one bar earlier: {reading.previous_macd.histogram:+.4f}")
    if reading.volatility is not None:
        lines.append(f"- ATR 14: {reading.atr:.4f}, which is {reading.volatility:.2f} % of the close")
    if reading.previous_atr is not None:
        lines.append(
            f"- True range: {reading.true_range:.4f}; ATR 14 one bar earlier: {reading.previous_atr:.4f}"
        )
    if reading.previous_channel is not None:
        lines.append(
            "- Donchian channel of the 20 bars before: high {:.4f}, low {:.4f}".format(
                *reading.previous_channel
            )
        )
    if reading.trend is not None:
        lines.append(
            f"- EMA 20: {reading.ema_20:.4f}; SMA 50: {reading.sma_50:.4f}; together: {reading.trend}"
        )
    return "\n".join(lines)
