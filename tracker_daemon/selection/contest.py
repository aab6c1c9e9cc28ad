"""One policy at work: its candidates with their evidence, and which of them a key gets."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.selection.chances import Chances
from tracker_daemon.selection.posterior import posteriors
from tracker_daemon.selection.propensity import drawn, propensities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.selection.evidence import Evidence
    from tracker_daemon.selection.standing import Standing

Why = Literal["policy", "pinned", "switched_off", "all_benched"]


class Choice(Struct, frozen=True, kw_only=True):
    """Which model decides, how probable that was, and why; of evidence that was read at `as_of`.

    `benched`: the candidates that could not be chosen. Where not the policy chose, the propensity is 1.
    """

    model: str
    propensity: Decimal
    why: Why
    as_of: datetime
    benched: tuple[str, ...]


class Candidate(Struct, frozen=True, kw_only=True):
    """How a candidate stands.

    `decisions` tell of it, and count as `weight` decisions of now; `pending` ones do not, as yet. `mean` is
    what is expected of it, `best` how probably nobody is better among those that are not benched, and
    `propensity` how often it is chosen.
    """

    model: str
    decisions: int
    pending: int
    weight: float
    mean: float
    best: float
    propensity: Decimal
    benched_since: datetime | None


class Contest:
    """The candidates of one policy, as they stand; what takes computing is computed once."""

    def __init__(
        self, standing: Standing, evidence: Mapping[str, Evidence], as_of: datetime, *, off: bool
    ) -> None:
        """Keep what is known; `off`: all are switched off."""
        self.standing = standing
        self.policy = standing.policy
        self.evidence = evidence
        self.beliefs = posteriors(self.policy.metric, evidence)
        self._as_of = as_of
        self.off = off or standing.off
        self._shares: dict[tuple[str, ...], dict[str, Decimal]] = {}

    @cached_property
    def chances(self) -> Chances:
        """Of all candidates."""
        return Chances(self.beliefs)

    @property
    def eligible(self) -> tuple[str, ...]:
        """The candidates that are not benched."""
        return tuple(name for name in self.policy.candidates if name not in self.standing.benched)

    def choose(self, key: str, candidates: Sequence[str] | None = None) -> Choice:
        """Return the model for a key, among all candidates or some; the same one while nothing changes.

        Raises `InvalidQuestion` for what is no candidate, and where none of those that are may decide.
        """
        names = self._asked(candidates)
        why, only = self._decided(names)
        if only is not None:
            return self._choice(only, Decimal(1), why, names)
        shares = self._shares_of(tuple(name for name in names if name not in self.standing.benched))
        model = drawn(self.policy, key, shares)
        return self._choice(model, shares[model], why, names)

    def candidates(self) -> tuple[Candidate, ...]:
        """Return how all candidates stand, in the policy's order."""
        names = self.eligible
        best = dict(zip(names, self.chances.best(names), strict=True)) if names else {}
        _, only = self._decided(self.policy.candidates)
        shares = {only: Decimal(1)} if only is not None else self._shares_of(names)
        return tuple(
            Candidate(
                model=name,
                decisions=told.decisions,
                pending=told.pending,
                weight=told.weight,
                mean=self.beliefs[name].mean,
                best=best.get(name, 0.0),
                propensity=shares.get(name, Decimal()),
                benched_since=self.standing.benched.get(name),
            )
            for name, told in self.evidence.items()
        )

    def _asked(self, candidates: Sequence[str] | None) -> tuple[str, ...]:
        known = self.policy.candidates
        if candidates is None:
            return known
        if not candidates:
            raise InvalidQuestion(f"there is no candidate to choose for {self.policy.whom}: name one or more")
        if unknown := set(candidates) - set(known):
            raise InvalidQuestion(
                f"{min(unknown)} is no candidate of {self.policy.whom}; there are {', '.join(known)}"
            )
        return tuple(name for name in known if name in candidates)

    def _decided(self, names: Sequence[str]) -> tuple[Why, str | None]:
        """Why, and which model alone may decide; None: the policy chooses."""
        standing = self.standing
        why: Why = "policy"
        only = None
        if self.off:
            why, only = "switched_off", self.policy.default
        elif standing.pinned is not None:
            why, only = "pinned", standing.pinned
        elif self.policy.policy == "fixed":
            only = self.policy.default
        elif all(name in standing.benched for name in names):
            why, only = "all_benched", self.policy.default
        if only is not None and only not in names:
            raise InvalidQuestion(
                f"for {self.policy.whom} only {only} may decide ({why.replace('_', ' ')}), which is not "
                f"among the candidates asked for: {', '.join(names)}"
            )
        return why, only

    def _shares_of(self, names: tuple[str, ...]) -> dict[str, Decimal]:
        if names not in self._shares:
            means = {name: belief.mean for name, belief in self.beliefs.items()}
            self._shares[names] = propensities(self.policy, names, means, self.chances)
        return self._shares[names]

    def _choice(self, model: str, propensity: Decimal, why: Why, names: Sequence[str]) -> Choice:
        benched = tuple(name for name in names if name in self.standing.benched)
        return Choice(model=model, propensity=propensity, why=why, as_of=self._as_of, benched=benched)
