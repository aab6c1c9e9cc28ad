"""Models selected in worlds with a known truth: what learning costs, what is fair, what the guardrail does.

Seeded, so that a run is like the other; a bound leaves room for other seeds.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from tests.sim import courses
from tests.sim.bandit import PER_DAY, among, steady
from tests.sim.courses import CHANGE_DAY, cost, share
from tests.sim.figures import at_most, shown
from tests.trials import sums
from tracker_daemon.experiments.comparison import interval
from tracker_daemon.selection.chances import Chances
from tracker_daemon.selection.contest import Contest
from tracker_daemon.selection.evidence import Evidence
from tracker_daemon.selection.posterior import posteriors
from tracker_daemon.selection.standing import Standing

if TYPE_CHECKING:
    from tracker_daemon.experiments.estimate import Sums

ARMS = {"a": steady(0.5), "b": steady(0.55), "c": steady(0.65)}
KNOWN = {
    "a": Evidence(decisions=40, weight=40, total=20, squares=20),
    "b": Evidence(decisions=60, weight=60, total=36, squares=36),
    "c": Evidence(decisions=25, weight=25, total=14, squares=14),
}
MONEY = {
    "a": Evidence(decisions=40, weight=40, total=20, squares=400),
    "b": Evidence(decisions=60, weight=55, total=50, squares=900),
    "c": Evidence(decisions=3, weight=3, total=30, squares=320),
}


def contest(agent: str = "momentum") -> Contest:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    policy = replace(among(ARMS), agent_name=agent)
    return Contest(Standing(policy=policy, defined_at=now), KNOWN, now, off=False)


@pytest.mark.parametrize(("policy", "most"), [("thompson", 0.25), ("epsilon", 0.35), ("best", 0.3)])
def test_learning_costs_less_than_not_learning_and_ever_less(policy: str, most: float) -> None:
    learnt, uniform = courses.stationary(policy), cost(courses.stationary("uniform"))
    half = len(learnt[0].regret) // 2
    shown(f"regret of {policy}, of that of uniform", cost(learnt) / uniform, most=most)
    shown(f"its second half, of the first ({policy})", cost(learnt, half) / cost(learnt, 0, half), most=0.6)
    shown(f"share of the best arm, last quarter ({policy})", share(learnt, "c"), least=0.85)


def test_the_best_arm_alone_costs_nothing() -> None:
    uniform = courses.stationary("uniform")
    shown("regret of uniform, a decision", cost(uniform) / len(uniform[0].regret), least=0.08, most=0.09)
    best = [course.regret[course.arm == 2].sum() for course in uniform]
    shown("regret of the best arm", max(best), most=0)


def test_thanks_to_the_discount_a_change_is_noticed() -> None:
    change = CHANGE_DAY * 100
    with_it, without = courses.drifting(5.0), courses.drifting(3650.0)
    slowest = max(course.recovered("b", change) for course in with_it)
    shown("decisions until the new best arm leads, slowest of 6 (half-life 5 days)", slowest, most=1000)
    forgetful = np.mean([course.recovered("b", change) for course in without])
    shown("the same without a discount, in the mean", forgetful, least=1300)
    shown("regret after the change, of that without", cost(with_it, change) / cost(without, change), most=0.6)


def test_outcomes_that_come_late_or_never_cost_little() -> None:
    uniform = cost(courses.stationary("uniform"))
    shown("regret with outcomes 5 days late, of uniform", cost(courses.delayed(5)) / uniform, most=0.35)
    missing = cost(courses.delayed(missing=0.4)) / uniform
    shown("regret with 4 outcomes of 10 missing, of uniform", missing, most=0.35)


def test_an_arm_whose_outcomes_are_slow_gets_what_it_is_worth() -> None:
    shown("share of a better arm, outcomes 10 times later", share(courses.slow(0.7), "b"), least=0.85)
    shown("share of an equal arm, outcomes 10 times later", share(courses.slow(0.55), "b"), least=0.25)


def test_where_failures_show_first_only_maturity_finds_the_better_arm() -> None:
    shown("share of a better arm whose successes show late", share(courses.late_wins(20.0), "b"), least=0.8)
    shown("the same without maturity", share(courses.late_wins(0.0), "b"), most=0.5)


@pytest.mark.parametrize("draw", [courses.student, courses.lognormal])
def test_of_pnl_with_fat_tails_the_best_mean_is_found(draw: courses.Draw) -> None:
    learnt, uniform = courses.heavy(draw, "thompson"), courses.heavy(draw, "uniform")
    name = f"P&L {draw.__name__}"
    shown(f"regret of thompson, of uniform ({name})", cost(learnt) / cost(uniform), most=0.35)
    shown(f"its second half, of the first ({name})", cost(learnt, 2000) / cost(learnt, 0, 2000), most=0.6)


def test_an_arm_that_lives_by_rare_gains_is_not_misjudged() -> None:
    shown("share of an arm that gains rarely and much", share(courses.rare_gains(), "b"), least=0.8)


def test_the_guardrail_benches_a_bad_arm_and_lets_it_back() -> None:
    played = courses.recovering()
    first = [min(day for day, kind, _ in course.rulings if kind == "benched") for course in played]
    shown("day on which the last of 6 courses benches the bad arm", max(first), most=8)
    early = [
        course.share("c", int(day * PER_DAY), int((day + 7) * PER_DAY))
        for course, day in zip(played, first, strict=True)
    ]
    shown("its share while it is benched", max(early), most=0)
    others = {name for course in played for _, kind, name in course.rulings if kind == "benched"} - {"c"}
    shown("good arms that were benched", len(others), most=0)
    shown("its share after it has recovered", share(played, "c", 500), least=0.65)


def test_an_arm_that_lies_above_the_floor_is_rarely_benched() -> None:
    def wrongly(points: float) -> float:
        played = courses.above_the_floor(points)
        return float(np.mean([any(ruling[1:] == ("benched", "a") for ruling in c.rulings) for c in played]))

    shown("ever benched within 100 looks, 5 points above the floor", wrongly(0.05), most=at_most(0.05, 40))
    shown("ever benched within 100 looks, 10 points above the floor", wrongly(0.1), most=0.05)


def test_the_propensity_is_how_often_a_model_is_chosen() -> None:
    count, known = 20_000, contest()
    chosen = [known.choose(f"key {number}") for number in range(count)]
    propensity = {choice.model: float(choice.propensity) for choice in chosen}
    seen = Counter(choice.model for choice in chosen)
    p_value = stats.chisquare([seen[name] for name in propensity], [p * count for p in propensity.values()])
    shown("p-value of the choices under their propensities", p_value.pvalue, least=0.001)
    assert sum({choice.model: choice.propensity for choice in chosen}.values()) == 1


def test_what_one_agent_gets_says_nothing_of_what_another_gets() -> None:
    one, other = contest(), contest("contrarian")
    keys = [f"key {number}" for number in range(5000)]
    both = Counter((one.choose(key).model, other.choose(key).model) for key in keys)
    table = [[both[mine, theirs] for theirs in ARMS] for mine in ARMS]
    shown(
        "p-value of two agents' choices being independent", stats.chi2_contingency(table).pvalue, least=0.001
    )


@pytest.mark.parametrize(("metric", "known"), [("success", KNOWN), ("pnl", MONEY)])
def test_the_chances_are_those_of_draws_from_the_posterior(metric: str, known: dict[str, Evidence]) -> None:
    """The posterior by hand, its draws by NumPy."""
    chance, count = np.random.default_rng(1), 1_000_000
    draws = [_drawn(chance, told, metric, known, count) for told in known.values()]
    share = np.bincount(np.argmax(draws, axis=0), minlength=3) / count
    told = Chances(posteriors(metric, known)).best(list(known))
    shown(f"error of the chance to be best ({metric})", np.abs(share - told).max(), most=0.002)
    below = Chances(posteriors(metric, known)).below("b", 0.55)
    shown(f"error of the chance to be below ({metric})", abs((draws[1] < 0.55).mean() - below), most=0.002)


def _drawn(
    chance: np.random.Generator, told: Evidence, metric: str, known: dict[str, Evidence], count: int
) -> np.ndarray:
    if metric == "success":
        return chance.beta(1 + told.total, 1 + told.weight - told.total, count)
    weight, total, squares = (
        sum(getattr(each, name) for each in known.values()) for name in ("weight", "total", "squares")
    )
    pooled, variance = total / weight, squares / weight - (total / weight) ** 2
    mean = told.total / told.weight if told.weight else pooled
    alpha = 5 + told.weight / 2
    beta = 5 * variance + (told.squares - told.weight * mean**2) / 2
    beta += told.weight / (1 + told.weight) * (mean - pooled) ** 2 / 2
    variances = 1 / chance.gamma(alpha, 1 / beta, count)
    centre = (pooled + told.weight * mean) / (1 + told.weight)
    return centre + np.sqrt(variances / (1 + told.weight)) * chance.standard_normal(count)


def test_by_inverse_propensity_what_was_chosen_adaptively_is_known_without_bias() -> None:
    """An arm that got more while it led tells most of the times at which it led."""
    means, weights, missed, plainly_missed = [], [], 0, 0
    played = courses.equal_and_rising()
    for course in played:
        own = course.arm == 1
        weight = own / course.propensity
        means.append((weight * course.value).mean())
        weights.append(weight.mean())
        chosen = list(zip(course.value[own], 1 / course.propensity[own], strict=True))
        missed += _missed(sums((value * size, size) for value, size in chosen))
        plainly_missed += _missed(sums((value, 1) for value, _ in chosen))
    for what, told, truth in (("the mean", means, 0.5), ("the weights", weights, 1)):
        error = np.std(told) / sqrt(len(told))
        shown(
            f"{what} by inverse propensity: standard errors off the truth",
            abs(np.mean(told) - truth) / error,
            most=3,
        )
    shown(
        "intervals by inverse propensity that miss the truth",
        missed / len(played),
        most=at_most(0.05, len(played)),
    )
    shown("plain intervals that do", plainly_missed / len(played), least=0.2)


def _missed(told: Sums) -> bool:
    lower, upper = interval(told, "success", 0.05) or (0, 1)
    return not lower <= 0.5 <= upper
