"""What a message must have left in the tables, and whether it is there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from msgspec import Struct

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Decision, Message, Outcome, Record
from tracker_daemon.postgres import Connection, translated
from tracker_daemon.store.horizon import own_time
from tracker_daemon.store.tables import (
    CONTENT_HASHES,
    DEAD_LETTERS,
    HORIZON,
    OUTCOMES,
    UNPROJECTED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Found = Literal["row", "dead_letter", "expired", "stray"] | None
"""Where a message was found in the tables; None: nowhere, and it should be.

`expired`: nowhere, and it lies behind the horizon up to which rows were pruned. `stray`: nowhere, an outcome
that may have been pruned with its decision, which is not there either.
"""


class Trace(Struct, frozen=True):
    """What a message leaves: the rows of `decision` and `event`, as far as it has them, or a dead letter.

    `identity` is the dead letter's id, `decision` an id and its content hash, `event` a key of the ledger:
    decision and event id. `at` is the time that decides when it expires.
    """

    identity: UUID
    decision: tuple[UUID, bytes] | None
    event: tuple[UUID, UUID] | None
    at: datetime

    @property
    def decision_id(self) -> UUID | None:
        """The decision that the message is about; None: it names none that could be read."""
        key = self.decision or self.event
        return key and key[0]


def trace(message: Message, record: Record) -> Trace:
    """What a message that was decoded to this record leaves."""
    event = record if isinstance(record, Outcome) else None
    decision = None
    if isinstance(record, Decision):
        event = record.first_outcome
        decision = (record.id, record.content_hash)
    at = message.published_at if isinstance(record, InvalidPayload) else own_time(record)
    return Trace(message.identity, decision, (event.decision_id, event.event_id) if event else None, at)


async def look_up(connection: Connection, traces: Sequence[Trace]) -> list[Found]:
    """Find each trace in the tables, in one snapshot of them."""
    decisions = [trace.decision[0] for trace in traces if trace.decision]
    events = [trace.event for trace in traces if trace.event]
    with translated():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            hashes = {tuple(row) for row in await connection.fetch(CONTENT_HASHES, decisions)}
            ledger = {
                tuple(row)
                for row in await connection.fetch(
                    OUTCOMES.present,
                    [decision_id for decision_id, _ in events],
                    [event_id for _, event_id in events],
                )
            }
            stored = [
                (trace.decision is None or trace.decision in hashes or (trace.decision[0], None) in hashes)
                and (trace.event is None or trace.event in ledger)
                and trace.decision_id is not None
                for trace in traces
            ]
            rest = [trace.identity for trace, there in zip(traces, stored, strict=True) if not there]
            letters = (
                {row["id"] for row in await connection.fetch(DEAD_LETTERS.present, rest)} if rest else set()
            )
            nowhere = [
                trace
                for trace, there in zip(traces, stored, strict=True)
                if not there and trace.identity not in letters
            ]
            pruned = await _pruned(connection, nowhere) if nowhere else {}
    return [
        "row" if there else "dead_letter" if trace.identity in letters else pruned.get(trace.identity)
        for trace, there in zip(traces, stored, strict=True)
    ]


async def _pruned(connection: Connection, traces: Sequence[Trace]) -> dict[UUID, Found]:
    """By their identities, which of these, that are nowhere, may have been pruned."""
    horizon = await connection.fetchval(HORIZON)
    if horizon is None:
        return {}
    decisions = await connection.fetch(CONTENT_HASHES, [trace.decision_id for trace in traces])
    there = {row["id"] for row in decisions} | {tuple(row) for row in decisions}
    return {
        trace.identity: "expired" if trace.at < horizon else "stray"
        for trace in traces
        # All that belongs to a decision goes with it, in one transaction.
        if (trace.decision or trace.decision_id) not in there
        and (trace.at < horizon or (not trace.decision and trace.event))
    }


async def unprojected(connection: Connection, decisions: Sequence[UUID]) -> dict[UUID, int | None]:
    """Which of these decisions show something else than the latest event of the ledger.

    With the event's stream sequence; None: it has none, or there is no event at all.
    """
    with translated():
        async with connection.transaction(readonly=True):
            return {
                row["id"]: row["stream_sequence"] for row in await connection.fetch(UNPROJECTED, decisions)
            }
