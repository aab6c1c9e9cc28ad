"""Messages as agents publish them, for tests of every kind."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, Delivery, Message, decode

CONTRACT = Contract(embedding_dimensions=3)
EMBEDDING = Contract(embedding_dimensions=3, embeds=True)
_sequences = itertools.count(1)


def decision(**fields: Any) -> dict[str, Any]:
    """A decision's payload with the required fields, and those given; None leaves one out."""
    payload = {
        "agent_name": "momentum",
        "decision_type": "signal",
        "symbol": "BTC",
        "prompt": "Buy, sell or hold?",
        "response": '{"action": "BUY", "confidence": 0.8}',
        "model": "gpt-x",
    }
    return {key: value for key, value in (payload | fields).items() if value is not None}


def outcome(decision_id: Any, word: str = "SUCCESS", **fields: Any) -> dict[str, Any]:
    """An outcome's payload."""
    return {"decision_id": str(decision_id), "outcome": word, **fields}


def days_ago(days: float) -> str:
    """A `timestamp`."""
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def message(
    payload: dict[str, Any] | bytes, *, sequence: int | None = None, subject: str | None = None
) -> Message:
    """The payload as a message of the stream LLM; outcomes are told from decisions by their fields."""
    if subject is None:
        is_outcome = isinstance(payload, dict) and "prompt" not in payload and "outcome" in payload
        subject = "llm.outcomes" if is_outcome else "llm.decisions"
    return Message(
        subject,
        payload if isinstance(payload, bytes) else msgspec.json.encode(payload),
        stream="LLM",
        sequence=sequence or next(_sequences),
        published_ns=time.time_ns(),
    )


def delivery(message: Message, contract: Contract = CONTRACT) -> Delivery:
    """The message as the consumer hands it on."""
    try:
        return Delivery(message, decode(message, contract), None)
    except InvalidPayload as error:
        return Delivery(message, error, None)


def deliver(*payloads: dict[str, Any] | bytes, contract: Contract = CONTRACT) -> list[Delivery]:
    """Payloads, one message each."""
    return [delivery(message(payload), contract) for payload in payloads]
