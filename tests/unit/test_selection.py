"""Policies, and what is chosen by them, without a record."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import sqrt
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Illegible
from tracker_daemon.selection import Policy, Standing
from tracker_daemon.selection.chances import Chances
from tracker_daemon.selection.contest import Contest
from tracker_daemon.selection.evidence import Evidence
from tracker_daemon.selection.guardrail import rulings
from tracker_daemon.selection.posterior import posteriors
from tracker_daemon.selection.standing import added_up

NOW = datetime(2026, 3, 1, tzinfo=UTC)
COUNTS = st.floats(0, 1e6)


def policy(**fields: Any) -> Policy:
    known = {
        "agent_name": "momentum",
        "decision_type": "signal",
        "candidates": ("a", "b", "c"),
        "default": "a",
    }
    return Policy(**known | fields)


def contest(evidence: dict[str, Evidence] | None = None, off: bool = False, **fields: Any) -> Contest:
    """Candidates of which nothing is known but this; fields of the standing, others are the policy's."""
    of_standing = {
        name: fields.pop(name) for name in Standing.__struct_fields__ if name in fields and name != "policy"
    }
    standing = Standing(policy=policy(**fields), defined_at=NOW, **of_standing)
    known = {name: (evidence or {}).get(name, Evidence()) for name in standing.policy.candidates}
    return Contest(standing, known, NOW, off=off)


def told(wins: float, losses: float) -> Evidence:
    return Evidence(decisions=round(wins + losses), weight=wins + losses, total=wins, squares=wins)


def shares(known: Contest) -> dict[str, Decimal]:
    return {candidate.model: candidate.propensity for candidate in known.candidates()}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"candidates": ()}, "needs 1 to 20 candidates, not 0"),
        ({"candidates": tuple("abcdefghijklmnopqrstu")}, "needs 1 to 20 candidates, not 21"),
        ({"candidates": ("a", "b", "a")}, "a is twice among the candidates"),
        ({"default": "d"}, "default of momentum/signal, d, is no candidate; there are a, b, c"),
        ({"epsilon": 1.1}, "epsilon of momentum/signal must be between 0 and 1, not 1.1"),
        ({"half_life_days": 0.0}, "half_life_days"),
        ({"maturity_days": -1.0}, "maturity_days"),
        ({"maturity_days": float("nan")}, "maturity_days"),
        ({"minimum_evidence": 0.0}, "minimum_evidence"),
        ({"bench_days": float("inf")}, "bench_days"),
        ({"least_share": 0.0}, "least_share"),
        (
            {"least_share": 0.34},
            "least_share of momentum/signal must be between 0.001 and 0.333333, not 0.34",
        ),
        ({"floor": 1.5}, "floor of momentum/signal must be between 0 and 1"),
    ],
)
def test_what_is_no_policy_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidQuestion, match=said):
        policy(**fields)


def test_a_floor_of_pnl_may_be_any_amount() -> None:
    assert policy(metric="pnl", floor=-250.0).floor == -250


@given(
    st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=8),
    st.sampled_from(["epsilon", "thompson", "best"]),
)
def test_propensities_add_up_and_leave_nobody_without_the_least(
    counts: list[tuple[float, float]], kind: str
) -> None:
    names = tuple("abcdefgh"[: len(counts)])
    known = contest(
        {name: told(*count) for name, count in zip(names, counts, strict=True)},
        candidates=names,
        policy=kind,
        least_share=0.02,
    )
    found = shares(known)
    assert sum(found.values()) == 1
    assert min(found.values()) >= Decimal("0.02") - Decimal("1e-10")


def test_each_policy_gives_what_it_says() -> None:
    known = {"a": told(50, 50), "b": told(70, 30), "c": told(10, 10)}
    exactly = {
        "best": {"a": "0.02", "b": "0.96", "c": "0.02"},
        "epsilon": {"a": "0.114", "b": "0.772", "c": "0.114"},
        "fixed": {"a": "1", "b": "0", "c": "0"},
    }
    for kind, expected in exactly.items():
        found = shares(contest(known, policy=kind, least_share=0.02, epsilon=0.3))
        assert found == {name: Decimal(share) for name, share in expected.items()}


def test_a_candidate_that_is_new_gets_explored() -> None:
    found = shares(contest({"a": told(60, 40), "b": told(40, 60)}))
    assert found["c"] > Decimal("0.3") > found["b"]


def test_pnl_of_which_nothing_is_known_tells_nobody_apart() -> None:
    """Neither without any evidence, nor where all of it is the same, however large."""
    for amount in (0.0, 5.0, 9e11):
        same = Evidence(decisions=40, weight=40, total=40 * amount, squares=40 * amount**2)
        found = shares(contest({"a": same, "b": same, "c": same}, metric="pnl"))
        assert max(found.values()) - min(found.values()) < Decimal("1e-9")
    found = shares(contest(metric="pnl"))
    assert max(found.values()) - min(found.values()) < Decimal("1e-9")


def test_an_arm_without_pnl_is_explored_and_one_that_loses_is_not() -> None:
    known = {
        "a": Evidence(decisions=50, weight=50, total=500, squares=6000),
        "b": Evidence(decisions=50, weight=50, total=-500, squares=6000),
        "c": Evidence(pending=80),
    }
    found = shares(contest(known, metric="pnl"))
    assert found["b"] == Decimal("0.01")
    assert found["c"] > Decimal("0.05")


def test_a_key_has_its_model_and_some_candidates_share_what_there_is() -> None:
    known = contest({"a": told(60, 40), "b": told(50, 50), "c": told(40, 60)})
    keys = [str(number) for number in range(200)]
    assert [known.choose(key) for key in keys] == [known.choose(key) for key in keys]
    some = [known.choose(key, ["c", "b"]) for key in keys]
    assert {choice.model for choice in some} == {"b", "c"}
    assert sum({choice.model: choice.propensity for choice in some}.values()) == 1


def test_the_benched_are_not_chosen_and_where_all_are_the_default_is() -> None:
    known = contest({"b": told(90, 10)}, benched={"b": NOW})
    chosen = [known.choose(str(number)) for number in range(200)]
    assert {choice.model for choice in chosen} == {"a", "c"}
    assert {choice.benched for choice in chosen} == {("b",)}
    none = contest(benched=dict.fromkeys("abc", NOW))
    choice = none.choose("1")
    assert (choice.model, choice.why, choice.propensity) == ("a", "all_benched", 1)
    with pytest.raises(InvalidQuestion, match=r"only a may decide \(all benched\).*asked for: b, c"):
        none.choose("1", ["b", "c"])
    assert [candidate.best for candidate in none.candidates()] == [0, 0, 0]


def test_the_switch_is_stronger_than_the_pin_and_the_pin_than_the_policy() -> None:
    assert contest(policy="fixed", pinned="b").choose("1").model == "b"
    assert contest(pinned="b", benched={"b": NOW}).choose("1").why == "pinned"
    choice = contest(pinned="b", off=True).choose("1")
    assert (choice.model, choice.why, choice.propensity) == ("a", "switched_off", 1)


def event(number: int, kind: str, model: str | None = None, figures: Any = None) -> dict[str, Any]:
    text = msgspec.json.encode(figures or {}).decode()
    at = NOW + timedelta(hours=number)
    known = {"agent_name": "momentum", "decision_type": "signal", "number": number, "kind": kind}
    return known | {"model": model, "figures": text, "created_at": at}


def test_a_policy_of_a_later_version_is_read_or_named() -> None:
    later = msgspec.to_builtins(policy(floor=0.4)) | {"patience": 3}
    assert added_up([event(1, "defined", figures=later)]).find("momentum", "signal").policy.floor == 0.4
    for unknown in ({"policy": "oracle"}, {"default": "d"}):
        known = added_up([event(1, "defined", figures=later | unknown)])
        with pytest.raises(Illegible, match=r"the policy of momentum/signal cannot be read: .*set it anew"):
            known.find("momentum", "signal")


def test_a_policy_that_cannot_be_read_takes_no_other_down() -> None:
    """Whatever it is that somebody wrote there; nor does a pin to what is no candidate."""
    good = event(1, "defined", figures=policy()) | {"agent_name": "risk"}
    for text in ("{}", "[]", '"x"', "null", "[" * 3000 + "]" * 3000):
        known = added_up([good, event(1, "defined") | {"figures": text}])
        assert known.find("risk", "signal").policy == policy()
        assert set(known.illegible) == {("momentum", "signal")}
    known = added_up([good, event(1, "defined", figures=policy()), event(2, "pinned", "x")])
    assert known.find("risk", "signal").policy == policy()
    with pytest.raises(Illegible, match="x is pinned, and no candidate"):
        known.find("momentum", "signal")
    unpinned = added_up(
        [event(1, "defined", figures=policy()), event(2, "pinned", "x"), event(3, "unpinned")]
    )
    assert unpinned.find("momentum", "signal").pinned is None


def test_of_what_is_kept_the_last_counts_and_a_new_policy_begins_anew() -> None:
    events = [
        event(1, "defined", figures=policy()),
        event(2, "benched", "b"),
        event(3, "pinned", "c"),
        event(4, "retried", "b"),
        event(5, "benched", "c"),
        event(6, "promoted", "a"),
    ]
    for order in itertools.permutations(events):
        standing = added_up(order).find("momentum", "signal")
        assert (standing.pinned, standing.leader) == ("c", "a")
        assert standing.benched == {"c": NOW + timedelta(hours=5)}
        assert standing.since == {"b": NOW + timedelta(hours=4)}
    events += [event(7, "switched_off"), event(8, "defined", figures=policy(floor=0.4))]
    standing = added_up(events).find("momentum", "signal")
    assert (standing.pinned, standing.leader, standing.benched, standing.since) == ("c", None, {}, {})
    assert standing.off
    assert standing.policy.floor == 0.4


def test_only_what_is_sure_is_ruled() -> None:
    bad = {"a": told(500, 500), "b": told(10, 50), "c": told(1, 14)}
    [benched, promoted] = rulings(contest(bad, floor=0.4), NOW)
    assert (benched.kind, benched.model, promoted.kind, promoted.model) == ("benched", "b", "promoted", "a")
    assert (
        "b is benched until 2026-03-08 00:00 UTC: 17.7% of success after what counts as 60.0"
        in benched.reason
    )
    assert "a leads: 50.0% of success" in promoted.reason
    assert rulings(contest(bad, leader="a"), NOW) == []
    assert rulings(contest(bad, floor=0.4, off=True), NOW) == []
    assert rulings(contest(bad, floor=0.4, policy="fixed"), NOW) == []
    assert rulings(contest({"a": told(25, 0)}), NOW) == []
    early, late = (contest(benched={"b": NOW - timedelta(days=days)}) for days in (6.9, 7))
    assert rulings(early, NOW) == []
    [retried] = rulings(late, NOW)
    assert (retried.kind, retried.model) == ("retried", "b")


def test_what_is_believed_is_what_the_formulas_say() -> None:
    """A normal-inverse-gamma prior as of one decision, and the chances by quadrature of two Betas."""
    known = {
        "a": Evidence(decisions=40, weight=40, total=200, squares=9000),
        "b": Evidence(decisions=30, weight=30, total=30, squares=4000),
    }
    found = posteriors("pnl", known)["a"]
    prior, variance = 230 / 70, 13000 / 70 - (230 / 70) ** 2
    deviations, moved = 9000 - 40 * 25, 40 / 41 * (5 - prior) ** 2
    assert found.mean == pytest.approx((prior + 200) / 41)
    assert found.spread == pytest.approx(sqrt((10 * variance + deviations + moved) / 50 / 41))
    rates = Chances(posteriors("success", {"a": told(60, 40), "b": told(3, 1)}))
    better, _ = quad(lambda x: beta.pdf(x, 61, 41) * beta.cdf(x, 4, 2), 0, 1)
    assert rates.best(["a", "b"])[0] == pytest.approx(better, abs=1e-3)
