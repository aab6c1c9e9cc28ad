"""The records of the contract: a message as it came, and what it becomes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from secrets import token_bytes
from typing import Final, Literal
from uuid import UUID

import orjson
from msgspec import Struct
from pgvector import Vector

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.redaction import Redactor


# Without gc, here and in the decoder: they hold no cycles, and the collector would look at all that are held,
# again and again.
class Contract(Struct, frozen=True):
    """The parts of the contract that an installation sets: subjects, payload bytes, vector dimension.

    `redactor` cuts out what must not be kept; None: everything is. `embeds`: a decision that brings no
    embedding is to get one.
    """

    decisions_subject: str = "llm.decisions"
    outcomes_subject: str = "llm.outcomes"
    max_payload_bytes: int = 4 * 1024 * 1024
    embedding_dimensions: int = 1536
    redactor: Redactor | None = None
    embeds: bool = False


class Message(Struct, eq=False, gc=False):
    """A message as it came: payload, headers and its position in the stream (None in core mode).

    `published_ns` is the time at which the stream stored it, in core mode the time of receipt, in
    nanoseconds since 1970. `known_identity` is given for a message that is read back from the database.
    """

    subject: str
    payload: bytes
    stream: str | None
    sequence: int | None
    published_ns: int
    headers: dict[str, str] | None = None
    known_identity: UUID | None = None

    def __repr__(self) -> str:
        """Say which one it is, and nothing that it says."""
        return f"<message {self.sequence} of {self.stream}>"

    @property
    def identity(self) -> UUID:
        """A UUIDv7 from stream name, sequence and time: ordered by time, the same on every delivery.

        Random instead of derived in core mode, where a message is delivered once at most.
        """
        if self.known_identity is None:
            position = f"{self.stream}:{self.sequence}:{self.published_ns}".encode()
            noise = token_bytes(8) if self.stream is None else sha256(position).digest()[:8]
            self.known_identity = uuid7(self.published_ns, noise)
        return self.known_identity

    @property
    def published_at(self) -> datetime:
        """`published_ns` as a UTC time, to the microsecond."""
        return datetime.fromtimestamp(self.published_ns // 1000 / 1_000_000, UTC)


class Outcome(Struct, frozen=True, gc=False):
    """One event of the outcome ledger; field names are the columns of `llm_outcomes`."""

    decision_id: UUID
    event_id: UUID
    outcome: str
    pnl: Decimal | None
    observed_at: datetime
    received_at: datetime
    stream_sequence: int | None
    source: str | None = None
    note: str | None = None
    extra: str | None = None


class Decision(Struct, frozen=True, gc=False):
    """One decision; all fields but the last two are columns of `llm_decisions` (JSON as text)."""

    id: UUID
    session_id: UUID | None
    agent_name: str
    decision_type: str
    symbol: str
    prompt: str
    prompt_embedding: Vector | None
    response: str
    model: str
    tokens_used: int | None
    latency_ms: int | None
    context: str | None
    confidence: Decimal | None
    created_at: datetime
    action: str | None
    cost_usd: Decimal | None
    extra: str | None
    experiment: str | None
    variant: str | None
    propensity: Decimal | None
    embedding_model: str | None
    content_hash: bytes
    first_outcome: Outcome | None
    to_embed: bool = False
    """Whether it is to get an embedding, once it is stored."""


class DeadLetter(Struct, frozen=True):
    """A message that no table can take, and why; field names are the columns of `llm_dead_letters`."""

    id: UUID
    subject: str
    stream: str | None
    stream_sequence: int | None
    published_at: datetime
    reason: str
    field: str | None
    detail: str
    headers: str | None
    payload: bytes


Record = Decision | Outcome | InvalidPayload


Token = tuple[int, str]
"""What acknowledges a message: the number of its stream, among those of one name, and its reply subject."""


class Delivery(Struct, frozen=True, gc=False):
    """A message on its way: as it came, what it became, and what acknowledges it (None: nothing does)."""

    message: Message
    record: Record
    token: Token | None

    @property
    def size(self) -> int:
        """Payload bytes that are held while the message is in memory."""
        return len(self.message.payload)


REASONS: Final = (
    "invalid_json",
    "not_an_object",
    "missing_field",
    "invalid_field",
    "nul_character",
    "too_large",
    "wrong_dimension",
    "id_conflict",
    "unknown_subject",
    "rejected_by_database",
)
"""Why a message becomes a dead letter."""

Result = Literal["stored", "duplicate", "dead_letter", "expired", "released"]
"""What became of a message.

`expired`: it lies behind the horizon up to which the record was pruned. `released`: not all about it could be
committed, so it stays with the stream.
"""


def dead_letter(message: Message, error: InvalidPayload) -> DeadLetter:
    """Wrap a message that cannot be stored, with the reason and everything needed to replay it."""
    return DeadLetter(
        id=message.identity,
        subject=_printable(message.subject),
        stream=message.stream,
        stream_sequence=message.sequence,
        published_at=message.published_at,
        reason=error.reason,
        field=_printable(error.field)[:500] if error.field else None,
        detail=_printable(error.detail),
        headers=_headers_text(message.headers) if message.headers else None,
        payload=message.payload,
    )


def _headers_text(headers: dict[str, str]) -> str:
    return orjson.dumps({_printable(key): _printable(value) for key, value in headers.items()}).decode()


def uuid7(nanoseconds: int, noise: bytes) -> UUID:
    """Lay out a UUIDv7 (RFC 9562, 5.7): milliseconds, then 12 bits of the rest of the time, then noise."""
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    high = (milliseconds & (1 << 48) - 1) << 16 | 0x7000 | rest * 4096 // 1_000_000
    low = 0b10 << 62 | int.from_bytes(noise) >> 2
    return UUID(int=high << 64 | low)


_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")


def _printable(text: str) -> str:
    """Replace what PostgreSQL text cannot hold: U+0000 and lone surrogates."""
    return _UNPRINTABLE.sub("\ufffd", text)
