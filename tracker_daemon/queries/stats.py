"""How good: counts, rates, money, latency and cost of decisions, all together or group by group."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.intervals import wilson
from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from asyncpg import Record

    from tracker_daemon.postgres import Connection

MAX_GROUPS: Final = 1000
"""The largest groups that are answered."""

Key = Literal[
    "agent_name",
    "model",
    "symbol",
    "decision_type",
    "action",
    "session_id",
    "experiment",
    "variant",
    "hour",
    "day",
]
KEYS: Final[tuple[Key, ...]] = get_args(Key)
"""What decisions can be grouped by; hours and days are those of UTC."""

# In the order in which their P&L became known it adds up; its greatest fall from a peak, which is 0 at the
# beginning, is the drawdown.
_STATS: Final = """
WITH chosen AS (
    SELECT {keys} outcome, pnl, latency_ms, tokens_used, cost_usd, confidence, id,
           COALESCE(outcome_at, created_at) AS known_at
    FROM {source} WHERE {condition} AND {mature}
), running AS (
    SELECT *, sum(COALESCE(pnl, 0)) OVER ({partition} ORDER BY known_at, id) AS equity FROM chosen
), told AS (
    SELECT *, GREATEST(max(equity) OVER ({partition} ORDER BY known_at, id), 0) - equity AS drawdown
    FROM running
)
SELECT {names}
       count(*) AS total_decisions,
       count(*) FILTER (WHERE outcome = 'SUCCESS') AS successful,
       count(*) FILTER (WHERE outcome = 'FAILURE') AS failed,
       count(*) FILTER (WHERE {undecided}) AS pending,
       avg(pnl) AS avg_pnl, sum(pnl) AS total_pnl, stddev_samp(pnl) AS stddev_pnl,
       min(pnl) AS min_pnl, max(pnl) AS max_pnl,
       sum(pnl) FILTER (WHERE pnl > 0) AS gross_profit, -sum(pnl) FILTER (WHERE pnl < 0) AS gross_loss,
       max(drawdown) AS max_drawdown,
       avg(latency_ms)::float8 AS avg_latency_ms,
       percentile_cont('{{0.5,0.95,0.99}}'::float8[]) WITHIN GROUP (ORDER BY latency_ms) AS latencies,
       avg(tokens_used)::float8 AS avg_tokens_used, sum(tokens_used) AS total_tokens_used,
       avg(cost_usd) AS avg_cost_usd, sum(cost_usd) AS total_cost_usd,
       avg(confidence)::float8 AS avg_confidence
FROM told {grouped}
LIMIT {limit:d}
"""
_LEFT_OUT: Final = "SELECT count(*) FROM {source} WHERE {condition} AND ({mature}) IS NOT TRUE"


class Stats(Struct, frozen=True, kw_only=True):
    """A group of decisions, by its `key`; None where no decision says anything of it, or nothing divides.

    `success_rate` is successful / total, `resolved_success_rate` successful / (successful + failed), with the
    bounds of its 95 % Wilson interval. P&L is that of decisions which have one: `profit_factor` is gains /
    losses, `max_drawdown` the greatest fall of its running sum from a peak, in the order of `outcome_at`.
    Percentiles are interpolated.
    """

    key: dict[str, str | None]
    total_decisions: int
    successful: int
    failed: int
    pending: int
    success_rate: float | None
    resolved_success_rate: float | None
    resolved_success_rate_lower: float
    resolved_success_rate_upper: float
    avg_pnl: Decimal | None
    total_pnl: Decimal | None
    stddev_pnl: Decimal | None
    min_pnl: Decimal | None
    max_pnl: Decimal | None
    profit_factor: float | None
    max_drawdown: Decimal | None
    avg_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    avg_tokens_used: float | None
    total_tokens_used: int | None
    avg_cost_usd: Decimal | None
    total_cost_usd: Decimal | None
    avg_confidence: float | None


class Answer(Struct, frozen=True):
    """Groups, the largest first (one without a key where none were asked for).

    `left_out`: decisions younger than the maturity window, which are in no group. `complete`: whether there
    are no more groups than these.
    """

    groups: tuple[Stats, ...]
    left_out: int
    complete: bool


async def decision_stats(
    connection: Connection,
    wanted: Filter,
    group_by: Sequence[Key] = (),
    *,
    maturity: timedelta | None = None,
) -> Answer:
    """Return the statistics of the decisions that a filter chooses; ask inside `reading`.

    `maturity`: decisions that young, at `as_of` or now, are left out, since those that resolve early are not
    like the others. At most `MAX_GROUPS` groups.
    """
    keys = key_columns(group_by)
    chosen = Selection(wanted)
    mature = chosen.mature(maturity)
    names = "".join(f"{name}, " for name in group_by)
    places = ", ".join(map(str, range(1, len(group_by) + 1)))
    rows = await connection.fetch(
        _STATS.format(
            keys="".join(f"{key} AS {name}, " for key, name in zip(keys, group_by, strict=True)),
            partition=f"PARTITION BY {', '.join(group_by)}" if group_by else "",
            names=names,
            undecided=UNDECIDED,
            source=chosen.source,
            condition=chosen.condition,
            mature=mature,
            grouped=f"GROUP BY {places} ORDER BY total_decisions DESC, {places}" if keys else "",
            limit=MAX_GROUPS + 1,
        ),
        *chosen.values,
    )
    left_out = 0
    if maturity:
        left_out = await connection.fetchval(
            _LEFT_OUT.format(source=chosen.source, condition=chosen.condition, mature=mature), *chosen.values
        )
    groups = tuple(_stats(row, group_by) for row in rows[:MAX_GROUPS])
    return Answer(groups, left_out, complete=len(rows) <= MAX_GROUPS)


def key_columns(group_by: Sequence[Key]) -> list[str]:
    """What each key is in SQL; raise `InvalidQuestion` for what nothing can be grouped by."""
    if unknown := set(group_by) - set(KEYS):
        raise InvalidQuestion(f"cannot group by {min(unknown)}; there are {', '.join(KEYS)}")
    if len(set(group_by)) < len(group_by):
        raise InvalidQuestion(f"group by each key once, not by {', '.join(group_by)}")
    return [_key(name) for name in group_by]


def _key(name: Key) -> str:
    if name in {"hour", "day"}:
        pattern = 'YYYY-MM-DD"T"HH24:00:00"Z"' if name == "hour" else "YYYY-MM-DD"
        return f"to_char(created_at AT TIME ZONE 'UTC', '{pattern}')"
    return "session_id::text" if name == "session_id" else name


def _stats(row: Record, group_by: Sequence[Key]) -> Stats:
    values: dict[str, Any] = dict(row)
    key: dict[str, str | None] = {name: values.pop(name) for name in group_by}
    successful, total = values["successful"], values["total_decisions"]
    resolved = successful + values["failed"]
    lower, upper = wilson(successful, resolved)
    gains, losses = values.pop("gross_profit"), values.pop("gross_loss")
    p50, p95, p99 = values.pop("latencies") or (None, None, None)
    if values["total_pnl"] is None:
        values["max_drawdown"] = None
    return Stats(
        key=key,
        success_rate=successful / total if total else None,
        resolved_success_rate=successful / resolved if resolved else None,
        resolved_success_rate_lower=lower,
        resolved_success_rate_upper=upper,
        profit_factor=float((gains or 0) / losses) if losses else None,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        **values,
    )
