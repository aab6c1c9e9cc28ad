"""One JSON payload in, one typed record out."""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import orjson
from msgspec import Meta, Raw, Struct
from pgvector import Vector

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages.payload import canonical_json, exact, parse_json, read_fields
from tracker_daemon.messages.records import Contract, Decision, Message, Outcome
from tracker_daemon.messages.values import (
    CONFIDENCE,
    COST,
    PNL,
    PROPENSITY,
    embedding,
    outcome_word,
    same,
    utc,
    whole,
)

if TYPE_CHECKING:
    from decimal import Decimal


def decode(message: Message, contract: Contract) -> Decision | Outcome:
    """Turn a payload into a typed record; raise nothing but `InvalidPayload`."""
    if len(message.payload) > contract.max_payload_bytes:
        detail = f"{len(message.payload)} bytes, allowed are {contract.max_payload_bytes}"
        raise InvalidPayload("too_large", None, detail)
    if message.subject == contract.decisions_subject:
        return _decision(message, contract)
    if message.subject == contract.outcomes_subject:
        return _outcome(message)
    raise InvalidPayload("unknown_subject", None, "no table is fed from this subject")


_Text100 = Annotated[str, Meta(max_length=100)]
_Name100 = Annotated[str, Meta(min_length=1, max_length=100)]
_Name50 = Annotated[str, Meta(min_length=1, max_length=50)]
_Name20 = Annotated[str, Meta(min_length=1, max_length=20)]
_Float32 = Annotated[float, Meta(ge=-3.4028234663852886e38, le=3.4028234663852886e38)]
_NULL = Raw(b"null")


# Any: a number that must stay exact; the decoders hand its digits to Decimal.
class DecisionFields(Struct):
    """The payload of `llm.decisions`, every alias a field."""

    agent_name: _Name100 | None = None
    decision_type: _Name50 | None = None
    symbol: _Name20 | None = None
    prompt: str | None = None
    response: str | None = None
    model: _Name100 | None = None
    id: UUID | None = None
    decision_id: UUID | None = None
    session_id: UUID | None = None
    timestamp: datetime | None = None
    created_at: datetime | None = None
    confidence: Any = None
    tokens_used: Any = None
    latency_ms: Any = None
    cost_usd: Any = None
    action: _Name20 | None = None
    context: Raw = _NULL
    metadata: Raw = _NULL
    prompt_embedding: list[_Float32] | None = None
    embedding_model: _Text100 | None = None
    outcome: str | None = None
    pnl: Any = None
    outcome_pnl: Any = None
    experiment: _Text100 | None = None
    variant: _Text100 | None = None
    propensity: Any = None


class OutcomeFields(Struct):
    """The payload of `llm.outcomes`, every alias a field."""

    decision_id: UUID | None = None
    id: UUID | None = None
    outcome: str | None = None
    pnl: Any = None
    outcome_pnl: Any = None
    timestamp: datetime | None = None
    observed_at: datetime | None = None
    source: str | None = None
    note: str | None = None


REQUIRED = ("agent_name", "decision_type", "symbol", "prompt", "response", "model")
_DECISION_KEYS = frozenset(DecisionFields.__struct_fields__)
_OUTCOME_KEYS = frozenset(OutcomeFields.__struct_fields__)
_decision_decoder = msgspec.json.Decoder(DecisionFields, float_hook=exact)
_outcome_decoder = msgspec.json.Decoder(OutcomeFields, float_hook=exact)


def contract_field(error: InvalidPayload) -> str | None:
    """The contract's own field that an error is about, fit for a log: a path holds the payload's words."""
    name = re.split(r"[.\[]", error.field or "", maxsplit=1)[0]
    return name if name in _DECISION_KEYS | _OUTCOME_KEYS else None


def _decision(message: Message, contract: Contract) -> Decision:
    fields, extra = read_fields(message.payload, _decision_decoder, _DECISION_KEYS)
    for name in REQUIRED:
        if getattr(fields, name) is None:
            raise InvalidPayload("missing_field", name, "required")
    given: dict[str, Any] = {
        "id": same(fields, "id", "decision_id"),
        "session_id": fields.session_id,
        "agent_name": fields.agent_name,
        "decision_type": fields.decision_type,
        "symbol": fields.symbol,
        "prompt": fields.prompt,
        "prompt_embedding": embedding(fields.prompt_embedding, contract.embedding_dimensions),
        "response": fields.response,
        "model": fields.model,
        "tokens_used": whole(fields.tokens_used, "tokens_used"),
        "latency_ms": whole(fields.latency_ms, "latency_ms"),
        "context": _context(fields),
        "confidence": CONFIDENCE.read(fields.confidence, "confidence"),
        "created_at": _time(fields, "timestamp", "created_at"),
        "action": fields.action,
        "cost_usd": COST.read(fields.cost_usd, "cost_usd"),
        "extra": extra,
        "experiment": fields.experiment,
        "variant": fields.variant,
        "propensity": PROPENSITY.read(fields.propensity, "propensity"),
        "embedding_model": fields.embedding_model,
    }
    outcome, pnl = outcome_word(fields.outcome), _pnl(fields)
    content_hash = _content_hash(given | {"outcome": outcome, "pnl": pnl})
    given["id"] = given["id"] or message.identity
    given["created_at"] = given["created_at"] or message.published_at
    given["action"] = given["action"] or _action_in(given["response"])
    first = None
    if outcome is not None or pnl is not None:
        first = Outcome(
            decision_id=given["id"],
            event_id=given["id"],  # one such event a decision, however often the decision is published
            outcome=outcome or "PENDING",
            pnl=pnl,
            observed_at=given["created_at"],
            received_at=message.published_at,
            stream_sequence=message.sequence,
        )
    return Decision(**given, content_hash=content_hash, first_outcome=first)


def _outcome(message: Message) -> Outcome:
    fields, extra = read_fields(message.payload, _outcome_decoder, _OUTCOME_KEYS)
    decision_id = same(fields, "decision_id", "id")
    if decision_id is None:
        raise InvalidPayload("missing_field", "decision_id", "required")
    outcome = outcome_word(fields.outcome)
    if outcome is None:
        raise InvalidPayload("missing_field", "outcome", "required")
    return Outcome(
        decision_id=decision_id,
        event_id=message.identity,
        outcome=outcome,
        pnl=_pnl(fields),
        observed_at=_time(fields, "timestamp", "observed_at") or message.published_at,
        received_at=message.published_at,
        source=fields.source,
        note=fields.note,
        extra=extra,
        stream_sequence=message.sequence,
    )


def _time(fields: DecisionFields | OutcomeFields, name: str, alias: str) -> datetime | None:
    for key in (name, alias):
        setattr(fields, key, utc(getattr(fields, key), key))
    time: datetime | None = same(fields, name, alias)
    return time


def _pnl(fields: DecisionFields | OutcomeFields) -> Decimal | None:
    fields.pnl = PNL.read(fields.pnl, "pnl")
    fields.outcome_pnl = PNL.read(fields.outcome_pnl, "outcome_pnl")
    pnl: Decimal | None = same(fields, "pnl", "outcome_pnl")
    return pnl


def _context(fields: DecisionFields) -> str | None:
    """The JSON text of the context as it came: jsonb keeps more digits than a float."""
    texts, parsed = [], []
    for key in ("context", "metadata"):
        text = str(bytes(getattr(fields, key)), "utf-8")
        if text == "null":
            continue
        if text[0] != "{":
            raise InvalidPayload("invalid_field", key, "expected an object")
        texts.append(text)
        parsed.append(parse_json(text, key))
    if len(parsed) == 2 and parsed[0] != parsed[1]:
        raise InvalidPayload("invalid_field", "metadata", "differs from context, which is the same field")
    return texts[0] if texts else None


class _Acted(Struct):
    action: Any = None
    side: Any = None


_acted_decoder = msgspec.json.Decoder(_Acted)


def _action_in(response: str) -> str | None:
    """The action that a JSON response names; most responses are prose, so nothing is an error here."""
    if not response.lstrip().startswith("{"):
        return None
    try:
        acted = _acted_decoder.decode(response)
    except (msgspec.DecodeError, RecursionError):
        return None
    for action in (acted.action, acted.side):
        if isinstance(action, str) and 1 <= len(action) <= 20 and "\x00" not in action:
            return action
    return None


def _content_hash(given: dict[str, Any]) -> bytes:
    """SHA-256 over the fields that the payload carries, however its JSON was written."""
    carried = {name: value for name, value in given.items() if value is not None}
    for name in ("context", "extra"):
        if name in carried:
            carried[name] = canonical_json(carried[name])
    return sha256(orjson.dumps(carried, default=_plain, option=orjson.OPT_SORT_KEYS)).digest()


def _plain(value: Decimal | Vector) -> str | list[float]:
    return value.to_list() if isinstance(value, Vector) else str(value)
