"""What the record tells of each candidate: added up by the database, recent decisions above all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.queries import Filter, Selection, finite

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection
    from tracker_daemon.selection.standing import Standing

HALF_LIVES: Final = 6
"""How far back is looked: whatever is older has less than a sixty-fourth of its weight."""

NET: Final = "pnl - COALESCE(cost_usd, 0)"
"""What a decision has earned, in SQL."""
_VALUES: Final = {"success": "(outcome = 'SUCCESS')::int::float8", "pnl": f"({finite(NET)})::float8"}
_EVIDENCE: Final = """
WITH mature AS (
    SELECT model, CASE WHEN outcome IN ('SUCCESS', 'FAILURE') THEN {value} END AS value,
           0.5 ^ (EXTRACT(EPOCH FROM {until} - created_at) / {half_life})::float8 AS weight
    FROM {source} JOIN unnest({models}::text[], {since}::timestamptz[]) AS candidates (name, since)
        ON model = name AND created_at >= since
    WHERE {condition} AND created_at <= {until}
)
SELECT model, count(value) AS decisions, count(*) - count(value) AS pending,
       COALESCE(sum(weight) FILTER (WHERE value IS NOT NULL), 0) AS weight,
       COALESCE(sum(weight * value), 0) AS total, COALESCE(sum(weight * value * value), 0) AS squares
FROM mature GROUP BY model
"""


class Evidence(Struct, frozen=True, kw_only=True):
    """Of one candidate: decisions that tell, and `pending` ones that are old enough and do not, as yet.

    `weight` is how many decisions of now they count as; `total` and `squares` are their values, and the
    squares of these, with that weight.
    """

    decisions: int = 0
    pending: int = 0
    weight: float = 0.0
    total: float = 0.0
    squares: float = 0.0


NOTHING: Final = Evidence()
"""Of a candidate that has decided nothing."""


async def gather(connection: Connection, standing: Standing) -> dict[str, Evidence]:
    """Return the evidence of each candidate, now; ask in a transaction.

    An exponential discount (Raj and Kalyani, Taming non-stationary bandits, 2017), but by time instead of by
    choices: it goes on while nothing is chosen, so that what was seen long ago is looked at once more.
    """
    policy = standing.policy
    moment = await connection.fetchval("SELECT now()")
    until = moment - timedelta(days=policy.maturity_days)
    half_life = timedelta(days=policy.half_life_days)
    earliest = until - HALF_LIVES * half_life
    wanted = Filter(agent_name=policy.agent_name, decision_type=policy.decision_type, since=earliest)
    chosen = Selection(wanted)
    statement = _EVIDENCE.format(
        value=_VALUES[policy.metric],
        source=chosen.source,
        condition=chosen.condition,
        until=f"{chosen.parameter(until)}::timestamptz",
        half_life=f"{chosen.parameter(half_life.total_seconds())}::float8",
        models=chosen.parameter(policy.candidates),
        since=chosen.parameter([standing.since.get(name, earliest) for name in policy.candidates]),
    )
    rows = await connection.fetch(statement, *chosen.values)
    found = {row.pop("model"): Evidence(**row) for row in map(dict, rows)}
    return {name: found.get(name, NOTHING) for name in policy.candidates}
