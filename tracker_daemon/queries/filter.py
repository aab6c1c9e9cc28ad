"""Which decisions a question is about, and what was known of them at a time."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from tracker_daemon.errors import InvalidPayload, InvalidQuestion
from tracker_daemon.messages.payload import check_depth
from tracker_daemon.situations import indicators

Time = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
"""A time with its offset from UTC."""

EQUAL: Final = (
    *("agent_name", "model", "symbol", "decision_type", "action", "session_id"),
    *("experiment", "variant", "embedding_model"),
)
RANGES: Final = ("confidence", "propensity", "pnl", "cost_usd", "tokens_used", "latency_ms")
OBJECTS: Final = ("context", "extra")
TIMES: Final = ("since", "until", "as_of")
MAX_EXPONENT: Final = 100
"""Of a bound for a number; no column holds one that is greater, or nearer to 0."""
UNDECIDED: Final = "(outcome IS NULL OR outcome = 'PENDING')"

# As it was at a time: the decisions until then, each with the winner among the events that the ledger had
# received by then, in the order of the projection.
_COLUMNS: Final = (
    *("id", "session_id", "agent_name", "decision_type", "symbol", "prompt", "response", "model", "action"),
    *("confidence", "tokens_used", "latency_ms", "cost_usd", "context", "extra", "experiment", "variant"),
    *("propensity", "prompt_embedding", "embedding_model", "created_at", "ingested_at"),
)
_AS_OF: Final = f"""(
    SELECT {", ".join(f"d.{column}" for column in _COLUMNS)}, w.outcome, w.pnl, w.outcome_at
    FROM llm_decisions d LEFT JOIN LATERAL (
        SELECT o.outcome, o.pnl, LEAST(o.observed_at, o.received_at) AS outcome_at FROM llm_outcomes o
        WHERE o.decision_id = d.id AND o.received_at <= {{as_of}}
        ORDER BY LEAST(o.observed_at, o.received_at) DESC,
                 COALESCE(o.stream_sequence, (EXTRACT(EPOCH FROM o.received_at) * 1000000)::bigint) DESC
        LIMIT 1
    ) w ON true
    WHERE d.created_at <= {{as_of}}
) AS llm_decisions"""


def holdable(number: Decimal) -> bool:
    """Whether a column could hold it; of some that none could hold asyncpg would send another number."""
    return number.is_finite() and abs(number.adjusted()) <= MAX_EXPONENT


def finite(number: str) -> str:
    """A number in SQL, or NULL where it is none: a column can hold NaN, and that would be all of a sum."""
    # To PostgreSQL NaN is the greatest number.
    return f"CASE WHEN abs({number}) < 'Infinity' THEN {number} END"


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Conditions that hold together; what is None does not matter.

    `since` (from then on) and `until` (before) are about `created_at`; bounds are inclusive; `context` and
    `extra` are contained in the column of that name; `PENDING` includes decisions without any outcome.
    `as_of`: the record as it was then, without later decisions, and without outcomes that the ledger had not
    received yet.
    """

    agent_name: str | None = None
    model: str | None = None
    symbol: str | None = None
    decision_type: str | None = None
    action: str | None = None
    session_id: UUID | None = None
    experiment: str | None = None
    variant: str | None = None
    embedding_model: str | None = None
    outcome: Literal["SUCCESS", "FAILURE", "PENDING"] | None = None
    min_confidence: Decimal | None = None
    max_confidence: Decimal | None = None
    min_propensity: Decimal | None = None
    max_propensity: Decimal | None = None
    min_pnl: Decimal | None = None
    max_pnl: Decimal | None = None
    min_cost_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None
    min_tokens_used: int | None = None
    max_tokens_used: int | None = None
    min_latency_ms: int | None = None
    max_latency_ms: int | None = None
    context: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None
    since: Time | None = None
    until: Time | None = None
    as_of: Time | None = None

    def __post_init__(self) -> None:
        """Refuse what PostgreSQL would only refuse in the middle."""
        for name in TIMES:
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise InvalidQuestion(f"{name} needs an offset from UTC, as in 2026-11-23T10:00:00Z")
        for name in (f"{bound}_{column}" for column in RANGES for bound in ("min", "max")):
            if not holdable(Decimal(getattr(self, name) or 0)):
                raise InvalidQuestion(f"{name} is no number that a column could hold")
        for name in OBJECTS:
            value = getattr(self, name)
            try:
                check_depth(msgspec.json.encode(value))
            except (InvalidPayload, RecursionError):
                raise InvalidQuestion(f"{name} is nested deeper than any that is stored") from None
            numbers = (one.value for one in indicators(value or {}) if isinstance(one.value, float))
            if not all(map(math.isfinite, numbers)):  # JSON would have null in its place
                raise InvalidQuestion(f"{name} holds a number that is none: NaN, or infinite")


class Selection:
    """A filter as SQL: `source` after FROM, `condition` after WHERE, `values` for their parameters."""

    def __init__(self, wanted: Filter) -> None:
        """Translate the filter; `parameter` adds values of the statement's own."""
        self.values: list[Any] = []
        self.source, self._now = "llm_decisions", "now()"
        if wanted.as_of is not None:
            self._now = f"{self.parameter(wanted.as_of)}::timestamptz"
            self.source = _AS_OF.format(as_of=self._now)
        self.condition = " AND ".join(self._conditions(wanted)) or "true"

    def parameter(self, value: object) -> str:
        """Add a value and return what stands for it in the statement."""
        self.values.append(value)
        return f"${len(self.values)}"

    def mature(self, age: timedelta | None) -> str:
        """The condition that a decision is at least so old, at `as_of` or now."""
        return f"created_at <= {self._now} - {self.parameter(age)}::interval" if age else "true"

    def _conditions(self, wanted: Filter) -> list[str]:
        conditions = []

        def require(condition: str, value: object) -> None:
            if value is not None:
                conditions.append(condition.format(self.parameter(value)))

        for column in EQUAL:
            require(f"{column} = {{}}", getattr(wanted, column))
        for column in RANGES:
            require(f"{column} >= {{}}::numeric", getattr(wanted, f"min_{column}"))
            require(f"{column} <= {{}}::numeric", getattr(wanted, f"max_{column}"))
        for column in OBJECTS:
            if (value := getattr(wanted, column)) is not None:
                require(f"{column} @> {{}}::jsonb", msgspec.json.encode(value).decode())
        require("created_at >= {}", wanted.since)
        require("created_at < {}", wanted.until)
        if wanted.outcome == "PENDING":
            conditions.append(UNDECIDED)
        else:
            require("outcome = {}", wanted.outcome)
        return conditions
