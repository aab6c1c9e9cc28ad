"""What the models have shown among which a policy chose: weighted by how probable each choice was."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.experiments import Mean, Weighted
from tracker_daemon.experiments.evidence import NOTHING, Look
from tracker_daemon.experiments.results import plain, weighted
from tracker_daemon.queries import Filter, Selection
from tracker_daemon.selection.evidence import NET
from tracker_daemon.selection.standing import standings

if TYPE_CHECKING:
    from tracker_daemon.experiments.evidence import Evidence
    from tracker_daemon.postgres import Connection

# One that might decide alone says nothing of the times at which another might have.
_CHOSEN: Final = "experiment IS NULL AND propensity > 0 AND propensity < 1"
_COUNTS: Final = """
SELECT count(*) AS decisions, count(*) FILTER (WHERE experiment IS NULL AND propensity = 1) AS alone
FROM {source} WHERE {condition}
"""


class OfModel(Struct, frozen=True, kw_only=True):
    """A model's decisions that were chosen among several; P&L is less `cost_usd`.

    `success` and `pnl` are plain means, of whatever the times were at which it was chosen more often. Units
    are what decisions name as `experiment_unit`, as of an experiment's arms.
    """

    model: str
    units: int
    decisions: int
    immature: int
    pending: int
    success: Mean
    pnl: Mean
    weighted: Weighted


class SelectionResults(Struct, frozen=True, kw_only=True):
    """The policy's candidates, by inverse propensity, since it was set.

    Left out are decisions that only one model might have made (`alone`: pinned, switched off, all others
    benched), and `others`: without a propensity, of an experiment, by no candidate.
    """

    agent_name: str
    decision_type: str
    since: datetime
    as_of: datetime
    models: tuple[OfModel, ...]
    alone: int
    others: int


async def selection_results(
    connection: Connection, agent_name: str, decision_type: str, *, maturity: timedelta = timedelta()
) -> SelectionResults:
    """Return what is known now; ask inside `reading`, with scipy there.

    Raises `InvalidQuestion` where no policy is set.
    """
    standing = (await standings(connection)).find(agent_name, decision_type)
    as_of: datetime = await connection.fetchval("SELECT now()")
    wanted = Filter(agent_name=agent_name, decision_type=decision_type, since=standing.defined_at)
    every, chosen = Selection(wanted), Selection(wanted)
    statement = _COUNTS.format(source=every.source, condition=every.condition)
    [counts] = await connection.fetch(statement, *every.values)
    chosen.condition += f" AND {_CHOSEN}"
    found = await Look(connection, chosen, maturity, arm="model", pnl=NET).evidence()
    models = tuple(_of_model(name, found.get(name, NOTHING)) for name in standing.policy.candidates)
    return SelectionResults(
        agent_name=agent_name,
        decision_type=decision_type,
        since=standing.defined_at,
        as_of=as_of,
        models=models,
        alone=counts["alone"],
        others=counts["decisions"] - counts["alone"] - sum(model.decisions for model in models),
    )


def _of_model(name: str, told: Evidence) -> OfModel:
    return OfModel(
        model=name,
        units=told.units,
        decisions=told.exposures,
        immature=told.immature,
        pending=told.pending,
        success=plain(told.success, "success"),
        pnl=plain(told.pnl, "pnl"),
        weighted=weighted(told),
    )
