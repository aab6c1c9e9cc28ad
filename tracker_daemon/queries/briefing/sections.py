"""Facts in words: sections of whole lines, and which of these matter most where there is no room for all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tracker_daemon.queries.briefing.facts import Decided
from tracker_daemon.queries.quoting import quoted, short, word
from tracker_daemon.queries.summary import EVIDENCE, NAMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from tracker_daemon.queries.briefing.facts import Facts
    from tracker_daemon.queries.calibration import Bucket
    from tracker_daemon.queries.similar import Compared, Precedent

FIRST: Final = 5
"""Decisions of each list that find room before all details and quotations."""
SUMMARY, RECORD, PRECEDENTS, OPEN, LATEST, DETAILS, QUOTATIONS, MORE, MORE_QUOTATIONS = range(9)
"""Ranks of lines: what has the least finds room first, and what others need to make sense has less."""


class Line(Struct, frozen=True):
    """A line, and the `kind` of line that there was no room for if it is left out."""

    rank: int
    kind: str
    text: str


class Section(Struct, frozen=True):
    """Lines in the order in which they are told."""

    title: str
    lines: tuple[Line, ...]


def sections(facts: Facts) -> list[Section]:
    """All there is to tell, as if there were room for everything."""
    precedents = _listed(facts, PRECEDENTS, "similar situation", facts.similar.precedents)
    told = [
        Section("Similar situations with a known outcome, of all agents", (*_summary(facts), *precedents)),
        Section("Record", tuple(_record(facts))),
        Section("Calibration", tuple(_calibration(facts))),
        Section("Open decisions", tuple(_listed(facts, OPEN, "open decision", facts.open))),
        Section("Latest decisions", tuple(_listed(facts, LATEST, "latest decision", facts.latest))),
    ]
    return [section for section in told if section.lines]


def utc(moment: datetime) -> str:
    """A time, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def several(count: int, thing: str) -> str:
    """`1 decision`, `2 decisions`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _summary(facts: Facts) -> Iterator[Line]:
    similar = facts.similar
    said = [similar.summary.text]
    if similar.precedents:
        least = "" if similar.complete else "at least "  # of others nobody knows how near they are
        said.append(
            f"That is about the nearest {len(similar.precedents):,} of {least}{similar.near:,}. A distance "
            "of 0 is the same, 1 as far as can be."
        )
    elif similar.nearest is None:
        said.append("No decision shares enough of this situation to be compared with it.")
    else:
        said.append(
            f"The nearest of {similar.comparable:,} compared is {similar.nearest:.2f} away, which is not "
            "near."
        )
    if similar.unknown:
        named = ", ".join(map(short, similar.unknown[:NAMED]))
        more = len(similar.unknown) - NAMED
        others = f" and {several(more, 'other')}" if more > 0 else ""
        said.append(f"Not compared, as no scale is known for it: {named}{others}.")
    for text in said:
        yield Line(SUMMARY, "summary line", text)


def _record(facts: Facts) -> Iterator[Line]:
    for text in _about_record(facts):
        yield Line(RECORD, "record line", text)


def _about_record(facts: Facts) -> Iterator[str]:
    record = facts.record
    if facts.immature:
        yield f"Not counted, as too young: {several(facts.immature, 'decision')}."
    resolved = record.successful + record.failed
    if not record.total_decisions:
        yield "No decision is like that."
        return
    yield (
        f"{several(record.total_decisions, 'decision')}: {record.successful:,} successful, {record.failed:,} "
        f"failed, {record.pending:,} open."
    )
    if record.resolved_success_rate is None or resolved < EVIDENCE:
        yield f"Not enough evidence for a success rate: {resolved} resolved, where {EVIDENCE} are needed."
    else:
        interval = _interval(record.resolved_success_rate_lower, record.resolved_success_rate_upper)
        yield f"Success rate {record.resolved_success_rate:.0%} of {resolved:,} resolved; {interval}."
    if record.total_pnl is not None:
        yield (
            f"P&L {_money(record.total_pnl)} in all, {_money(record.avg_pnl)} on average, from "
            f"{_money(record.min_pnl)} to {_money(record.max_pnl)}."
        )


def _calibration(facts: Facts) -> Iterator[Line]:
    worth, kind = facts.calibration, "calibration line"
    if not facts.record.total_decisions:
        return
    if worth.avg_confidence is None or worth.decisions < EVIDENCE:
        few = f"{worth.decisions} resolved with one, where {EVIDENCE} are needed"
        yield Line(RECORD, kind, f"Not enough evidence of what a confidence is worth: {few}.")
        return
    said = (
        f"Confidence was {worth.avg_confidence:.0%} on average, and {worth.resolved_success_rate:.0%} "
        f"succeeded, of {worth.decisions:,} resolved; Brier score {worth.brier_score:.3f}, where 0 is "
        "perfect, and 0.25 what a confidence of 50% each time gets."
    )
    yield Line(RECORD, kind, said)
    for bucket in worth.buckets:
        yield Line(DETAILS, kind, _bucket(bucket))


def _bucket(bucket: Bucket) -> str:
    interval = _interval(bucket.resolved_success_rate_lower, bucket.resolved_success_rate_upper)
    return (
        f"- Confidence {bucket.lower:.0%} to {bucket.upper:.0%}: {bucket.resolved_success_rate:.0%} of "
        f"{bucket.decisions:,} succeeded; {interval}."
    )


def _listed(facts: Facts, rank: int, kind: str, decisions: Sequence[Decided | Precedent]) -> Iterator[Line]:
    """Each decision, and below it what is quoted of it."""
    quotations = {each.id: each for each in facts.quotations}
    for place, each in enumerate(decisions):
        first = place < FIRST
        yield Line(rank if first else MORE, kind, _decision(each))
        texts = quotations.get(each.id)
        for name, text in (("prompt", texts.prompt), ("response", texts.response)) if texts else ():
            if text:
                said = f"> data, {name}: {quoted(text)}"
                yield Line(QUOTATIONS if first else MORE_QUOTATIONS, "quotation", said)


def _decision(each: Decided | Precedent) -> str:
    known = ", ".join(map(word, (each.agent_name, each.decision_type, each.symbol)))
    action = word(each.action) if each.action else "without action"
    confidence = "" if each.confidence is None else f" with confidence {each.confidence:.0%}"
    result = {"SUCCESS": "succeeded", "FAILURE": "failed"}.get(each.outcome or "", "still open")
    pnl = "" if each.pnl is None else f", P&L {_money(each.pnl)}"
    told = (
        f"- {utc(each.created_at)} ({_age(each.age_seconds)}), {known}: {action}{confidence}; {result}{pnl}."
    )
    return told if isinstance(each, Decided) else f"{told} {_resemblance(each)}"


def _resemblance(each: Precedent) -> str:
    shown = ", ".join(map(_compared, each.indicators[:NAMED]))
    return f"Distance {each.distance:.2f}: {shown}."


def _compared(indicator: Compared) -> str:
    match indicator.value:
        case bool(value):
            told = str(value).lower()
        case str(value):
            told = short(value)
        case value:
            told = f"{value:.4g}"
    return f"{short(indicator.path)} {told} ({indicator.distance:.2f})"


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600)):
        if seconds >= 2 * length:
            return f"{several(int(seconds // length), unit)} earlier"
    return f"{several(max(0, int(seconds // 60)), 'minute')} earlier"


def _interval(lower: float, upper: float) -> str:
    return f"the 95 % interval is {lower:.0%} to {upper:.0%}"


def _money(amount: Decimal | None) -> str:
    if amount is None:
        return "unknown"
    told = f"{amount:+,.2f}"
    return f"{told[0]}${told[1:]}"
