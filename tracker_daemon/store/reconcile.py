"""What a message must have left in the tables, and whether it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from uuid import UUID

from msgspec import Struct

from tracker_daemon.messages import Decision, Message, Outcome, Record
from tracker_daemon.postgres import Connection, translated
from tracker_daemon.store.tables import CONTENT_HASHES, DEAD_LETTERS, OUTCOMES, UNPROJECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

Found = Literal["row", "dead_letter"] | None
"""Where a message was found in the tables; None: nowhere."""


class Trace(Struct, frozen=True):
    """What a message leaves: the rows of `decision` and `event`, as far as it has them, or a dead letter.

    `identity` is the dead letter's id, `decision` an id and its content hash, `event` a key of the ledger:
    decision and event id.
    """

    identity: UUID
    decision: tuple[UUID, bytes] | None
    event: tuple[UUID, UUID] | None

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
    return Trace(message.identity, decision, (event.decision_id, event.event_id) if event else None)


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
    return [
        "row" if there else "dead_letter" if trace.identity in letters else None
        for trace, there in zip(traces, stored, strict=True)
    ]


async def unprojected(connection: Connection, decisions: Sequence[UUID]) -> dict[UUID, int | None]:
    """Which of these decisions show something else than the latest event of the ledger.

    With the event's stream sequence; None: it has none, or there is no event at all.
    """
    with translated():
        async with connection.transaction(readonly=True):
            return {
                row["id"]: row["stream_sequence"] for row in await connection.fetch(UNPROJECTED, decisions)
            }
