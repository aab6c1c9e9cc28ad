"""One batch in one transaction: good rows, the isolation of poison, dead letters; then the projection."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from tracker_daemon.errors import InvalidPayload, Misconfigured, Unavailable
from tracker_daemon.messages import DeadLetter, Decision, Outcome, Result, dead_letter
from tracker_daemon.postgres import Rejected, translated
from tracker_daemon.store.tables import (
    CONTENT_HASHES,
    DEAD_LETTERS,
    DECISIONS,
    OUTCOMES,
    PROJECT,
    STUB_SESSIONS,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from msgspec import Struct

    from tracker_daemon.messages import Delivery
    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

MAX_LINE_HINTS: Final = 8
"""Poison rows of a batch that are found by the line number in the server's error; then halving is cheaper."""

Verdict = Result | InvalidPayload
T = TypeVar("T")
V = TypeVar("V")


class Transaction:
    """One batch, committed whole: about every message a row, or a verdict why there is none."""

    def __init__(self, connection: Connection, deliveries: Sequence[Delivery]) -> None:
        """Begin with nothing done."""
        self._connection = connection
        self._deliveries = deliveries
        self.results: list[Result] = []
        self.rows: Counter[str] = Counter()
        self.letters: list[DeadLetter] = []
        self.refused: dict[int, InvalidPayload] = {}
        self.trouble: str | None = None

    async def commit(self) -> Transaction:
        """Write and commit; afterwards the attributes say what.

        `results`: one a delivery. `rows`: new ones by table. `letters`: new ones. `refused`: by the index of
        a delivery, why there is no good row about it. `trouble`: why dead letters could not be stored.
        """
        async with self._connection.transaction():
            verdicts = await self._isolated(self._deliveries, self._insert, _poison)
            self.refused = {
                index: verdict
                for index, verdict in enumerate(verdicts)
                if isinstance(verdict, InvalidPayload)
            }
            letters = [
                dead_letter(self._deliveries[index].message, why) for index, why in self.refused.items()
            ]
            fates = await self._insert_letters(letters)
        for index, letter, fate in zip(self.refused, letters, fates, strict=True):
            verdicts[index] = fate
            if fate == "dead_letter":
                self.letters.append(letter)
        self.results = [verdict for verdict in verdicts if not isinstance(verdict, InvalidPayload)]
        return self

    async def _insert(self, deliveries: Sequence[Delivery]) -> list[Verdict]:
        """Insert the decisions, then the events of the ledger; an invalid payload is its own verdict."""
        verdicts: list[Verdict] = ["stored"] * len(deliveries)
        decisions: list[tuple[int, Decision]] = []
        events: list[tuple[int, Outcome]] = []
        for index, delivery in enumerate(deliveries):
            record = delivery.record
            if isinstance(record, Decision):
                decisions.append((index, record))
            elif isinstance(record, Outcome):
                events.append((index, record))
            else:
                verdicts[index] = record
        if decisions:
            for (index, decision), verdict in zip(
                decisions, await self._insert_decisions(decisions), strict=True
            ):
                verdicts[index] = verdict
                if verdict == "stored" and decision.first_outcome is not None:
                    events.append((index, decision.first_outcome))
        if events:
            fresh = await self._copy(OUTCOMES, events)
            for index, event in events:
                key = (event.decision_id, event.event_id)
                if key not in fresh:
                    verdicts[index] = "duplicate"
                fresh.discard(key)
        return verdicts

    async def _insert_decisions(self, decisions: list[tuple[int, Decision]]) -> list[Verdict]:
        first: dict[UUID, tuple[int, Decision]] = {}
        for index, decision in decisions:
            first.setdefault(decision.id, (index, decision))
        sessions = {decision.session_id for _, decision in first.values()} - {None}
        if sessions:
            await self._connection.execute(STUB_SESSIONS, list(sessions))
        fresh = await self._copy(DECISIONS, list(first.values()))
        known = {id_: decision.content_hash for id_, (_, decision) in first.items()}
        if missing := [id_ for id_ in known if (id_,) not in fresh]:
            rows = await self._connection.fetch(CONTENT_HASHES, missing)
            if len(rows) < len(missing):
                raise Unavailable("a decision that was in the way of this batch has been deleted meanwhile")
            known.update((row["id"], row["content_hash"]) for row in rows)
        verdicts: list[Verdict] = []
        for _, decision in decisions:
            if (decision.id,) in fresh:
                fresh.remove((decision.id,))
                verdicts.append("stored")
            elif decision.content_hash == known[decision.id]:
                verdicts.append("duplicate")
            else:
                detail = f"another decision with the id {decision.id} is stored already"
                verdicts.append(InvalidPayload("id_conflict", "id", detail))
        return verdicts

    async def _insert_letters(self, letters: list[DeadLetter]) -> list[Result]:
        if not letters:
            return []

        async def insert(part: Sequence[DeadLetter]) -> list[Result]:
            fresh = await self._copy(DEAD_LETTERS, list(enumerate(part)))
            return ["dead_letter" if (letter.id,) in fresh else "duplicate" for letter in part]

        try:
            return await self._isolated(letters, insert, _released)
        except Misconfigured as error:
            self.trouble = f"dead letters cannot be stored: {error}"
            log.error("dead letters cannot be stored, their messages stay unacknowledged", reason=str(error))
            return ["released"] * len(letters)

    async def _copy(self, table: Table, rows: Sequence[tuple[int, Struct]]) -> set[tuple[Any, ...]]:
        """Copy the records and return the keys of those that are new; each row comes with its position."""
        await self._connection.execute(table.make_incoming)
        try:
            with translated():
                await self._connection.copy_records_to_table(
                    table.incoming,
                    records=map(table.row, (record for _, record in rows)),
                    columns=table.columns,
                )
        except Rejected as error:
            if error.position is not None:
                error.position = rows[error.position][0]
            raise
        keys = {tuple(row) for row in await self._connection.fetch(table.insert)}
        self.rows[table.name] += len(keys)
        return keys

    async def _isolated(
        self,
        items: Sequence[T],
        insert: Callable[[Sequence[T]], Awaitable[list[V]]],
        poison: Callable[[T, Rejected], V],
    ) -> list[V]:
        """Insert all items, each part that the database rejects without its poison; verdicts in order."""
        verdicts: list[V] = []
        hints = MAX_LINE_HINTS
        parts = deque([items])
        while parts:
            part = parts.popleft()
            rows = self.rows.copy()
            try:
                with translated():
                    async with self._connection.transaction():
                        verdicts += await insert(part)
            except Rejected as error:
                self.rows = rows
                if len(part) == 1:
                    verdicts.append(poison(part[0], error))
                    continue
                at = error.position if hints > 0 else None
                hints -= 1
                cuts = (len(part) // 2,) if at is None else (at, at + 1)
                bounds = (0, *cuts, len(part))
                split = [part[a:b] for a, b in pairwise(bounds) if a < b]
                parts.extendleft(reversed(split))
        return verdicts


def _poison(delivery: Delivery, error: Rejected) -> Verdict:
    if not error.known:
        raise Misconfigured(f"PostgreSQL refuses a row for a reason unknown to this version: {error.safely}")
    message = delivery.message
    log.warning("rejected by the database", sqlstate=error.sqlstate, stream_sequence=message.sequence)
    return InvalidPayload("rejected_by_database", None, str(error))


def _released(letter: DeadLetter, error: Rejected) -> Result:
    log.error(
        "a dead letter cannot be stored, its message stays unacknowledged",
        sqlstate=error.sqlstate,
        stream_sequence=letter.stream_sequence,
    )
    return "released"


async def project(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Bring outcome and P&L of the decisions that a batch touches up to date with the ledger."""
    ids = {
        record.id if isinstance(record, Decision) else record.decision_id
        for record in (delivery.record for delivery in deliveries)
        if not isinstance(record, InvalidPayload)
    }
    try:
        await _project(connection, list(ids))
    except Rejected:
        for id_ in ids:
            try:
                await _project(connection, [id_])
            except Rejected as error:
                # The ledger has the event; its copy is refused by a rule that somebody put on the table.
                log.error("an outcome cannot be projected", decision_id=str(id_), reason=error.safely)


async def _project(connection: Connection, ids: list[UUID]) -> None:
    # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
    with translated():
        async with connection.transaction():
            await connection.execute(PROJECT, ids)
