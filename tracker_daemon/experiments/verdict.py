"""What may be done about an experiment, in a word and in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from tracker_daemon.experiments.comparison import FEWEST
from tracker_daemon.experiments.shares import MISMATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.experiments.comparison import Difference
    from tracker_daemon.experiments.experiment import Metric
    from tracker_daemon.experiments.results import Exposure, OfArm, Progress

Word = Literal["broken", "leader", "harmful", "no difference yet", "not enough evidence"]


class Verdict(Struct, frozen=True):
    """The word, and the sentence that says why."""

    word: Word
    text: str


def verdict(metric: Metric, arms: Sequence[OfArm], exposure: Exposure, progress: Progress) -> Verdict:
    """Judge by the intervals that always hold, so that whoever looks every day is not misled.

    Broken is what can tell nothing, whatever it shows. Else a leader is an arm that is better than the
    control; where there is none, harmful are those that are worse.
    """
    if trouble := _trouble(arms, exposure):
        return Verdict("broken", f"Broken: {trouble}. What the arms show may come from who got them.")
    control, *others = arms
    rivals = [(arm.name, told) for arm in others if (told := _difference(arm, metric)) is not None]
    if not rivals:
        return Verdict(
            "not enough evidence",
            f"Not enough evidence: to compare an arm with {control.name}, {FEWEST} units of either must tell "
            f"of {metric}, and not all the same.",
        )
    if better := [rival for rival in rivals if rival[1].always_lower > 0]:
        name, told = max(better, key=lambda rival: rival[1].estimate)
        sure = _amount(told.always_lower, metric)
        said = f"{name} is better than {control.name} by {_amount(told.estimate, metric)}"
        return Verdict("leader", f"Leader: {said}, and by {sure} at least, however often one looks.")
    if worse := [rival for rival in rivals if rival[1].always_upper < 0]:
        name, told = min(worse, key=lambda rival: rival[1].estimate)
        sure = _amount(-told.always_upper, metric)
        said = f"{name} is worse than {control.name} by {_amount(-told.estimate, metric)}"
        return Verdict("harmful", f"Harmful: {said}, and by {sure} at least, however often one looks.")
    text = f"No difference yet between {control.name} and what is compared with it."
    if progress.needed:
        text += f" Of {progress.needed:,} units that show one that matters, {progress.telling:,} tell"
        text += f"; {progress.days_to_go:.1f} days to go at this pace." if progress.days_to_go else "."
    return Verdict("no difference yet", text)


def _trouble(arms: Sequence[OfArm], exposure: Exposure) -> str:
    if exposure.mismatch < MISMATCH:
        seen = ", ".join(f"{arm.units:,} to {arm.name} (share {arm.share:.0%})" for arm in arms)
        return f"units do not go where the shares send them: {seen}"
    if exposure.crossed:
        return f"{exposure.crossed:,} units were decided by more than one arm"
    if exposure.foreign:
        return f"{exposure.foreign:,} decisions name an arm that the experiment does not have"
    return ""


def _difference(arm: OfArm, metric: Metric) -> Difference | None:
    return arm.success_difference if metric == "success" else arm.pnl_difference


def _amount(value: float, metric: Metric) -> str:
    return f"{value * 100:.1f} points of success rate" if metric == "success" else f"{value:,.2f} of P&L"
