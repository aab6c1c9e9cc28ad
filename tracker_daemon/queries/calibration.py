"""Calibration: what a stated confidence is worth, bucket by bucket, and in numbers that sum it up."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.intervals import wilson
from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection
from tracker_daemon.queries.reliability import Part, summary
from tracker_daemon.queries.stats import MAX_GROUPS, Key, key_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from asyncpg import Record

    from tracker_daemon.postgres import Connection

MIN_BUCKETS: Final = 2
MAX_BUCKETS: Final = 50

# In whole ten-thousandths, as which confidences are stored: so the sums are exact, and fast. An adopted table
# may hold confidences beyond 0 and 1, which are no probabilities.
_UNIT: Final = 10_000
_CALIBRATION: Final = f"""
WITH chosen AS (
    SELECT {{keys}} (outcome = 'SUCCESS')::int AS came,
           CASE WHEN confidence BETWEEN 0 AND 1 THEN (confidence * {_UNIT})::bigint END AS stated,
           CASE WHEN ({{mature}}) IS NOT TRUE THEN 'immature'
                WHEN {UNDECIDED} THEN 'undecided'
                WHEN (confidence BETWEEN 0 AND 1) IS NOT TRUE THEN 'without_confidence'
           END AS left_out
    FROM {{source}} WHERE {{condition}}
), parts AS (
    SELECT {{names}} left_out,
           CASE WHEN left_out IS NULL
                THEN LEAST(stated * {{buckets:d}} / {_UNIT}, {{buckets:d}} - 1) END AS bucket,
           count(*) AS decisions, sum(came) AS came, sum(stated) AS stated,
           sum(stated * stated) AS stated_2, sum(stated * came) AS stated_came,
           sum((stated - {_UNIT} * came) * (stated - {_UNIT} * came)
               * (stated - {_UNIT} * came) * (stated - {_UNIT} * came)) AS error_4
    FROM chosen GROUP BY {{names}} left_out, bucket
)
SELECT {{names}}
       COALESCE(sum(decisions) FILTER (WHERE left_out = 'immature'), 0)::bigint AS immature,
       COALESCE(sum(decisions) FILTER (WHERE left_out = 'undecided'), 0)::bigint AS undecided,
       COALESCE(sum(decisions) FILTER (WHERE left_out = 'without_confidence'), 0)::bigint
           AS without_confidence,
       array_agg(ROW(bucket, decisions, came, stated, stated_2, stated_came, error_4) ORDER BY bucket)
           FILTER (WHERE left_out IS NULL) AS parts
FROM parts {{grouped}}
LIMIT {{limit:d}}
"""


class Bucket(Struct, frozen=True, kw_only=True):
    """Resolved decisions whose confidence was `lower` or more, and less than `upper`; the last has 1, too.

    `avg_confidence` is what they stated, `resolved_success_rate` what came of it, with the bounds of its 95 %
    Wilson interval.
    """

    lower: float
    upper: float
    decisions: int
    successful: int
    avg_confidence: float
    resolved_success_rate: float
    resolved_success_rate_lower: float
    resolved_success_rate_upper: float


class Calibration(Struct, frozen=True, kw_only=True):
    """How well a group's confidences tell, by its `key`; None where there are too few `decisions` to say.

    `decisions` are those that are resolved and stated a confidence, `buckets` those of them that have any.
    `brier_score` is the mean squared difference between confidence and result (1 or 0), and equals
    reliability - resolution + uncertainty + within_bucket_variance - within_bucket_covariance (Murphy 1973;
    the last two, which are not 0 where the confidences in a bucket differ: Stephenson, Coelho and Jolliffe
    2008). The two calibration errors are the mean, over decisions, and the maximum, over buckets, of the
    distance between avg_confidence and resolved_success_rate.

    All intervals hold the truth in 95 % of cases, if outcomes do not depend on each other: that of the Brier
    score by its standard error (some thirty decisions make it good), those of the calibration errors at least
    in so many, however few there are, by the inequalities of McDiarmid and Chernoff.

    `immature` (younger than the maturity window), else `undecided`, else `without_confidence` (from 0 to 1)
    were left out.
    """

    key: dict[str, str | None]
    decisions: int
    immature: int
    undecided: int
    without_confidence: int
    buckets: tuple[Bucket, ...]
    avg_confidence: float | None = None
    resolved_success_rate: float | None = None
    brier_score: float | None = None
    brier_score_lower: float | None = None
    brier_score_upper: float | None = None
    reliability: float | None = None
    resolution: float | None = None
    uncertainty: float | None = None
    within_bucket_variance: float | None = None
    within_bucket_covariance: float | None = None
    expected_calibration_error: float | None = None
    expected_calibration_error_lower: float | None = None
    expected_calibration_error_upper: float | None = None
    maximum_calibration_error: float | None = None
    maximum_calibration_error_lower: float | None = None
    maximum_calibration_error_upper: float | None = None


class Calibrations(Struct, frozen=True):
    """Groups, the largest first (one without a key where none were asked for); `complete`: they are all."""

    groups: tuple[Calibration, ...]
    complete: bool


async def calibration(
    connection: Connection,
    wanted: Filter,
    group_by: Sequence[Key] = (),
    *,
    buckets: int = 10,
    maturity: timedelta | None = None,
) -> Calibrations:
    """Return how well the confidences of the chosen decisions tell; ask inside `reading`.

    `buckets` of equal width; `maturity` as in `decision_stats`. At most `MAX_GROUPS` groups.
    """
    if not MIN_BUCKETS <= buckets <= MAX_BUCKETS:
        raise InvalidQuestion(f"buckets must be from {MIN_BUCKETS} to {MAX_BUCKETS}, not {buckets}")
    columns = key_columns(group_by)
    chosen = Selection(wanted)
    places = ", ".join(map(str, range(1, len(group_by) + 1)))
    rows = await connection.fetch(
        _CALIBRATION.format(
            keys="".join(f"{column} AS {name}, " for column, name in zip(columns, group_by, strict=True)),
            names="".join(f"{name}, " for name in group_by),
            mature=chosen.mature(maturity),
            source=chosen.source,
            condition=chosen.condition,
            buckets=buckets,
            grouped=f"GROUP BY {places} ORDER BY sum(decisions) DESC, {places}" if places else "",
            limit=MAX_GROUPS + 1,
        ),
        *chosen.values,
    )
    groups = []
    for row in rows[:MAX_GROUPS]:
        groups.append(_group(row, group_by, buckets))
        # A group of many buckets takes milliseconds: messages that arrive meanwhile come first.
        await asyncio.sleep(0)
    return Calibrations(tuple(groups), complete=len(rows) <= MAX_GROUPS)


def _group(row: Record, group_by: Sequence[Key], buckets: int) -> Calibration:
    values: dict[str, Any] = dict(row)
    key: dict[str, str | None] = {name: values.pop(name) for name in group_by}
    parts = [_part(*part) for part in values.pop("parts") or ()]
    return Calibration(
        key=key,
        decisions=sum(part.decisions for part in parts),
        buckets=tuple(_bucket(part, buckets) for part in parts),
        **values,
        **(summary(parts) if parts else {}),
    )


def _part(bucket: int, decisions: int, came: int, *sums: Any) -> Part:
    powers = (1, 2, 1, 4)
    return Part(
        bucket,
        decisions,
        came,
        *(Fraction(int(total), _UNIT**power) for total, power in zip(sums, powers, strict=True)),
    )


def _bucket(part: Part, buckets: int) -> Bucket:
    lower, upper = wilson(part.came, part.decisions)
    return Bucket(
        lower=part.bucket / buckets,
        upper=(part.bucket + 1) / buckets,
        decisions=part.decisions,
        successful=part.came,
        avg_confidence=float(part.mean),
        resolved_success_rate=float(part.rate),
        resolved_success_rate_lower=lower,
        resolved_success_rate_upper=upper,
    )
