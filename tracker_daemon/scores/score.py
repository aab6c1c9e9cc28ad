"""What the latest decisions say of an agent or a model, and how sure that is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, get_args

from msgspec import Struct

from tracker_daemon.intervals import Z99, wilson
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

MAX_NAMES: Final = 50
"""Agents, and models, that are looked at: those of the latest decisions."""
SAMPLE: Final = 1000
"""Decisions of each agent that are looked at, the latest ones; and as many that are resolved."""
REACH: Final = 5000
"""How many decisions back the resolved ones are looked for: outcomes come later than decisions."""
LEAST: Final = 20
"""Values that a mean or a percentile is made of; the 95th percentile of fewer is their greatest."""

# The cost is bounded by agents and samples, not by the table: see the functions.
SCORES: Final = """
WITH sample AS (
    SELECT agent_name, told.*
    FROM llm_active_agents($1, $2) agent_name CROSS JOIN LATERAL llm_score_sample(agent_name, $1, $3, $4) told
)
SELECT CASE WHEN GROUPING(model) = 1 THEN 'agent' ELSE 'model' END AS scope,
       COALESCE(agent_name, model) AS name,
       count(*) FILTER (WHERE success) AS successes,
       count(*) FILTER (WHERE NOT success) AS failures,
       CASE WHEN count(confidence) >= $5 THEN avg((confidence - success::int) ^ 2)::float8 END AS brier,
       CASE WHEN count(latency_ms) >= $5
            THEN percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) / 1000 END AS latency,
       CASE WHEN count(cost_usd) >= $5 THEN avg(cost_usd)::float8 END AS cost
FROM sample
GROUP BY GROUPING SETS ((agent_name), (model))
HAVING GROUPING(model) = 1 OR model IS NOT NULL -- a table that was adopted may have decisions of no model
ORDER BY count(*) DESC, name
"""

Scope = Literal["agent", "model"]


class Score(Struct, frozen=True):
    """One agent, or one model, over its latest decisions; None where fewer than `LEAST` say anything of it.

    `brier`: mean of (confidence - 1 for a success, 0 for a failure) squared, 0 the best; `latency`: the 95th
    percentile, in seconds; `cost`: the mean, in USD.
    """

    scope: Scope
    name: str
    successes: int
    failures: int
    brier: float | None = None
    latency: float | None = None
    cost: float | None = None

    @property
    def resolved(self) -> int:
        """Decisions with an outcome that is not PENDING."""
        return self.successes + self.failures

    @property
    def rate(self) -> float:
        """Successes among the resolved; of none it is not asked."""
        return self.successes / self.resolved

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true rate lies in 99 of 100 cases: of 95, too many looks a day would be wrong."""
        return wilson(self.successes, self.resolved, Z99)


async def read_scores(connection: Connection, days: float) -> list[Score]:
    """The agents and models of the latest decisions of so many days, at most `MAX_NAMES` of each."""
    with translated():
        async with connection.transaction(readonly=True):
            rows = await connection.fetch(SCORES, timedelta(days=days), MAX_NAMES, SAMPLE, REACH, LEAST)
    scores = [Score(**row) for row in rows]
    return [
        score
        for scope in get_args(Scope)
        for score in [score for score in scores if score.scope == scope][:MAX_NAMES]
    ]
