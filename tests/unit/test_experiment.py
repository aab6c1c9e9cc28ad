"""What an experiment may be, and which arm a unit gets."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from tests.trials import definition
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Arm, Definition, assign

UNITS = [f"session-{number}" for number in range(20_000)]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (("1",), "share of a must be between 0 and 1"),
        (("0.5", "0"), "share of b must be between 0 and 1"),
        (("0.5", "NaN"), "share of b must be between 0 and 1"),
        (("0.50000000001", "0.49999999999"), "10 decimal places"),
        (("0.5", "0.4"), "shares of trial add up to 0.9, and must add up to 1"),
        (("0.05",) * 20 + ("0.01",), "compares 2 to 20 arms; trial has 21"),
    ],
)
def test_shares_that_leave_units_without_an_arm_are_refused(shares: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidQuestion, match=said):
        definition(*shares)


def test_one_arm_is_no_experiment() -> None:
    with pytest.raises(InvalidQuestion, match="compares 2 to 20 arms; trial has 1"):
        definition("0.5")


def test_two_arms_have_two_names() -> None:
    with pytest.raises(InvalidQuestion, match="two arms of trial are called a"):
        definition("0.5", "0.5", names="aa")


@pytest.mark.parametrize(
    ("effect", "metric"),
    [
        *((effect, "success") for effect in (0, 1, 1e-9, 1e-200)),
        *((effect, "pnl") for effect in (-3, float("nan"), float("inf"), 1e200, 1e-200)),
    ],
)
def test_an_effect_that_nothing_could_show_is_refused(effect: float, metric: str) -> None:
    with pytest.raises(InvalidQuestion, match=f"a difference of {metric} that matters"):
        definition("0.5", "0.5", minimum_effect=effect, metric=metric)


def test_an_assignment_says_what_the_decision_says_and_goes_by() -> None:
    trial = definition("0.25", "0.75")
    told = assign(trial, "session-7")
    assert told == assign(trial, "session-7")
    arm = next(arm for arm in trial.arms if arm.name == told.variant)
    assert (told.experiment, told.propensity, told.model) == ("trial", arm.share, arm.model)


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(_TEXTS, st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_the_arm_is_where_the_hash_lies_among_the_shares(unit: str, parts: list[int]) -> None:
    # Shares of at most 10 places that add up to 1.
    shares = [(Decimal(part) / sum(parts)).quantize(Decimal("1e-10")) for part in parts]
    shares[0] += 1 - sum(shares)
    trial = definition(*map(str, shares), names="abcdefghijklmnopqrst")
    place = Decimal(int(sha256(b"trial\0" + unit.encode()).hexdigest()[:16], 16)) / 2**64
    arms = iter(trial.arms)
    arm: Arm = next(arms)
    end = arm.share
    while place >= end:
        arm = next(arms)
        end += arm.share
    assert assign(trial, unit).variant == arm.name


def test_units_go_where_the_shares_send_them() -> None:
    trial = definition("0.5", "0.3", "0.2")
    counts = Counter(assign(trial, unit).variant for unit in UNITS)
    expected = [float(arm.share) * len(UNITS) for arm in trial.arms]
    assert chisquare([counts[arm.name] for arm in trial.arms], expected).pvalue > 0.001


def test_arms_of_different_experiments_are_independent() -> None:
    one, other = definition("0.5", "0.5"), definition("0.5", "0.5", name="another")
    pairs = Counter((assign(one, unit).variant, assign(other, unit).variant) for unit in UNITS)
    table = [[pairs[first, second] for second in "ab"] for first in "ab"]
    assert chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize(("arms", "risk"), [(2, 0.05), (3, 0.025), (5, 0.0125)])
def test_each_of_several_arms_may_seem_to_differ_the_more_rarely(arms: int, risk: float) -> None:
    """So that all of them together do so in a twentieth of all experiments, at most (Bonferroni)."""
    shares = [Decimal(1) / 8] * (arms - 1)
    made = [Arm(name=str(number), share=share) for number, share in enumerate([*shares, 1 - sum(shares)])]
    assert Definition(name="exits", arms=tuple(made), minimum_effect=0.1).risk == pytest.approx(risk)
