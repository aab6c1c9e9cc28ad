"""Intervals and tests of a difference, against scipy, formulas from the papers, and plain loops."""

from __future__ import annotations

import random
from math import isclose, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, chi2_contingency, norm, ttest_ind

from tests.trials import sums
from tracker_daemon.experiments.bootstrap import resampled
from tracker_daemon.experiments.comparison import compare, holm, interval, needed
from tracker_daemon.experiments.shares import mismatch

COUNTS = st.integers(30, 400).flatmap(lambda units: st.tuples(st.integers(1, units - 1), st.just(units)))


def rate(successes: int, units: int) -> Any:
    return sums([(1, 1)] * successes + [(0, 1)] * (units - successes))


@given(COUNTS, COUNTS)
def test_rates_are_compared_by_newcombes_interval_and_the_score_test(
    arm: tuple[int, int], control: tuple[int, int]
) -> None:
    told = compare(rate(*arm), rate(*control), "success", 1000, 0.05)
    (s1, n1), (s0, n0) = arm, control
    low1, high1 = binomtest(s1, n1).proportion_ci(method="wilson")
    low0, high0 = binomtest(s0, n0).proportion_ci(method="wilson")
    difference = s1 / n1 - s0 / n0
    assert isclose(told.estimate, difference, abs_tol=1e-12)
    lower = difference - sqrt((s1 / n1 - low1) ** 2 + (high0 - s0 / n0) ** 2)
    upper = difference + sqrt((high1 - s1 / n1) ** 2 + (s0 / n0 - low0) ** 2)
    assert (told.lower, told.upper) == pytest.approx((lower, upper), abs=1e-9)
    table = [[s1, n1 - s1], [s0, n0 - s0]]
    assert told.p_value == pytest.approx(chi2_contingency(table, correction=False).pvalue, abs=1e-9)


@given(st.integers(0, 2**32), st.integers(30, 200), st.integers(30, 200))
def test_pnl_is_compared_by_welchs_test(seed: int, own: int, other: int) -> None:
    chance = np.random.default_rng(seed)
    arm, control = chance.standard_t(3, own), chance.standard_t(3, other) + 0.2
    told = compare(sums((x, 1) for x in arm), sums((x, 1) for x in control), "pnl", 1000, 0.05)
    expected = ttest_ind(arm, control, equal_var=False)
    assert told.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert (told.lower, told.upper) == pytest.approx(expected.confidence_interval(), rel=1e-6)


def test_decisions_of_a_unit_are_not_counted_as_if_they_were_independent() -> None:
    """Each unit decides ten times the same: that is as much as once."""
    chance = random.Random(1)  # noqa: S311 - a test's data
    once = [[(chance.random() < part, 1) for _ in range(100)] for part in (0.5, 0.6)]
    often = [[(value * 10, 10) for value, _ in units] for units in once]
    alone = compare(sums(once[0]), sums(once[1]), "pnl", 1000, 0.05)
    together = compare(sums(often[0]), sums(often[1]), "success", 1000, 0.05)
    assert together == alone


def test_the_variance_of_units_of_many_sizes_is_that_of_the_linearized_ratio() -> None:
    chance = np.random.default_rng(5)
    sizes = chance.integers(1, 9, 300)
    values = chance.binomial(sizes, chance.beta(2, 2, 300))
    mean = values.sum() / sizes.sum()
    residuals = (values - mean * sizes) / sizes.mean()
    told = sums(zip(map(int, values), map(int, sizes), strict=True))
    assert float(told.variance) == pytest.approx(residuals.var(ddof=1) / 300, rel=1e-12)
    draws = chance.integers(0, 300, (4000, 300))
    bootstrapped = (values[draws].sum(axis=1) / sizes[draws].sum(axis=1)).var()
    assert float(told.variance) == pytest.approx(bootstrapped, rel=0.1)


@pytest.mark.parametrize("planned", [100, 2000])
def test_the_interval_that_always_holds_is_narrowest_where_it_was_planned(planned: int) -> None:
    def factor(units: float) -> float:
        """Half the width, for a standard error of 1 / sqrt(units)."""
        rho = sqrt((-2 * log(0.05) + log(-2 * log(0.05) + 1)) / planned)
        return sqrt(
            2 * (units * rho**2 + 1) / (units * rho) ** 2 * log(sqrt(units * rho**2 + 1) / 0.05) * units
        )

    half = planned // 2
    told = compare(rate(half // 2, half), rate(half // 2, half), "success", planned, 0.05)
    error = sqrt(2 * 0.25 / (half - 1))
    assert (told.always_upper - told.always_lower) / 2 == pytest.approx(error * factor(planned), rel=1e-9)
    # Of all numbers of units, these have the factor at its least, to a fiftieth.
    assert factor(planned) < 1.02 * min(factor(planned * part / 10) for part in range(1, 60))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_what_rejecting_step_by_step_comes_to(p_values: list[float]) -> None:
    def rejected(risk: float) -> set[int]:
        found: set[int] = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
            if p_values[place] * (len(p_values) - rank) > risk:
                break
            found.add(place)
        return found

    adjusted = holm(p_values)
    for risk in (0.001, 0.05, 0.3, 0.99):
        assert {place for place, p_value in enumerate(adjusted) if p_value <= risk} == rejected(risk)


def test_too_few_units_or_all_alike_tell_of_no_difference() -> None:
    assert compare(rate(10, 29), rate(50, 100), "success", 1000, 0.05) is None
    assert compare(rate(50, 50), rate(60, 60), "success", 1000, 0.05) is None
    assert interval(sums([(1.0, 1)] * 29), "pnl", 0.05) is None


def test_what_is_needed_gives_the_power_that_it_promises() -> None:
    """Two arms of equal shares, 50 % against 60 %: 388 units each by the textbook's formula."""
    units = needed((0.25 + 0.24) * 2, 0.1, 0.05)
    z = norm.isf(0.025) + norm.ppf(0.8)
    each = brentq(lambda n: 0.1 / sqrt((0.25 + 0.24) / n) - z, 10, 10_000)
    assert units == pytest.approx(2 * each, abs=1)


def test_resampled_bounds_are_the_same_for_the_same_question() -> None:
    chance = np.random.default_rng(2)
    arm, control = ([(float(x), 1) for x in chance.standard_t(3, 100)] for _ in range(2))
    told = resampled(arm, control, 0.05, "trial b")
    assert told == resampled(arm, control, 0.05, "trial b")
    assert told != resampled(arm, control, 0.05, "trial c")
    low, high = ttest_ind([x for x, _ in arm], [x for x, _ in control], equal_var=False).confidence_interval()
    assert told == pytest.approx((low, high), abs=(high - low) / 20)


def test_nothing_is_resampled_of_arms_that_are_all_alike() -> None:
    assert resampled([(1.0, 1)] * 30, [(2.0, 1)] * 30, 0.05, "trial b") is None


def test_a_mismatch_is_told_from_chance() -> None:
    assert mismatch([0, 0], [0.5, 0.5]) == 1
    assert mismatch([5000, 5050], [0.5, 0.5]) > 0.05
    assert mismatch([5000, 5600], [0.5, 0.5]) < 1e-4
    assert mismatch([900, 100], [0.9, 0.1]) > 0.05
    assert mismatch([500, 500], [0.9, 0.1]) < 1e-20
