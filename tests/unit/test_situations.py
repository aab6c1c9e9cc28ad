"""What a context says, flat, and the scale of what it says."""

from __future__ import annotations

import json
import math
import statistics
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.situations import MAX_DEPTH, MAX_INDICATORS, Sample, Scale, indicators
from tracker_daemon.situations.scales import MAX_PATHS, MIN_NUMBERS


def flat(context: dict[str, Any]) -> dict[str, Any]:
    """Value by path."""
    return {indicator.path: indicator.value for indicator in indicators(context)}


def scales(*contexts: dict[str, Any]) -> dict[str, Scale]:
    """What a sample of these tells."""
    sample = Sample()
    for context in contexts:
        sample.add(context)
    return dict(sample.scales())


def test_a_context_is_flat_by_path_in_its_own_order() -> None:
    context = {
        "rsi": 62.1,
        "macd": {"line": -0.5, "signal": None, "flags": [True, "x", {"deep": 3}]},
        "trend": "up",
        "none": None,
        "empty": [{}, []],
        "text": "62.1",
        "nan": "NaN",
        "a.b": {"c[0]": 1, "": 2, "d\\": 3},
    }
    assert list(flat(context).items()) == [
        ("rsi", 62.1),
        ("macd.line", -0.5),
        ("macd.flags[0]", True),
        ("macd.flags[1]", "x"),
        ("macd.flags[2].deep", 3),
        ("trend", "up"),
        ("text", "62.1"),
        ("nan", "NaN"),
        (r"a\.b.c\[0]", 1),
        (r"a\.b.", 2),
        (r"a\.b.d\\", 3),
    ]
    numbers = {indicator.path for indicator in indicators(context) if indicator.is_number}
    assert numbers == {"rsi", "macd.line", "macd.flags[2].deep", r"a\.b.c\[0]", r"a\.b.", r"a\.b.d\\"}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.[0]\\", max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def leaves(value: Any) -> int:
    """How many values a context has that can be compared."""
    match value:
        case dict():
            return sum(map(leaves, value.values()))
        case list():
            return sum(map(leaves, value))
        case None:
            return 0
    return 1


@given(st.dictionaries(st.text("ab.[0]\\", max_size=3), JSON, max_size=4))
def test_no_two_indicators_have_one_path_and_each_leads_to_its_value(context: dict[str, Any]) -> None:
    assert len(flat(context)) == leaves(context)
    for indicator in indicators(context):
        found: Any = context
        for step in indicator.steps:
            found = found[step]
        assert found is indicator.value


def test_of_numbers_beyond_a_float64_nothing_is_learnt() -> None:
    biggest = sys.float_info.max
    context = {"a": math.inf, "b": math.nan, "c": 10**400, "d": -biggest, "e": 10**300}
    assert [*scales(*[context] * MIN_NUMBERS)] == ["d", "e"]


def test_ten_thousand_levels_are_no_trouble() -> None:
    context: dict[str, Any] = {"a": 1}
    for _ in range(1000):
        context = {"a": [context]}
    [indicator] = indicators(context)
    assert len(indicator.steps) == 2001


def quantile(numbers: list[float], percent: int) -> float:
    """The least number that so many are not greater than."""
    return min(n for n in numbers if 100 * sum(other <= n for other in numbers) >= percent * len(numbers))


NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=MIN_NUMBERS, max_size=60)


@given(NUMBERS | st.lists(st.sampled_from([0.0, 1.0, -7.5]), min_size=MIN_NUMBERS, max_size=60))
def test_the_scale_is_robust(numbers: list[float]) -> None:
    [scale] = scales(*({"x": number} for number in numbers)).values()
    spread = quantile(numbers, 75) - quantile(numbers, 25) or quantile(numbers, 95) - quantile(numbers, 5)
    assert scale == Scale(quantile(numbers, 50), min(spread, sys.float_info.max))
    assert math.isfinite(scale.spread)
    if len(numbers) % 2:
        assert scale.median == statistics.median(numbers)


@given(st.lists(st.sampled_from(["", "0", *map(str, range(40))]), min_size=1, max_size=60))
def test_texts_of_which_more_than_half_are_different_ones_are_identifiers(texts: list[str]) -> None:
    found = scales(*({"x": text, "y": [number]} for number, text in enumerate(texts)))
    expected = len(texts) >= MIN_NUMBERS and len({*texts}) / len(texts) > 0.5
    assert found.get("x") == (Scale(identifier=True) if expected else None)
    assert ("y[0]" in found) == (len(texts) >= MIN_NUMBERS)


def test_an_indicator_may_have_numbers_and_be_an_identifier() -> None:
    found = scales(*({"x": value} for number in range(30) for value in (number, f"id {number}", True)))
    assert found == {"x": Scale(14, 15, identifier=True)}


@pytest.mark.parametrize(
    ("numbers", "spread"),
    [
        ([*range(100)], 50),
        ([*range(99), 1e308], 50),
        ([5.0] * 80 + [*range(20)], 10.0),
        ([5.0] * 99 + [1e308], 0.0),
        ([-1.7e308, 1.7e308] * 50, sys.float_info.max),
    ],
    ids=["even", "one is huge", "most are the same", "nearly all are", "as far as can be"],
)
def test_what_is_rare_does_not_move_it(numbers: list[float], spread: float) -> None:
    assert scales(*({"x": number} for number in numbers))["x"].spread == spread


def test_of_what_is_too_rare_deep_or_much_nothing_is_learnt() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    full = {"x": 1, "deep": deep, "text": "1", "truth": True, "fits": deep["a"]}
    assert len(scales(*[full] * MIN_NUMBERS)) == 2
    assert scales(*[full] * (MIN_NUMBERS - 1)) == {}
    many = {str(n): n for n in range(10_000)}
    assert len(scales(*[many] * MIN_NUMBERS)) == MAX_INDICATORS
    others = ({f"{n}-{m}": m for m in range(MAX_INDICATORS)} for n in range(MAX_PATHS))
    sample = Sample()
    for context in others:
        sample.add(context)
    assert len(sample._numbers) == MAX_PATHS
    for number in range(MAX_PATHS):
        sample.add({f"{number}-{other}": "text" for other in range(10)})
    assert len(sample._texts) == MAX_PATHS


def test_the_path_in_postgresql_quotes_keys() -> None:
    [indicator] = indicators(json.loads('{"a\\"b": [{"\\u0001.c": 1}]}'))
    assert indicator.jsonpath == 'strict $."a\\"b"[0]."\\u0001.c"'
