"""The comparison of a real stream with real tables: what it calls a hole, and what it does not."""

from __future__ import annotations

import contextlib
import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from tests.conftest import DIMENSIONS
from tests.factory import days_ago, decision, outcome
from tests.inbox import MIB
from tests.servers import Away
from tracker_daemon import verify as verifying
from tracker_daemon.config import Settings, load
from tracker_daemon.consumer import Standing, StreamReading, open_reading, reading
from tracker_daemon.consumer.position import parse_reply
from tracker_daemon.contract import contract_of
from tracker_daemon.errors import InvalidPayload, Misconfigured, SettingsError, Unavailable
from tracker_daemon.messages import Delivery, Message, decode
from tracker_daemon.store import Store
from tracker_daemon.verify import Hole, Verification, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from tracker_daemon.embedded import NatsServer
    from tracker_daemon.messages import Result


class Site:
    """A stream and a database, and a hand that does a daemon's work step by step."""

    def __init__(self, settings: Settings, js: JetStreamContext, store: Store) -> None:
        self.settings = settings
        self.nats = settings.nats
        self.js = js
        self._store = store
        self._contract = contract_of(settings)

    async def make_stream(self, **config: Any) -> None:
        subjects = [self.nats.decisions_subject, self.nats.outcomes_subject]
        given = {"name": self.nats.stream, "subjects": subjects, "max_bytes": 16 * MIB} | config
        await self.js.add_stream(StreamConfig(**given))

    async def make_consumer(self) -> None:
        config = ConsumerConfig(durable_name=self.nats.durable, ack_policy=AckPolicy.EXPLICIT)
        await self.js.add_consumer(self.nats.stream, config)

    async def publish(self, *payloads: dict[str, Any] | bytes) -> list[int]:
        """Publish and return the sequences; outcomes are told from decisions by their fields."""
        sequences = []
        for payload in payloads:
            is_outcome = isinstance(payload, dict) and "prompt" not in payload
            subject = self.nats.outcomes_subject if is_outcome else self.nats.decisions_subject
            body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
            sequences.append((await self.js.publish(subject, body)).seq)
        return sequences

    async def take(self, count: int) -> list[Msg]:
        """Have so many messages delivered."""
        pull = await self.js.pull_subscribe_bind(self.nats.durable, self.nats.stream)
        messages: list[Msg] = []
        while len(messages) < count:
            messages += await pull.fetch(count - len(messages), timeout=10)
        await pull.unsubscribe()
        return messages

    async def write(self, messages: list[Msg]) -> list[Result]:
        """Commit messages and return what each became."""
        return await self._store.write([self._delivery(message) for message in messages])

    async def consume(self, count: int) -> list[Result]:
        """Take, commit and acknowledge so many messages."""
        messages = await self.take(count)
        results = await self.write(messages)
        await ack(messages)
        return results

    async def verify(self, since: datetime | None = None) -> Verification:
        return await verify(self.settings, self._contract, since)

    def fates(self, seen: Verification) -> tuple[dict[str, int], dict[str, int]]:
        """What became of decisions and of outcomes, without zeros."""
        decisions, outcomes = (
            {str(fate): count for fate, count in seen.subjects[subject].items() if count}
            for subject in (self.nats.decisions_subject, self.nats.outcomes_subject)
        )
        return decisions, outcomes

    def _delivery(self, msg: Msg) -> Delivery:
        position = parse_reply(msg.reply)
        message = Message(
            msg.subject,
            msg.data,
            stream=position.stream,
            sequence=position.stream_sequence,
            published_ns=position.published_ns,
        )
        try:
            return Delivery(message, decode(message, self._contract), None)
        except InvalidPayload as error:
            return Delivery(message, error, None)


async def ack(messages: list[Msg]) -> None:
    for message in messages:
        await message.ack_sync()


def settings_for(server: NatsServer, dsn: str) -> Settings:
    name = uuid4().hex
    given = {
        "nats.servers": server.url,
        "nats.stream": f"S{name}",
        "nats.durable": f"D{name}",
        "nats.decisions_subject": f"{name}.decisions",
        "nats.outcomes_subject": f"{name}.outcomes",
        "postgres.dsn": dsn,
        "embedding.dimensions": str(DIMENSIONS),
    }
    return load(overrides=given, environ={})


@pytest.fixture
async def bare(nats_server: NatsServer, dsn: str) -> AsyncIterator[Site]:
    """Yield a site whose stream is not there yet."""
    settings = settings_for(nats_server, dsn)
    client = await nats.connect(nats_server.url)
    store = Store(dsn)
    site = Site(settings, client.jetstream(), store)
    yield site
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await site.js.delete_stream(settings.nats.stream)
    await store.close()
    await client.close()


@pytest.fixture
async def site(bare: Site) -> Site:
    """Return a site with stream and durable consumer."""
    await bare.make_stream()
    await bare.make_consumer()
    return bare


def named(seen: Verification) -> list[tuple[int, str]]:
    return [(hole.sequence, hole.kind) for hole in seen.holes]


# What is no hole.


async def test_an_empty_stream_has_no_hole(site: Site) -> None:
    seen = await site.verify()
    assert (seen.ok, seen.last_sequence, seen.gone, site.fates(seen)) == (True, 0, 0, ({}, {}))


async def test_every_kind_of_message_is_found_where_the_store_put_it(site: Site) -> None:
    """With ids and without, twice, with an outcome, in conflict, undecodable; outcomes before decisions."""
    early, late, twice = uuid4(), uuid4(), str(uuid4())
    await site.publish(
        outcome(early, "FAILURE", pnl="-1.5"),
        decision(id=str(early)),
        decision(id=str(late), outcome="PENDING"),
        outcome(late, "SUCCESS", pnl=2),
        outcome(late, "SUCCESS", pnl=2),
        outcome(uuid4()),
        decision(),
        decision(id=twice, pnl="1.25", prompt_embedding=[1, 2, 3]),
        decision(id=twice, pnl="1.25", prompt_embedding=[1, 2, 3]),
        decision(id=twice, pnl="9"),
        b"not json",
        outcome(late, "MAYBE"),
        outcome("no-uuid"),
    )
    assert (await site.consume(13)).count("dead_letter") == 4
    seen = await site.verify()
    assert seen.ok
    assert site.fates(seen) == ({"row": 5, "dead_letter": 2}, {"row": 4, "dead_letter": 2})
    assert (seen.holes, seen.projecting, seen.gone, seen.durable_exists) == ([], 0, 0, True)


async def test_nothing_is_left_behind_and_nothing_taken(site: Site) -> None:
    """The durable consumer stands where it stood, and is the only one, whatever became of the run."""
    await site.publish(*[decision()] * 3)
    before = await site.js.consumer_info(site.nats.stream, site.nats.durable)
    await site.verify()
    [after] = await site.js.consumers_info(site.nats.stream)
    assert (after.delivered, after.ack_floor, after.num_pending) == (
        before.delivered,
        before.ack_floor,
        before.num_pending,
    )


async def test_what_was_not_delivered_waits_and_what_was_not_acknowledged_is_in_flight(site: Site) -> None:
    await site.publish(*[decision()] * 2, *[outcome(uuid4())] * 3)
    await site.consume(1)
    held = await site.take(2)
    seen = await site.verify()
    assert seen.ok
    assert site.fates(seen) == ({"row": 1, "in_flight": 1}, {"in_flight": 1, "waiting": 2})
    await site.write(held)  # committed, not acknowledged
    assert site.fates(await site.verify()) == ({"row": 2}, {"row": 1, "waiting": 2})


async def test_without_a_durable_consumer_everything_waits(bare: Site) -> None:
    await bare.make_stream()
    await bare.publish(decision(), outcome(uuid4()))
    seen = await bare.verify()
    assert (seen.ok, seen.durable_exists) == (True, False)
    assert bare.fates(seen) == ({"waiting": 1}, {"waiting": 1})


async def test_a_new_durable_consumer_finds_the_rows_of_the_old_one(site: Site) -> None:
    id_ = uuid4()
    await site.publish(decision(id=str(id_)), outcome(id_))
    await site.consume(2)
    await site.js.delete_consumer(site.nats.stream, site.nats.durable)
    await site.make_consumer()
    assert site.fates(await site.verify()) == ({"row": 1}, {"row": 1})


async def test_a_replayed_letter_counts_as_the_row_that_it_became(
    site: Site, sql: asyncpg.Connection
) -> None:
    [sequence] = await site.publish(decision())
    messages = await site.take(1)
    await site.write(messages)
    await ack(messages)
    await sql.execute(
        "INSERT INTO llm_dead_letters (id, subject, stream_sequence, published_at, reason, detail, payload) "
        "SELECT id, 'x', $1, now(), 'too_large', '', '' FROM llm_decisions",
        sequence,
    )
    assert site.fates(await site.verify()) == ({"row": 1}, {})


async def test_a_bound_that_was_lowered_since_makes_no_hole(site: Site) -> None:
    await site.publish(decision(id=str(uuid4())))
    await site.consume(1)
    lower = site.settings.model_copy(update={"nats": site.nats.model_copy(update={"max_payload_bytes": 10})})
    seen = await verify(lower, contract_of(lower))
    assert site.fates(seen) == ({"row": 1}, {})


async def test_more_messages_than_one_read_are_all_compared(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rows and by bytes."""
    await site.publish(*(decision(prompt="x" * 300_000) for _ in range(8)), *(decision() for _ in range(25)))
    results = await site.consume(33)
    assert results == ["stored"] * 33
    monkeypatch.setattr(reading, "READ_ROWS", 10)
    monkeypatch.setattr(reading, "READ_BYTES", 1)
    client = await nats.connect(site.nats.servers[0])
    async with open_reading(client, site.nats) as stream:
        sizes = [
            (len(batch), sum(len(message.payload) for message in batch)) async for batch in stream.batches()
        ]
    await client.close()
    assert sum(rows for rows, _ in sizes) == 33
    assert len(sizes) > 4
    assert max(rows for rows, _ in sizes) == 10
    assert max(size for _, size in sizes) <= client.max_payload + (64 << 10)
    assert site.fates(await site.verify()) == ({"row": 33}, {})


async def test_what_is_published_during_the_run_is_left_to_the_next_one(site: Site) -> None:
    await site.publish(decision(), decision())
    client = await nats.connect(site.nats.servers[0])
    async with open_reading(client, site.nats) as stream:
        await site.publish(decision())
        read = [message.sequence async for batch in stream.batches() for message in batch]
    await client.close()
    assert read == [1, 2]


async def test_the_reader_of_a_stream_of_its_own_asks_for_no_filter(site: Site) -> None:
    """Two filters make nats-server 2.10 read a whole block of old messages for each one of them."""
    client = await nats.connect(site.nats.servers[0])
    async with open_reading(client, site.nats):
        consumers = await site.js.consumers_info(site.nats.stream)
    await client.close()
    [reader] = [each for each in consumers if each.name != site.nats.durable]
    assert reader.config.filter_subjects is None


async def prune(sql: asyncpg.Connection) -> None:
    """Delete decisions of more than 30 days, with their outcomes, behind a horizon."""
    await sql.execute("UPDATE tracker_retention SET horizon = now() - interval '30 days'")
    await sql.execute(
        "WITH gone AS (DELETE FROM llm_decisions WHERE created_at < now() - interval '30 days' RETURNING id) "
        "DELETE FROM llm_outcomes WHERE decision_id IN (SELECT id FROM gone)"
    )


async def test_what_was_pruned_or_came_too_late_has_expired(site: Site, sql: asyncpg.Connection) -> None:
    """Outcomes too that are younger than the horizon, as far as their decision is in no table either."""
    old, young = uuid4(), uuid4()
    await site.publish(decision(id=str(old), timestamp=days_ago(31)), outcome(old), decision(id=str(young)))
    await site.consume(3)
    await prune(sql)
    await site.publish(decision(timestamp=days_ago(40)), outcome(young))
    assert await site.consume(2) == ["expired", "stored"]
    seen = await site.verify()
    assert (seen.ok, seen.expired, seen.holes) == (True, 3, [])
    assert site.fates(seen) == ({"row": 1, "expired": 2}, {"row": 1, "expired": 1})
    await sql.execute("DELETE FROM llm_outcomes WHERE decision_id = $1", young)
    assert (5, "missing") in named(await site.verify())


async def test_above_the_floor_what_has_expired_is_neither_in_flight_nor_missing(
    site: Site, sql: asyncpg.Connection
) -> None:
    """An outcome may be either, as long as its decision is in no table: it does not count as a hole."""
    old = uuid4()
    await site.publish(decision(), decision(id=str(old), timestamp=days_ago(31)), outcome(old))
    messages = await site.take(3)
    await site.write(messages[1:])
    await ack(messages[1:])
    await prune(sql)
    seen = await site.verify()
    assert site.fates(seen) == ({"in_flight": 1, "expired": 1}, {"in_flight": 1})
    assert (seen.ok, seen.acknowledged_in_flight) == (True, 0)


# A daemon at work meanwhile.

MOMENTS = [(when, asked) for asked in (1, 2) for when in ("before", "after")]
"""Around the two times at which a run of one batch asks where the durable consumer is."""


def at(moment: tuple[str, int], work: Callable[[], Awaitable[object]], patch: pytest.MonkeyPatch) -> None:
    """Have work done at a moment of the next run."""
    standing, asked = StreamReading.standing, itertools.count(1)

    async def working(stream: StreamReading) -> Standing | None:
        now = next(asked)
        if moment == ("before", now):
            await work()
        answer = await standing(stream)
        if moment == ("after", now):
            await work()
        return answer

    patch.setattr(StreamReading, "standing", working)


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
async def test_what_is_committed_and_acknowledged_meanwhile_has_its_row(
    site: Site, monkeypatch: pytest.MonkeyPatch, moment: tuple[str, int]
) -> None:
    id_ = uuid4()
    await site.publish(outcome(id_), decision(id=str(id_)), decision(outcome="SUCCESS"), b"not json")
    held = await site.take(4)

    async def work() -> None:
        await site.write(held)
        await ack(held)

    at(moment, work, monkeypatch)
    seen = await site.verify()
    assert (seen.ok, seen.projecting) == (True, 0)
    assert site.fates(seen) == ({"row": 2, "dead_letter": 1}, {"row": 1})


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
async def test_what_is_projected_and_acknowledged_meanwhile_is_right(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, moment: tuple[str, int]
) -> None:
    """The rows are committed, the projection is not: a daemon is between the two."""
    id_ = uuid4()
    await site.publish(decision(id=str(id_)), outcome(id_))
    held = await site.take(2)
    await site.write(held)
    await sql.execute("UPDATE llm_decisions SET outcome = NULL, outcome_at = NULL, outcome_sequence = NULL")

    async def work() -> None:
        await site.write(held)
        await ack(held)

    at(moment, work, monkeypatch)
    seen = await site.verify()
    assert (seen.ok, seen.projecting) == (True, 0)


async def test_more_than_can_be_remembered_is_judged_at_the_first_look(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "MAX_SECOND_LOOKS", 2)
    monkeypatch.setattr(verifying, "SECOND_LOOK_ROWS", 1)
    await site.publish(*(decision(outcome="SUCCESS") for _ in range(4)), *(decision() for _ in range(5)))
    await site.consume(4)
    held = await site.take(4)
    await sql.execute("UPDATE llm_decisions SET pnl = 1")
    seen = await site.verify()
    assert (seen.not_projected, seen.projecting, seen.acknowledged_in_flight) == (4, 0, 0)
    assert named(seen) == [(sequence, "not_projected") for sequence in (1, 2, 3, 4)]
    assert site.fates(seen) == ({"row": 4, "in_flight": len(held), "waiting": 1}, {})


async def test_what_could_not_be_remembered_is_never_taken_for_a_hole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four are committed and acknowledged before the second look, which only two of them get."""
    monkeypatch.setattr(verifying, "MAX_SECOND_LOOKS", 2)
    await site.publish(*(decision() for _ in range(4)))
    held = await site.take(4)

    async def work() -> None:
        await site.write(held)
        await ack(held)

    at(("before", 2), work, monkeypatch)
    seen = await site.verify()
    assert (seen.ok, site.fates(seen)) == (True, ({"row": 2, "in_flight": 2}, {}))
    assert seen.floor == 2, "what had no second look is above it, acknowledged as it is"


# Holes.


async def test_a_decision_that_was_deleted_is_a_hole_by_its_sequence(
    site: Site, sql: asyncpg.Connection
) -> None:
    ids = [uuid4() for _ in range(3)]
    await site.publish(*(decision(id=str(id_)) for id_ in ids), outcome(ids[1]))
    await site.consume(4)
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", ids[1])
    seen = await site.verify()
    assert not seen.ok
    assert site.fates(seen) == ({"row": 2, "missing": 1}, {"row": 1})
    [hole] = seen.holes
    assert (hole.sequence, hole.subject, hole.decision_id, hole.kind) == (
        2,
        site.nats.decisions_subject,
        ids[1],
        "missing",
    )
    stored_at = (await site.js.get_msg(site.nats.stream, 2)).time
    assert abs((hole.published_at - stored_at).total_seconds()) < 0.001


async def test_an_event_that_was_deleted_is_a_hole(site: Site, sql: asyncpg.Connection) -> None:
    """An outcome's own, and the one that came with its decision."""
    one, other = uuid4(), uuid4()
    await site.publish(outcome(one), outcome(one, "FAILURE"), decision(id=str(other), outcome="SUCCESS"))
    await site.consume(3)
    await sql.execute("DELETE FROM llm_outcomes WHERE outcome = 'SUCCESS'")
    seen = await site.verify()
    assert named(seen) == [(1, "missing"), (3, "missing")]
    assert [hole.decision_id for hole in seen.holes] == [one, other]


async def test_a_letter_that_was_purged_is_a_hole(site: Site, sql: asyncpg.Connection) -> None:
    await site.publish(decision(), b"not json", b"[]")
    await site.consume(3)
    await sql.execute("DELETE FROM llm_dead_letters WHERE reason = 'invalid_json'")
    seen = await site.verify()
    assert (named(seen), seen.missing) == ([(2, "missing")], 1)
    assert seen.holes[0].decision_id is None


async def test_another_decision_under_the_id_is_no_row_of_this_one(
    site: Site, sql: asyncpg.Connection
) -> None:
    """The letter of an id conflict was purged: the row with that id is the other message's."""
    id_ = str(uuid4())
    await site.publish(decision(id=id_), decision(id=id_, symbol="ETH"))
    assert await site.consume(2) == ["stored", "dead_letter"]
    await sql.execute("DELETE FROM llm_dead_letters")
    assert named(await site.verify()) == [(2, "missing")]


async def test_holes_above_a_message_that_stays_unacknowledged_are_counted(site: Site) -> None:
    """The stream tells how many acknowledgements are out, not of which messages."""
    await site.publish(*[decision()] * 4)
    messages = await site.take(4)
    await ack(messages[1:])  # without rows
    seen = await site.verify()
    assert site.fates(seen) == ({"in_flight": 4}, {})
    assert (seen.ok, seen.acknowledged_in_flight, seen.missing) == (False, 3, 3)
    assert (seen.holes, seen.unnamed) == ([], 0)


async def test_above_the_floor_it_is_not_told_what_is_a_hole(site: Site) -> None:
    """Two that have their rows and are not acknowledged stand for two that are, without rows."""
    await site.publish(*[decision()] * 6)
    await site.consume(1)
    _, *committed, hole, other = await site.take(5)
    await site.write(committed)
    await ack([hole, other])
    seen = await site.verify()
    assert site.fates(seen) == ({"row": 3, "in_flight": 3}, {})
    assert (seen.floor, seen.in_flight, seen.acknowledged_in_flight, seen.holes) == (1, 3, 0, [])
    await ack(committed)
    seen = await site.verify()
    assert (seen.ok, seen.floor, seen.in_flight, seen.acknowledged_in_flight) == (False, 1, 3, 2)


async def test_the_floor_ends_with_what_was_compared(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published and acknowledged during the run is no part of what the run has seen."""
    await site.publish(decision())
    await site.consume(1)

    async def work() -> None:
        await site.publish(decision())
        await site.consume(1)

    at(("before", 2), work, monkeypatch)
    seen = await site.verify()
    assert (seen.last_sequence, seen.floor) == (1, 1)


async def test_holes_are_named_up_to_a_bound_and_all_counted(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "MAX_HOLES", 3)
    await site.publish(*[decision()] * 5)
    await site.consume(5)
    await sql.execute("DELETE FROM llm_decisions")
    seen = await site.verify()
    assert (seen.missing, named(seen)) == (5, [(1, "missing"), (2, "missing"), (3, "missing")])
    assert seen.unnamed == 2


async def test_a_new_durable_consumer_fills_every_hole(site: Site, sql: asyncpg.Connection) -> None:
    """With an id of its own or one that the stream gave; and what was no hole stays as it was."""
    await site.publish(decision(id=str(uuid4())), decision(), outcome(uuid4()), b"[]", decision())
    await site.consume(5)
    await sql.execute(
        "DELETE FROM llm_decisions WHERE id NOT IN (SELECT max(id::text)::uuid FROM llm_decisions)"
    )
    await sql.execute("DELETE FROM llm_outcomes")
    await sql.execute("DELETE FROM llm_dead_letters")
    assert (await site.verify()).missing == 4
    await site.js.delete_consumer(site.nats.stream, site.nats.durable)
    await site.make_consumer()
    assert (await site.consume(5)).count("duplicate") == 1
    assert (await site.verify()).ok


# The projection.


async def decided(site: Site) -> UUID:
    """Publish and store a decision and its outcome."""
    id_ = uuid4()
    await site.publish(decision(id=str(id_)), outcome(id_, "SUCCESS", pnl=5))
    await site.consume(2)
    assert (await site.verify()).ok
    return id_


@pytest.mark.parametrize(
    "change",
    [
        "outcome = 'FAILURE'",
        "pnl = NULL",
        "pnl = 6",
        "outcome_at = now()",
        "outcome_sequence = outcome_sequence + 1",
        "outcome = NULL, pnl = NULL, outcome_at = NULL, outcome_sequence = NULL",
    ],
)
async def test_a_decision_that_shows_another_outcome_is_a_hole(
    site: Site, sql: asyncpg.Connection, change: str
) -> None:
    id_ = await decided(site)
    await decided(site)
    await sql.execute(f"UPDATE llm_decisions SET {change} WHERE id = $1", id_)
    seen = await site.verify()
    assert (seen.ok, seen.missing, seen.not_projected) == (False, 0, 1)
    [hole] = seen.holes
    assert (hole.sequence, hole.decision_id, hole.kind) == (1, id_, "not_projected")


async def test_an_outcome_that_no_event_tells_of_is_a_hole(site: Site, sql: asyncpg.Connection) -> None:
    await site.publish(decision(), decision())
    await site.consume(2)
    await sql.execute("UPDATE llm_decisions SET outcome = 'SUCCESS' WHERE outcome_at IS NULL")
    assert (await site.verify()).not_projected == 2


async def test_a_decision_published_twice_is_one_hole(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its first message, also where the two are read apart."""
    monkeypatch.setattr(reading, "READ_ROWS", 1)
    payload = decision(id=str(uuid4()), outcome="SUCCESS")
    await site.publish(payload, payload)
    await site.consume(2)
    await sql.execute("UPDATE llm_decisions SET outcome = 'FAILURE'")
    seen = await site.verify()
    assert (seen.not_projected, named(seen)) == (1, [(1, "not_projected")])


@pytest.mark.parametrize("since", [False, True], ids=["expired", "since"])
async def test_a_decision_that_is_not_read_is_checked_by_its_outcomes(
    site: Site, sql: asyncpg.Connection, *, since: bool
) -> None:
    """One hole by the first of them, however many there are; the decision that is right is none."""
    id_ = await decided(site)
    await site.publish(outcome(id_, "FAILURE"), decision(outcome="PENDING"))
    await site.consume(2)
    start = (await site.js.get_msg(site.nats.stream, 2)).time if since else None
    if not since:
        await site.js.delete_msg(site.nats.stream, 1)
    assert (await site.verify(start)).ok
    await sql.execute("UPDATE llm_decisions SET outcome = 'SUCCESS' WHERE id = $1", id_)
    seen = await site.verify(start)
    assert (seen.ok, seen.missing, seen.not_projected) == (False, 0, 1)
    [hole] = seen.holes
    assert (hole.sequence, hole.subject, hole.decision_id, hole.kind) == (
        2,
        site.nats.outcomes_subject,
        id_,
        "not_projected",
    )


@pytest.mark.parametrize("remembered", [0, 10])
@pytest.mark.parametrize("read", [1, 1000])
async def test_a_decision_that_came_after_its_outcome_may_still_be_projected(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, read: int, remembered: int
) -> None:
    """The outcome is acknowledged; the daemon has committed the decision, and the projection follows.

    Whether the decision is read with it or after it.
    """
    monkeypatch.setattr(reading, "READ_ROWS", read)
    monkeypatch.setattr(verifying, "MAX_SECOND_LOOKS", remembered)
    id_ = uuid4()
    await site.publish(outcome(id_), decision(id=str(id_)))
    await site.consume(1)
    held = await site.take(1)
    await site.write(held)
    await sql.execute("UPDATE llm_decisions SET outcome = NULL, outcome_at = NULL, outcome_sequence = NULL")
    seen = await site.verify()
    assert (seen.ok, bool(seen.projecting), site.fates(seen)) == (True, True, ({"row": 1}, {"row": 1}))
    await ack(held)
    seen = await site.verify()
    assert (seen.ok, bool(seen.not_projected), seen.projecting) == (False, True, 0)


async def test_a_decision_that_came_during_the_run_may_still_be_projected(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read, and its message not acknowledged when its outcome, which is, is looked at."""
    id_ = uuid4()
    await site.publish(outcome(id_))
    await site.consume(1)

    async def work() -> None:
        await site.publish(decision(id=str(id_)))
        await site.write(await site.take(1))
        await sql.execute(
            "UPDATE llm_decisions SET outcome = NULL, outcome_at = NULL, outcome_sequence = NULL"
        )

    at(("after", 1), work, monkeypatch)
    seen = await site.verify()
    assert (seen.ok, seen.last_sequence, seen.floor, seen.projecting) == (True, 1, 1, 1)


async def test_a_decision_is_named_by_its_own_message_also_after_an_early_outcome(
    site: Site, sql: asyncpg.Connection
) -> None:
    id_ = uuid4()
    await site.publish(outcome(id_), decision(id=str(id_)))
    await site.consume(2)
    await sql.execute("UPDATE llm_decisions SET pnl = 6")
    assert named(await site.verify()) == [(2, "not_projected")]


async def test_a_projection_that_may_still_follow_is_no_hole(site: Site, sql: asyncpg.Connection) -> None:
    """The event is committed, and its message not acknowledged: a daemon may be between the two."""
    id_ = await decided(site)
    await site.publish(outcome(id_, "FAILURE"))
    [message] = await site.take(1)
    await site.write([message])
    await sql.execute("UPDATE llm_decisions SET outcome = 'SUCCESS'")
    seen = await site.verify()
    assert (seen.ok, seen.not_projected, seen.projecting) == (True, 0, 1)
    await ack([message])
    seen = await site.verify()
    assert (seen.ok, seen.not_projected, seen.projecting) == (False, 1, 0)


async def test_the_remedy_for_a_wrong_projection_works(site: Site, sql: asyncpg.Connection) -> None:
    await decided(site)
    await sql.execute("UPDATE llm_decisions SET outcome = 'FAILURE'")
    await sql.execute(
        "UPDATE llm_decisions SET outcome = NULL, pnl = NULL, outcome_at = NULL, outcome_sequence = NULL"
    )
    await site.js.delete_consumer(site.nats.stream, site.nats.durable)
    await site.make_consumer()
    await site.consume(2)
    assert (await site.verify()).ok


# What the stream no longer holds, or never held.


async def test_sequences_that_are_gone_are_a_figure_and_no_hole(site: Site, sql: asyncpg.Connection) -> None:
    """Purged before the first and deleted in between, with rows or without."""
    await site.publish(*[decision()] * 6)
    await site.consume(6)
    await sql.execute("DELETE FROM llm_decisions WHERE id = (SELECT min(id::text)::uuid FROM llm_decisions)")
    await site.js.purge_stream(site.nats.stream, seq=3)
    await site.js.delete_msg(site.nats.stream, 5)
    seen = await site.verify()
    assert (seen.ok, seen.gone, site.fates(seen)) == (True, 3, ({"row": 3}, {}))
    await site.js.purge_stream(site.nats.stream)
    seen = await site.verify()
    assert (seen.ok, seen.gone, seen.last_sequence) == (True, 6, 6)


async def test_in_a_stream_with_other_subjects_nobody_knows_what_is_gone(bare: Site) -> None:
    other = f"{bare.nats.stream}.other"
    subjects = [bare.nats.decisions_subject, bare.nats.outcomes_subject, other]
    await bare.make_stream(subjects=subjects)
    await bare.make_consumer()
    await bare.js.publish(other, b"not ours")
    await bare.publish(decision())
    seen = await bare.verify()
    assert (seen.ok, seen.gone, bare.fates(seen)) == (True, None, ({"waiting": 1}, {}))


async def test_since_leaves_out_what_is_older(site: Site, sql: asyncpg.Connection) -> None:
    await site.publish(decision(), decision(), decision())
    await site.consume(3)
    await sql.execute("DELETE FROM llm_decisions")
    second = (await site.js.get_msg(site.nats.stream, 2)).time
    assert second is not None
    seen = await site.verify(second)
    assert (named(seen), seen.gone) == ([(2, "missing"), (3, "missing")], None)
    seen = await site.verify(datetime(2100, 1, 1, tzinfo=UTC))
    assert (seen.ok, site.fates(seen)) == (True, ({}, {}))


# What is refused, and outages.


@pytest.mark.parametrize("retention", [RetentionPolicy.WORK_QUEUE, RetentionPolicy.INTEREST])
async def test_a_stream_that_forgets_what_is_acknowledged_is_refused(
    bare: Site, retention: RetentionPolicy
) -> None:
    await bare.make_stream(retention=retention)
    with pytest.raises(Misconfigured, match=f"has the retention {retention.value} and forgets"):
        await bare.verify()


async def test_core_mode_is_refused(site: Site) -> None:
    core = site.settings.model_copy(update={"nats": site.nats.model_copy(update={"mode": "core"})})
    with pytest.raises(SettingsError, match="TRACKER_NATS_MODE: must be jetstream"):
        await verify(core, contract_of(core))


async def test_a_stream_that_is_not_there_is_a_sentence(bare: Site) -> None:
    with pytest.raises(Misconfigured, match=f"the stream {bare.nats.stream} does not exist"):
        await bare.verify()


async def test_a_server_that_goes_away_or_freezes_ends_the_reading(
    site: Site, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is not an empty stream."""
    await site.publish(*[decision()] * 3)
    monkeypatch.setattr(reading, "READ_SECONDS", 0.5)
    client = await nats.connect(site.nats.servers[0])
    async with open_reading(client, site.nats) as stream:
        with Away(nats_server, "frozen"), pytest.raises(Unavailable, match="no answer in time"):
            [batch async for batch in stream.batches()]
    await client.close()


async def test_a_reader_that_was_deleted_meanwhile_ends_the_reading(site: Site) -> None:
    """A server that forgot the reader in a restart has not said that the stream has ended."""
    await site.publish(decision())
    client = await nats.connect(site.nats.servers[0])
    async with open_reading(client, site.nats) as stream:
        for consumer in await site.js.consumers_info(site.nats.stream):
            if consumer.name != site.nats.durable:
                await site.js.delete_consumer(site.nats.stream, consumer.name)
        with pytest.raises(Unavailable, match="503"):
            [batch async for batch in stream.batches()]
    await client.close()


def test_holes_are_plain_data_for_programs() -> None:
    hole = Hole(7, "llm.outcomes", datetime(2026, 11, 22, tzinfo=UTC), UUID(int=1), "missing")
    assert msgspec.to_builtins(hole) == {
        "sequence": 7,
        "subject": "llm.outcomes",
        "published_at": "2026-11-22T00:00:00Z",
        "decision_id": "00000000-0000-0000-0000-000000000001",
        "kind": "missing",
    }
