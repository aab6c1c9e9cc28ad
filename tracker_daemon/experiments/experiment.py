"""An experiment: the arms that are compared, who gets which, and what it is about."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from math import ceil
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from tracker_daemon.errors import InvalidQuestion

MAX_ARMS: Final = 20
MAX_NAME: Final = 100
SHARE_PLACES: Final = 10
"""As many as `propensity` has in the table."""

Metric = Literal["success", "pnl"]
"""What is compared: success of a resolved decision, or P&L of a decision that has one."""

RISK: Final = 0.05
"""How often, at most, an experiment shows a difference that there is not."""

METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

LEAST_EFFECT: Final = 1e-8
"""The last place of a P&L."""
MOST_EFFECT: Final = 1e12
"""More than any P&L."""

_BITS: Final = 64

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class Arm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to decide, and the part of all units, 0 to 1, that is decided so."""

    name: _Name
    share: Decimal
    model: _Name | None = None
    prompt_version: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        share = self.share
        if not (share.is_finite() and 0 < share < 1 and round(share, SHARE_PLACES) == share):
            raise InvalidQuestion(
                f"the share of {self.name} must be between 0 and 1, with {SHARE_PLACES} decimal places at "
                f"most, not {share}"
            )


class Definition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fixed when an experiment starts.

    The first arm is the control. `minimum_effect` is the least difference to it that matters: of the success
    rate (0 to 1), or of the mean P&L in its currency.
    """

    name: _Name
    arms: tuple[Arm, ...]
    minimum_effect: float
    metric: Metric = "success"

    def __post_init__(self) -> None:
        """Refuse what cannot be compared, or would leave units without an arm."""
        if not 2 <= len(self.arms) <= MAX_ARMS:
            raise InvalidQuestion(
                f"an experiment compares 2 to {MAX_ARMS} arms; {self.name} has {len(self.arms)}"
            )
        names = [arm.name for arm in self.arms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidQuestion(f"two arms of {self.name} are called {min(twice)}: give each its own name")
        if (total := sum((arm.share for arm in self.arms), Decimal())) != 1:
            raise InvalidQuestion(f"the shares of {self.name} add up to {total}, and must add up to 1")
        most = 1.0 if self.metric == "success" else MOST_EFFECT
        if not LEAST_EFFECT <= self.minimum_effect < most:
            raise InvalidQuestion(
                f"the minimum effect of {self.name} must be a difference of {self.metric} that matters: "
                f"{LEAST_EFFECT:g} or more, and less than {most:g}, not {self.minimum_effect:g}"
            )

    def planned(self, metric: Metric) -> int:
        """For how many units the interval that always holds is narrowest; known before anything is seen.

        As many as show the minimum effect, were half of all decisions successes; of P&L no such bound is
        known, and a thousand is a guess that costs little where it is wrong.
        """
        if metric != "success" or metric != self.metric:
            return 1000
        least = min(arm.share for arm in self.arms[1:])
        return ceil(8 * 0.25 * float(1 / least + 1 / self.control.share) / self.minimum_effect**2)

    @property
    def risk(self) -> float:
        """How often, at most, one of the arms seems to differ where it does not (Bonferroni)."""
        return RISK / (len(self.arms) - 1)

    @property
    def control(self) -> Arm:
        """What the others are compared with."""
        return self.arms[0]


class Experiment(Struct, frozen=True, kw_only=True):
    """A definition, and when it was tried."""

    definition: Definition
    started_at: datetime
    stopped_at: datetime | None = None


class Assignment(Struct, frozen=True, kw_only=True):
    """Which arm a unit gets: what a decision says in `experiment`, `variant`, `propensity`, and goes by."""

    experiment: str
    variant: str
    propensity: Decimal
    model: str | None
    prompt_version: str | None
    parameters: dict[str, Any]


def assign(definition: Definition, unit: str) -> Assignment:
    """Return the arm of a unit: always the same, in each process, and of no other experiment's making.

    The first 64 bits of the SHA-256 of the experiment's name, a NUL and the unit, in UTF-8, are a place on a
    line that the shares divide in their order.
    """
    place = int.from_bytes(sha256(f"{definition.name}\0{unit}".encode()).digest()[: _BITS // 8], "big")
    end, arm = Decimal(), definition.arms[-1]
    for candidate in definition.arms:
        end += candidate.share
        if place < int(end * 2**_BITS):
            arm = candidate
            break
    return Assignment(
        experiment=definition.name,
        variant=arm.name,
        propensity=arm.share,
        model=arm.model,
        prompt_version=arm.prompt_version,
        parameters=arm.parameters,
    )
