"""One JSON payload in, one typed record out."""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages.payload import (
    MAX_DEPTH,
    canonical_json,
    check_depth,
    exact,
    parse_json,
    read_fields,
)
from tracker_daemon.messages.records import Contract, Decision, Message, Outcome
from tracker_daemon.messages.redact import redact, redact_malformed
from tracker_daemon.messages.values import (
    CONFIDENCE,
    COST,
    PNL,
    PROPENSITY,
    embedding,
    fold,
    outcome_word,
    utc,
    whole,
)

if TYPE_CHECKING:
    from pgvector import Vector

    from tracker_daemon.redaction import Redactor


def decode(message: Message, contract: Contract) -> Decision | Outcome:
    """Turn a payload into a typed record; raise nothing but `InvalidPayload`.

    With a redactor, the message itself is redacted: nobody finds in it what was there before.
    """
    size, redactor = len(message.payload), contract.redactor
    if redactor is None:
        return _decode(message, contract, size)
    redact(message, contract, redactor, _NAMES)
    try:
        return _decode(message, contract, size)
    except InvalidPayload:
        redact_malformed(message, redactor)
        raise


def _decode(message: Message, contract: Contract, size: int) -> Decision | Outcome:
    if size > contract.max_payload_bytes:
        detail = f"{size} bytes, allowed are {contract.max_payload_bytes}"
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
_NULL = Raw(b"null")


# Any: a number that must stay exact; the decoders hand its digits to Decimal. Defaults are omitted: brought
# to one form, the fields encode to what the payload carried, and to nothing else.
class DecisionFields(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The payload of `llm.decisions`, every alias a field."""

    agent_name: _Name100
    decision_type: _Name50
    symbol: _Name20
    prompt: str
    response: str
    model: _Name100
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
    prompt_embedding: list[float] | None = None
    embedding_model: _Text100 | None = None
    outcome: str | None = None
    pnl: Any = None
    outcome_pnl: Any = None
    experiment: _Text100 | None = None
    variant: _Text100 | None = None
    propensity: Any = None


class OutcomeFields(Struct, forbid_unknown_fields=True, gc=False):
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


_DECISION_KEYS = frozenset(DecisionFields.__struct_fields__)
_OUTCOME_KEYS = frozenset(OutcomeFields.__struct_fields__)
_NAMES = frozenset(name.encode() for name in _DECISION_KEYS | _OUTCOME_KEYS)
_decision_decoder = msgspec.json.Decoder(DecisionFields, float_hook=exact)
_outcome_decoder = msgspec.json.Decoder(OutcomeFields, float_hook=exact)
_encoder = msgspec.json.Encoder()


def contract_field(error: InvalidPayload) -> str | None:
    """The contract's own field that an error is about, fit for a log: a path holds the payload's words."""
    name = re.split(r"[.\[]", error.field or "", maxsplit=1)[0]
    return name if name in _DECISION_KEYS | _OUTCOME_KEYS else None


def _decision(message: Message, contract: Contract) -> Decision:
    fields, extra = read_fields(message.payload, _decision_decoder, _DECISION_KEYS)
    if fields.decision_id is not None:
        fold(fields, "id", "decision_id")
    vector = None
    if fields.prompt_embedding is not None:
        vector = embedding(fields.prompt_embedding, contract.embedding_dimensions)
    fields.tokens_used = whole(fields.tokens_used, "tokens_used")
    fields.latency_ms = whole(fields.latency_ms, "latency_ms")
    context = _context(fields, message.payload)
    fields.confidence = CONFIDENCE.read(fields.confidence, "confidence")
    _fold_times(fields, "timestamp", "created_at")
    fields.cost_usd = COST.read(fields.cost_usd, "cost_usd")
    if fields.propensity is not None:
        fields.propensity = PROPENSITY.read(fields.propensity, "propensity")
    if fields.outcome is not None:
        fields.outcome = outcome_word(fields.outcome)
    _fold_pnl(fields)
    id_, created_at = fields.id or message.identity, fields.timestamp or message.published_at
    first = None
    if fields.outcome is not None or fields.pnl is not None:
        first = Outcome(
            decision_id=id_,
            event_id=id_,  # one such event a decision, however often the decision is published
            outcome=fields.outcome or "PENDING",
            pnl=fields.pnl,
            observed_at=created_at,
            received_at=message.published_at,
            stream_sequence=message.sequence,
        )
    return Decision(
        id=id_,
        session_id=fields.session_id,
        agent_name=fields.agent_name,
        decision_type=fields.decision_type,
        symbol=fields.symbol,
        prompt=fields.prompt,
        prompt_embedding=vector,
        response=fields.response,
        model=fields.model,
        tokens_used=fields.tokens_used,
        latency_ms=fields.latency_ms,
        context=context,
        confidence=fields.confidence,
        created_at=created_at,
        action=fields.action or _action_in(fields.response, contract.redactor),
        cost_usd=fields.cost_usd,
        extra=extra,
        experiment=fields.experiment,
        variant=fields.variant,
        propensity=fields.propensity,
        embedding_model=fields.embedding_model,
        content_hash=_content_hash(fields, vector, extra),
        first_outcome=first,
        to_embed=contract.embeds and vector is None,
    )


def _outcome(message: Message) -> Outcome:
    fields, extra = read_fields(message.payload, _outcome_decoder, _OUTCOME_KEYS)
    fold(fields, "decision_id", "id")
    if fields.decision_id is None:
        raise InvalidPayload("missing_field", "decision_id", "required")
    if fields.outcome is None:
        raise InvalidPayload("missing_field", "outcome", "required")
    _fold_pnl(fields)
    _fold_times(fields, "timestamp", "observed_at")
    return Outcome(
        decision_id=fields.decision_id,
        event_id=message.identity,
        outcome=outcome_word(fields.outcome),
        pnl=fields.pnl,
        observed_at=fields.timestamp or message.published_at,
        received_at=message.published_at,
        source=fields.source,
        note=fields.note,
        extra=extra,
        stream_sequence=message.sequence,
    )


def _fold_times(fields: DecisionFields | OutcomeFields, name: str, alias: str) -> None:
    for key in (name, alias):
        if (given := getattr(fields, key)) is not None:
            setattr(fields, key, utc(given, key))
    fold(fields, name, alias)


def _fold_pnl(fields: DecisionFields | OutcomeFields) -> None:
    fields.pnl = PNL.read(fields.pnl, "pnl")
    fields.outcome_pnl = PNL.read(fields.outcome_pnl, "outcome_pnl")
    fold(fields, "pnl", "outcome_pnl")


def _context(fields: DecisionFields, payload: bytes) -> str | None:
    """The JSON text of the context as it came: jsonb keeps more digits than a float.

    In the fields, its canonical form takes the place of both its names.
    """
    texts, values = [], []
    for key, raw in (("context", fields.context), ("metadata", fields.metadata)):
        if raw is _NULL or (text := str(raw, "utf-8")) == "null":
            continue
        if text[0] != "{":
            raise InvalidPayload("invalid_field", key, "expected an object")
        if text.count("{") + text.count("[") >= MAX_DEPTH:
            check_depth(payload)
        texts.append(text)
        values.append(parse_json(text, key))
    if len(values) == 2 and values[0] != values[1]:
        raise InvalidPayload("invalid_field", "metadata", "differs from context, which is the same field")
    fields.context, fields.metadata = Raw(canonical_json(values[0])) if values else _NULL, _NULL
    return texts[0] if texts else None


class _Acted(Struct):
    action: Any = None
    side: Any = None


_acted_decoder = msgspec.json.Decoder(_Acted)


def _action_in(response: str, redactor: Redactor | None) -> str | None:
    """The action that a JSON response names; most responses are prose, so nothing is an error here."""
    if not response.lstrip().startswith("{"):
        return None
    try:
        acted = _acted_decoder.decode(response)
    except (msgspec.DecodeError, RecursionError):
        return None
    for given in (acted.action, acted.side):
        if isinstance(given, str):
            # Once more: escapes in the response's own JSON may have hidden something.
            action = given if redactor is None else redactor.redact_text(given)
            if 1 <= len(action) <= 20 and "\x00" not in action:
                return action
    return None


def _content_hash(fields: DecisionFields, vector: Vector | None, extra: str | None) -> bytes:
    """SHA-256 over the fields that the payload carries, however its JSON was written."""
    fields.prompt_embedding = None
    content = sha256(_encoder.encode(fields))
    if vector is not None:
        content.update(b"\0" + vector.to_binary())
    if extra is not None:
        content.update(canonical_json(parse_json(extra, None)))
    return content.digest()
