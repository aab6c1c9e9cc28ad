"""The summary of precedents: counts, weighted rates and money, and what is said of them."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from decimal import Decimal
from math import sqrt
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.queries import Precedent, Situation, situation_summary

SITUATION = Situation(context={"rsi": 62.04, "trend": "uptrend"}, max_distance=0.4)


def precedent(action: str | None, outcome: str | None, pnl: Any = None, distance: float = 0.0) -> Precedent:
    """A decision so far away, and what came of it."""
    return Precedent(
        id=UUID(int=7),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        age_seconds=0,
        agent_name="momentum",
        decision_type="signal",
        symbol="BTC",
        model="gpt-x",
        action=action,
        confidence=None,
        outcome=outcome,
        pnl=None if pnl is None else Decimal(pnl),
        distance=distance,
        overlap=1,
        indicators=(),
    )


def test_the_sentence() -> None:
    found = [
        precedent("BUY", "SUCCESS", 400),
        precedent("BUY", "FAILURE", 50),
        precedent("HOLD", "SUCCESS"),
        precedent("BUY", "SUCCESS", 900),
    ]
    told = situation_summary(SITUATION, found)
    assert told.text == (
        "In similar situations (rsi ~62.04, uptrend) we previously decided: 3 BUY with average P&L $450, "
        "1 HOLD; success rate 75%. That is of 4 resolved, weighted by nearness; the 95 % interval is 30% to "
        "95%."
    )
    assert [(each.action, each.decisions, each.avg_pnl, each.median_pnl) for each in told.actions] == [
        ("BUY", 3, 450, 400),
        ("HOLD", 1, None, None),
    ]
    assert told.enough


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([], "(rsi ~62.04, uptrend) we decided nothing yet: not enough evidence."),
        (
            [precedent(None, None), precedent("SELL", "FAILURE", "-1234.5"), precedent("SELL", "PENDING")],
            "1 without action; not enough evidence for a success rate: 1 resolved, where 3 are needed.",
        ),
    ],
)
def test_where_there_is_not_enough_evidence_it_says_so(found: list[Precedent], says: str) -> None:
    told = situation_summary(SITUATION, found)
    assert told.text.endswith(says)
    assert not told.enough


def test_money_that_is_no_number_is_not_counted() -> None:
    """Numeric columns can hold it, of tables that others write to."""
    found = [precedent("BUY", "SUCCESS", "NaN"), precedent("BUY", "FAILURE", 4)]
    told = situation_summary(SITUATION, found)
    assert (told.avg_pnl, told.median_pnl, told.successful, told.failed) == (4, 4, 1, 1)


@pytest.mark.parametrize(
    ("pnl", "says"),
    [("-0.004", "$0"), ("-0.006", "-$0.01"), ("1234567.5", "$1,234,567.50"), ("-1e11", "-$100,000,000,000")],
)
def test_money_is_told_in_cents(pnl: str, says: str) -> None:
    told = situation_summary(SITUATION, [precedent("BUY", None, pnl)])
    assert f"1 BUY with average P&L {says};" in told.text


def test_the_heaviest_indicators_are_named() -> None:
    context = {"a": 123456.789, "b": True, "c": {"d": "x" * 50}, "e": 1, "f": 2, "g": 3}
    asked = Situation(context=context, weights={"f": 2, "a": 0})
    assert f"(f ~2, b true, {'x' * 40}\u2026, e ~1)" in situation_summary(asked, []).text


def test_of_a_long_name_the_beginning_is_told() -> None:
    asked = Situation(context={"k" * 60_000: 1, "n": {"b" * 50: True}})
    assert f"({'k' * 40}\u2026 ~1, n.{'b' * 38}\u2026 true)" in situation_summary(asked, []).text


def test_what_is_nearer_counts_more() -> None:
    """1 at no distance, 1/2 as far away as is near."""
    found = [
        precedent("BUY", "SUCCESS", 100),
        precedent("BUY", "FAILURE", -200, 0.4),
        precedent("BUY", None, 7, 0.2),
    ]
    told = situation_summary(SITUATION, found)
    assert told.resolved_success_rate == pytest.approx(1 / 1.5)
    assert told.avg_pnl == pytest.approx((100 - 200 / 2 + 7 * 3 / 4) / 2.25)
    assert told.median_pnl == 7


NEAR = st.floats(0, 0.4) | st.sampled_from([0.0, 0.2, 0.4])
FOUND = st.lists(
    st.builds(
        precedent,
        st.sampled_from(["BUY", "SELL", None]),
        st.sampled_from(["SUCCESS", "FAILURE", "PENDING", None]),
        st.none() | st.integers(-1_000, 1_000),
        NEAR,
    ),
    max_size=30,
)


def median(pairs: list[tuple[float, float]]) -> list[float]:
    """The amounts between which half of the weight is on either side."""
    half = sum(weight for _, weight in pairs) / 2
    return [
        amount
        for amount, _ in pairs
        if sum(w for other, w in pairs if other < amount) <= half * (1 + 1e-9)
        and sum(w for other, w in pairs if other > amount) <= half * (1 + 1e-9)
    ]


@given(FOUND)
def test_each_number_is_that_of_plain_python(found: list[Precedent]) -> None:
    told = situation_summary(SITUATION, found)
    groups = [(told, found)]
    groups += [(each, [one for one in found if one.action == each.action]) for each in told.actions]  # type: ignore[misc] # both are tallies
    assert sorted(each.decisions for each in told.actions) == sorted(len(rows) for _, rows in groups[1:])
    assert sum(each.decisions for each in told.actions) == len(found)
    for tally, rows in groups:
        weights = {id(row): 1 - row.distance / 0.8 for row in rows}
        resolved = [row for row in rows if row.outcome in {"SUCCESS", "FAILURE"}]
        won = [row for row in resolved if row.outcome == "SUCCESS"]
        assert (tally.successful, tally.failed) == (len(won), len(resolved) - len(won))
        if not resolved:
            bounds = tally.resolved_success_rate_lower, tally.resolved_success_rate_upper
            assert (tally.resolved_success_rate, *bounds) == (None, 0, 1)
        else:
            parts = [weights[id(row)] for row in resolved]
            rate = sum(weights[id(row)] for row in won) / sum(parts)
            worth = sum(parts) ** 2 / sum(part**2 for part in parts)
            assert tally.resolved_success_rate == pytest.approx(rate)
            z2 = statistics.NormalDist().inv_cdf(0.975) ** 2
            root = sqrt(z2 * z2 / 4 + z2 * worth * rate * (1 - rate)) if 0 <= rate <= 1 else z2 / 2
            for bound, sign in (
                (tally.resolved_success_rate_lower, -1),
                (tally.resolved_success_rate_upper, 1),
            ):
                wanted = (worth * rate + z2 / 2 + sign * root) / (worth + z2)
                assert bound == pytest.approx(wanted, abs=1e-9)
        money = [(float(row.pnl), weights[id(row)]) for row in rows if row.pnl is not None]
        if not money:
            assert tally.avg_pnl is tally.median_pnl is None
            continue
        mean = sum(amount * weight for amount, weight in money) / sum(weight for _, weight in money)
        assert tally.avg_pnl == pytest.approx(mean, abs=1e-9)
        assert tally.median_pnl is not None
        middle = median(money)
        assert min(middle) - 1e-9 <= tally.median_pnl <= max(middle) + 1e-9


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=20), NEAR)
def test_of_equal_weights_the_median_is_the_usual_one(amounts: list[int], distance: float) -> None:
    found = [precedent("BUY", None, amount, distance) for amount in amounts]
    assert situation_summary(SITUATION, found).median_pnl == statistics.median(amounts)


def test_where_only_the_same_is_near_all_count_alike() -> None:
    same = Situation(context={"rsi": 62}, max_distance=0)
    assert situation_summary(same, [precedent("BUY", None, 1), precedent("BUY", None, 4)]).avg_pnl == 2.5


def test_what_others_named_stays_a_name() -> None:
    """The sentence goes into prompts: an action of somebody's cannot end it, nor begin a line of its own."""
    found = [precedent("BUY.\n\n# Sell <all>", "SUCCESS", 1)]
    said = situation_summary(Situation(context={"a b": 1, "mood": "calm\n> up", "t": True}), found).text
    assert said.startswith(
        r'In similar situations ("a b" ~1, "calm\n\u003e up", t true) we previously decided: 1 '
        r'"BUY.\n\n# Sell \u003call\u003e" with average P&L $1; not enough'
    )
