"""When a scene is over: what the judge takes for settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.js.api import AckPolicy, ConsumerConfig

if TYPE_CHECKING:
    from tests.acceptance.stream import Stream


async def test_what_the_durable_has_not_heard_of_is_not_settled(stream: Stream) -> None:
    """A busy server tells the publisher first; here the durable never hears of it, as it is filtered."""
    await stream.make(durable=False)
    js = stream.client.jetstream()
    filtered = ConsumerConfig(
        durable_name=stream.durable, ack_policy=AckPolicy.EXPLICIT, filter_subject=stream.decisions
    )
    subscription = await js.pull_subscribe(
        stream.decisions, durable=stream.durable, stream=stream.name, config=filtered
    )
    await stream.publish(b"{}")
    await stream.publish(b"{}", subject=stream.outcomes)
    assert await stream.unacknowledged() == 1
    [message] = await subscription.fetch(1)
    await message.ack_sync()
    consumer = await js.consumer_info(stream.name, stream.durable)
    assert (consumer.num_pending, consumer.num_ack_pending) == (0, 0)
    assert await stream.unacknowledged() == 1
