"""What the record holds of an experiment: arm by arm, unit by unit, added up by the database."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.experiments.estimate import NONE, Sums
from tracker_daemon.queries import finite

if TYPE_CHECKING:
    from datetime import timedelta

    from asyncpg import Record

    from tracker_daemon.experiments.experiment import Metric
    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries import Selection

UNIT: Final = "experiment_unit"
"""Where a decision's `extra` says which unit it was made for; without it a decision is a unit of its own."""

Unit = tuple[float, int]
"""The P&L of a unit, and how many of its decisions it is the sum of."""

_UNITS: Final = """
WITH exposed AS (
    SELECT {arm} AS variant, COALESCE(extra ->> '{unit}', id::text) AS unit, ({mature}) AS mature,
           outcome IN ('SUCCESS', 'FAILURE') AS resolved, outcome = 'SUCCESS' AS won, {pnl} AS pnl,
           created_at, propensity,
           CASE WHEN propensity > 0 AND propensity <= 1 THEN 1 / propensity END AS weight
    FROM {source} WHERE {condition}
), units AS (
    SELECT variant, unit, min(created_at) AS first, count(*) AS exposures,
           count(*) FILTER (WHERE NOT mature) AS immature,
           count(*) FILTER (WHERE mature AND resolved IS NOT TRUE) AS pending,
           count(*) FILTER (WHERE mature AND resolved)::numeric AS resolved,
           count(*) FILTER (WHERE mature AND won)::numeric AS won,
           count(pnl) FILTER (WHERE mature AND resolved)::numeric AS priced,
           COALESCE(sum(pnl) FILTER (WHERE mature AND resolved), 0) AS pnl,
           count(*) FILTER (WHERE mature AND resolved AND weight IS NULL) AS unweighted,
           min(propensity) FILTER (WHERE mature AND resolved AND weight > 0) AS least,
           max(propensity) FILTER (WHERE mature AND resolved AND weight > 0) AS most,
           COALESCE(sum(weight) FILTER (WHERE mature AND resolved), 0) AS weight,
           COALESCE(sum(weight) FILTER (WHERE mature AND won), 0) AS weighted_won,
           COALESCE(sum(weight) FILTER (WHERE mature AND resolved AND pnl IS NOT NULL), 0) AS weight_priced,
           COALESCE(sum(weight * pnl) FILTER (WHERE mature AND resolved), 0) AS weighted_pnl
    FROM exposed GROUP BY variant, unit
)
"""
_SUMS: Final = """
count(*) FILTER (WHERE {size} > 0) AS {metric}_units,
COALESCE(sum({size}), 0) AS {metric}_size, COALESCE(sum({value}), 0) AS {metric}_value,
COALESCE(sum({value} * {value}), 0) AS {metric}_values_squared,
COALESCE(sum({size} * {size}), 0) AS {metric}_sizes_squared,
COALESCE(sum({value} * {size}), 0) AS {metric}_products
"""
_EVIDENCE: Final = f"""{_UNITS}
SELECT variant, min(first) AS first, count(*) AS units, sum(exposures)::bigint AS exposures,
       sum(immature)::bigint AS immature, sum(pending)::bigint AS pending,
       sum(unweighted)::bigint AS unweighted, COALESCE(min(least) < max(most), false) AS adaptive,
       {_SUMS.format(metric="success", size="resolved", value="won")},
       {_SUMS.format(metric="pnl", size="priced", value="pnl")},
       {_SUMS.format(metric="weighted_success", size="weight", value="weighted_won")},
       {_SUMS.format(metric="weighted_pnl", size="weight_priced", value="weighted_pnl")}
FROM units GROUP BY variant
"""
_PRICED: Final = f"""{_UNITS}
SELECT variant, pnl::float8, priced::bigint FROM units WHERE priced > 0 ORDER BY variant, unit
"""
# A unit that was decided by two arms was not assigned by its key, or not by it alone.
_CROSSED: Final = f"""{_UNITS}
SELECT count(*) FROM (SELECT FROM units GROUP BY unit HAVING count(*) > 1) crossed
"""


class Evidence(Struct, frozen=True, kw_only=True):
    """Of one arm: units and decisions; of these, too young to count, and old enough without an outcome.

    `first` is when the first decision was made. In the weighted sums a decision counts 1 / propensity;
    `unweighted` resolved ones have none, or one that is no probability, and are not in these. `adaptive`:
    propensities differ.
    """

    first: datetime | None
    units: int
    exposures: int
    immature: int
    pending: int
    success: Sums
    pnl: Sums
    unweighted: int
    adaptive: bool
    weighted_success: Sums
    weighted_pnl: Sums

    def of(self, metric: Metric) -> Sums:
        """What the mean of a metric takes."""
        return self.success if metric == "success" else self.pnl


NOTHING: Final = Evidence(
    first=None,
    units=0,
    exposures=0,
    immature=0,
    pending=0,
    success=NONE,
    pnl=NONE,
    unweighted=0,
    adaptive=False,
    weighted_success=NONE,
    weighted_pnl=NONE,
)
"""Of an arm that no decision names."""


class Look:
    """One look at decisions, arm by arm: `arm` and `pnl` are what says these of one, in SQL.

    Decisions younger than `maturity` show in `immature` alone, for those that resolve early are not like the
    others.
    """

    def __init__(
        self,
        connection: Connection,
        chosen: Selection,
        maturity: timedelta,
        *,
        arm: str = "variant",
        pnl: str = "pnl",
    ) -> None:
        """Keep what to ask about; ask inside `reading`."""
        self._connection = connection
        self._parts = {
            "source": chosen.source,
            "condition": chosen.condition,
            "mature": chosen.mature(maturity),
            "unit": UNIT,
            "arm": arm,
            "pnl": finite(pnl),
        }
        self._values = chosen.values

    async def evidence(self) -> dict[str | None, Evidence]:
        """By the variant that decisions name."""
        rows = await self._connection.fetch(_EVIDENCE.format(**self._parts), *self._values)
        return {row["variant"]: _evidence(row) for row in rows}

    async def priced(self) -> dict[str | None, list[Unit]]:
        """The units that have a P&L, by variant, in the order of their keys."""
        found = defaultdict(list)
        for row in await self._connection.fetch(_PRICED.format(**self._parts), *self._values):
            found[row["variant"]].append((row["pnl"], row["priced"]))
        return dict(found)

    async def crossed(self) -> int:
        """How many units are in more than one arm."""
        count: int = await self._connection.fetchval(_CROSSED.format(**self._parts), *self._values)
        return count


def _evidence(row: Record) -> Evidence:
    names = ("first", "units", "exposures", "immature", "pending", "unweighted", "adaptive")
    told: dict[str, Any] = {name: row[name] for name in names}
    told |= {name: _sums(row, name) for name in ("success", "pnl", "weighted_success", "weighted_pnl")}
    return Evidence(**told)


def _sums(row: Record, metric: str) -> Sums:
    names = ("size", "value", "values_squared", "sizes_squared", "products")
    return Sums(units=row[f"{metric}_units"], **{name: Fraction(row[f"{metric}_{name}"]) for name in names})
