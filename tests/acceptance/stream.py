"""A stream of a test's own on a shared server, and an agent that publishes to it."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import nats
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from tests.acceptance.command import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from nats.aio.client import Client

    from tests.chaos.cluster import Cluster
    from tracker_daemon.embedded import NatsServer

WINDOW = 256
MAX_BYTES = 256 << 20
Payload = bytes | dict[str, Any]

_encoder = msgspec.json.Encoder(decimal_format="number")


class Stream:
    """Stream, subjects and durable consumer of one test, none of which has to be there yet."""

    def __init__(self, client: Client, server: NatsServer | Cluster) -> None:
        """Choose names that no other test has."""
        mark = uuid.uuid4().hex
        self.client = client
        self.name, self.durable = f"T{mark}", f"D{mark}"
        self.decisions, self.outcomes = f"{mark}.decisions", f"{mark}.outcomes"
        self.questions = f"{mark}.query"
        self.settings = {
            "TRACKER_NATS_SERVERS": server.url,
            "TRACKER_NATS_STREAM": self.name,
            "TRACKER_NATS_DURABLE": self.durable,
            "TRACKER_NATS_DECISIONS_SUBJECT": self.decisions,
            "TRACKER_NATS_OUTCOMES_SUBJECT": self.outcomes,
            "TRACKER_NATS_STREAM_MAX_BYTES": str(MAX_BYTES),
            "TRACKER_QUERY_SUBJECT": self.questions,
        }
        self._js = client.jetstream(timeout=10)

    async def make(
        self, *, durable: bool = True, ack_wait: float = 60, max_bytes: int = MAX_BYTES, replicas: int = 1
    ) -> None:
        """Make the stream as an operator would, and the `durable` too; `ack_wait` in seconds."""
        await self._js.add_stream(
            StreamConfig(
                name=self.name,
                subjects=[self.decisions, self.outcomes],
                max_bytes=max_bytes,
                discard=DiscardPolicy.NEW,
                num_replicas=replicas,
            )
        )
        if durable:
            await self._js.add_consumer(
                self.name,
                ConsumerConfig(
                    durable_name=self.durable,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ack_wait,
                    max_ack_pending=20_000,
                ),
            )

    async def publish(self, *payloads: Payload, subject: str | None = None) -> list[int]:
        """Publish in this order, decisions unless told otherwise; return each one's stream sequence."""
        return await self.publish_all((subject or self.decisions, payload) for payload in payloads)

    async def publish_all(self, messages: Iterable[tuple[str, Payload]]) -> list[int]:
        """Publish subjects and payloads in this order and return each one's stream sequence."""
        remaining, sequences = iter(messages), []
        while window := list(itertools.islice(remaining, WINDOW)):
            acks = await asyncio.gather(
                *(self._js.publish(subject, encoded(payload)) for subject, payload in window)
            )
            sequences += [ack.seq for ack in acks]
        return sequences

    async def holds(self, messages: int) -> None:
        """Wait until the stream holds so many messages."""

        async def enough() -> bool:
            return (await self._js.stream_info(self.name)).state.messages >= messages

        await until(f"the stream holds {messages} messages", enough)

    async def settled(self, messages: int) -> None:
        """Wait until the stream holds so many messages and the durable has every one acknowledged."""

        async def acknowledged() -> bool:
            try:
                consumer = await self._js.consumer_info(self.name, self.durable)
                stream = await self._js.stream_info(self.name)
            except NotFoundError:
                return False
            assert consumer.ack_floor is not None
            return (
                stream.state.messages == messages
                and consumer.ack_floor.stream_seq == stream.state.last_seq
                and not consumer.num_pending
                and not consumer.num_ack_pending
            )

        await until(f"{messages} messages are acknowledged", acknowledged)

    async def ack_waits(self, count: int, seconds: float) -> None:
        """Wait until an ack wait of `seconds` has passed so often: a message left alone tells each time."""
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=seconds)
        witness = await self._js.pull_subscribe(self.decisions, durable=f"W{self.durable}", config=config)
        delivered = 0
        while delivered <= count:
            [message] = await witness.fetch(1, timeout=30)
            if message.metadata.sequence.stream == 1:
                delivered = message.metadata.num_delivered
            else:
                await message.ack()
        await self._js.delete_consumer(self.name, f"W{self.durable}")

    async def ack_floor(self) -> int:
        """The stream sequence up to which the durable has every message acknowledged."""
        consumer = await self._js.consumer_info(self.name, self.durable)
        assert consumer.ack_floor is not None
        return consumer.ack_floor.stream_seq

    async def delivered(self) -> int:
        """The stream sequence up to which the durable has delivered messages."""
        consumer = await self._js.consumer_info(self.name, self.durable)
        assert consumer.delivered is not None
        return consumer.delivered.stream_seq

    async def delete_durable(self) -> None:
        """Delete the durable, as an operator might by mistake."""
        await self._js.delete_consumer(self.name, self.durable)

    async def purge(self) -> None:
        """Throw away every message of the stream."""
        await self._js.purge_stream(self.name)

    async def unacknowledged(self) -> int:
        """Messages that the durable has not acknowledged: delivered or not."""
        last = (await self._js.stream_info(self.name)).state.last_seq
        consumer = await self._js.consumer_info(self.name, self.durable)
        assert consumer.delivered is not None
        # A busy server tells the publisher of a message before the durable, which counts too few then.
        unheard = max(0, last - consumer.delivered.stream_seq)
        return (consumer.num_pending or unheard) + (consumer.num_ack_pending or 0)

    async def remove(self) -> None:
        """Delete the stream if it is there."""
        try:
            await self._js.delete_stream(self.name)
        except NotFoundError:
            return


def encoded(payload: Payload) -> bytes:
    """Encode an object as an agent would, its decimals as JSON numbers; leave bytes as they are."""
    return payload if isinstance(payload, bytes) else _encoder.encode(payload)


@asynccontextmanager
async def stream_on(server: NatsServer | Cluster) -> AsyncIterator[Stream]:
    """Yield a stream of its own on a running server; it is deleted afterwards."""

    async def taken_away(error: Exception) -> None:
        """Let it pass: some tests take the server away for a while, and nats-py would print each attempt."""

    client = await nats.connect(
        server.url.split(","), reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=taken_away
    )
    stream = Stream(client, server)
    try:
        yield stream
        await stream.remove()
    finally:
        await client.close()
