"""A policy: which models may decide for an agent, how one of them is chosen, and when one is benched."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Metric

MAX_CANDIDATES: Final = 20
LEAST_SHARE: Final = 0.001
"""The least that a candidate may be given: what was chosen more rarely could not be weighted later."""
MOST_DAYS: Final = 3650.0

Kind = Literal["fixed", "epsilon", "thompson", "best"]
"""`fixed`: the default. `epsilon`: the greatest mean, but a part of all choices goes to all alike.
`thompson`: each as often as it is probably the best. `best`: the greatest mean."""


class Policy(Struct, frozen=True, kw_only=True):
    """How the model of an agent's decisions of a type is chosen.

    `metric`: success, or P&L less `cost_usd`. Evidence counts half as much after each `half_life_days` from
    when it is `maturity_days` old; younger decisions do not count, for those that resolve early are not like
    the others. A candidate that is surely below the `floor` (a rate of success, or a mean P&L) is benched for
    `bench_days`, once `minimum_evidence` decisions, aged as said, tell of it. `least_share` of the choices
    goes to each candidate that is not benched, except where the policy is `fixed`.
    """

    agent_name: Annotated[str, Meta(min_length=1, max_length=100)]
    decision_type: Annotated[str, Meta(min_length=1, max_length=50)]
    candidates: tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...]
    default: str
    policy: Kind = "thompson"
    metric: Metric = "success"
    epsilon: float = 0.1
    half_life_days: float = 14.0
    maturity_days: float = 0.0
    floor: float | None = None
    minimum_evidence: float = 30.0
    bench_days: float = 7.0
    least_share: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what nothing can be chosen by."""
        whom, names = self.whom, self.candidates
        if not 1 <= len(names) <= MAX_CANDIDATES:
            raise InvalidQuestion(f"{whom} needs 1 to {MAX_CANDIDATES} candidates, not {len(names)}")
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidQuestion(f"{min(twice)} is twice among the candidates of {whom}: name each once")
        if self.default not in names:
            raise InvalidQuestion(
                f"the default of {whom}, {self.default}, is no candidate; there are {', '.join(names)}"
            )
        self._check("epsilon", 0, 1)
        self._check("half_life_days", 0.001, MOST_DAYS)
        self._check("maturity_days", 0, MOST_DAYS)
        self._check("minimum_evidence", 1, 1e6)
        self._check("bench_days", 0.001, MOST_DAYS)
        self._check("least_share", LEAST_SHARE, 1 / len(names))
        if self.floor is not None:
            self._check("floor", *((0, 1) if self.metric == "success" else (-1e12, 1e12)))

    @property
    def whom(self) -> str:
        """Whose decisions it is about, for the reader."""
        return f"{self.agent_name}/{self.decision_type}"

    def _check(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise InvalidQuestion(
                f"{name} of {self.whom} must be between {least:g} and {most:g}, not {value:g}"
            )
