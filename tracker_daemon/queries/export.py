"""Decisions for the world outside, all that a filter chooses, few of them in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracker_daemon.queries.decisions import Event
from tracker_daemon.queries.filter import Filter, Selection
from tracker_daemon.queries.reading import reading
from tracker_daemon.queries.times import bounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tracker_daemon.postgres import Connection

ROWS: Final = 50
"""Decisions that are fetched at a time, of which each may have megabytes."""
TIMEOUT_SECONDS: Final = 1800.0
"""For one fetch: before the first, all that the filter chooses may have to be sorted."""

COLUMNS: Final = (
    *("id", "session_id", "agent_name", "decision_type", "symbol", "prompt", "response", "model", "action"),
    *("outcome", "pnl", "outcome_at", "confidence", "tokens_used", "latency_ms", "cost_usd", "context"),
    *("extra", "experiment", "variant", "propensity", "prompt_embedding", "embedding_model"),
    *("created_at", "ingested_at"),
)
"""What is exported: the columns of `llm_decisions` but those by which the daemon keeps its books."""


def _value(column: str) -> str:
    if column == "prompt_embedding":
        return f"{column}::text"
    return bounded(column) if column.endswith("_at") else column


_EXPORT: Final = f"""
SELECT {", ".join(f"{_value(column)} AS {column}" for column in COLUMNS)} {{events}}
FROM {{source}} {{ledger}} WHERE {{condition}} ORDER BY llm_decisions.created_at, id
"""
# An array for each column: one of rows no server can read that another has made of its part.
_EVENTS: Final = {name: f"event_{name}" for name in Event.__struct_fields__}
_LEDGER: Final = f"""CROSS JOIN LATERAL (
    SELECT {
    ", ".join(f"array_agg({_value(name)} ORDER BY at, sequence) AS {key}" for name, key in _EVENTS.items())
}
    FROM (
        SELECT *, LEAST(observed_at, received_at) AS at,
               COALESCE(stream_sequence, (EXTRACT(EPOCH FROM received_at) * 1000000)::bigint) AS sequence
        FROM llm_outcomes
        WHERE decision_id = llm_decisions.id AND received_at <= COALESCE({{as_of}}, 'infinity'::timestamptz)
    ) event
) AS ledger
"""
_COUNT: Final = "SELECT count(*) FROM {source} WHERE {condition}"


async def count_decisions(connection: Connection, wanted: Filter) -> int:
    """Return how many decisions a filter chooses, however long it takes to count them."""
    chosen = Selection(wanted)
    query = _COUNT.format(source=chosen.source, condition=chosen.condition)
    async with reading(connection, TIMEOUT_SECONDS):
        count: int = await connection.fetchval(query, *chosen.values, timeout=TIMEOUT_SECONDS)
    return count


async def export_decisions(
    connection: Connection, wanted: Filter, *, ledger: bool = False
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield decisions in the order of their time, at most `ROWS` at once, all from one snapshot.

    Keys are `COLUMNS`; JSON is text, and so is the embedding, a JSON array. With `ledger` there is also
    `outcomes`, a list with the fields of `Event`. Close the iterator to end early: `contextlib.aclosing`.
    """
    chosen = Selection(wanted)
    as_of = f"{chosen.parameter(wanted.as_of)}::timestamptz" if ledger else ""
    query = _EXPORT.format(
        source=chosen.source,
        condition=chosen.condition,
        events=", ledger.*" if ledger else "",
        ledger=_LEDGER.format(as_of=as_of) if ledger else "",
    )
    async with reading(connection, TIMEOUT_SECONDS):
        cursor = await connection.cursor(query, *chosen.values, timeout=TIMEOUT_SECONDS)
        while rows := await cursor.fetch(ROWS, timeout=TIMEOUT_SECONDS):
            yield [_exported(dict(row)) for row in rows]


def _exported(values: dict[str, Any]) -> dict[str, Any]:
    if _EVENTS["outcome"] in values:
        events = zip(*(values.pop(key) or () for key in _EVENTS.values()), strict=True)
        values["outcomes"] = [dict(zip(_EVENTS, event, strict=True)) for event in events]
    return values
