"""Compares the stream with the tables, sequence by sequence: the proof that nothing is lost."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from tracker_daemon.consumer import Standing, StreamReading, connect, disconnect, open_reading
from tracker_daemon.errors import InvalidPayload, SettingsError
from tracker_daemon.messages import Contract, Message, Record, decode
from tracker_daemon.migrate import check_schema
from tracker_daemon.postgres import Connection, connected
from tracker_daemon.store.reconcile import Found, Trace, look_up, trace, unprojected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracker_daemon.config import Settings

MAX_HOLES: Final = 1000
"""Holes that are named one by one; all are counted."""
MAX_SECOND_LOOKS: Final = 50_000
"""Messages, and decisions, that are remembered for a second look at the end: some 30 MB."""
SECOND_LOOK_ROWS: Final = 1000

Fate = Literal["row", "dead_letter", "expired", "in_flight", "waiting", "missing"]
"""What became of a message.

`expired`: delivered, and pruned since or too old to be stored, `in_flight`: delivered, in no table, and not
known to be acknowledged, `waiting`: not delivered yet, `missing`: acknowledged, and neither a row nor a dead
letter is there.
"""


class Place(Struct, frozen=True):
    """A message's place in the stream, and what it must have left in the tables."""

    sequence: int
    subject: str
    published_at: datetime
    trace: Trace


class Hole(Struct, frozen=True):
    """Something that the daemon has acknowledged and the tables do not show.

    `kind`: the message is `missing`, or the decision's outcome is `not_projected`.
    """

    sequence: int
    subject: str
    published_at: datetime
    decision_id: UUID | None
    kind: Literal["missing", "not_projected"]


class Verification(Struct):
    """What the comparison has found, up to the stream's last sequence at its start."""

    last_sequence: int
    floor: int
    """Up to this sequence all is acknowledged and was compared; 0 also where there is no durable consumer."""
    subjects: dict[str, Counter[Fate]]
    durable_exists: bool = True
    holes: list[Hole] = []
    """At most `MAX_HOLES`, in the order of the stream."""
    not_projected: int = 0
    """Decisions whose outcome differs from the ledger's latest event, all messages being acknowledged.

    After `MAX_SECOND_LOOKS` others, a decision counts once for each batch with a message about it.
    """
    projecting: int = 0
    """Decisions whose outcome differs, while a message about them may be unacknowledged."""
    acknowledged_in_flight: int = 0
    """At least so many of the messages in flight are acknowledged after all: it cannot be told which."""
    gone: int | None = None
    """Sequences that the stream no longer holds; None: that cannot be known."""

    @property
    def expired(self) -> int:
        """Messages that were pruned, or that came too late to be stored."""
        return sum(fates["expired"] for fates in self.subjects.values())

    @property
    def in_flight(self) -> int:
        """Messages above the floor that were delivered and are in no table, acknowledged or not."""
        return sum(fates["in_flight"] for fates in self.subjects.values())

    @property
    def missing(self) -> int:
        """Messages that are acknowledged and have neither a row nor a dead letter."""
        return sum(fates["missing"] for fates in self.subjects.values()) + self.acknowledged_in_flight

    @property
    def unnamed(self) -> int:
        """Holes beyond the bound of those that are named, apart from those that cannot be named."""
        return self.missing - self.acknowledged_in_flight + self.not_projected - len(self.holes)

    @property
    def ok(self) -> bool:
        """Whether no hole was found."""
        return not self.missing and not self.not_projected


async def verify(settings: Settings, contract: Contract, since: datetime | None = None) -> Verification:
    """Compare every message of the stream, or those stored since a time, with the tables.

    Raise `Unavailable` when NATS or PostgreSQL is away; nothing is changed on either side.
    """
    if settings.nats.mode == "core":
        raise SettingsError(["TRACKER_NATS_MODE: must be jetstream, core NATS has no stream to compare with"])
    dsn, cache = settings.postgres.dsn.get_secret_value(), settings.postgres.statement_cache
    await check_schema(dsn, settings.embedding.dimensions)
    # A payload that was small enough once is recognised also under a bound that has been lowered since.
    contract = msgspec.structs.replace(contract, max_payload_bytes=sys.maxsize)
    client = await connect(settings.nats, lambda _: None, patient=False)
    try:
        async with (
            connected(dsn, statement_cache=cache) as connection,
            open_reading(client, settings.nats, since) as stream,
        ):
            comparison = _Comparison(stream, connection, contract)
            return await comparison.run(whole=since is None)
    finally:
        await disconnect(client)


class _Behind(Struct, frozen=True):
    """A decision that shows another outcome than the ledger's latest event, and a message about it.

    Once the floor has reached `decided_by`, the message that brought the decision itself is acknowledged.
    """

    place: Place
    decided_by: int


class _Comparison:
    """One run: the stream batch by batch, then a second look at whatever was under way."""

    def __init__(self, stream: StreamReading, connection: Connection, contract: Contract) -> None:
        self._stream = stream
        self._connection = connection
        self._contract = contract
        self._in_flight: list[Place] = []
        # Up to here every message in flight gets its second look.
        self._judged = stream.last
        self._unprojected: dict[UUID, _Behind] = {}
        subjects = (contract.decisions_subject, contract.outcomes_subject)
        self._seen = Verification(stream.last, 0, {subject: Counter() for subject in subjects})

    async def run(self, *, whole: bool) -> Verification:
        async for messages in self._stream.batches():
            await self._compare([self._place(message) for message in messages])
        await self._look_again()
        if whole and self._stream.alone:
            read = sum(fates.total() for fates in self._seen.subjects.values())
            self._seen.gone = self._stream.last - self._stream.first + 1 - read
        self._seen.holes = sorted(self._seen.holes, key=lambda hole: hole.sequence)
        return self._seen

    def _place(self, message: Message) -> Place:
        record: Record
        try:
            record = decode(message, self._contract)
        except InvalidPayload as error:
            record = error
        sequence = message.sequence or 0  # a message of a stream always has one
        return Place(sequence, message.subject, message.published_at, trace(message, record))

    async def _compare(self, places: Sequence[Place]) -> None:
        # Asked before the tables: what is acknowledged by now was committed, so it is there to be found.
        standing = await self._stream.standing()
        found = await look_up(self._connection, [place.trace for place in places])
        stored: list[Place] = []
        for place, where in zip(places, found, strict=True):
            fate = _fate(place, where, standing)
            if fate == "in_flight" and len(self._in_flight) < MAX_SECOND_LOOKS:
                self._in_flight.append(place)
            elif fate == "in_flight":
                self._judged = min(self._judged, place.sequence - 1)
            self._count(place, fate)
            if where == "row":
                stored.append(place)
        await self._compare_outcomes(stored, standing)

    async def _compare_outcomes(self, stored: Sequence[Place], standing: Standing | None) -> None:
        behind = await self._behind(stored)
        delivered = 0
        if any(not place.trace.decision for _, place, _ in behind):
            # Asked after the tables: a decision that is there was delivered by now, wherever its message is.
            now = await self._stream.standing()
            delivered = now.delivered if now else 0
        # The projection follows the commit: whoever is behind is looked at again.
        for id_, place, event in behind:
            decision = _Behind(place, place.sequence if place.trace.decision else delivered)
            if id_ in self._unprojected or len(self._unprojected) < MAX_SECOND_LOOKS:
                self._unprojected.setdefault(id_, decision)
            else:
                self._judge_projection(decision, event, standing)

    async def _look_again(self) -> None:
        standing = await self._stream.standing()
        self._seen.durable_exists = standing is not None
        self._seen.floor = min(self._judged, standing.floor) if standing else 0
        strays = 0
        for places in _chunks(self._in_flight):
            found = await look_up(self._connection, [place.trace for place in places])
            for place, where in zip(places, found, strict=True):
                self._seen.subjects[place.subject]["in_flight"] -= 1
                fate = _fate(place, where, standing)
                strays += fate == "in_flight" and where == "stray"
                self._count(place, fate)
        # Unless too many are in flight to have been looked at in one go.
        if standing and len(self._in_flight) < MAX_SECOND_LOOKS:
            # At least: among the unacknowledged may be some that have their row. And strays may be expired.
            unsettled = self._seen.in_flight - strays
            self._seen.acknowledged_in_flight = max(0, unsettled - standing.unacknowledged)
        for places in _chunks([decision.place for decision in self._unprojected.values()]):
            for id_, _, event in await self._behind(places):
                self._judge_projection(self._unprojected[id_], event, standing)

    async def _behind(self, places: Sequence[Place]) -> list[tuple[UUID, Place, int | None]]:
        """Decisions that are not projected right, with the sequence of the event that they should show.

        Each with its first message, or where that was not read, with the first of its outcomes.
        """
        first: dict[UUID, Place] = {}
        for place in sorted(places, key=lambda place: place.trace.decision is None):
            if place.trace.decision_id:
                first.setdefault(place.trace.decision_id, place)
        behind = await unprojected(self._connection, list(first))
        return [(id_, first[id_], event) for id_, event in behind.items()]

    def _judge_projection(self, decision: _Behind, event: int | None, standing: Standing | None) -> None:
        # Messages are acknowledged after the projection, so once both are it has taken place.
        if standing is None or max(decision.decided_by, event or 0) <= standing.floor:
            self._seen.not_projected += 1
            self._name(decision.place, "not_projected")
        else:
            self._seen.projecting += 1

    def _count(self, place: Place, fate: Fate) -> None:
        self._seen.subjects[place.subject][fate] += 1
        if fate == "missing":
            self._name(place, "missing")

    def _name(self, place: Place, kind: Literal["missing", "not_projected"]) -> None:
        if len(self._seen.holes) < MAX_HOLES:
            hole = Hole(place.sequence, place.subject, place.published_at, place.trace.decision_id, kind)
            self._seen.holes.append(hole)


def _fate(place: Place, found: Found, standing: Standing | None) -> Fate:
    """What became of a message, `standing` being older than what was `found`."""
    if found in {"row", "dead_letter"}:
        return found
    if standing is None or place.sequence > standing.delivered:
        return "waiting"
    if found == "expired":
        return "expired"
    if place.sequence > standing.floor:
        return "in_flight"
    return "expired" if found == "stray" else "missing"


def _chunks(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    return (places[start : start + SECOND_LOOK_ROWS] for start in range(0, len(places), SECOND_LOOK_ROWS))
