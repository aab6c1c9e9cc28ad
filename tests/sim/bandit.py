"""Agents that ask which model decides, day after day, in a world whose truth is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from tracker_daemon.selection import Policy
from tracker_daemon.selection.contest import Contest
from tracker_daemon.selection.evidence import HALF_LIVES, Evidence
from tracker_daemon.selection.guardrail import rulings
from tracker_daemon.selection.standing import added_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tracker_daemon.selection import Standing

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PER_DAY = 100
"""Decisions a day; after each `REFRESH` of them the evidence is read anew."""
REFRESH = 20


def won_or_lost(chance: np.random.Generator, mean: float) -> float:
    return float(chance.random() < mean)


def at_once(_chance: np.random.Generator, _value: float) -> float:
    return 0.0


def late(days: float) -> Callable[[np.random.Generator, float], float]:
    """Exponentially, after so many days in the mean, whatever comes."""
    return lambda chance, _: float(chance.exponential(days))


class Arm(NamedTuple):
    """A model: the mean of what comes of its decisions, day by day; what comes, and after how many days.

    `missing`: of how many decisions nothing ever does.
    """

    mean: Callable[[float], float]
    draw: Callable[[np.random.Generator, float], float] = won_or_lost
    delay: Callable[[np.random.Generator, float], float] = at_once
    missing: float = 0.0


def steady(mean: float, **more: Any) -> Arm:
    """Build an arm that is always as good as it is."""
    return Arm(lambda _: mean, **more)


class Course:
    """What happened: each decision with its arm, its propensity, what came of it, and what it cost.

    The cost is the regret: the mean of the best arm on that day less that of the one that was chosen.
    """

    def __init__(self, policy: Policy, arms: Mapping[str, Arm], *, decisions: int, seed: int) -> None:
        """Play it through."""
        self.policy, self.arms, self.names = policy, arms, list(arms)
        self.days = np.arange(decisions) / PER_DAY
        self.arm = np.zeros(decisions, int)
        self.propensity, self.value, self.regret = np.zeros((3, decisions))
        self.known_at = np.full(decisions, np.inf)
        self.rulings: list[tuple[float, str, str]] = []
        self._events = [_event(1, "defined", None, BEGIN, msgspec.json.encode(policy))]
        chance = np.random.default_rng(seed)
        for number in range(decisions):
            if number % REFRESH == 0:
                contest = self._refreshed(number)
            choice = contest.choose(f"{seed} {number}")
            self.propensity[number] = float(choice.propensity)
            self._decide(number, choice.model, chance)

    def share(self, name: str, first: int = 0, last: int | None = None) -> float:
        """How many of these decisions an arm got."""
        return float((self.arm[first:last] == self.names.index(name)).mean())

    @cached_property
    def total(self) -> float:
        """All that it cost."""
        return float(self.regret.sum())

    def recovered(self, name: str, since: int) -> int:
        """After how many decisions, from one on, an arm has got four of five of the latest hundred."""
        got = np.convolve(self.arm[since:] == self.names.index(name), np.ones(100), "valid")
        there = np.flatnonzero(got >= 80)
        return int(there[0]) + 100 if len(there) else len(self.arm)

    def evidence(self, standing: Standing, number: int) -> dict[str, Evidence]:
        """What is known of each arm before a decision."""
        now = self.days[number]
        until, half_life = now - self.policy.maturity_days, self.policy.half_life_days
        created = self.days[:number]
        mature = (created <= until) & (created >= until - HALF_LIVES * half_life)
        weight = 0.5 ** ((until - created) / half_life)
        found = {}
        for place, name in enumerate(self.names):
            since = (standing.since.get(name, BEGIN) - BEGIN) / timedelta(days=1)
            own = mature & (self.arm[:number] == place) & (created >= since)
            told = own & (self.known_at[:number] <= now)
            weights, values = weight[told], self.value[:number][told]
            found[name] = Evidence(
                decisions=int(told.sum()),
                pending=int(own.sum() - told.sum()),
                weight=float(weights.sum()),
                total=float((weights * values).sum()),
                squares=float((weights * values**2).sum()),
            )
        return found

    def _refreshed(self, number: int) -> Contest:
        """What the next decisions are chosen by, after what the guardrail has to say."""
        now = BEGIN + timedelta(days=float(self.days[number]))
        contest = self._contest(number, now)
        if not (found := rulings(contest, now)):
            return contest
        for ruling in found:
            assert ruling.model is not None
            self.rulings.append((float(self.days[number]), ruling.kind, ruling.model))
            self._events.append(_event(len(self._events) + 1, ruling.kind, ruling.model, now))
        return self._contest(number, now)

    def _contest(self, number: int, now: datetime) -> Contest:
        standing = added_up(self._events).find(self.policy.agent_name, self.policy.decision_type)
        return Contest(standing, self.evidence(standing, number), now, off=False)

    def _decide(self, number: int, model: str, chance: np.random.Generator) -> None:
        day, arm = self.days[number], self.arms[model]
        mean = arm.mean(day)
        self.arm[number] = self.names.index(model)
        self.regret[number] = max(each.mean(day) for each in self.arms.values()) - mean
        self.value[number] = value = arm.draw(chance, mean)
        after = arm.delay(chance, value)
        if chance.random() >= arm.missing:
            self.known_at[number] = day + after


def _event(number: int, kind: str, model: str | None, at: datetime, figures: bytes = b"{}") -> dict[str, Any]:
    return {
        "agent_name": "momentum",
        "decision_type": "signal",
        "number": number,
        "kind": kind,
        "model": model,
        "figures": figures,
        "created_at": at,
    }


def among(arms: Mapping[str, Arm], **fields: Any) -> Policy:
    """Say how the model of momentum's signals is chosen; the first arm is the default."""
    names = tuple(arms)
    return Policy(agent_name="momentum", decision_type="signal", candidates=names, default=names[0], **fields)
