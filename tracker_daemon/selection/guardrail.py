"""What the evidence calls for: who is benched, who is tried again, who leads."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from tracker_daemon.selection.events import Change

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tracker_daemon.selection.contest import Contest

SURELY_BELOW: Final = 0.95
"""How probably a candidate's mean lies below the floor when it is benched."""
SURELY_BEST: Final = 0.9
"""How probably nobody is better than a candidate when it becomes the leader."""

Ruling = Literal["benched", "retried", "promoted"]


def rulings(contest: Contest, now: datetime) -> list[Change]:
    """Return what is to be changed; nothing where all is switched off, or the policy is `fixed`.

    Of a candidate with less than the minimum of evidence nothing is said, since its prior would say it.
    """
    if contest.off or contest.policy.policy == "fixed":
        return []
    return [*_retried(contest, now), *_benched(contest, now), *_promoted(contest)]


def _retried(contest: Contest, now: datetime) -> Iterator[Change]:
    for name, since in contest.standing.benched.items():
        if now >= since + timedelta(days=contest.policy.bench_days):
            yield _ruling(
                contest,
                "retried",
                name,
                f"{name} is tried again after {contest.policy.bench_days:g} days on the bench; only what it "
                "decides from now on counts",
                benched_since=since,
            )


def _benched(contest: Contest, now: datetime) -> Iterator[Change]:
    policy = contest.policy
    if policy.floor is None:
        return
    again = now + timedelta(days=policy.bench_days)
    for name in contest.eligible:
        if contest.evidence[name].weight < policy.minimum_evidence:
            continue
        if (probability := contest.chances.below(name, policy.floor)) >= SURELY_BELOW:
            yield _ruling(
                contest,
                "benched",
                name,
                f"{name} is benched until {again:%Y-%m-%d %H:%M} UTC: {_standing(contest, name)}, and below "
                f"the floor of {_amount(contest, policy.floor)} with a probability of {probability:.1%}",
                floor=policy.floor,
                probability=probability,
            )


def _promoted(contest: Contest) -> Iterator[Change]:
    names = contest.eligible
    if not names:
        return
    probability, name = max(zip(contest.chances.best(names), names, strict=True))
    known = contest.evidence[name].weight >= contest.policy.minimum_evidence
    if known and probability >= SURELY_BEST and name != contest.standing.leader:
        before = contest.standing.leader
        yield _ruling(
            contest,
            "promoted",
            name,
            f"{name} leads{f', no longer {before}' if before else ''}: {_standing(contest, name)}, and "
            f"nobody is better with a probability of {probability:.1%}",
            probability=probability,
        )


def _standing(contest: Contest, name: str) -> str:
    weight, mean = contest.evidence[name].weight, contest.beliefs[name].mean
    return f"{_amount(contest, mean)} after what counts as {weight:.1f} decisions of now"


def _amount(contest: Contest, value: float) -> str:
    return f"{value:.1%} of success" if contest.policy.metric == "success" else f"a P&L of {value:,.2f}"


def _ruling(contest: Contest, kind: Ruling, name: str, reason: str, **figures: Any) -> Change:
    told = contest.evidence[name]
    return Change(
        agent_name=contest.policy.agent_name,
        decision_type=contest.policy.decision_type,
        kind=kind,
        model=name,
        reason=reason,
        figures={
            "metric": contest.policy.metric,
            "mean": contest.beliefs[name].mean,
            "decisions": told.decisions,
            "pending": told.pending,
            "weight": told.weight,
            **figures,
        },
    )
