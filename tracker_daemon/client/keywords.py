"""The keywords of a tracker's methods: what can be said of a decision, and asked about many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    Number = Decimal | int | float | str
    """Exact as a Decimal, or a text like "250.50"; of a float the digits count that Python prints."""


def check(method: str, given: Mapping[str, Any], kind: Any) -> None:
    """Raise TypeError for keywords that are unknown or missing, as Python does for those of a signature."""
    if unknown := given.keys() - kind.__annotations__.keys():
        raise TypeError(f"{method}() got an unexpected keyword argument {min(unknown)!r}")
    if missing := kind.__required_keys__ - given.keys():
        raise TypeError(f"{method}() missing a required keyword argument: {min(missing)!r}")


class Details(TypedDict, total=False):
    """What may be said of a decision; None is nothing. `extra`: fields that the contract does not have.

    A `timestamp` without an offset means UTC.
    """

    id: UUID | None
    session_id: UUID | None
    timestamp: datetime | None
    confidence: Number | None
    tokens_used: int | None
    latency_ms: int | None
    cost_usd: Number | None
    context: Mapping[str, Any] | None
    prompt_embedding: Sequence[float] | None
    embedding_model: str | None
    outcome: Literal["SUCCESS", "FAILURE", "PENDING"] | None
    pnl: Number | None
    experiment: str | None
    variant: str | None
    propensity: Number | None
    extra: Mapping[str, Any] | None


class Asking(Details):
    """What must be said of a decision before its model is asked."""

    agent_name: str
    symbol: str
    prompt: str
    model: str


class Answered(Asking):
    """What must be said of any decision."""

    response: str


class Signal(Answered, total=False):
    """A decision that may name its action; else it is read from a JSON response."""

    action: str | None


class Decision(Signal):
    """A decision of any type."""

    decision_type: str


class CallOf(Asking):
    """A decision that is still to be made."""

    decision_type: str


class Event(TypedDict, total=False):
    """What may be said of an outcome besides its P&L."""

    timestamp: datetime | None
    source: str | None
    note: str | None
    extra: Mapping[str, Any] | None


class Beside(TypedDict, total=False):
    """Which decisions, beside symbol and context: the conditions of `queries.Filter`, where each is told."""

    model: str | None
    decision_type: str | None
    action: str | None
    session_id: UUID | None
    experiment: str | None
    variant: str | None
    embedding_model: str | None
    min_confidence: Number | None
    max_confidence: Number | None
    min_propensity: Number | None
    max_propensity: Number | None
    min_pnl: Number | None
    max_pnl: Number | None
    min_cost_usd: Number | None
    max_cost_usd: Number | None
    min_tokens_used: int | None
    max_tokens_used: int | None
    min_latency_ms: int | None
    max_latency_ms: int | None
    extra: Mapping[str, Any] | None
    outcome: Literal["SUCCESS", "FAILURE", "PENDING"] | None
    since: datetime | None
    until: datetime | None
    as_of: datetime | None


class Conditions(Beside, total=False):
    """And symbol and context."""

    symbol: str | None
    context: Mapping[str, Any] | None


class Maturing(Conditions, total=False):
    """And how old they are at least."""

    maturity_seconds: float


class Stating(Maturing, total=False):
    """And into how many buckets their confidences go."""

    buckets: int


class Listing(Conditions, total=False):
    """And how many of them, from where on: `cursor` is that of the page before."""

    limit: int
    cursor: str | None


class Embedding(Conditions, total=False):
    """And what they are to be near to, beside a text, and whether by its words, too."""

    embedding: Sequence[float] | None
    hybrid: bool


class Resembling(Beside, total=False):
    """And what is near: see `queries.Situation`."""

    weights: Mapping[str, float]
    max_distance: float
    min_overlap: float
    resolved: bool


class Informing(Beside, total=False):
    """And what is said beside numbers, see `queries.Quoting`, and how old decisions are that count."""

    quoting: Literal["none", "responses", "all"]
    maturity_seconds: float
