"""What an experiment has shown: its arms, how they differ from the control, and a verdict in words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.experiments.bootstrap import MOST, resampled
from tracker_daemon.experiments.comparison import Difference, compare, holm, interval, needed
from tracker_daemon.experiments.evidence import NOTHING, Look
from tracker_daemon.experiments.experiment import METRICS, RISK, Metric
from tracker_daemon.experiments.shares import mismatch
from tracker_daemon.experiments.verdict import Verdict, verdict
from tracker_daemon.queries import Filter, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.experiments.estimate import Sums
    from tracker_daemon.experiments.evidence import Evidence, Unit
    from tracker_daemon.experiments.experiment import Arm, Definition, Experiment
    from tracker_daemon.postgres import Connection


class Mean(Struct, frozen=True, kw_only=True):
    """Of the decisions that tell: their mean, and its 95 % interval; None where too few do."""

    units: int
    decisions: int
    mean: float | None
    lower: float | None
    upper: float | None


class WeightedMean(Struct, frozen=True, kw_only=True):
    """A mean in which a decision counts 1 / propensity, and its 95 % interval; None where too few tell.

    The inverse propensity estimate, self-normalized (Hajek's; Swaminathan and Joachims, NeurIPS 28, 2015),
    with the linearized variance of a ratio (Owen, Monte Carlo, 2013, 9.2). Its units tell as much as
    `effective` ones that count alike (Kish's).
    """

    units: int
    effective: float
    mean: float | None
    lower: float | None
    upper: float | None


class Weighted(Struct, frozen=True, kw_only=True):
    """What an arm shows where it was chosen more often at some times than at others, by what was known.

    `left_out` decisions with an outcome have no propensity, or one that is no probability.
    """

    success: WeightedMean
    pnl: WeightedMean
    left_out: int


class OfArm(Struct, frozen=True, kw_only=True):
    """An arm so far, and how it differs from the control; None: it is the control, or too little is known.

    `weighted` is None where all decisions have the same propensity: it would be the same again.
    """

    name: str
    share: float
    units: int
    exposures: int
    immature: int
    pending: int
    success: Mean
    pnl: Mean
    weighted: Weighted | None
    success_difference: Difference | None
    pnl_difference: Difference | None


class Exposure(Struct, frozen=True, kw_only=True):
    """Whether decisions went where the shares send them.

    `mismatch` is the p-value of the arms' units under the shares, for as many looks as one likes; `crossed`
    units are in more than one arm, `foreign` decisions name an arm that there is not.
    """

    mismatch: float
    crossed: int
    foreign: int


class Progress(Struct, frozen=True, kw_only=True):
    """How many units tell of the metric, and how many `needed` to show the minimum effect, at 80 % power.

    `needed` is None where nothing is known of the variance yet. `days_to_go` at the pace so far; None: the
    experiment has stopped, or has no pace.
    """

    telling: int
    needed: int | None
    days_to_go: float | None


class Results(Struct, frozen=True, kw_only=True):
    """Arms in the order of the definition, the control first, and what may be said of them.

    Intervals of differences hold for all arms together (Bonferroni), p-values are Holm's.
    """

    experiment: str
    metric: Metric
    as_of: datetime
    started_at: datetime
    stopped_at: datetime | None
    arms: tuple[OfArm, ...]
    exposure: Exposure
    progress: Progress
    verdict: Verdict


async def experiment_results(
    connection: Connection,
    experiment: Experiment,
    *,
    maturity: timedelta = timedelta(),
    as_of: datetime | None = None,
) -> Results:
    """Return what is known of an experiment now, or was at a time; ask inside `reading`, with scipy there."""
    definition = experiment.definition
    look = Look(connection, Selection(Filter(experiment=definition.name, as_of=as_of)), maturity)
    found, units = await look.evidence(), await look.priced()
    known = [found.pop(arm.name, NOTHING) for arm in definition.arms]
    moment: datetime = as_of or await connection.fetchval("SELECT now()")
    differences = {metric: _differences(definition, known, metric) for metric in METRICS}
    differences["pnl"] = _with_resampled(definition, differences["pnl"], units)
    arms = tuple(
        _of_arm(arm, evidence, *(differences[metric].get(arm.name) for metric in METRICS))
        for arm, evidence in zip(definition.arms, known, strict=True)
    )
    exposure = Exposure(
        mismatch=mismatch([arm.units for arm in arms], [arm.share for arm in arms]),
        crossed=await look.crossed(),
        foreign=sum(evidence.exposures for evidence in found.values()),
    )
    progress = _progress(experiment, known, moment)
    return Results(
        experiment=definition.name,
        metric=definition.metric,
        as_of=moment,
        started_at=experiment.started_at,
        stopped_at=experiment.stopped_at,
        arms=arms,
        exposure=exposure,
        progress=progress,
        verdict=verdict(definition.metric, arms, exposure, progress),
    )


def _differences(definition: Definition, known: Sequence[Evidence], metric: Metric) -> dict[str, Difference]:
    """Those that can be told, by the name of the arm; the risk is shared out among all arms."""
    planned, control = definition.planned(metric), known[0].of(metric)
    compared = {
        arm.name: compare(evidence.of(metric), control, metric, planned, definition.risk)
        for arm, evidence in zip(definition.arms[1:], known[1:], strict=True)
    }
    found = {name: difference for name, difference in compared.items() if difference is not None}
    adjusted = holm([difference.p_value for difference in found.values()])
    return {
        name: replace(difference, p_value=p_value)
        for (name, difference), p_value in zip(found.items(), adjusted, strict=True)
    }


def _with_resampled(
    definition: Definition, found: Mapping[str, Difference], units: Mapping[str | None, Sequence[Unit]]
) -> dict[str, Difference]:
    control = units.get(definition.control.name, ())
    told = {}
    for name, difference in found.items():
        bounds = None
        if max(len(units[name]), len(control)) <= MOST:
            bounds = resampled(units[name], control, definition.risk, f"{definition.name} {name}")
        lower, upper = bounds or (None, None)
        told[name] = replace(difference, resampled_lower=lower, resampled_upper=upper)
    return told


def _of_arm(arm: Arm, evidence: Evidence, success: Difference | None, pnl: Difference | None) -> OfArm:
    return OfArm(
        name=arm.name,
        share=float(arm.share),
        units=evidence.units,
        exposures=evidence.exposures,
        immature=evidence.immature,
        pending=evidence.pending,
        success=plain(evidence.success, "success"),
        pnl=plain(evidence.pnl, "pnl"),
        weighted=weighted(evidence) if evidence.adaptive else None,
        success_difference=success,
        pnl_difference=pnl,
    )


def plain(sums: Sums, metric: Metric) -> Mean:
    """Return a mean in which all decisions count alike; asks for scipy."""
    lower, upper = interval(sums, metric, RISK) or (None, None)
    return Mean(
        units=sums.units,
        decisions=int(sums.size),
        mean=float(sums.mean) if sums.size else None,
        lower=lower,
        upper=upper,
    )


def weighted(evidence: Evidence) -> Weighted:
    """Return what an arm shows by inverse propensity; asks for scipy."""
    return Weighted(
        success=_weighted_mean(evidence.weighted_success, "success"),
        pnl=_weighted_mean(evidence.weighted_pnl, "pnl"),
        left_out=evidence.unweighted,
    )


def _weighted_mean(sums: Sums, metric: Metric) -> WeightedMean:
    lower, upper = interval(sums, metric, RISK) or (None, None)
    return WeightedMean(
        units=sums.units,
        effective=float(sums.effective) if sums.units else 0.0,
        mean=float(sums.mean) if sums.size else None,
        lower=lower,
        upper=upper,
    )


def _progress(experiment: Experiment, known: Sequence[Evidence], moment: datetime) -> Progress:
    definition = experiment.definition
    told = [evidence.of(definition.metric) for evidence in known]
    telling, most, days = sum(sums.units for sums in told), None, None
    if min(sums.units for sums in told) > 1:
        # The arm that takes the most units decides; each arm's variance counts by its part of them.
        spread = [
            float(sums.variance) * sums.units / float(arm.share)
            for sums, arm in zip(told, definition.arms, strict=True)
        ]
        most = needed(spread[0] + max(spread[1:]), definition.minimum_effect, definition.risk) or None
    if most and experiment.stopped_at is None:
        first = min(evidence.first for evidence in known if evidence.first is not None)
        # The clock of an agent may be ahead of the database's: then there is no pace yet.
        if (age := (moment - first) / timedelta(days=1)) > 0:
            days = max(0, most - telling) / telling * age
    return Progress(telling=telling, needed=most, days_to_go=days)
