"""Core NATS through a real server: shared by a queue group, silent towards publishers, its losses counted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from uuid import uuid4

import nats
import pytest

from tests.inbox import Inbox, received
from tests.waiting import round_trip, until
from tracker_daemon import metrics
from tracker_daemon.config import NatsSettings, load
from tracker_daemon.consumer import CoreConsumer, connect, disconnect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from tracker_daemon.embedded import NatsServer


@pytest.fixture
def settings(nats_server: NatsServer) -> NatsSettings:
    """Settings with a queue group and subjects that no other test has."""
    name = uuid4().hex
    given = {
        "servers": nats_server.url,
        "mode": "core",
        "durable": f"D{name}",
        "decisions_subject": f"{name}.decisions",
        "outcomes_subject": f"{name}.outcomes",
    }
    return load(overrides={f"nats.{key}": value for key, value in given.items()}, environ={}).nats


@pytest.fixture
async def agent(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@contextlib.asynccontextmanager
async def consuming(settings: NatsSettings, inbox: Inbox) -> AsyncIterator[CoreConsumer]:
    client = await connect(settings, lambda _: None)
    defects: list[Exception] = []
    consumer = CoreConsumer(client, settings, inbox.receive, inbox.room, defects.append)
    await consumer.start()
    await round_trip(client)
    try:
        yield consumer
    finally:
        await consumer.stop()
        await disconnect(client)


async def test_both_subjects_arrive_without_a_place_in_any_stream(
    agent: Client, settings: NatsSettings
) -> None:
    inbox = Inbox()
    async with consuming(settings, inbox) as consumer:
        assert consumer.attached
        await agent.publish(settings.decisions_subject, b"1", headers={"Trace": "t"})
        await agent.publish(settings.outcomes_subject, b"2")
        await inbox.until(2)
    first, second = sorted(inbox.all, key=lambda message: message.payload)
    assert (first.subject, first.headers) == (settings.decisions_subject, {"Trace": "t"})
    assert (second.subject, second.headers) == (settings.outcomes_subject, None)
    assert {(message.stream, message.sequence) for message in inbox.all} == {(None, None)}
    assert first.identity != second.identity


async def test_the_members_of_a_queue_group_share_the_messages(agent: Client, settings: NatsSettings) -> None:
    mine, yours = Inbox(), Inbox()
    async with consuming(settings, mine), consuming(settings, yours):
        for number in range(200):
            await agent.publish(settings.decisions_subject, b"%d" % number)
        await until(lambda: len(mine.all) + len(yours.all) >= 200)
    assert sorted(mine.payloads() + yours.payloads()) == sorted(b"%d" % number for number in range(200))
    assert mine.all
    assert yours.all


async def test_nothing_is_ever_sent_to_the_publishers_reply_subject(
    agent: Client, settings: NatsSettings
) -> None:
    """An agent may use the reply subject for a service of its own; it must not take us for that."""
    inbox = Inbox()
    answers = await agent.subscribe(f"{settings.durable}.answers")
    async with consuming(settings, inbox) as consumer:
        await agent.publish(settings.decisions_subject, b"1", reply=answers.subject)
        await inbox.until(1)
        assert inbox.take() == []
        await consumer.ack([answers.subject])
    # The consumer has sent everything it ever will: what the agent sends itself now comes after that.
    await agent.publish(answers.subject, b"last")
    assert (await answers.next_msg()).data == b"last"


async def test_what_the_buffer_cannot_hold_is_counted_to_the_last_message(
    agent: Client, settings: NatsSettings
) -> None:
    before = received(settings.decisions_subject)
    dropped = metrics.slow_consumer_drops._value.get()
    inbox = Inbox(size=40_000)
    async with consuming(settings, inbox) as consumer:
        for _ in range(300):
            await agent.publish(settings.decisions_subject, b"x" * 1000)
        await round_trip(agent)
        await round_trip(consumer._client)
        assert inbox.least[1] >= 0
        lost = metrics.slow_consumer_drops._value.get() - dropped
        assert 0 < lost < 300
        while len(inbox.all) + lost < 300:
            arrived = len(inbox.all)
            inbox.take()
            await consumer.resume()
            await inbox.until(arrived + 1)
        await round_trip(consumer._client)
        assert len(inbox.all) + lost == 300
        assert received(settings.decisions_subject) - before == len(inbox.all)
        await agent.publish(settings.decisions_subject, b"after")
        await until(lambda: inbox.payloads()[-1] == b"after")


async def test_stop_hands_on_what_has_arrived_and_then_nothing_more(
    agent: Client, settings: NatsSettings
) -> None:
    inbox = Inbox()
    async with consuming(settings, inbox) as consumer:
        for number in range(100):
            await agent.publish(settings.decisions_subject, b"%d" % number)
        await round_trip(agent)
        await consumer.stop()
        assert len(inbox.all) == 100
        await agent.publish(settings.decisions_subject, b"late")
        await round_trip(agent)
        await round_trip(consumer._client)
        assert len(inbox.all) == 100


async def test_stop_lets_what_waits_for_room_in_as_room_is_made(
    agent: Client, settings: NatsSettings
) -> None:
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        for number in range(25):
            await agent.publish(settings.decisions_subject, b"%d" % number)
        await round_trip(agent)
        await inbox.until(10)
        stopping = asyncio.create_task(consumer.stop())
        while not stopping.done():
            inbox.take()
            await consumer.resume()
            await asyncio.sleep(0)
        await stopping
        assert inbox.payloads() == [b"%d" % number for number in range(25)]
        assert inbox.least[0] == 0


@pytest.mark.parametrize("part", ["_receive", "_room"])
async def test_a_defect_is_told(
    agent: Client, settings: NatsSettings, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """nats-py goes on after an exception, and so would lose one message after the other."""
    client = await connect(settings, lambda _: None, patient=False)
    defects: list[Exception] = []
    inbox = Inbox()
    consumer = CoreConsumer(client, settings, inbox.receive, inbox.room, defects.append)
    await consumer.start()

    def broken(*_: object) -> None:
        raise KeyError(part)

    with monkeypatch.context() as patch:
        patch.setattr(consumer, part, broken)
        await agent.publish(settings.decisions_subject, b"1")
        await until(lambda: defects)
    assert isinstance(defects[0], KeyError)
    await consumer.stop()
    await disconnect(client)
