"""How far the record was pruned, and which messages come too late for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Decision
from tracker_daemon.postgres import translated
from tracker_daemon.store.tables import DEAD_LETTERS, DECISIONS, HORIZON, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tracker_daemon.messages import Delivery, Outcome
    from tracker_daemon.postgres import Connection


def own_time(record: Decision | Outcome) -> datetime:
    """The time that decides when a record expires, unless it is an outcome whose decision is there."""
    if isinstance(record, Decision):
        return record.created_at
    return min(record.observed_at, record.received_at)


async def find_expired(connection: Connection, deliveries: Sequence[Delivery]) -> set[int]:
    """Return the indexes of those that lie behind the horizon and have nothing left to belong to.

    A decision that is there is none of them, nor are its outcomes, nor an event that is in the ledger, nor a
    message that is a dead letter. One that cannot be stored goes by the time at which it was published.
    """
    with translated():
        horizon = await connection.fetchval(HORIZON)
        if horizon is None:
            return set()
        records = {
            index: delivery.record
            for index, delivery in enumerate(deliveries)
            if not isinstance(delivery.record, InvalidPayload)
        }
        invalid = {
            index: delivery.message.identity
            for index, delivery in enumerate(deliveries)
            if index not in records and delivery.message.published_at < horizon
        }
        behind = {index: record for index, record in records.items() if own_time(record) < horizon}
        if not behind and not invalid:
            return set()
        letters = {row["id"] for row in await connection.fetch(DEAD_LETTERS.present, list(invalid.values()))}
        ids = [_decision_id(record) for record in behind.values()]
        known = {row["id"] for row in await connection.fetch(DECISIONS.present, ids)}
        known |= {
            record.id
            for index, record in records.items()
            if isinstance(record, Decision) and index not in behind
        }
        events = [record.event_id for record in behind.values() if not isinstance(record, Decision)]
        ledger = {row["event_id"] for row in await connection.fetch(OUTCOMES.present, ids, events)}
    return {index for index, identity in invalid.items() if identity not in letters} | {
        index
        for index, record in behind.items()
        if _decision_id(record) not in known
        and (isinstance(record, Decision) or record.event_id not in ledger)
    }


def _decision_id(record: Decision | Outcome) -> UUID:
    return record.id if isinstance(record, Decision) else record.decision_id
