"""The durable pull consumer against a real nats-server: all messages, in order, in bounds, after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from structlog.testing import capture_logs

from tests.inbox import MIB, Inbox, received
from tests.waiting import round_trip, until
from tracker_daemon import metrics
from tracker_daemon.config import NatsSettings, load
from tracker_daemon.consumer import JetStreamConsumer, connect, disconnect, jetstream, pull
from tracker_daemon.consumer.stream import ensure_stream
from tracker_daemon.embedded import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo


BEING_LOOKED_AT = "stream and consumer are being looked at"


def settings_for(server: NatsServer, **nats_settings: str) -> NatsSettings:
    """Settings with a stream, a durable consumer and subjects that no other test has."""
    name = uuid4().hex
    given = {
        "servers": server.url,
        "stream": f"S{name}",
        "durable": f"D{name}",
        "decisions_subject": f"{name}.decisions",
        "outcomes_subject": f"{name}.outcomes",
        # The server reserves it.
        "stream_max_bytes": "16MiB",
        **nats_settings,
    }
    overrides = {f"nats.{key}": value for key, value in given.items()}
    return load(overrides=overrides, environ={}).nats


@contextlib.asynccontextmanager
async def operating(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


@pytest.fixture
async def js(nats_server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as operators and agents use it."""
    async with operating(nats_server) as js:
        yield js


@pytest.fixture
async def settings(nats_server: NatsServer, js: JetStreamContext) -> AsyncIterator[NatsSettings]:
    settings = settings_for(nats_server)
    yield settings
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await js.delete_stream(settings.stream)


def changed(settings: NatsSettings, **changes: Any) -> NatsSettings:
    return settings.model_copy(update=changes)


@contextlib.asynccontextmanager
async def started(settings: NatsSettings, inbox: Inbox) -> AsyncIterator[JetStreamConsumer]:
    """A consumer that has been started, attached or not."""
    client = await connect(settings, lambda _: None)
    defects: list[Exception] = []
    consumer = JetStreamConsumer(client, settings, inbox.receive, inbox.room, defects.append)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()
        await disconnect(client)


@contextlib.asynccontextmanager
async def consuming(settings: NatsSettings, inbox: Inbox) -> AsyncIterator[JetStreamConsumer]:
    """A consumer that is attached to its stream."""
    async with started(settings, inbox) as consumer:
        await until(lambda: consumer.attached)
        yield consumer


async def make_stream(js: JetStreamContext, settings: NatsSettings, **config: Any) -> None:
    subjects = [settings.decisions_subject, settings.outcomes_subject]
    given: dict[str, Any] = {"name": settings.stream, "subjects": subjects, "max_bytes": 16 * MIB} | config
    await js.add_stream(StreamConfig(**given))


async def make_consumer(js: JetStreamContext, settings: NatsSettings, **config: Any) -> None:
    subjects = [settings.decisions_subject, settings.outcomes_subject]
    given = {"durable_name": settings.durable, "filter_subjects": subjects, "ack_policy": AckPolicy.EXPLICIT}
    await js.add_consumer(settings.stream, ConsumerConfig(**(given | config)))


async def publish(js: JetStreamContext, settings: NatsSettings, *payloads: bytes) -> list[int]:
    """Publish decisions and return their stream sequences."""
    return [(await js.publish(settings.decisions_subject, payload)).seq for payload in payloads]


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def value(metric: Any) -> float:
    (family,) = metric.collect()
    current: float = family.samples[0].value
    return current


# What is made, and what is left alone.


async def test_stream_and_consumer_are_made_with_exactly_the_configured_limits(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    settings = changed(settings, stream_max_age_seconds=3600, max_ack_pending=123)
    async with consuming(settings, Inbox()):
        stream = (await js.stream_info(settings.stream)).config
        consumer = (await js.consumer_info(settings.stream, settings.durable)).config
    subjects = [settings.decisions_subject, settings.outcomes_subject]
    assert (stream.subjects, stream.storage, stream.retention) == (subjects, "file", "limits")
    assert (stream.discard, stream.max_age, stream.max_bytes) == ("new", 3600, 16 * MIB)
    assert (stream.num_replicas, stream.max_msgs, stream.max_msg_size) == (1, -1, -1)
    assert (stream.duplicate_window, stream.no_ack) == (120, False)
    assert (consumer.durable_name, consumer.filter_subjects) == (settings.durable, None)
    assert (consumer.deliver_policy, consumer.deliver_subject) == ("all", None)
    assert (consumer.ack_policy, consumer.ack_wait) == ("explicit", 60)
    assert (consumer.max_deliver, consumer.max_ack_pending) == (-1, 123)


async def test_of_a_stream_with_other_subjects_the_consumer_takes_the_two(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Only there: two filters make nats-server 2.10 slow where they filter nothing."""
    subjects, other = [settings.decisions_subject, settings.outcomes_subject], f"{settings.stream}.other"
    await make_stream(js, settings, subjects=[*subjects, other])
    await js.publish(other, b"other")
    [sequence] = await publish(js, settings, b"ours")
    inbox = Inbox()
    async with consuming(settings, inbox):
        await until(lambda: inbox.all)
        consumer = (await js.consumer_info(settings.stream, settings.durable)).config
    assert consumer.filter_subjects == subjects
    assert [message.sequence for message in inbox.all] == [sequence]


async def test_a_full_stream_tells_the_publisher_and_keeps_what_it_has(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    async with consuming(changed(settings, stream_max_bytes=1000), Inbox()):
        await publish(js, settings, b"first", b"x" * 600)
        with pytest.raises(nats.js.errors.ServiceUnavailableError, match="maximum bytes exceeded"):
            await publish(js, settings, b"x" * 600)
        assert (await js.get_msg(settings.stream, 1)).data == b"first"


async def test_an_operators_stream_and_consumer_are_never_changed(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings, max_age=60, discard="old", storage="memory", description="an operator's")
    await make_consumer(js, settings, ack_wait=7, max_deliver=3, max_ack_pending=5, description="too")
    stream = (await js.stream_info(settings.stream)).config
    consumer = (await js.consumer_info(settings.stream, settings.durable)).config
    inbox = Inbox()
    async with consuming(settings, inbox):
        await publish(js, settings, b"1")
        await inbox.until(1)
        assert (await js.stream_info(settings.stream)).config == stream
        assert (await js.consumer_info(settings.stream, settings.durable)).config == consumer


def earlier(settings: NatsSettings) -> dict[str, Any]:
    """What an earlier version made its durable of, beside the filters that it always gave it."""
    return {"ack_wait": 60, "max_deliver": -1, "max_ack_pending": settings.max_ack_pending}


async def test_a_durable_of_an_earlier_version_loses_its_filters_and_nothing_else(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """What was acknowledged does not come again, what was not comes once, and so does what is new."""
    await make_stream(js, settings)
    # A limit that nats-py's own types leave out.
    given = {"durable_name": settings.durable, "ack_policy": "explicit", "max_deliver": -1, "max_batch": 9000}
    given |= {"ack_wait": 60_000_000_000, "max_ack_pending": settings.max_ack_pending}
    given |= {"filter_subjects": [settings.decisions_subject, settings.outcomes_subject]}
    await asked(js, settings, "DURABLE.CREATE", {"stream_name": settings.stream, "config": given})
    before = await publish(js, settings, *numbered(40))
    inbox = Inbox(rows=30)
    async with consuming(changed(settings, manage_stream=False), inbox) as consumer:
        await inbox.until(30)
        tokens = inbox.take()
        await consumer.ack([*tokens[:10], *tokens[15:20]])
        await until(lambda: unacknowledged(js, settings, 15))
    was = (await asked(js, settings, "INFO"))["config"]
    inbox = Inbox()
    async with consuming(settings, inbox):
        now = await asked(js, settings, "INFO")
        assert was.pop("filter_subjects") == [settings.decisions_subject, settings.outcomes_subject]
        assert now["config"] == was
        after = await publish(js, settings, *numbered(10, 40))
        await inbox.until(20)
        assert inbox.sequences() == [*before[30:], *after]
        state = await js.consumer_info(settings.stream, settings.durable)
        assert (state.ack_floor and state.ack_floor.stream_seq, state.num_redelivered) == (10, 0)
        assert state.num_ack_pending == 15 + 20


async def asked(
    js: JetStreamContext, settings: NatsSettings, what: str, request: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the server answers about the durable, as it is."""
    subject = f"$JS.API.CONSUMER.{what}.{settings.stream}.{settings.durable}"
    answer = await js._nc.request(subject, msgspec.json.encode(request) if request else b"")
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    assert "error" not in found, found
    return found


@pytest.mark.parametrize(
    ("more", "managed"), [({"description": "an operator's"}, True), ({"ack_wait": 61}, True), ({}, False)]
)
async def test_filters_that_an_operator_may_have_given_stay(
    js: JetStreamContext, settings: NatsSettings, more: dict[str, Any], managed: bool
) -> None:
    await make_stream(js, settings)
    await make_consumer(js, settings, **earlier(settings) | more)
    async with consuming(changed(settings, manage_stream=managed), Inbox()):
        config = (await js.consumer_info(settings.stream, settings.durable)).config
    assert config.filter_subjects == [settings.decisions_subject, settings.outcomes_subject]


async def test_filters_that_leave_something_out_stay(js: JetStreamContext, settings: NatsSettings) -> None:
    subjects = [settings.decisions_subject, settings.outcomes_subject]
    await make_stream(js, settings, subjects=[*subjects, f"{settings.stream}.other"])
    await make_consumer(js, settings, **earlier(settings))
    async with consuming(settings, Inbox()):
        assert (await js.consumer_info(settings.stream, settings.durable)).config.filter_subjects == subjects


async def complaint(consumer: JetStreamConsumer) -> str:
    """What the first look at stream and consumer finds wrong."""
    await until(lambda: consumer.trouble != BEING_LOOKED_AT)
    return str(consumer.trouble)


async def test_unmanaged_it_complains_until_the_operator_has_made_both(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    inbox = Inbox()
    async with started(changed(settings, manage_stream=False), inbox) as consumer:
        assert await complaint(consumer) == (
            f"the stream {settings.stream} does not exist: create it, or set TRACKER_NATS_MANAGE_STREAM=true"
        )
        assert not consumer.attached
        await make_stream(js, settings)
        await until(lambda: consumer.trouble and "durable consumer" in consumer.trouble)
        assert f"the durable consumer {settings.durable} of the stream" in (consumer.trouble or "")
        await make_consumer(js, settings)
        await publish(js, settings, b"1")
        await inbox.until(1)
        await until(lambda: consumer.trouble is None)


async def test_a_push_consumer_is_refused_with_the_remedy(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await make_consumer(js, settings, deliver_subject=f"{settings.stream}.push")
    async with started(settings, Inbox()) as consumer:
        assert await complaint(consumer) == (
            f"the consumer {settings.durable} is a push consumer: name another in TRACKER_NATS_DURABLE"
        )
        assert not consumer.attached


async def test_a_stream_that_captures_the_subjects_already_is_named_as_the_obstacle(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    async with started(changed(settings, stream="T" + settings.stream), Inbox()) as consumer:
        assert "subjects overlap with an existing stream" in await complaint(consumer)
        assert "name it in TRACKER_NATS_STREAM" in (consumer.trouble or "")


# What arrives.


async def test_both_subjects_arrive_in_stream_order_as_they_were_stored(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    subjects = [settings.decisions_subject, settings.outcomes_subject]
    before = [received(subject) for subject in subjects]
    inbox = Inbox()
    async with consuming(settings, inbox):
        for number in range(20):
            headers = {"Trace": f"t{number}"} if number % 3 == 0 else None
            await js.publish(subjects[number % 2], b"%d" % number, headers=headers)
        await inbox.until(20)
    assert inbox.payloads() == numbered(20)
    assert inbox.sequences() == list(range(1, 21))
    for number, message in enumerate(inbox.all):
        assert (message.subject, message.stream) == (subjects[number % 2], settings.stream)
        assert message.headers == ({"Trace": f"t{number}"} if number % 3 == 0 else None)
        assert message.published_ns == await stored_at(js, settings.stream, number + 1)
    assert [received(subject) for subject in subjects] == [count + 10 for count in before]


async def stored_at(js: JetStreamContext, stream: str, sequence: int) -> int:
    """The stream's own time of a message, in nanoseconds since 1970."""
    request = msgspec.json.encode({"seq": sequence})
    answer = await js._nc.request(f"$JS.API.STREAM.MSG.GET.{stream}", request)
    whole, _, part = msgspec.json.decode(answer.data)["message"]["time"].removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(part.ljust(9, "0"))


async def test_what_was_published_before_the_consumer_came_arrives_too(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await publish(js, settings, *numbered(3))
    inbox = Inbox()
    async with consuming(settings, inbox):
        await inbox.until(3)
    assert inbox.payloads() == numbered(3)


async def test_acknowledged_messages_never_come_again_and_the_others_do(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await make_consumer(js, settings, ack_wait=1)
    redeliveries, gaps = value(metrics.redeliveries), value(metrics.stream_gap_messages)
    inbox = Inbox()
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *numbered(4))
        await inbox.until(4)
        first, _, third, _ = inbox.take()
        await consumer.ack([first, third])
        await until(lambda: inbox.sequences().count(2) >= 3 and inbox.sequences().count(4) >= 3)
        assert (inbox.sequences().count(1), inbox.sequences().count(3)) == (1, 1)
        await consumer.ack(inbox.take())
        await until(lambda: unacknowledged(js, settings, 0))
        info = await js.consumer_info(settings.stream, settings.durable)
        assert (info.ack_floor and info.ack_floor.stream_seq) == 4
    assert value(metrics.redeliveries) - redeliveries == len(inbox.all) - 4
    assert value(metrics.stream_gap_messages) == gaps


async def unacknowledged(js: JetStreamContext, settings: NatsSettings, count: int) -> bool:
    """Whether so many messages are delivered and not acknowledged."""
    info = await js.consumer_info(settings.stream, settings.durable)
    return bool(info.num_ack_pending == count)


# Credit.


async def out_of_credit(js: JetStreamContext, settings: NatsSettings) -> bool:
    """Whether the server has no pull request left that it could answer."""
    return bool((await js.consumer_info(settings.stream, settings.durable)).num_waiting == 0)


async def test_no_more_comes_than_there_is_room_for_and_the_rest_after_room_was_made(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await publish(js, settings, *numbered(35))
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        for arrived in (10, 16, 26):
            await inbox.until(arrived)
            await until(lambda: out_of_credit(js, settings))
            assert (len(inbox.all), inbox.least[0]) == (arrived, 0)
            await consumer.ack(inbox.take(6 if arrived == 10 else None))
            await consumer.resume()
        await inbox.until(35)
    assert inbox.payloads() == numbered(35)


async def test_a_little_room_is_not_asked_for(js: JetStreamContext, settings: NatsSettings) -> None:
    """Below half of the bound a pull request would cost more than it brings."""
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *numbered(11))
        await inbox.until(10)
        await until(lambda: out_of_credit(js, settings))
        await consumer.ack(inbox.take(4))
        await consumer.resume()
        await round_trip(consumer._client)
        assert await out_of_credit(js, settings)
        await consumer.ack(inbox.take(1))
        await consumer.resume()
        await inbox.until(11)


async def test_large_messages_stay_within_the_bound_of_bytes(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Of sizes up to the server's limit, taken out at random: none lost, none beyond the bound."""
    chance = random.Random(5)  # noqa: S311 - repeatable, not secret
    sizes = [chance.choice((1, 1000, 300_000, MIB)) for _ in range(60)]
    settings = changed(settings, stream_max_bytes=64 * MIB)
    inbox = Inbox(rows=50, size=3 * MIB)
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *(b"x" * size for size in sizes))
        while len(inbox.all) < len(sizes):
            if inbox.room() == (50, 3 * MIB):
                await inbox.until(len(inbox.all) + 1)
            await consumer.ack(inbox.take(chance.choice((1, 3, None))))
            await consumer.resume()
    assert [len(payload) for payload in inbox.payloads()] == sizes
    assert inbox.least[0] >= 0
    assert inbox.least[1] >= 0


# Gaps and lag.


async def test_messages_that_vanished_before_delivery_are_counted(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Deleted between others, and purged while the consumer waited for room."""
    gaps = value(metrics.stream_gap_messages)
    inbox = Inbox(rows=4)
    await make_stream(js, settings)
    await publish(js, settings, *numbered(10))
    await js.delete_msg(settings.stream, 3)
    await js.delete_msg(settings.stream, 4)
    async with consuming(settings, inbox) as consumer:
        await inbox.until(4)
        assert inbox.sequences() == [1, 2, 5, 6]
        assert value(metrics.stream_gap_messages) - gaps == 2
        await js.purge_stream(settings.stream, seq=10)
        await consumer.ack(inbox.take())
        await consumer.resume()
        await inbox.until(5)
        assert value(metrics.stream_gap_messages) - gaps == 5


async def test_messages_that_expired_while_nobody_consumed_are_counted(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    gaps = value(metrics.stream_gap_messages)
    settings = changed(settings, stream_max_age_seconds=1)
    inbox = Inbox()
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *numbered(2))
        await inbox.until(2)
        await consumer.ack(inbox.take())
    await publish(js, settings, *numbered(3))
    await until(lambda: empty(js, settings))
    async with consuming(settings, inbox):
        await publish(js, settings, b"last")
        await inbox.until(3)
    assert inbox.sequences() == [1, 2, 6]
    assert value(metrics.stream_gap_messages) - gaps == 3


async def empty(js: JetStreamContext, settings: NatsSettings) -> bool:
    return (await js.stream_info(settings.stream)).state.messages == 0


async def test_a_stream_that_begins_late_is_no_gap_for_a_new_consumer(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    gaps = value(metrics.stream_gap_messages)
    await make_stream(js, settings)
    await publish(js, settings, *numbered(5))
    await js.purge_stream(settings.stream, seq=4)
    inbox = Inbox()
    async with consuming(settings, inbox):
        await inbox.until(2)
    assert inbox.sequences() == [4, 5]
    assert value(metrics.stream_gap_messages) == gaps


async def test_other_subjects_of_an_operators_stream_are_no_gaps(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    gaps = value(metrics.stream_gap_messages)
    other = f"{settings.stream}.other"
    await make_stream(js, settings, subjects=[settings.decisions_subject, settings.outcomes_subject, other])
    await publish(js, settings, b"1")
    await js.publish(other, b"2")
    await publish(js, settings, b"3")
    inbox = Inbox()
    async with consuming(settings, inbox):
        await inbox.until(2)
    assert inbox.payloads() == [b"1", b"3"]
    assert value(metrics.stream_gap_messages) == gaps


async def test_the_lag_is_known_while_messages_flow_and_while_they_do_not(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await publish(js, settings, *numbered(30))
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        await inbox.until(10)
        await until(partial(lags_by, consumer, 20))
        await consumer.ack(inbox.take())
        await consumer.resume()
        await inbox.until(20)
        assert consumer.pending == 10
        await publish(js, settings, *numbered(5))
        await until(partial(lags_by, consumer, 15))
        assert value(metrics.stream_pending) == 15


def lags_by(consumer: JetStreamConsumer, count: int) -> bool:
    return consumer.pending == count


async def test_the_lag_falls_when_what_was_waiting_is_gone(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Also with a pull request open, whose heartbeats say nothing about the lag."""
    await make_stream(js, settings)
    await publish(js, settings, *numbered(30))
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        await inbox.until(10)
        await js.purge_stream(settings.stream)
        await consumer.ack(inbox.take())
        await consumer.resume()
        await until(partial(lags_by, consumer, 0))


# Faults.


@pytest.fixture
def _no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only what the server says by itself."""
    monkeypatch.setattr(jetstream, "POLL_SECONDS", 1_000_000)


@pytest.mark.usefixtures("_no_poll")
async def test_a_deleted_consumer_is_made_again(js: JetStreamContext, settings: NatsSettings) -> None:
    inbox = Inbox()
    async with consuming(settings, inbox):
        await publish(js, settings, b"before")
        await inbox.until(1)
        await js.delete_consumer(settings.stream, settings.durable)
        await publish(js, settings, b"after")
        await until(lambda: b"after" in inbox.payloads())


async def test_a_consumer_that_is_deleted_while_there_is_no_room_is_made_again(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Nobody tells a daemon that asks for nothing: it looks by itself."""
    inbox = Inbox(rows=1)
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, b"before")
        await inbox.until(1)
        await js.delete_consumer(settings.stream, settings.durable)
        await until(lambda: not consumer.attached)
        await until(lambda: consumer.attached)
        await publish(js, settings, b"after")
        for arrived in (2, 3):
            await consumer.ack(inbox.take())
            await consumer.resume()
            await inbox.until(arrived)
    assert inbox.payloads() == [b"before", b"before", b"after"]


@pytest.mark.usefixtures("_no_poll")
async def test_a_deleted_stream_is_made_again(js: JetStreamContext, settings: NatsSettings) -> None:
    inbox = Inbox()
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, b"before")
        await inbox.until(1)
        await js.delete_stream(settings.stream)
        await until(lambda: not consumer.attached)
        await until(lambda: consumer.attached)
        await publish(js, settings, b"after")
        await inbox.until(2)
    assert (inbox.payloads(), inbox.sequences()) == ([b"before", b"after"], [1, 1])


async def test_a_stream_that_an_operator_deletes_and_makes_again_is_consumed_again(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await make_consumer(js, settings)
    inbox = Inbox()
    async with consuming(changed(settings, manage_stream=False), inbox) as consumer:
        await publish(js, settings, b"before")
        await inbox.until(1)
        await js.delete_stream(settings.stream)
        await until(lambda: consumer.trouble and "does not exist" in consumer.trouble)
        await make_stream(js, settings)
        await make_consumer(js, settings)
        await publish(js, settings, b"after")
        await inbox.until(2)


@pytest.mark.parametrize("end", [NatsServer.stop, NatsServer.kill])
async def test_after_a_restart_of_the_server_it_consumes_again(
    data_dir: Path, end: Callable[[NatsServer], None]
) -> None:
    """At once: not only when the silence of its old pull request is noticed."""
    inbox = Inbox(rows=10)
    with NatsServer(data_dir) as server, capture_logs() as lines:
        settings = settings_for(server)
        async with consuming(settings, inbox) as consumer:
            async with operating(server) as js:
                await publish(js, settings, *numbered(4))
            await inbox.until(4)
            end(server)
            await until(lambda: not consumer.attached)
            assert value(metrics.nats_connected) == 0
            server.start()
            async with operating(server) as js:
                await publish(js, settings, *numbered(10, start=4))
            await inbox.until(10)
            assert value(metrics.nats_connected) == 1
            await consumer.ack(inbox.take())
            await consumer.resume()
            # A crashed server may have forgotten the first deliveries, never a message.
            await until(lambda: set(inbox.payloads()) == set(numbered(14)))
    assert inbox.least[0] == 0
    assert not [line for line in lines if "no heartbeat" in line["event"]]


async def test_a_request_that_the_client_sends_again_after_a_reconnect_is_taken_back(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """A request that is not sent yet outlives the connection; with the next one it would exceed the room."""
    await make_stream(js, settings)
    inbox = Inbox(rows=100)
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *numbered(100))
        await inbox.until(100)
        inbox.take()
        assert consumer._client._flusher_task is not None
        consumer._client._flusher_task.cancel()  # it might send the request on the old connection yet
        await consumer.resume()
        assert consumer._client.pending_data_size > 0
        await consumer._client._process_op_err(ConnectionResetError())
        await until(lambda: consumer._client.stats["reconnects"] == 1 and consumer.attached)
        await round_trip(consumer._client)
        await publish(js, settings, *numbered(400, start=100))
        await inbox.until(200)
        await until(lambda: out_of_credit(js, settings))
        await round_trip(consumer._client)
    assert inbox.least[0] == 0
    assert inbox.payloads() == numbered(200)


async def test_a_server_that_was_frozen_does_not_answer_two_requests_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still holds the request that was given up for lost; both together would exceed the room."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 1)
    inbox = Inbox(rows=10)
    with NatsServer(data_dir) as server, capture_logs() as lines:
        settings = settings_for(server)
        async with consuming(settings, inbox) as consumer:
            await until(lambda: consumer._subscription.request)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: any("no heartbeat" in line["event"] for line in lines))
            finally:
                os.kill(server.pid, signal.SIGCONT)
            async with operating(server) as js:
                await publish(js, settings, *numbered(30))
                await until(lambda: out_of_credit(js, settings))
            await round_trip(consumer._client)
            assert inbox.payloads() == numbered(10)
            await consumer.ack(inbox.take())
            await consumer.resume()
            await inbox.until(20)


async def test_a_server_that_was_frozen_for_long_is_heard_again_on_the_same_connection(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking it again and again must not break the client's read loop when all the answers come at last."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 1)
    inbox = Inbox()
    with NatsServer(data_dir) as server, capture_logs() as lines:
        settings = settings_for(server)
        async with consuming(settings, inbox) as consumer:
            await until(lambda: consumer._subscription.request)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: sum("no heartbeat" in line["event"] for line in lines) >= 2)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await until(lambda: consumer.attached)
            async with operating(server) as js:
                await publish(js, settings, b"after")
            await inbox.until(1)
            assert consumer._client.stats["reconnects"] == 0
            assert consumer._client._reading_task is not None
            assert not consumer._client._reading_task.done()


@pytest.mark.usefixtures("_no_poll")
async def test_it_is_not_ready_from_silence_until_something_is_heard(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is a black hole keeps the connection open for long."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 1)
    with NatsServer(data_dir) as server:
        async with consuming(settings_for(server), Inbox()) as consumer:
            await until(lambda: consumer._subscription.request)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: not consumer.attached)
                assert consumer._client.is_connected
                silence = consumer._subscription.silence
                assert consumer.trouble == f"no heartbeat from the stream for {silence} s"
                # Asking again is not yet an answer.
                await until(lambda: consumer._subscription.request and consumer._subscription.silence > 4)
                assert not consumer.attached
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await until(lambda: consumer.attached)
            assert consumer.trouble is None


async def test_connected_but_not_attached_it_says_what_it_waits_for(
    settings: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that it is not connected: the look at the stream may take long when nobody answers."""
    answer = asyncio.Event()

    async def slow(js: JetStreamContext, settings: NatsSettings) -> StreamInfo:
        await answer.wait()
        return await ensure_stream(js, settings)

    monkeypatch.setattr(jetstream, "ensure_stream", slow)
    async with started(settings, Inbox()) as consumer:
        assert consumer._client.is_connected
        assert (consumer.attached, consumer.trouble) == (False, BEING_LOOKED_AT)
        answer.set()
        await until(lambda: consumer.attached)
        assert consumer.trouble is None
        await consumer._client._process_op_err(ConnectionResetError())
        assert consumer.trouble is None, "the connection is away, and that is another trouble"
        answer.clear()
        await until(lambda: consumer._client.is_connected)
        assert (consumer.attached, consumer.trouble) == (False, BEING_LOOKED_AT)
        answer.set()
        await until(lambda: consumer.attached)


async def test_requests_that_nobody_answers_are_no_readiness_either(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room no heartbeat is due, and only the poll of the lag notices."""
    monkeypatch.setattr(jetstream, "POLL_SECONDS", 0)
    inbox = Inbox(rows=1)
    with NatsServer(data_dir) as server:
        settings = settings_for(server)
        async with consuming(settings, inbox) as consumer:
            async with operating(server) as js:
                await publish(js, settings, b"1")
            await inbox.until(1)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: consumer.trouble)
                assert consumer._client.is_connected
                assert not consumer.attached
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await until(lambda: consumer.attached)


async def test_a_daemon_that_was_frozen_does_not_take_that_for_silence(
    js: JetStreamContext, settings: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would throw away what has arrived meanwhile, to be delivered again only after the ack wait."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 1)
    inbox = Inbox()
    with capture_logs() as lines:
        async with consuming(settings, inbox) as consumer:
            await publish(js, settings, b"before")
            await inbox.until(1)
            looked = consumer._lag_at
            time.sleep(4)  # noqa: ASYNC251 - freezing the whole process is the fault
            await publish(js, settings, b"after")
            await inbox.until(2)
            await until(lambda: consumer._lag_at > looked)
    assert not [line for line in lines if "no heartbeat" in line["event"]]


async def test_what_the_server_does_not_permit_is_said_until_it_is_granted(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may look at everything and ask for nothing: no request is ever answered."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 1)
    users = (
        "authorization {{ users: [{{ user: tracker, password: secret, permissions: {{ publish: {} }} }}] }}"
    )
    denied = users.format('{ allow: ">", deny: "$JS.API.CONSUMER.MSG.NEXT.>" }')
    inbox = Inbox()
    with NatsServer(data_dir, options=denied) as server, capture_logs() as lines:
        settings = settings_for(server, user="tracker", password="secret")
        async with started(settings, inbox) as consumer:
            await until(lambda: "no heartbeat" in str(consumer.trouble))
            assert not consumer.attached
            server.stop()
            server.options = users.format('">"')
            server.start()
            await until(lambda: consumer.attached)
            await consumer._js.publish(settings.decisions_subject, b"1")
            await inbox.until(1)
    reasons = [str(line.get("reason")) for line in lines if line["event"] == "trouble with NATS"]
    assert any("permissions violation" in reason.lower() for reason in reasons), reasons


async def test_a_question_without_an_answer_counts_until_one_is_answered(
    settings: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks in between, which ask nothing, do not make it ready: a cluster without a leader stays one."""
    monkeypatch.setattr(jetstream, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(jetstream, "POLL_SECONDS", 0.1)
    async with consuming(settings, Inbox()) as consumer:
        check, attached = consumer._check, []

        async def watched() -> None:
            attached.append(consumer.attached)
            await check()

        with monkeypatch.context() as patch:
            patch.setattr(consumer._js, "_prefix", "$JS.NOBODY")
            await until(lambda: consumer.trouble)
            patch.setattr(consumer, "_check", watched)
            await until(lambda: len(attached) > 30)
        assert not any(attached)
        await until(lambda: consumer.attached)


async def send_status(client: Client, subject: str, line: str) -> None:
    """Send what a server sends to end a pull request; no public call makes a status line."""
    header = f"NATS/1.0 {line}\r\n\r\n".encode()
    await client._send_command(
        b"HPUB %s %d %d\r\n%s\r\n" % (subject.encode(), len(header), len(header), header)
    )
    await client._flush_pending()


@pytest.mark.parametrize(
    "line", ["409 Leadership Change", "409 Server Shutdown", "409 Consumer Deleted", "503", "404 No Messages"]
)
async def test_a_status_that_ends_every_request_makes_no_spin_and_no_flood(
    js: JetStreamContext, settings: NatsSettings, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new request once a look, one line for all of them, and consuming again when it stops."""
    inbox = Inbox()
    requests: list[str] = []
    looks = 0

    async def refuse(msg: Msg) -> None:
        requests.append(msg.reply)
        await send_status(js._nc, msg.reply, line)

    with capture_logs() as lines:
        async with started(settings, inbox) as consumer:
            check = consumer._check

            async def counted() -> None:
                nonlocal looks
                looks += 1
                await check()

            monkeypatch.setattr(consumer, "_check", counted)
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{settings.stream}.{settings.durable}"
            refusing = await js._nc.subscribe(subject, cb=refuse)
            await js._nc.flush()
            await until(lambda: len(requests) >= 3)
            assert len(requests) <= looks + 1
            await refusing.unsubscribe()
            await publish(js, settings, b"after")
            await inbox.until(1)
            await until(lambda: consumer.attached)
    assert len([line for line in lines if line["event"] == "pull request ended"]) == 1


# A stream that was made anew, or purged.


async def make_anew(js: JetStreamContext, settings: NatsSettings, **config: Any) -> None:
    """Delete stream and consumer, as an operator would, and make both again under the same names."""
    await js.delete_stream(settings.stream)
    await make_stream(js, settings, **config)
    await make_consumer(js, settings)


@pytest.mark.usefixtures("_no_poll")
async def test_no_old_acknowledgement_settles_a_message_of_a_new_stream(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """The server would take it: the same stream, consumer and sequences are all that it looks at."""
    await make_stream(js, settings)
    await make_consumer(js, settings)
    inbox = Inbox(rows=10)
    async with consuming(settings, inbox) as consumer:
        await publish(js, settings, *numbered(5))
        await inbox.until(5)
        old = inbox.take()
        await make_anew(js, settings)
        await publish(js, settings, *numbered(5, start=5))
        await inbox.until(10)
        await until(lambda: consumer.attached)
        new = inbox.take()
        assert [reply.split(".")[2:7] for _, reply in old] == [reply.split(".")[2:7] for _, reply in new]
        await consumer.in_progress(old)
        await consumer.ack(old)
        await round_trip(consumer._client)
        assert await unacknowledged(js, settings, 5)
        await consumer.ack(new)
        await until(lambda: unacknowledged(js, settings, 0))


@pytest.mark.usefixtures("_no_poll")
async def test_nor_when_nobody_has_told_that_the_stream_is_a_new_one(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    """Without room there is no request that could end: the first delivery of the new consumer tells."""
    await make_stream(js, settings)
    await make_consumer(js, settings)
    inbox = Inbox(rows=4)
    with capture_logs() as lines:
        async with consuming(settings, inbox) as consumer:
            await publish(js, settings, *numbered(4))
            await inbox.until(4)
            await until(lambda: out_of_credit(js, settings))
            await make_anew(js, settings)
            await publish(js, settings, *numbered(4, start=4))
            old = inbox.take()
            await consumer.resume()
            await inbox.until(8)
            await consumer.ack(old)
            await until(lambda: consumer.attached)
            await round_trip(consumer._client)
            assert await unacknowledged(js, settings, 4)
            await consumer.ack(inbox.take())
            await until(lambda: unacknowledged(js, settings, 0))
    assert inbox.least[0] == 0
    assert [line for line in lines if line["event"].startswith("the stream was made anew")]


async def test_acknowledgements_wait_for_the_stream_to_be_looked_at_after_a_reconnect(
    data_dir: Path,
) -> None:
    """Another stream may be there under its name; the same one is told then, and delivers nothing again."""
    inbox = Inbox()
    with NatsServer(data_dir) as server:
        settings = settings_for(server)
        async with consuming(settings, inbox) as consumer:
            async with operating(server) as js:
                await publish(js, settings, *numbered(3))
            await inbox.until(3)
            server.stop()
            await until(lambda: not consumer._client.is_connected)
            await consumer.ack(inbox.take())
            assert consumer._client.pending_data_size == 0
            server.start()
            async with operating(server) as js:
                await until(lambda: unacknowledged(js, settings, 0))
    assert len(inbox.all) == 3


async def test_a_stream_that_was_made_anew_is_said_and_what_it_had_not_delivered_is_counted(
    js: JetStreamContext, settings: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "POLL_SECONDS", 0)
    gaps = value(metrics.stream_gap_messages)
    await make_stream(js, settings)
    await make_consumer(js, settings)
    await publish(js, settings, *numbered(10))
    inbox = Inbox(rows=3)
    with capture_logs() as lines:
        async with consuming(settings, inbox):
            await inbox.until(3)
            await make_anew(js, settings)
            await until(lambda: any("made anew" in line["event"] for line in lines))
            assert value(metrics.stream_gap_messages) - gaps == 7
    [line] = [line for line in lines if "made anew" in line["event"]]
    assert (line["stream"], line["messages_as_last_heard"]) == (settings.stream, 7)
    assert (line["event"], line["log_level"]) == (
        "the stream was made anew, what it had not delivered is gone",
        "warning",
    )


async def test_a_consumer_that_was_made_anew_is_said_and_nothing_is_lost(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    gaps = value(metrics.stream_gap_messages)
    await make_stream(js, settings)
    await make_consumer(js, settings)
    await publish(js, settings, *numbered(4))
    inbox = Inbox(rows=8)
    with capture_logs() as lines:
        async with consuming(settings, inbox) as consumer:
            await inbox.until(4)
            await js.delete_consumer(settings.stream, settings.durable)
            await inbox.until(8)
            # Written once, and so done with for whichever consumer: it is the same message.
            await consumer.ack(inbox.take(4))
            await until(lambda: unacknowledged(js, settings, 0))
    assert [line["event"] for line in lines if "made anew" in line["event"]] == [
        "the durable consumer was made anew, messages may come again"
    ]
    assert value(metrics.stream_gap_messages) == gaps


async def test_messages_that_a_purge_took_are_said_in_one_line(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await publish(js, settings, *numbered(10))
    for sequence in (3, 4, 6):
        await js.delete_msg(settings.stream, sequence)
    inbox = Inbox()
    with capture_logs() as lines:
        async with consuming(settings, inbox):
            await inbox.until(7)
    [line] = [line for line in lines if "dropped" in line["event"]]
    assert (line["messages"], line["first_sequence"], line["last_sequence"]) == (3, 3, 6)
    assert (line["stream"], line["log_level"]) == (settings.stream, "warning")


async def test_a_purge_during_an_outage_is_counted(js: JetStreamContext, settings: NatsSettings) -> None:
    """The consumer's own place moves past what was purged before it is looked at again."""
    gaps = value(metrics.stream_gap_messages)
    await make_stream(js, settings)
    await publish(js, settings, *numbered(5))
    inbox = Inbox(rows=2)
    async with consuming(settings, inbox) as consumer:
        await inbox.until(2)
        await until(lambda: out_of_credit(js, settings))
        await js.purge_stream(settings.stream)
        info = await js.consumer_info(settings.stream, settings.durable)
        assert (info.delivered and info.delivered.stream_seq) == 5
        consumer._attached_on = None
        await until(lambda: consumer.attached)
        await publish(js, settings, b"after")
        await consumer.ack(inbox.take())
        await consumer.resume()
        await inbox.until(3)
    assert value(metrics.stream_gap_messages) - gaps == 3


# The end.


async def test_stop_hands_on_what_was_delivered_and_then_nothing_more(
    js: JetStreamContext, settings: NatsSettings
) -> None:
    await make_stream(js, settings)
    await publish(js, settings, *numbered(500))
    inbox = Inbox(rows=5000)
    async with consuming(settings, inbox) as consumer:
        await inbox.until(1)
        await consumer.stop()
        handed_on = len(inbox.all)
        assert await unacknowledged(js, settings, handed_on)
        await publish(js, settings, *numbered(3))
        await round_trip(consumer._client)
        assert len(inbox.all) == handed_on
        await consumer.ack(inbox.take())
        await until(lambda: unacknowledged(js, settings, 0))
    assert inbox.payloads() == numbered(handed_on)


async def test_stop_ends_with_the_server_gone(data_dir: Path) -> None:
    with NatsServer(data_dir) as server:
        async with consuming(settings_for(server), Inbox()) as consumer:
            server.kill()
            await until(lambda: not consumer.attached)
            await consumer.stop()


@pytest.mark.parametrize("part", ["_check", "_tell_gap", "_take"])
async def test_a_defect_is_told(
    js: JetStreamContext, settings: NatsSettings, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Else a consumer would look alive and never pull again, never notice silence, or lose what it takes."""
    await make_stream(js, settings)
    await publish(js, settings, b"1")
    client = await connect(settings, lambda _: None, patient=False)
    defects: list[Exception] = []
    inbox = Inbox()
    consumer = JetStreamConsumer(client, settings, inbox.receive, inbox.room, defects.append)

    def broken(*_: object) -> None:
        raise KeyError("num_pending")

    with monkeypatch.context() as patch:
        patch.setattr(consumer, part, broken)
        await consumer.start()
        await until(lambda: defects)
    assert isinstance(defects[0], KeyError)
    await consumer.stop()
    await disconnect(client)


@pytest.mark.parametrize("flaw", [{"filter_subjects": ["decisions"]}, {"headers_only": True}])
async def test_a_consumer_that_would_not_deliver_everything_is_refused(
    js: JetStreamContext, settings: NatsSettings, flaw: dict[str, Any]
) -> None:
    await make_stream(js, settings)
    if "filter_subjects" in flaw:
        flaw = {"filter_subjects": [settings.decisions_subject]}
    await js.add_consumer(
        settings.stream, ConsumerConfig(durable_name=settings.durable, ack_policy=AckPolicy.EXPLICIT, **flaw)
    )
    inbox = Inbox()
    async with started(settings, inbox) as consumer:
        assert settings.durable in await complaint(consumer)
        assert not consumer.attached
