"""What was decided in similar situations, and what came of it, in numbers and in a sentence."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.intervals import wilson
from tracker_daemon.queries.quoting import short, word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from tracker_daemon.queries.similar import Precedent
    from tracker_daemon.queries.situation import Situation
    from tracker_daemon.situations import Indicator

EVIDENCE: Final = 3
"""Resolved decisions without which no rate is told in words."""
NAMED: Final = 4
"""Indicators that the sentence names, those with the greatest weights."""
PARTS: Final = 2**53
"""Of a weight of 1: a float between 1/2 and 1 is a whole number of them."""


class Tally(Struct, frozen=True, kw_only=True):
    """Decisions and what came of them; None where none of them says anything of it.

    Rate, mean and median are weighted by nearness: a decision at no distance counts 1, one as far away as
    is near still 1/2, in proportion between. The interval of the rate is Wilson's (95 %) for as many
    decisions as these weights are worth, (sum of w)^2 / sum of w^2 (Kish 1965).
    """

    decisions: int
    successful: int
    failed: int
    resolved_success_rate: float | None
    resolved_success_rate_lower: float
    resolved_success_rate_upper: float
    avg_pnl: float | None
    median_pnl: float | None


class OfAction(Tally, frozen=True, kw_only=True):
    """The decisions for one action; None: they name none."""

    action: str | None


class Summary(Tally, frozen=True, kw_only=True):
    """All of them, action by action, the most frequent first; `enough` are resolved to tell a rate."""

    actions: tuple[OfAction, ...]
    enough: bool
    text: str


def situation_summary(situation: Situation, precedents: Sequence[Precedent]) -> Summary:
    """Sum up what `similar_decisions` has found for this situation."""
    counts = Counter(each.action for each in precedents)
    whole = _tally(situation, precedents)
    actions = tuple(
        OfAction(action=action, **_tally(situation, [each for each in precedents if each.action == action]))
        for action in sorted(counts, key=lambda action: (-counts[action], action or ""))
    )
    enough = whole["successful"] + whole["failed"] >= EVIDENCE
    text = _text(situation, actions, whole, enough=enough)
    return Summary(actions=actions, enough=enough, text=text, **whole)


def _tally(situation: Situation, precedents: Sequence[Precedent]) -> dict[str, Any]:
    won = [_nearness(situation, each) for each in precedents if each.outcome == "SUCCESS"]
    lost = [_nearness(situation, each) for each in precedents if each.outcome == "FAILURE"]
    rate = worth = 0.0
    if resolved := won + lost:
        total = sum(resolved)
        rate = sum(won) / total
        worth = total * total / sum(weight * weight for weight in resolved)
    lower, upper = wilson(rate * worth, worth)
    avg_pnl, median_pnl = _money(
        [
            (each.pnl, _nearness(situation, each))
            for each in precedents
            if each.pnl is not None and each.pnl.is_finite()  # the column can hold NaN
        ]
    )
    return {
        "decisions": len(precedents),
        "successful": len(won),
        "failed": len(lost),
        "resolved_success_rate": rate if resolved else None,
        "resolved_success_rate_lower": lower,
        "resolved_success_rate_upper": upper,
        "avg_pnl": avg_pnl,
        "median_pnl": median_pnl,
    }


def _nearness(situation: Situation, precedent: Precedent) -> int:
    """In whole parts, which add up exactly, so that equal weights make the usual median."""
    if not situation.max_distance:
        return PARTS
    return int((1 - precedent.distance / situation.max_distance / 2) * PARTS)


def _money(weighted: list[tuple[Decimal, int]]) -> tuple[float | None, float | None]:
    """Mean and median; the median is the middle of the two where half of the weight is on either side."""
    if not weighted:
        return None, None
    total = sum(weight for _, weight in weighted)
    mean = sum(amount * weight for amount, weight in weighted) / total
    weighted.sort()
    reached = list(accumulate(2 * weight for _, weight in weighted))
    below, above = bisect_left(reached, total), bisect_right(reached, total)
    return float(mean), float((weighted[below][0] + weighted[above][0]) / 2)


def _text(
    situation: Situation, actions: Sequence[OfAction], whole: Mapping[str, Any], *, enough: bool
) -> str:
    named = sorted(situation.weighted(), key=lambda pair: -pair[1])[:NAMED]
    which = ", ".join(_named(indicator) for indicator, _ in named)
    if not actions:
        return f"In similar situations ({which}) we decided nothing yet: not enough evidence."
    decided = ", ".join(_decided(each) for each in actions)
    said = f"In similar situations ({which}) we previously decided: {decided}; "
    resolved = whole["successful"] + whole["failed"]
    if not enough:
        return (
            f"{said}not enough evidence for a success rate: {resolved} resolved, where {EVIDENCE} are needed."
        )
    lower, upper = whole["resolved_success_rate_lower"], whole["resolved_success_rate_upper"]
    return (
        f"{said}success rate {whole['resolved_success_rate']:.0%}. That is of {resolved} resolved, weighted "
        f"by nearness; the 95 % interval is {lower:.0%} to {upper:.0%}."
    )


def _named(indicator: Indicator) -> str:
    """`rsi ~62.1`, `uptrend`, `open true`."""
    match indicator.value:
        case bool(value):
            return f"{short(indicator.path)} {str(value).lower()}"
        case str(value):
            return short(value)
        case number:
            return f"{short(indicator.path)} ~{number:.4g}"


def _decided(each: OfAction) -> str:
    said = f"{each.decisions} {word(each.action) if each.action else 'without action'}"
    if each.avg_pnl is None:
        return said
    amount = f"{each.avg_pnl:z,.2f}".removesuffix(".00")
    return f"{said} with average P&L {'-' * amount.startswith('-')}${amount.removeprefix('-')}"
