"""Monitoring: latency by model, volume by agent, confidence against outcome, as the dashboards have them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.intervals import wilson
from tracker_daemon.queries.calibration import Bucket
from tracker_daemon.queries.filter import Filter, Selection

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

MAX_ROWS: Final = 1000
"""Rows that are answered."""
_FILTERS: Final = ("agent_name", "model", "symbol", "since", "until")
"""What the view can be asked by."""

_LATENCY_BY_MODEL: Final = """
SELECT model, count(*) AS decisions, count(latency_ms) AS measured, avg(latency_ms)::float8 AS avg_latency_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_latency_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_latency_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99_latency_ms
FROM llm_monitoring WHERE {condition}
GROUP BY model ORDER BY decisions DESC, model LIMIT {limit:d}
"""
_VOLUME_BY_AGENT: Final = """
SELECT hour, agent_name, count(*) AS total_decisions, count(*) FILTER (WHERE undecided) AS pending,
       avg(success) AS success_rate, avg(resolved_success) AS resolved_success_rate
FROM llm_monitoring WHERE {condition} AND hour IS NOT NULL
GROUP BY hour, agent_name ORDER BY hour DESC, agent_name LIMIT {limit:d}
"""
_CONFIDENCE_VS_OUTCOME: Final = """
SELECT confidence_bucket::float8 AS lower, (confidence_bucket + 0.1)::float8 AS upper,
       count(*) AS decisions, sum(success)::bigint AS successful,
       avg(confidence)::float8 AS avg_confidence, avg(resolved_success) AS resolved_success_rate
FROM llm_monitoring WHERE {condition} AND confidence_bucket IS NOT NULL AND resolved_success IS NOT NULL
GROUP BY confidence_bucket ORDER BY confidence_bucket
"""

T = TypeVar("T")


class Table(Struct, Generic[T], frozen=True):
    """Rows in their order, at most `MAX_ROWS`; `complete`: whether there are no more."""

    rows: tuple[T, ...]
    complete: bool


class Latency(Struct, frozen=True, kw_only=True):
    """How long a model took, in the `measured` of its decisions; None where there are none."""

    model: str
    decisions: int
    measured: int
    avg_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None


class Volume(Struct, frozen=True, kw_only=True):
    """What an agent decided in the hour that begins then; rates as in `decision_stats`."""

    hour: datetime
    agent_name: str
    total_decisions: int
    pending: int
    success_rate: float
    resolved_success_rate: float | None


async def latency_by_model(connection: Connection, wanted: Filter) -> Table[Latency]:
    """Return the latency of each model, the one with most decisions first; ask inside `reading`."""
    return await _table(connection, _LATENCY_BY_MODEL, Latency, wanted)


async def volume_by_agent(connection: Connection, wanted: Filter) -> Table[Volume]:
    """Return the decisions of each agent hour by hour, the latest first; ask inside `reading`."""
    return await _table(connection, _VOLUME_BY_AGENT, Volume, wanted)


async def confidence_vs_outcome(connection: Connection, wanted: Filter) -> tuple[Bucket, ...]:
    """Return what came of each tenth of confidence that was stated; ask inside `reading`.

    These are the buckets of `calibration`.
    """
    chosen = _chosen(wanted)
    query = _CONFIDENCE_VS_OUTCOME.format(condition=chosen.condition)
    return tuple(_bucket(**row) for row in await connection.fetch(query, *chosen.values))


def _bucket(successful: int, decisions: int, **more: float) -> Bucket:
    lower, upper = wilson(successful, decisions)
    return Bucket(
        successful=successful,
        decisions=decisions,
        resolved_success_rate_lower=lower,
        resolved_success_rate_upper=upper,
        **more,
    )


async def _table(connection: Connection, query: str, kind: type[T], wanted: Filter) -> Table[T]:
    chosen = _chosen(wanted)
    rows = await connection.fetch(
        query.format(condition=chosen.condition, limit=MAX_ROWS + 1), *chosen.values
    )
    return Table(tuple(kind(**row) for row in rows[:MAX_ROWS]), complete=len(rows) <= MAX_ROWS)


def _chosen(wanted: Filter) -> Selection:
    for name in Filter.__struct_fields__:
        if getattr(wanted, name) is not None and name not in _FILTERS:
            raise InvalidQuestion(
                f"monitoring is asked by {', '.join(_FILTERS)}, not by {name}: stats takes every filter"
            )
    return Selection(wanted)
