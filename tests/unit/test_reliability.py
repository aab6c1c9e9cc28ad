"""The intervals of calibration hold the truth as often as they say."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tracker_daemon.queries.reliability import Part, summary

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKETS, ROUNDS = 10, 300

TRUTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "calibrated": lambda stated: stated,
    "sure of too much": lambda stated: np.maximum(stated - 0.2, 0),
    "chance": lambda stated: np.full_like(stated, 0.5),
}


def parts_of(stated: np.ndarray, came: np.ndarray, place: np.ndarray) -> list[Part]:
    """The sums of each bucket that holds anything."""
    found = []
    for index in sorted(set(place)):
        f, o = stated[place == index], came[place == index]
        sums = (f, f**2, f * o, (f - o) ** 4)
        found.append(Part(index, len(f), int(o.sum()), *(Fraction(float(each.sum())) for each in sums)))
    return found


@pytest.mark.parametrize("count", [10, 300])
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_intervals_hold_the_truth(truth: Callable[[np.ndarray], np.ndarray], count: int) -> None:
    """At least 95 of 100 for the calibration errors; for the Brier score about so many, if there are some."""
    chance = np.random.default_rng(7)
    held = {"brier_score": 0, "expected_calibration_error": 0, "maximum_calibration_error": 0}
    for _ in range(ROUNDS):
        stated = chance.beta(5, 3, count)
        likely = truth(stated)
        came = (chance.random(count) < likely).astype(int)
        place = np.minimum((stated * BUCKETS).astype(int), BUCKETS - 1)
        gaps = {i: abs((stated - likely)[place == i].mean()) for i in set(place)}
        true = {
            "brier_score": ((stated - likely) ** 2 + likely * (1 - likely)).mean(),
            "expected_calibration_error": sum(gap * (place == i).mean() for i, gap in gaps.items()),
            "maximum_calibration_error": max(gaps.values()),
        }
        found = summary(parts_of(stated, came, place))
        for name, value in true.items():
            held[name] += found[f"{name}_lower"] - 1e-9 <= value <= found[f"{name}_upper"] + 1e-9
    shares = {name: times / ROUNDS for name, times in held.items()}
    assert shares["expected_calibration_error"] >= 0.95
    assert shares["maximum_calibration_error"] >= 0.95
    assert 0.92 <= shares["brier_score"] <= 0.98 or count < 30
