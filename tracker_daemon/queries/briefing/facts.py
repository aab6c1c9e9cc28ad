"""What the record knows that is worth telling a model before it decides, read in one snapshot."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, cast
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.calibration import Calibration, calibration
from tracker_daemon.queries.decisions import recent_decisions
from tracker_daemon.queries.filter import Filter, Time
from tracker_daemon.queries.quoting import excerpt
from tracker_daemon.queries.similar import Precedents, similar_decisions
from tracker_daemon.queries.stats import Stats, decision_stats

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries.decisions import Told
    from tracker_daemon.queries.situation import Situation

PRECEDENTS: Final = 20
"""Similar situations that are summed up, the nearest."""
LISTED: Final = 10
"""Open decisions, and latest ones."""
QUOTE_CHARS: Final = 300
"""Characters of a quotation."""

Quoting = Literal["none", "responses", "all"]
"""What is quoted of the decisions: nothing, their responses, prompts and responses."""

_TEXTS: Final = f"""
SELECT id, left(prompt, {QUOTE_CHARS} + 1) AS prompt, left(response, {QUOTE_CHARS} + 1) AS response
FROM llm_decisions WHERE id = ANY($1) ORDER BY id
"""


class Decided(Struct, frozen=True, kw_only=True):
    """A decision without its texts; most names are the columns of `llm_decisions`, the age is at `as_of`."""

    id: UUID
    created_at: Time
    age_seconds: float
    agent_name: str
    decision_type: str
    symbol: str
    model: str
    action: str | None
    confidence: Decimal | None
    outcome: str | None
    pnl: Decimal | None


class Quotation(Struct, frozen=True, kw_only=True):
    """Whole sentences, as stored, from the beginning of a decision's texts.

    None: it was not asked for, or its first sentence has more than `QUOTE_CHARS` characters.
    """

    id: UUID
    prompt: str | None
    response: str | None


class Facts(Struct, frozen=True, kw_only=True):
    """The record at `as_of`, of the decisions that `asked` chooses.

    `similar` are resolved ones of all agents and models, with the same conditions otherwise. `immature`
    decisions are younger than the maturity window, and not in `record` and `calibration`. `open` are the
    latest undecided ones, `latest` the latest of the others. `quotations` are of any of them.
    """

    asked: Filter
    as_of: Time
    similar: Precedents
    record: Stats
    immature: int
    calibration: Calibration
    open: tuple[Decided, ...]
    latest: tuple[Decided, ...]
    quotations: tuple[Quotation, ...]


async def gather_facts(
    connection: Connection,
    wanted: Filter,
    situation: Situation,
    *,
    quoting: Quoting = "responses",
    maturity: timedelta | None = None,
) -> Facts:
    """Read what there is to tell about these decisions and this situation; ask inside `reading`.

    Without `as_of` it is the time of the snapshot, and what would be later is not there, either.
    """
    if wanted.outcome is not None:
        raise InvalidQuestion("a context tells of decisions whatever came of them: leave out outcome")
    as_of = wanted.as_of
    chosen = wanted
    if as_of is None:
        as_of = await connection.fetchval("SELECT now()")
        chosen = replace(wanted, until=min(as_of, wanted.until or as_of))
    anybody = replace(chosen, agent_name=None, model=None)
    record = await decision_stats(connection, chosen, maturity=maturity)
    worth = await calibration(connection, chosen, maturity=maturity)
    undecided = await recent_decisions(connection, replace(chosen, outcome="PENDING"), LISTED)
    recent = await recent_decisions(connection, chosen, 2 * LISTED)
    # After the others: what it sets for its plans holds until the transaction ends.
    similar = await similar_decisions(connection, situation, anybody, PRECEDENTS, resolved=True)
    open_ = [row.id for row in undecided.rows]
    latest = [row for row in recent.rows if row.id not in open_][:LISTED]
    ids = [each.id for each in similar.precedents] + open_ + [row.id for row in latest]
    return Facts(
        asked=Filter(**{name: getattr(wanted, name) for name in Filter.__struct_fields__}),
        as_of=as_of,
        similar=similar,
        record=record.groups[0],
        immature=record.left_out,
        calibration=worth.groups[0],
        open=tuple(_decided(row, as_of) for row in undecided.rows),
        latest=tuple(_decided(row, as_of) for row in latest),
        quotations=await _quotations(connection, ids, quoting),
    )


def _decided(row: Told, as_of: datetime) -> Decided:
    made = cast("datetime", row.created_at)  # those without a time are in no list
    names = (name for name in Decided.__struct_fields__ if name not in {"created_at", "age_seconds"})
    return Decided(
        created_at=made,
        age_seconds=(as_of - made).total_seconds(),
        **{name: getattr(row, name) for name in names},
    )


async def _quotations(connection: Connection, ids: list[UUID], quoting: Quoting) -> tuple[Quotation, ...]:
    if quoting == "none":
        return ()
    found = (
        Quotation(
            id=row["id"],
            prompt=excerpt(row["prompt"], QUOTE_CHARS) or None if quoting == "all" else None,
            response=excerpt(row["response"], QUOTE_CHARS) or None,
        )
        for row in await connection.fetch(_TEXTS, ids)
    )
    return tuple(each for each in found if each.prompt or each.response)
