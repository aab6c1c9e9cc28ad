"""One batch in one transaction: good rows, the isolation of poison, dead letters."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import structlog

from tracker_daemon.errors import InvalidPayload, Misconfigured
from tracker_daemon.messages import DeadLetter, Decision, Outcome, Result, dead_letter
from tracker_daemon.postgres import Rejected, copy
from tracker_daemon.store.horizon import find_expired
from tracker_daemon.store.isolation import Isolation
from tracker_daemon.store.straight import copy_straight, enqueue, make_sessions
from tracker_daemon.store.tables import (
    CONTENT_HASHES,
    DEAD_LETTERS,
    DECISIONS,
    OUTCOMES,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from msgspec import Struct

    from tracker_daemon.messages import Delivery
    from tracker_daemon.postgres import Connection
    from tracker_daemon.store.drift import Drift

log = structlog.get_logger(__name__)

IDLE_SECONDS: Final = 30
"""The server ends a transaction of which it has heard nothing for so long."""
# A constraint that an operator has deferred would fail the COMMIT, with the good rows. And a daemon that is
# frozen, or cut off without a word, must not keep its rows locked from whoever is given them next.
BEFORE_ROWS: Final = (
    "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL idle_in_transaction_session_timeout = '{idle_seconds}s'"
)

Verdict = Result | InvalidPayload


class _Unexplained(InvalidPayload):
    """The database refuses a row without blaming its data: no letter either, it stays with the stream."""


class Transaction:
    """One batch, committed whole: about every message a row, or a verdict why there is none."""

    def __init__(
        self,
        connection: Connection,
        deliveries: Sequence[Delivery],
        drift: Drift | None = None,
        *,
        straight: bool = False,
        blaming: bool = False,
    ) -> None:
        """Begin with nothing done.

        `drift` says when rejections are too many; without it they never are. `straight`: first copy into the
        tables themselves, which succeeds where every row is new and good. `blaming`: an 08P01 is the fault of
        the one row that the batch has, as the store has found out by then.
        """
        self._connection = connection
        self._deliveries = deliveries
        self._drift = drift
        self._straight = straight
        self._rejected: dict[UUID, Rejected] = {}
        self.results: list[Result] = []
        self.rows: Counter[str] = Counter()
        self._isolation = Isolation(connection, self.rows, blaming=blaming)
        self.letters: list[DeadLetter] = []
        self.refused: dict[int, InvalidPayload] = {}
        self.trouble: str | None = None
        self.fell_back = False

    async def commit(self) -> Transaction:
        """Write and commit; afterwards the attributes say what.

        `results`: one a delivery. `rows`: new ones by table. `letters`: new ones. `refused`: by the index of
        a delivery, why there is no good row about it. `trouble`: why a message was released.
        `fell_back`: something was in the way of the straight COPY, known also when this raises. Raises
        `Drifted`, with nothing written, when the database rejects too much.
        """
        async with self._connection.transaction():
            await self._connection.execute(BEFORE_ROWS.format(idle_seconds=IDLE_SECONDS))
            rows = await copy_straight(self._connection, self._deliveries) if self._straight else None
            self.fell_back = self._straight and rows is None
            if rows is not None:
                self.rows.update(rows)
                verdicts: list[Verdict] = [
                    delivery.record if isinstance(delivery.record, InvalidPayload) else "stored"
                    for delivery in self._deliveries
                ]
            else:
                verdicts = await self._isolation.insert(self._deliveries, self._insert, self._reject)
            self.refused = {
                index: verdict
                for index, verdict in enumerate(verdicts)
                if isinstance(verdict, InvalidPayload)
            }
            letters = {
                index: dead_letter(self._deliveries[index].message, why)
                for index, why in self.refused.items()
                if not isinstance(why, _Unexplained)
            }
            fates = dict(zip(letters, await self._insert_letters(list(letters.values())), strict=True))
        for index in self.refused:
            verdicts[index] = fates.get(index, "released")
            if verdicts[index] == "dead_letter":
                self.letters.append(letters[index])
        self.results = [verdict for verdict in verdicts if not isinstance(verdict, InvalidPayload)]
        self._report_rejections()
        return self

    def _report_rejections(self) -> None:
        """Tell drift and log what is committed; before the COMMIT it would be told at every attempt."""
        if self._drift is not None:
            fates: list[UUID | None] = [None] * sum(map(_is_row, self._deliveries))
            if self._rejected:
                identities = [delivery.message.identity for delivery in self._deliveries if _is_row(delivery)]
                fates = [identity if identity in self._rejected else None for identity in identities]
            self._drift.remember(self._deliveries[0].message.identity, fates)
        for index, why in self.refused.items():
            message = self._deliveries[index].message
            if isinstance(why, _Unexplained):
                reason = self._rejected[message.identity].safely
                log.error("refused, left to the stream", reason=reason, stream_sequence=message.sequence)
                self.trouble = (
                    f"PostgreSQL refuses a row for a reason that blames no message ({reason}): it stays in "
                    "the stream until it passes. Look at triggers, unique indexes and required columns of "
                    "that table, and into the server's log"
                )
            elif message.identity in self._rejected:
                reason = self._rejected[message.identity].safely
                log.warning("rejected by the database", reason=reason, stream_sequence=message.sequence)

    async def _insert(self, deliveries: Sequence[Delivery]) -> list[Verdict]:
        """Insert the decisions, then the events of the ledger; an invalid payload is its own verdict."""
        # Asked for each part anew: what is pruned meanwhile is found to have expired, not to be kept out.
        expired = await find_expired(self._connection, deliveries)
        verdicts: list[Verdict] = ["stored"] * len(deliveries)
        decisions: list[tuple[int, Decision]] = []
        events: list[tuple[int, Outcome]] = []
        for index, delivery in enumerate(deliveries):
            record = delivery.record
            if index in expired:
                verdicts[index] = "expired"
            elif isinstance(record, Decision):
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
                # Of a duplicate too: an adopted decision may not have had its outcome yet.
                if not isinstance(verdict, InvalidPayload) and decision.first_outcome is not None:
                    events.append((index, decision.first_outcome))
        for (index, _), fresh in zip(events, await self._insert_events(events), strict=True):
            if not fresh:
                verdicts[index] = "duplicate"
        return verdicts

    async def _insert_events(self, events: list[tuple[int, Outcome]]) -> list[bool]:
        """Return for each event whether it is new."""
        if not events:
            return []
        fresh = await self._copy(OUTCOMES, events)
        keys = [(event.decision_id, event.event_id) for _, event in events]
        await self._check_present(OUTCOMES, [key for key in keys if key not in fresh])
        new = []
        for key in keys:
            new.append(key in fresh)
            fresh.discard(key)
        return new

    async def _insert_decisions(self, decisions: list[tuple[int, Decision]]) -> list[Verdict]:
        first: dict[UUID, tuple[int, Decision]] = {}
        for index, decision in decisions:
            first.setdefault(decision.id, (index, decision))
        kept = [decision for _, decision in first.values()]
        await make_sessions(self._connection, kept)
        fresh = await self._copy(DECISIONS, list(first.values()))
        await enqueue(self._connection, [decision for decision in kept if (decision.id,) in fresh])
        # None: an adopted row, of which nobody knows the message.
        known: dict[UUID, bytes | None] = {id_: one.content_hash for id_, (_, one) in first.items()}
        if missing := [id_ for id_ in known if (id_,) not in fresh]:
            rows = await self._connection.fetch(CONTENT_HASHES, missing)
            if len(rows) < len(missing):
                raise _kept_out(DECISIONS)
            known.update((row["id"], row["content_hash"]) for row in rows)
        verdicts: list[Verdict] = []
        for _, decision in decisions:
            if (decision.id,) in fresh:
                fresh.remove((decision.id,))
                verdicts.append("stored")
            elif known[decision.id] in {decision.content_hash, None}:
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
            keys = [(letter.id,) for letter in part]
            await self._check_present(DEAD_LETTERS, [key for key in keys if key not in fresh])
            return ["dead_letter" if key in fresh else "duplicate" for key in keys]

        try:
            return await self._isolation.insert(letters, insert, self._release)
        except Misconfigured as error:
            if letters[0].stream is None:  # no stream that keeps the messages meanwhile
                raise
            self.trouble = f"dead letters cannot be stored: {error}"
            log.error("dead letters cannot be stored, their messages stay unacknowledged", reason=str(error))
            return ["released"] * len(letters)

    async def _copy(self, table: Table, rows: Sequence[tuple[int, Struct]]) -> set[tuple[Any, ...]]:
        """Copy the records and return the keys of those that are new; each row comes with its position."""
        await self._connection.execute(table.make_incoming)
        try:
            await copy(
                self._connection, table.incoming, table.columns, (table.row(record) for _, record in rows)
            )
        except Rejected as error:
            if error.position is not None:
                error.position = rows[error.position][0]
            raise
        keys = {tuple(row) for row in await self._connection.fetch(table.insert)}
        self.rows[table.name] += len(keys)
        return keys

    async def _check_present(self, table: Table, keys: Sequence[tuple[UUID, ...]]) -> None:
        """Raise `Rejected` if one of these rows, which are not new, is not there either."""
        if keys:
            rows = await self._connection.fetch(table.present, *map(list, zip(*keys, strict=True)))
            if not {tuple(row) for row in rows} >= set(keys):
                raise _kept_out(table)

    def _reject(self, delivery: Delivery, error: Rejected) -> Verdict:
        self._rejected[delivery.message.identity] = error.alone()
        overridden = False
        if self._drift is not None:
            numbers = {identity: self._numbers[identity] for identity in self._rejected}
            self._drift.check(self._deliveries[0].message.identity, numbers, error.safely)
            overridden = self._drift.overridden
        comes_again = delivery.message.stream is not None
        verdict = _Unexplained if comes_again and not error.known and not overridden else InvalidPayload
        return verdict("rejected_by_database", None, str(error))

    @cached_property
    def _numbers(self) -> dict[UUID, int]:
        """The place of each message among the decisions and outcomes of the batch."""
        rows = filter(_is_row, self._deliveries)
        return {delivery.message.identity: number for number, delivery in enumerate(rows)}

    def _release(self, letter: DeadLetter, error: Rejected) -> Result:
        self.trouble = f"a dead letter cannot be stored: {error.safely}"
        log.error(
            "a dead letter cannot be stored, its message stays unacknowledged",
            reason=error.safely,
            stream_sequence=letter.stream_sequence,
        )
        return "released"


def _kept_out(table: Table) -> Rejected:
    """What isolation finds the row by that a table takes without a word, and then does not have (no_data)."""
    why = "the row is not there: a trigger keeps it out, or somebody has just deleted it"
    return Rejected("02000", why, known=False, where=f" on {table.name}")


def _is_row(delivery: Delivery) -> bool:
    """Whether it goes to a table of decisions or outcomes, rather than to the dead letters at once."""
    return not isinstance(delivery.record, InvalidPayload)
