"""Decisions made in situations like the one at hand: each compared with it, indicator by indicator."""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.candidates import candidates
from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection, Time
from tracker_daemon.queries.summary import Summary, situation_summary
from tracker_daemon.queries.times import bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries.candidates import Candidates
    from tracker_daemon.queries.situation import Situation

CANDIDATES: Final = 20_000
"""Decisions that are looked at, the latest ones, where no index says which are the nearest."""
MAX_PRECEDENTS: Final = 100
"""Precedents of an answer."""
TEXT_CHARS: Final = 100
"""Characters of a text among the indicators of a precedent."""

# Numbered last: a node of Citus that numbered its own would send all of them.
_CANDIDATES: Final = """
SELECT *, row_number() OVER (ORDER BY created_at DESC, id DESC) AS number
FROM (
    SELECT id, created_at, {made_at} AS made_at, agent_name, decision_type, symbol, model, action, confidence,
           outcome, pnl, context
    FROM {source} WHERE {condition} AND context IS NOT NULL AND created_at IS NOT NULL
    ORDER BY created_at DESC, id DESC LIMIT {most:d} + 1
) latest
"""
# In decimals all the way: no number is too large, and equal distances are equal whatever they add up from.
# `||` fetches a context that lies beside its table once, and not for each indicator.
_APART: Final = """
SELECT position, path, weight, found, CASE
    WHEN jsonb_typeof(value) = 'number' AND jsonb_typeof(found) = 'number' THEN CASE
        WHEN spread > 0 THEN LEAST(abs(found::numeric - value::numeric), spread) / spread
        WHEN spread = 0 THEN (found <> value)::int::numeric
    END
    WHEN jsonb_typeof(value) <> 'number' AND jsonb_typeof(found) IN ('string', 'boolean')
        THEN (found <> value)::int::numeric
END AS apart
FROM asked CROSS JOIN LATERAL (
    SELECT jsonb_path_query_first(context, place, '{{}}', true) AS found OFFSET 0
) there
"""
# Of an adopted table: no float can be that number.
_HELD: Final = f"""CASE WHEN abs(found::numeric) > {sys.float_info.max!r}
    THEN to_jsonb(sign(found::numeric) * {sys.float_info.max!r}) ELSE found END"""
_SIMILAR: Final = f"""
WITH learnt AS MATERIALIZED (
    SELECT learnt_at, scales FROM llm_scales
    WHERE learnt_at <= COALESCE({{as_of}}, 'infinity') ORDER BY learnt_at DESC LIMIT 1
), given AS MATERIALIZED (
    SELECT position, path, place::jsonpath, value::jsonb, COALESCE(weight, '1')::numeric AS weight,
           (SELECT (scales -> path ->> 'spread')::numeric FROM learnt) AS spread,
           weight IS NULL AND value LIKE '"%'
           AND COALESCE((SELECT (scales -> path -> 'identifier')::boolean FROM learnt), false) AS identifier
    FROM unnest({{paths}}::text[], {{places}}::text[], {{values}}::text[], {{weights}}::text[])
         WITH ORDINALITY AS given (path, place, value, weight, position)
), asked AS MATERIALIZED (
    SELECT * FROM given WHERE NOT identifier
), candidates AS MATERIALIZED (
    {{candidates}}
), compared AS MATERIALIZED (
    SELECT candidates.*, round(far / shared, 12) AS distance, shared / total AS overlap
    FROM candidates CROSS JOIN (SELECT sum(weight) AS total FROM asked) whole CROSS JOIN LATERAL (
        SELECT sum(weight * apart) AS far, sum(weight) AS shared
        FROM (SELECT context || '{{{{}}}}' AS context OFFSET 0) plain CROSS JOIN LATERAL ({_APART}) indicator
        WHERE apart IS NOT NULL
    ) both_have
    WHERE number <= {{most:d}} AND shared >= {{min_overlap}}::text::numeric * total
), near AS MATERIALIZED (
    SELECT * FROM compared WHERE distance <= {{max_distance}}::text::numeric
    ORDER BY distance, created_at DESC, id DESC LIMIT {{limit:d}}
)
SELECT (SELECT count(*) FROM candidates) AS candidates,
       (SELECT count(*) FROM compared) AS comparable,
       (SELECT count(*) FROM compared WHERE distance <= {{max_distance}}::text::numeric) AS near,
       (SELECT min(distance)::float8 FROM compared) AS nearest,
       (SELECT learnt_at FROM learnt) AS scales_of,
       ARRAY(SELECT path FROM asked WHERE jsonb_typeof(value) = 'number' AND spread IS NULL ORDER BY position)
           AS unknown,
       ARRAY(SELECT path FROM given WHERE identifier ORDER BY position) AS identifiers,
       precedent.*
FROM (VALUES (0)) AS answer LEFT JOIN (
    SELECT id, made_at AS created_at,
           EXTRACT(EPOCH FROM COALESCE({{as_of}}, now()) - made_at)::float8 AS age_seconds,
           agent_name, decision_type, symbol, model, action, confidence, outcome, pnl,
           distance::float8, overlap::float8, paths, found, parts
    FROM near CROSS JOIN LATERAL (
        SELECT array_agg(path ORDER BY position) AS paths,
               array_agg(CASE jsonb_typeof(found)
                             WHEN 'string' THEN to_jsonb(left(found #>> '{{{{}}}}', {TEXT_CHARS}))
                             WHEN 'number' THEN {_HELD}
                             ELSE found
                         END ORDER BY position) AS found,
               array_agg(round(apart, 12)::float8 ORDER BY position) AS parts
        FROM ({_APART}) indicator WHERE apart IS NOT NULL
    ) both_have
) precedent ON true
ORDER BY distance, created_at DESC, id DESC
"""


class Compared(Struct, frozen=True):
    """An indicator that situation and decision both have: the decision's value, and how far it is, 0 to 1."""

    path: str
    value: float | str | bool
    distance: float


class Precedent(Struct, frozen=True, kw_only=True):
    """A decision made in a similar situation; most names are the columns of `llm_decisions`.

    `age_seconds` at `as_of` or now; `overlap` is the part of the situation, by weight, that it shares.
    """

    id: UUID
    created_at: Time
    age_seconds: float
    agent_name: str
    decision_type: str
    symbol: str
    model: str
    action: str | None
    confidence: Decimal | None
    outcome: str | None
    pnl: Decimal | None
    distance: float
    overlap: float
    indicators: tuple[Compared, ...]


class Precedents(Struct, frozen=True, kw_only=True):
    """The nearest decisions, of equally near ones the latest first: none, if nothing is near.

    `summary` is about these. `looked_at` is how many decisions with a context were looked at one by one; of
    these alone `comparable` share enough of the situation, `near` are near enough as well, and the nearest is
    at `nearest`. They are all that the filter chooses where that is `complete`; `by_index`, those that the
    index of situations holds nearest of all it has, and the latest that it has not yet, but for `waiting`
    others; else the latest. `unknown` are numbers of the situation that could not be compared: there is no
    scale for them among those learnt at `scales_of`, the last ones then. `identifiers` are texts that were
    left out: by the same lesson nearly every decision has another one.
    """

    precedents: tuple[Precedent, ...]
    near: int
    looked_at: int
    complete: bool
    by_index: bool
    waiting: int
    comparable: int
    nearest: float | None
    unknown: tuple[str, ...]
    identifiers: tuple[str, ...]
    scales_of: Time | None
    summary: Summary


async def similar_decisions(
    connection: Connection, situation: Situation, wanted: Filter, limit: int = 20, *, resolved: bool = False
) -> Precedents:
    """Return the decisions made in the most similar situations; ask inside `reading`.

    The distance is Gower's (Biometrics 27, 1971), the weighted mean over the indicators that both have, to 12
    places: of categories 0 if they are the same, else 1; of numbers their difference divided by the `spread`
    of their `Scale`, in place of the range, and 1 at most; where that is 0, they are the same or not. What
    one of them lacks, or has as a number where the other has a category, counts neither way; but a decision
    that shares less than `min_overlap` is no precedent. An identifier counts only where it is given a weight.
    `resolved`: only decisions whose outcome is known.
    """
    if not 1 <= limit <= MAX_PRECEDENTS:
        raise InvalidQuestion(f"limit must be from 1 to {MAX_PRECEDENTS}, not {limit}")
    counting = situation.weighted()
    indexed = await candidates(connection, situation, wanted, limit, resolved=resolved)
    chosen = Selection(wanted)
    indicators = [indicator for indicator, _ in counting]
    as_of = f"{chosen.parameter(wanted.as_of)}::timestamptz"
    rows = await connection.fetch(
        _SIMILAR.format(
            as_of=as_of,
            candidates=_candidates(chosen, indexed, resolved=resolved),
            paths=chosen.parameter([indicator.path for indicator in indicators]),
            places=chosen.parameter([indicator.jsonpath for indicator in indicators]),
            values=chosen.parameter([json.dumps(indicator.value) for indicator in indicators]),
            weights=chosen.parameter(
                [repr(weight) if each.path in situation.weights else None for each, weight in counting]
            ),
            max_distance=chosen.parameter(repr(situation.max_distance)),
            min_overlap=chosen.parameter(repr(situation.min_overlap)),
            most=CANDIDATES,
            limit=limit,
        ),
        *chosen.values,
    )
    return await _precedents(situation, indexed, rows)


def _candidates(chosen: Selection, indexed: Candidates | None, *, resolved: bool) -> str:
    """The decisions to look at, numbered, and one more if there are more."""
    condition = f"{chosen.condition} AND NOT {UNDECIDED}" if resolved else chosen.condition
    source = chosen.source
    if indexed is not None:  # by the primary key: the planner would look all of a symbol up, too
        ids = chosen.parameter(indexed.ids)
        source = f"(SELECT * FROM {source} WHERE id = ANY({ids}::uuid[]) OFFSET 0) AS llm_decisions"
    return _CANDIDATES.format(
        source=source, made_at=bounded("created_at"), condition=condition, most=CANDIDATES
    )


async def _precedents(situation: Situation, indexed: Candidates | None, rows: Sequence[Record]) -> Precedents:
    """The answer: each row has all of it that is about no single precedent, one without an id has no more."""
    found = []
    for row in rows:
        if row["id"] is not None:
            indicators = tuple(
                Compared(path, msgspec.json.decode(value), distance)
                for path, value, distance in zip(row["paths"], row["found"], row["parts"], strict=True)
            )
            names = (name for name in Precedent.__struct_fields__ if name != "indicators")
            found.append(Precedent(**{name: row[name] for name in names}, indicators=indicators))
        await asyncio.sleep(0)  # each has 200 indicators at most
    looked_at = rows[0]["candidates"]
    return Precedents(
        precedents=tuple(found),
        looked_at=min(looked_at, CANDIDATES),
        complete=indexed is None and looked_at <= CANDIDATES,
        by_index=indexed is not None,
        waiting=indexed.waiting if indexed else 0,
        unknown=tuple(rows[0]["unknown"]),
        identifiers=tuple(rows[0]["identifiers"]),
        summary=situation_summary(situation, found),
        **{name: rows[0][name] for name in ("near", "comparable", "nearest", "scales_of")},
    )
