"""Calibration compared with scikit-learn, scipy and plain Python over the same rows."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, entropy, norm, sem
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from tests.extremes import EXAMPLES, ROWS, refill
from tests.record import BEGIN, grouped, known, replay
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import Filter, calibration, parse, reading
from tracker_daemon.queries.questions import Calibration as Question
from tracker_daemon.store import Store

if TYPE_CHECKING:
    import asyncpg

    from tests.record import Row
    from tracker_daemon.queries import Bucket, Calibration, Calibrations

BESIDE = ("key", "buckets", "decisions", "immature", "undecided", "without_confidence")


async def ask(sql: asyncpg.Connection, wanted: Filter, *keys: Any, **more: Any) -> Calibrations:
    async with reading(sql):
        return await calibration(sql, wanted, keys, **more)


def check(found: Calibration, rows: list[Row], count: int = 10) -> None:
    """Compare every number with one that is computed here."""
    resolved = [row for row in rows if row["outcome"] in {"SUCCESS", "FAILURE"}]
    told = [row for row in resolved if row["confidence"] is not None]
    left_out = (len(rows) - len(resolved), len(resolved) - len(told))
    assert (found.decisions, found.undecided, found.without_confidence) == (len(told), *left_out)
    numbers = {name for name in found.__struct_fields__ if name not in BESIDE}
    if not told:
        assert {getattr(found, name) for name in numbers} == {None}
        assert found.buckets == ()
        return
    came = np.array([row["outcome"] == "SUCCESS" for row in told], dtype=int)
    stated = np.array([float(row["confidence"]) for row in told])
    place = np.array([min(int(row["confidence"] * count), count - 1) for row in told])
    check_buckets(found.buckets, came, stated, place, count)
    expected = summed_up(came, stated, place)
    assert expected.keys() == numbers
    for name, value in expected.items():
        assert getattr(found, name) == (None if value is None else pytest.approx(value, abs=1e-9)), name
    parts = found.reliability - found.resolution + found.uncertainty  # type: ignore[operator]
    within = found.within_bucket_variance - found.within_bucket_covariance  # type: ignore[operator]
    assert parts + within == pytest.approx(found.brier_score, abs=1e-14)


def check_buckets(
    found: tuple[Bucket, ...], came: np.ndarray, stated: np.ndarray, place: np.ndarray, count: int
) -> None:
    """Each bucket that holds anything; for scikit-learn a bound belongs below, so all move up by a hair."""
    rates, _ = calibration_curve(came, np.minimum(stated + 1e-9, 1), n_bins=count)
    filled = sorted(set(place))
    assert len(found) == len(rates) == len(filled)
    for bucket, rate, index in zip(found, rates, filled, strict=True):
        inside = place == index
        assert (bucket.lower, bucket.upper) == pytest.approx((index / count, (index + 1) / count))
        assert (bucket.decisions, bucket.successful) == (inside.sum(), came[inside].sum())
        assert bucket.avg_confidence == pytest.approx(stated[inside].mean())
        assert bucket.resolved_success_rate == pytest.approx(rate)
        wilson = binomtest(bucket.successful, bucket.decisions).proportion_ci(0.95, "wilson")
        interval = (bucket.resolved_success_rate_lower, bucket.resolved_success_rate_upper)
        assert interval == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def summed_up(came: np.ndarray, stated: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    """What follows from all decisions, by the definitions in the papers."""
    total, rate = len(came), came.mean()
    groups = [(stated[place == index], came[place == index]) for index in sorted(set(place))]
    sizes = np.array([len(f) for f, _ in groups])
    means, rates = np.array([f.mean() for f, _ in groups]), np.array([o.mean() for _, o in groups])
    gaps = abs(means - rates)
    errors = (stated - came) ** 2
    half = norm.ppf(0.975) * sem(errors) if total > 1 else None
    reach = np.sqrt(np.log(1 / 0.025) / 2 / total)
    bounds = [chernoff(*each, 0.025 / len(groups)) for each in zip(rates, sizes, strict=True)]
    expected = (sizes * gaps).sum() / total
    chance = (sizes / total * np.sqrt(0.25 / sizes)).sum()
    return {
        "avg_confidence": stated.mean(),
        "resolved_success_rate": rate,
        "brier_score": brier_score_loss(came, stated, pos_label=1),
        "brier_score_lower": None if half is None else max(0, errors.mean() - half),
        "brier_score_upper": None if half is None else min(1, errors.mean() + half),
        "reliability": (sizes * gaps**2).sum() / total,
        "resolution": (sizes * (rates - rate) ** 2).sum() / total,
        "uncertainty": rate * (1 - rate),
        "within_bucket_variance": sum(((f - f.mean()) ** 2).sum() for f, _ in groups) / total,
        "within_bucket_covariance": sum(2 * ((o - o.mean()) * (f - f.mean())).sum() for f, o in groups)
        / total,
        "expected_calibration_error": expected,
        "expected_calibration_error_lower": max(0, expected - chance - reach),
        "expected_calibration_error_upper": min(1, expected + reach),
        "maximum_calibration_error": gaps.max(),
        "maximum_calibration_error_lower": max(
            max(0, lower - mean, mean - upper) for (lower, upper), mean in zip(bounds, means, strict=True)
        ),
        "maximum_calibration_error_upper": max(
            max(upper - mean, mean - lower) for (lower, upper), mean in zip(bounds, means, strict=True)
        ),
    }


def chernoff(rate: float, count: int, risk: float) -> tuple[float, float]:
    """Where exp(-count * divergence) is the risk, on either side of the rate."""

    def beyond(true: float) -> float:
        return count * entropy([rate, 1 - rate], [true, 1 - true]) + np.log(risk)

    lower = brentq(beyond, 1e-300, rate, xtol=1e-15) if rate > 0 else 0
    upper = brentq(beyond, rate, 1 - 1e-16, xtol=1e-15) if rate < 1 else 1
    return lower, upper


@pytest.mark.parametrize("buckets", [2, 7, 10, 50])
async def test_every_number_of_all_decisions(buckets: int, record: asyncpg.Connection) -> None:
    answer = await ask(record, Filter(), buckets=buckets)
    assert (len(answer.groups), answer.complete, answer.groups[0].key) == (1, True, {})
    check(answer.groups[0], await known(record), buckets)


async def test_every_number_of_each_group(record: asyncpg.Connection) -> None:
    """Of those that are chosen; the largest group first."""
    rows = [row for row in await known(record) if row["symbol"] == "BTC"]
    expected = grouped(rows, lambda row: (row["agent_name"], row["model"]))
    answer = await ask(record, Filter(symbol="BTC"), "agent_name", "model")
    found = [(group.key["agent_name"], group.key["model"]) for group in answer.groups]
    assert len(found) == len(expected)
    for key, group in zip(found, answer.groups, strict=True):
        check(group, expected[key])
    sizes = [len(expected[key]) for key in found]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("days", [0, 9, 40])
async def test_as_of_knows_nothing_that_came_later(days: int, record: asyncpg.Connection) -> None:
    as_of = BEGIN + timedelta(days=days)
    check((await ask(record, Filter(as_of=as_of))).groups[0], await known(record, as_of))


async def test_a_maturity_window_leaves_young_decisions_out_and_says_how_many(
    record: asyncpg.Connection,
) -> None:
    """Asked by JSON; the young ones are not counted as undecided as well, nor as without confidence."""
    as_of = BEGIN + timedelta(days=8)
    question = f'{{"as_of": "{as_of.isoformat()}", "maturity_seconds": {2 * 86_400}, "buckets": 5}}'
    async with reading(record):
        answer = await parse(question.encode(), Question).answer(record)
    rows = await known(record, as_of)
    old = [row for row in rows if row["created_at"] <= as_of - timedelta(days=2)]
    assert answer.groups[0].immature == len(rows) - len(old) > 0
    check(answer.groups[0], old, 5)


async def test_every_number_of_the_demos_agents(dsn: str, sql: asyncpg.Connection) -> None:
    store = Store(dsn)
    await replay(store, 1500)
    await store.close()
    expected = grouped(await known(sql), lambda row: row["agent_name"])
    answer = await ask(sql, Filter(), "agent_name")
    assert len(expected) == len(answer.groups) == 3
    for group in answer.groups:
        check(group, expected[group.key["agent_name"]])


@EXAMPLES
@hypothesis.given(rows=ROWS, buckets=hypothesis.strategies.integers(2, 50))
async def test_every_number_of_nulls_ties_and_extremes(
    rows: list[Row], buckets: int, sql: asyncpg.Connection
) -> None:
    await refill(sql, rows)
    check((await ask(sql, Filter(), buckets=buckets)).groups[0], rows, buckets)
    expected = grouped(rows, lambda row: row["model"])
    answer = await ask(sql, Filter(), "model", buckets=buckets)
    assert {group.key["model"] for group in answer.groups} == expected.keys()
    for group in answer.groups:
        check(group, expected[group.key["model"]], buckets)


async def test_what_is_no_probability_is_no_confidence(record: asyncpg.Connection) -> None:
    """An adopted table may hold such; a decision without a time is never old enough."""
    await record.execute("UPDATE llm_decisions SET outcome = 'SUCCESS', confidence = 'NaN'")
    ids = [row["id"] for row in await known(record)]
    for id_, confidence in zip(ids, ("-0.0001", "1.0001", "9.9999"), strict=False):
        await record.execute(f"UPDATE llm_decisions SET confidence = {confidence} WHERE id = $1", id_)
    await record.execute("UPDATE llm_decisions SET created_at = NULL WHERE id = ANY($1::uuid[])", ids[:2])
    [group] = (await ask(record, Filter(), maturity=timedelta(days=1))).groups
    assert (group.decisions, group.without_confidence, group.immature) == (0, 198, 2)


async def test_too_many_groups_are_cut_and_that_is_said(
    record: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await ask(record, Filter(), "agent_name")
    monkeypatch.setattr(sys.modules[calibration.__module__], "MAX_GROUPS", 2)
    cut = await ask(record, Filter(), "agent_name")
    assert (cut.groups, cut.complete, whole.complete) == (whole.groups[:2], False, True)


async def test_what_cannot_be_asked_is_said(record: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match="cannot group by prompt; there are agent_name, model"):
        await ask(record, Filter(), "prompt")
    for buckets in (-1, 1, 51):
        with pytest.raises(InvalidQuestion, match=f"buckets must be from 2 to 50, not {buckets}"):
            await ask(record, Filter(), buckets=buckets)
