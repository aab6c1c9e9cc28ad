"""Dead letters for operators: look at them, put them through decode and store again, throw them away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson
from msgspec import Struct

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, Delivery, Message, decode
from tracker_daemon.postgres import Connection, register_types, translated
from tracker_daemon.store.projection import project
from tracker_daemon.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from asyncpg import Record

REPLAY_ROWS: Final = 500
REPLAY_BYTES: Final = 8 * 1024 * 1024


class Filter(Struct, frozen=True):
    """Which dead letters are meant; what is None does not matter."""

    ids: Sequence[UUID] | None = None
    reason: str | None = None
    subject: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    replayed: bool | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The SQL condition, and its parameters from $1 on."""
        wanted = {
            "id = ANY({}::uuid[])": self.ids,
            "reason = {}": self.reason,
            "subject = {}": self.subject,
            "received_at >= {}": self.since,
            "received_at < {}": self.before,
            "(replayed_at IS NOT NULL) = {}": self.replayed,
        }
        given = [(condition, value) for condition, value in wanted.items() if value is not None]
        conditions = [condition.format(f"${number}") for number, (condition, _) in enumerate(given, 1)]
        return " AND ".join(conditions) or "true", [value for _, value in given]


class Replayed(Struct, frozen=True):
    """What became of one replayed letter: stored, duplicate or expired, or else the reason why it stays."""

    id: UUID
    result: str
    refusal: InvalidPayload | None = None


async def list_letters(connection: Connection, wanted: Filter, limit: int) -> list[Record]:
    """Return the newest letters without their payloads."""
    where, values = wanted.where()
    with translated():
        return await connection.fetch(
            "SELECT id, received_at, subject, stream_sequence, reason, field, detail, "
            f"octet_length(payload) AS bytes, replayed_at FROM llm_dead_letters WHERE {where} "
            f"ORDER BY received_at DESC, id DESC LIMIT {limit:d}",
            *values,
        )


async def read_letter(connection: Connection, letter_id: UUID) -> Record | None:
    """Return one letter with all its columns."""
    with translated():
        return await connection.fetchrow("SELECT * FROM llm_dead_letters WHERE id = $1", letter_id)


async def purge(connection: Connection, wanted: Filter) -> int:
    """Delete the letters and return how many they were."""
    where, values = wanted.where()
    with translated():
        status = await connection.execute(f"DELETE FROM llm_dead_letters WHERE {where}", *values)
    return int(status.split()[-1])


async def replay(connection: Connection, wanted: Filter, contract: Contract) -> AsyncIterator[Replayed]:
    """Put letters through decode and store again and mark those that are stored now; idempotent.

    Row and mark are committed together, in batches of bounded size.
    """
    where, values = wanted.where()
    with translated():
        await register_types(connection)
        sizes = await connection.fetch(
            f"SELECT id, octet_length(payload) FROM llm_dead_letters WHERE {where} ORDER BY received_at, id",
            *values,
        )
    for ids in _batches(sizes):
        with translated():
            results = await _replay(connection, ids, contract)
        for result in results:
            yield result


def _batches(sizes: Iterable[Record]) -> list[list[UUID]]:
    batches: list[list[UUID]] = [[]]
    total = 0
    for id_, size in sizes:
        if batches[-1] and (len(batches[-1]) == REPLAY_ROWS or total + size > REPLAY_BYTES):
            batches.append([])
            total = 0
        batches[-1].append(id_)
        total += size
    return batches


async def _replay(connection: Connection, ids: list[UUID], contract: Contract) -> list[Replayed]:
    async with connection.transaction():
        # After it has read shards side by side, Citus makes no session, which each node has a copy of.
        await connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
        letters = await connection.fetch(
            "SELECT * FROM llm_dead_letters WHERE id = ANY($1::uuid[]) ORDER BY received_at, id", ids
        )
        deliveries = [_delivery(letter, contract) for letter in letters]
        written = await Transaction(connection, deliveries).commit()
        # Before the mark, for a crash right after it; once more below, for rows that raced with these.
        unshown = {
            index: InvalidPayload("rejected_by_database", "outcome", f"cannot be shown: {why}")
            for index, why in (await project(connection, deliveries)).items()
        }
        replayed = [
            Replayed(letter["id"], "refused" if refusal else result, refusal)
            for index, (letter, result) in enumerate(zip(letters, written.results, strict=True))
            for refusal in [written.refused.get(index) or unshown.get(index)]
        ]
        done = [letter.id for letter in replayed if not letter.refusal]
        await connection.execute(
            "UPDATE llm_dead_letters SET replayed_at = now() "
            "WHERE id = ANY($1::uuid[]) AND replayed_at IS NULL",
            done,
        )
    await project(connection, deliveries)
    return replayed


def _delivery(letter: Record, contract: Contract) -> Delivery:
    message = Message(
        letter["subject"],
        letter["payload"],
        stream=letter["stream"],
        sequence=letter["stream_sequence"],
        published_ns=int(letter["published_at"].timestamp() * 1_000_000) * 1000,
        headers=orjson.loads(letter["headers"]) if letter["headers"] else None,
        known_identity=letter["id"],
    )
    try:
        return Delivery(message, decode(message, contract), None)
    except InvalidPayload as error:
        return Delivery(message, error.alone(), None)
