"""Outcome and P&L of a decision: a projection of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Decision
from tracker_daemon.postgres import Rejected, translated
from tracker_daemon.store.tables import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tracker_daemon.messages import Delivery
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)


async def project(connection: Connection, deliveries: Sequence[Delivery]) -> dict[int, str]:
    """Bring outcome and P&L of the decisions that a batch touches up to date with the ledger.

    Returns, by the index of a delivery, why the outcome of its decision cannot be shown: the ledger has it,
    and a rule that somebody has put on the table refuses its copy.
    """
    ids = {
        index: record.id if isinstance(record, Decision) else record.decision_id
        for index, record in enumerate(delivery.record for delivery in deliveries)
        if not isinstance(record, InvalidPayload)
    }
    refused: dict[UUID, str] = {}
    if not ids:
        return {}
    try:
        await _project(connection, list(ids.values()))
    except Rejected:
        for id_ in set(ids.values()):
            try:
                await _project(connection, [id_])
            except Rejected as error:
                refused[id_] = error.safely
                log.error("an outcome cannot be projected", decision_id=str(id_), reason=error.safely)
    return {index: refused[id_] for index, id_ in ids.items() if id_ in refused}


async def _project(connection: Connection, ids: list[UUID]) -> None:
    # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
    with translated():
        async with connection.transaction():
            await connection.execute(PROJECT, ids)
