"""Decisions themselves: the latest, the best, the worst, and one with everything that is known about it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.messages.payload import stored_object
from tracker_daemon.queries.filter import Filter, Selection, Time
from tracker_daemon.queries.page import Page, Place, check_limit, place, question
from tracker_daemon.queries.times import bounded

if TYPE_CHECKING:
    from datetime import datetime

    from tracker_daemon.postgres import Connection

TEXT_CHARS: Final = 4000
"""Characters of a prompt, and of a response, in a list; `decision` has all of them."""
MAX_EVENTS: Final = 1000
"""Events of a ledger, the last ones: some agents tell the P&L of what they hold every second."""
MAX_EVENT_BYTES: Final = 4 << 20
"""Of notes, and of what was unknown, in those events: what lies before is left out, too."""
OBJECT_CHARS: Final = 8000
"""Characters of JSON up to which a list has a context, or what was unknown; `decision` has it anyway."""

_COLUMNS: Final = """
id, session_id, agent_name, decision_type, symbol, model, action, outcome, pnl, confidence, tokens_used,
latency_ms, cost_usd, experiment, variant, propensity, embedding_model
"""
_TIMES: Final = ("outcome_at", "created_at", "ingested_at")
_TOLD: Final = f"{_COLUMNS}, {', '.join(f'{bounded(name)} AS {name}' for name in _TIMES)}"
_STORED: Final = f"{_COLUMNS}, {', '.join(_TIMES)}, context, extra, prompt, response"
# In the table an object takes some four bytes at most for each character of its JSON (a one-digit number
# twelve, for three): one that takes eight is too large, and need not be read to tell.
_TOO_LARGE: Final = f"""CASE WHEN pg_column_size({{0}}) > 8 * {OBJECT_CHARS} THEN true
    ELSE char_length({{0}}::text) > {OBJECT_CHARS} END"""
SHOWN: Final = f"""
{_TOLD}, left(prompt, {TEXT_CHARS}) AS prompt, left(response, {TEXT_CHARS}) AS response,
CASE WHEN NOT ({_TOO_LARGE.format("context")}) THEN context END AS context,
CASE WHEN NOT ({_TOO_LARGE.format("extra")}) THEN extra END AS extra,
char_length(left(prompt, {TEXT_CHARS} + 1)) > {TEXT_CHARS}
    OR char_length(left(response, {TEXT_CHARS} + 1)) > {TEXT_CHARS}
    OR COALESCE({_TOO_LARGE.format("context")}, false) OR COALESCE({_TOO_LARGE.format("extra")}, false) AS cut
"""
"""What a list selects of a decision, for `told`."""
# Texts are read of the rows of the page alone: where there is something to sort, what SELECT asks for is read
# of every row first.
_LIST: Final = f"""
SELECT {SHOWN}, key::text
FROM (
    SELECT {_STORED}, {{key}} AS key FROM {{source}} WHERE {{condition}} AND {{beyond}}
    ORDER BY key {{direction}}, id {{direction}} LIMIT {{limit:d}}
) AS page
ORDER BY page.key {{direction}}, id {{direction}}
"""
_ONE: Final = f"""
SELECT {_TOLD}, context, extra, prompt, response, false AS cut, prompt_embedding::text AS prompt_embedding
FROM {{source}} WHERE {{condition}} AND id = {{id}}
"""
_EVENT: Final = "event_id, outcome, pnl, observed_at, received_at, source, note, extra, stream_sequence"
_LEDGER: Final = f"""
SELECT event_id, outcome, pnl, {bounded("observed_at")} AS observed_at,
       {bounded("received_at")} AS received_at, source, note, extra, stream_sequence, total
FROM (
    SELECT *, count(*) OVER () AS total, row_number() OVER latest AS number,
           sum(COALESCE(octet_length(note), 0) + COALESCE(octet_length(extra::text), 0)) OVER latest AS bytes
    FROM (
        SELECT {_EVENT}, LEAST(observed_at, received_at) AS at,
               COALESCE(stream_sequence, (EXTRACT(EPOCH FROM received_at) * 1000000)::bigint) AS sequence
        FROM llm_outcomes
        WHERE decision_id = $1 AND received_at <= COALESCE($2, 'infinity'::timestamptz)
        ORDER BY at DESC, sequence DESC LIMIT {MAX_EVENTS + 1}
    ) event
    WINDOW latest AS (ORDER BY at DESC, sequence DESC ROWS UNBOUNDED PRECEDING)
) event
WHERE number = 1 OR (number <= {MAX_EVENTS} AND bytes <= {MAX_EVENT_BYTES})
ORDER BY at, sequence
"""


class Told(Struct, frozen=True, kw_only=True):
    """A decision as the record tells it; field names are the columns of `llm_decisions`.

    Times are from the year 1 to 9999, a decision's that is beyond at that end. `cut`: prompt or response are
    longer than what is here, or context or extra are too large to be here at all, or what no message may say.
    """

    id: UUID
    session_id: UUID | None
    agent_name: str
    decision_type: str
    symbol: str
    prompt: str
    response: str
    cut: bool
    model: str
    action: str | None
    outcome: str | None
    pnl: Decimal | None
    outcome_at: Time | None
    confidence: Decimal | None
    tokens_used: int | None
    latency_ms: int | None
    cost_usd: Decimal | None
    context: dict[str, Any] | None
    extra: dict[str, Any] | None
    experiment: str | None
    variant: str | None
    propensity: Decimal | None
    embedding_model: str | None
    created_at: Time | None
    ingested_at: Time | None


class Event(Struct, frozen=True, kw_only=True):
    """One event of a decision's ledger; field names are the columns of `llm_outcomes`."""

    event_id: UUID
    outcome: str
    pnl: Decimal | None
    observed_at: Time
    received_at: Time
    source: str | None
    note: str | None
    extra: dict[str, Any] | None
    stream_sequence: int | None


class Whole(Struct, frozen=True, kw_only=True):
    """A decision with all its text, its embedding, and its ledger: the last event is the one that shows.

    `complete`: whether there are no events before these; `as_of` asks for them.
    """

    decision: Told
    prompt_embedding: tuple[float, ...] | None
    outcomes: tuple[Event, ...]
    complete: bool


class _Order(Struct, frozen=True):
    """Which decisions a list has, and in which order: `sign` says what follows a row.

    A key travels as text: there are times that Python has not.
    """

    name: str
    key: str
    column_type: str
    kind: type
    sign: Literal["<", ">"]
    outcome: Literal["SUCCESS", "FAILURE"] | None = None


_LATEST: Final = _Order("recent", "created_at", "timestamptz", str, "<")
_BEST: Final = _Order("successful", "COALESCE(pnl, 0)", "numeric", Decimal, "<", "SUCCESS")
_WORST: Final = _Order("failed", "COALESCE(pnl, 0)", "numeric", Decimal, ">", "FAILURE")


async def recent_decisions(
    connection: Connection, wanted: Filter, limit: int = 20, cursor: str | None = None
) -> Page[Told]:
    """Return decisions, the latest first; one without a time is in no list. Ask inside `reading`."""
    return await _page(connection, _LATEST, wanted, limit, cursor)


async def successful_decisions(
    connection: Connection, wanted: Filter, limit: int = 20, cursor: str | None = None
) -> Page[Told]:
    """Return successful decisions by their P&L, the greatest first; none at all counts as 0."""
    return await _page(connection, _BEST, wanted, limit, cursor)


async def failed_decisions(
    connection: Connection, wanted: Filter, limit: int = 20, cursor: str | None = None
) -> Page[Told]:
    """Return failed decisions by their P&L, the greatest loss first; none at all counts as 0."""
    return await _page(connection, _WORST, wanted, limit, cursor)


async def decision(connection: Connection, id_: UUID, as_of: datetime | None = None) -> Whole | None:
    """Return one decision with all that is known about it, at a time or now; None: there is none."""
    chosen = Selection(Filter(as_of=as_of))
    query = _ONE.format(source=chosen.source, condition=chosen.condition, id=f"{chosen.parameter(id_)}::uuid")
    row = await connection.fetchrow(query, *chosen.values)
    if row is None:
        return None
    values = dict(row)
    embedding = values.pop("prompt_embedding")
    events = [dict(event) for event in await connection.fetch(_LEDGER, id_, as_of)]
    totals = {event.pop("total") for event in events} or {0}
    return Whole(
        decision=told(values),
        prompt_embedding=embedding and tuple(msgspec.json.decode(embedding, type=list[float])),
        outcomes=tuple(Event(**event | {"extra": stored_object(event["extra"])}) for event in events),
        complete=totals == {len(events)},
    )


def told(values: dict[str, Any]) -> Told:
    """The decision that a row of `SHOWN` tells."""
    objects = {name: stored_object(values[name]) for name in ("context", "extra")}
    left_out = any(objects[name] is None and values[name] not in {None, "null"} for name in objects)
    return Told(**values | objects | {"cut": values["cut"] or left_out})


async def _page(
    connection: Connection, order: _Order, wanted: Filter, limit: int, cursor: str | None
) -> Page[Told]:
    check_limit(limit)
    if order.outcome:
        if wanted.outcome not in {None, order.outcome}:
            raise InvalidQuestion(f"{order.name} decisions have no outcome {wanted.outcome}")
        wanted = msgspec.structs.replace(wanted, outcome=order.outcome)
    asked = question(order.name, wanted)
    chosen = Selection(wanted)
    beyond = f"{order.key} IS NOT NULL"
    if last := place(cursor, asked, tuple[order.kind, UUID]):  # type: ignore[name-defined]
        key, id_ = map(chosen.parameter, map(str, last))
        beyond = f"({order.key}, id) {order.sign} ({key}::text::{order.column_type}, {id_}::text::uuid)"
    rows = await connection.fetch(
        _LIST.format(
            source=chosen.source,
            condition=chosen.condition,
            key=order.key,
            beyond=beyond,
            direction="DESC" if order.sign == "<" else "ASC",
            limit=limit + 1,
        ),
        *chosen.values,
    )
    found = [dict(row) for row in rows[:limit]]
    keys = [values.pop("key") for values in found]
    end = Place(asked, [keys[-1], found[-1]["id"]]).cursor() if len(rows) > limit else None
    page = []
    for values in found:
        page.append(told(values))
        await asyncio.sleep(0)  # contexts have to be decoded: messages that arrive meanwhile come first
    return Page(tuple(page), end)
