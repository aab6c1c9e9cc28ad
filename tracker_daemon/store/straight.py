"""The short way of a batch: COPY into the tables themselves, where every row is new and good."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tracker_daemon.errors import Misconfigured
from tracker_daemon.messages import Decision, Outcome
from tracker_daemon.postgres import Rejected, copy, translated
from tracker_daemon.store.horizon import find_expired
from tracker_daemon.store.tables import (
    DECISIONS,
    ENQUEUE_EMBEDDINGS,
    ENQUEUE_INDEXES,
    ENQUEUE_PROMPTS,
    GUARDED,
    OUTCOMES,
    STUB_SESSIONS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import Struct

    from tracker_daemon.messages import Delivery
    from tracker_daemon.postgres import Connection
    from tracker_daemon.store.tables import Table


async def copy_straight(connection: Connection, deliveries: Sequence[Delivery]) -> Counter[str] | None:
    """Copy decisions and events into their tables and return the rows of each, by table.

    None, with nothing written: something is in the way. A row that is there already, that the database
    refuses or that has expired, a table without its key or with a trigger of its own: which it is, the other
    way finds out.
    """
    if await find_expired(connection, deliveries):
        return None
    decisions = [d.record for d in deliveries if isinstance(d.record, Decision)]
    events = [d.record for d in deliveries if isinstance(d.record, Outcome)]
    events += [decision.first_outcome for decision in decisions if decision.first_outcome is not None]
    rows: Counter[str] = Counter()
    try:
        async with connection.transaction():
            await make_sessions(connection, decisions)
            for table, records in ((DECISIONS, decisions), (OUTCOMES, events)):
                if records:
                    await _copy(connection, table, records)
                    rows[table.name] = len(records)
            await enqueue(connection, decisions)
    except (Rejected, Misconfigured):
        return None
    return rows


async def _copy(connection: Connection, table: Table, records: Sequence[Struct]) -> None:
    await _check_guard(connection, table)
    await copy(connection, table.name, table.columns, map(table.row, sorted(records, key=table.order)))
    # Once more: only now is the table locked against whoever would change that before the COMMIT.
    await _check_guard(connection, table)


async def _check_guard(connection: Connection, table: Table) -> None:
    with translated():
        if not await connection.fetchval(GUARDED, table.name, sorted(table.key)):
            raise Misconfigured(f"not the key alone decides which rows {table.name} takes")


async def make_sessions(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Make a stub of each session that is not known yet."""
    if sessions := {decision.session_id for decision in decisions} - {None}:
        try:
            with translated():
                await connection.execute(STUB_SESSIONS, list(sessions))
        except Rejected as error:
            # There is nothing in a stub but an id: what the table wants more is no message's fault.
            error.known = False
            raise


async def enqueue(connection: Connection, fresh: Sequence[Decision]) -> None:
    """Have new decisions entered into the indexes, and embedded, later and by somebody else."""
    embedded = [decision.id for decision in fresh if decision.prompt_embedding is not None]
    for statement, ids in (
        (ENQUEUE_INDEXES, [decision.id for decision in fresh]),
        (ENQUEUE_EMBEDDINGS, embedded),
        (ENQUEUE_PROMPTS, [decision.id for decision in fresh if decision.to_embed]),
    ):
        if ids:
            with translated():
                await connection.execute(statement, ids)
