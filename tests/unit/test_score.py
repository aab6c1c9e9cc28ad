"""A rate and how sure it is, and when an alert is raised or cleared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.intervals import Z99, wilson
from tracker_daemon.scores.changes import State, change
from tracker_daemon.scores.score import Score

COUNTS = st.integers(0, 2000)


def score(successes: int, failures: int) -> Score:
    """An agent's score."""
    return Score("agent", "momentum", successes, failures)


@given(COUNTS, COUNTS)
def test_the_interval_holds_the_rate_and_solves_wilsons_equation(successes: int, failures: int) -> None:
    """Its ends p are where |rate - p| is z standard errors of p, which is how Wilson defines them."""
    lower, upper = score(successes, failures).interval
    assert 0 <= lower <= upper <= 1
    if not (count := successes + failures):
        assert (lower, upper) == (0, 1)
        return
    rate = score(successes, failures).rate
    assert lower <= rate <= upper
    for end in (lower, upper):
        assert (rate - end) ** 2 == pytest.approx(Z99 * Z99 * end * (1 - end) / count, abs=1e-9)


@pytest.mark.parametrize("seen", [0, 1])
def test_what_never_or_always_happened_is_an_end_of_the_interval(seen: int) -> None:
    """A picture of an interval that ends beside its rate, by whatever little, cannot be drawn."""
    for count in range(1, 2000):
        assert wilson(seen * count, count)[seen] == seen


def test_three_unlucky_trades_wake_nobody() -> None:
    assert change(score(0, 3), 0.4, "cleared") is None
    assert change(score(0, 10), 0.4, "cleared") == "raised"


def test_between_the_two_bounds_nothing_is_said() -> None:
    """With 38 of 100 the rate lies below a floor of 0.4, and chance may be why."""
    assert change(score(38, 62), 0.4, "cleared") is None
    assert change(score(38, 62), 0.4, "raised") is None
    assert change(score(40, 60), 0.4, "raised") == "cleared"
    assert change(score(20, 80), 0.4, "raised") is None


@pytest.mark.parametrize("floor", [0.1, 0.4, 0.7, 0.95])
def test_a_few_decisions_say_nothing_whatever_the_floor(floor: float) -> None:
    """Neither bad luck under a high floor, nor one good trade after a month of silence."""
    for count in range(10):
        assert change(score(0, count), floor, "cleared") is None
        assert change(score(count, 0), floor, "raised") is None
    assert change(score(10, 0), floor, "raised") == "cleared"


def test_a_rate_that_swings_around_the_floor_is_said_once_each_way() -> None:
    """Of 1,000 decisions, from well above 0.4 to well below and back, never in a straight line."""
    down = [500, 410, 390, 402, 380, 399, 370, 401, 362, 395, 350, 330]
    state: State = "cleared"
    said = []
    for successes in [*down, 350, 330, *reversed(down), 395, 401, 390]:
        if (found := change(score(successes, 1000 - successes), 0.4, state)) is not None:
            state = found
            said.append((successes, found))
    assert said == [(350, "raised"), (401, "cleared")]


def test_no_outcome_changes_nothing() -> None:
    assert change(score(0, 0), 0.4, "cleared") is None
    assert change(score(0, 0), 0.4, "raised") is None
