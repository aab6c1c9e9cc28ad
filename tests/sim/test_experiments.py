"""Experiments with a known truth, many times over: each figure that a reviewer would ask for has its bound.

Seeded, so that a run is like the other; a bound leaves room for three standard errors of the simulation.
"""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.sim.figures import at_most, shown
from tracker_daemon.experiments.bootstrap import resampled
from tracker_daemon.experiments.comparison import FEWEST, _always, compare, holm, interval, needed
from tracker_daemon.experiments.estimate import Sums
from tracker_daemon.experiments.shares import mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracker_daemon.experiments import Difference

    Draw = Callable[[np.random.Generator, int], np.ndarray]

RISK = 0.05
OUTCOMES: dict[str, Draw] = {
    "success, 1 of 2": lambda chance, count: chance.binomial(1, 0.5, count).astype(float),
    "success, 1 of 10": lambda chance, count: chance.binomial(1, 0.1, count).astype(float),
    "P&L, Student's t with 3 degrees of freedom": lambda chance, count: chance.standard_t(3, count),
    "P&L, lognormal": lambda chance, count: chance.lognormal(0, 1, count),
}


def observed(values: np.ndarray, size: int = 1) -> Sums:
    """What there is of units that have `size` decisions each."""
    units, total = len(values), Fraction(float(values.sum()))
    return Sums(
        units=units,
        size=Fraction(units * size),
        value=total,
        values_squared=Fraction(float((values.astype(float) ** 2).sum())),
        sizes_squared=Fraction(units * size**2),
        products=total * size,
    )


def weighed(values: np.ndarray, sizes: np.ndarray) -> Sums:
    """What there is of units with sizes of their own."""
    columns = [np.ones_like(sizes), sizes, values, values**2, sizes**2, values * sizes]
    units, *totals = (Fraction(float(column.sum())) for column in columns)
    names = ("size", "value", "values_squared", "sizes_squared", "products")
    return Sums(units=int(units), **dict(zip(names, totals, strict=True)))


def differ(chance: np.random.Generator, draw: Draw, units: int, effect: float = 0) -> Difference:
    metric = "success" if draw(chance, 50).max() == 1 else "pnl"
    own, other = draw(chance, units) + effect, draw(chance, units)
    told = compare(observed(own), observed(other), metric, 1000, RISK)
    assert told is not None
    return told


@pytest.mark.parametrize("outcomes", OUTCOMES)
def test_at_one_look_a_difference_that_is_not_there_is_seen_as_rarely_as_promised(outcomes: str) -> None:
    chance, count = np.random.default_rng(1), 1000
    looks = [differ(chance, OUTCOMES[outcomes], 200) for _ in range(count)]
    seen = sum(look.p_value < RISK for look in looks) / count
    shown(f"false positives at one look ({outcomes})", seen, most=at_most(RISK, count))
    missed = sum(not look.lower <= 0 <= look.upper for look in looks) / count
    shown(f"intervals at one look that miss the truth ({outcomes})", missed, most=at_most(RISK, count))


def test_of_four_arms_none_seems_to_differ_more_often_than_one_would() -> None:
    chance, count = np.random.default_rng(2), 1000
    seen = corrected = 0
    for _ in range(count):
        control, *arms = (observed(chance.binomial(1, 0.5, 200)) for _ in range(5))
        looks = [compare(arm, control, "success", 1000, RISK / 4) for arm in arms]
        p_values = [look.p_value for look in looks if look is not None]
        seen += min(p_values) < RISK
        corrected += min(holm(p_values)) < RISK
    shown("false positives of four arms, corrected", corrected / count, most=at_most(RISK, count))
    shown("the same without a correction", seen / count, least=2 * RISK)


@pytest.mark.parametrize("outcomes", OUTCOMES)
@pytest.mark.parametrize("planned", [200, 1000])
def test_looked_at_after_every_outcome_what_always_holds_is_wrong_no_more_often(
    outcomes: str, planned: int
) -> None:
    chance, count, units = np.random.default_rng(3), 300, 2000
    missed = peeked = 0
    for _ in range(count):
        first = chance.random(units) < 0.5
        estimates, errors, seen = _course(first, OUTCOMES[outcomes](chance, units))
        bounds = np.array(
            [_always(error, number, planned, RISK) for error, number in zip(errors, seen, strict=True)]
        )
        missed += bool((np.abs(estimates) > bounds).any())
        peeked += bool((np.abs(estimates) > 1.96 * errors).any())
    name = f"{outcomes}, planned for {planned:,}"
    shown(
        f"false positives, looked at after every outcome ({name})", missed / count, most=at_most(RISK, count)
    )
    shown("the same with intervals for one look", peeked / count, least=4 * RISK)


def _course(first: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """After each outcome of two arms: the difference, its standard error, and the units so far."""
    arms = []
    for arm in (first, ~first):
        count, total = np.cumsum(arm), np.cumsum(values * arm)
        squares = np.cumsum(values**2 * arm)
        arms.append((count, total, squares))
    enough = np.minimum(arms[0][0], arms[1][0]) >= FEWEST
    means, variances = [], []
    for count, total, squares in ([column[enough] for column in arm] for arm in arms):
        means.append(total / count)
        variances.append(np.maximum(squares - total**2 / count, 0) / (count - 1) / count)
    return means[0] - means[1], np.sqrt(variances[0] + variances[1]), (arms[0][0] + arms[1][0])[enough]


def test_shares_that_hold_seem_broken_as_rarely_as_promised_however_often_one_looks() -> None:
    chance, count = np.random.default_rng(4), 200
    broken = 0
    for _ in range(count):
        arms = chance.random(1000) < 0.2
        counts = np.cumsum(arms)
        p_values = (mismatch([int(one), n + 1 - int(one)], [0.2, 0.8]) for n, one in enumerate(counts))
        broken += any(p_value < RISK for p_value in p_values)
    shown("right shares that seem broken, looked at every time", broken / count, most=at_most(RISK, count))


def test_a_hundredth_of_the_units_that_goes_astray_is_seen() -> None:
    chance = np.random.default_rng(5)
    one = int(chance.binomial(100_000, 0.49))
    told = mismatch([one, 100_000 - one], [0.5, 0.5])
    shown("p-value of shares of which a hundredth goes astray", told, most=0.001)


@pytest.mark.parametrize("outcomes", [name for name in OUTCOMES if name.startswith("P&L")])
def test_intervals_hold_the_true_difference_of_pnl_as_often_as_promised(outcomes: str) -> None:
    chance, count, effect = np.random.default_rng(6), 250, 0.5
    held = resampled_held = 0
    for number in range(count):
        own, other = OUTCOMES[outcomes](chance, 80) + effect, OUTCOMES[outcomes](chance, 80)
        told = compare(observed(own), observed(other), "pnl", 1000, RISK)
        assert told is not None
        held += told.lower <= effect <= told.upper
        units = [[(float(value), 1) for value in values] for values in (own, other)]
        lower, upper = resampled(*units, RISK, str(number)) or (0, 0)
        resampled_held += lower <= effect <= upper
    shown(f"Welch's intervals that miss the truth ({outcomes})", 1 - held / count, most=at_most(RISK, count))
    missed = 1 - resampled_held / count
    shown(f"those of the bootstrap ({outcomes})", missed, most=at_most(RISK, count))


def test_as_many_units_as_are_needed_show_the_effect_four_times_of_five() -> None:
    chance, count = np.random.default_rng(7), 1000
    each = needed(2 * (0.5 * 0.5 + 0.6 * 0.4), 0.1, RISK) // 2
    seen = 0
    for _ in range(count):
        arms = (observed(chance.binomial(1, rate, each)) for rate in (0.6, 0.5))
        told = compare(*arms, "success", 1000, RISK)
        seen += told is not None and told.p_value < RISK
    error = sqrt(0.8 * 0.2 / count)
    shown("power, which is to be 0.8", seen / count, least=0.8 - 3 * error, most=0.8 + 3 * error)


def test_units_that_decide_more_than_once_do_not_make_false_differences() -> None:
    """Ten decisions of a unit that share its luck: taken for independent, they would seem to be sure."""
    chance, count = np.random.default_rng(8), 600
    clustered = naive = 0
    for _ in range(count):
        arms = [chance.binomial(10, chance.beta(1, 1, 60)) for _ in range(2)]
        told = compare(*(observed(arm, 10) for arm in arms), "success", 1000, RISK)
        assert told is not None
        clustered += told.p_value < RISK
        alone = (observed(np.repeat([1, 0], [arm.sum(), 600 - arm.sum()])) for arm in arms)
        one = compare(*alone, "success", 1000, RISK)
        naive += one is not None and one.p_value < RISK
    shown("false positives, ten decisions a unit", clustered / count, most=at_most(RISK, count))
    shown("the same with decisions taken for independent", naive / count, least=4 * RISK)


def test_an_arm_that_was_chosen_while_it_led_is_known_by_inverse_propensity() -> None:
    """Two arms of one rate, which rises meanwhile; nine of ten units go to the one that leads."""
    chance, count = np.random.default_rng(9), 400
    plain, weighted, missed, plain_missed = [], [], 0, 0
    for _ in range(count):
        won, propensity = np.array(list(_led(chance, 1000))).T
        alone = observed(won)
        by_propensity = weighed(won / propensity, 1 / propensity)
        plain.append(float(alone.mean))
        weighted.append(float(by_propensity.mean))
        lower, upper = interval(by_propensity, "success", RISK) or (0, 1)
        missed += not lower <= 0.5 <= upper
        lower, upper = interval(alone, "success", RISK) or (0, 1)
        plain_missed += not lower <= 0.5 <= upper
    shown(
        "intervals that miss the mean of an arm, chosen while it led",
        missed / count,
        most=at_most(RISK, count),
    )
    shown("the same without weights", plain_missed / count, least=4 * RISK)
    shown("error of that mean", abs(np.mean(weighted) - 0.5), most=3 * np.std(weighted) / sqrt(count))
    shown("that mean without weights", np.mean(plain), most=0.5 - 3 * np.std(plain) / sqrt(count))


def _led(chance: np.random.Generator, units: int) -> Iterator[tuple[bool, float]]:
    """Of the units that the second arm got: whether it won, and its propensity."""
    wins, counts, propensity = np.ones(2), np.full(2, 2.0), 0.5
    for unit in range(units):
        if unit % 50 == 0:
            propensity = 0.9 if wins[1] / counts[1] > wins[0] / counts[0] else 0.1
        arm = int(chance.random() < propensity)
        won = bool(chance.random() < 0.3 + 0.4 * unit / units)
        wins[arm] += won
        counts[arm] += 1
        if arm:
            yield won, propensity
