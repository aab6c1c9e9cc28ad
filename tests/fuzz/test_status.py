"""Status messages of every kind to a consumer that runs: whatever they say, it asks for messages again."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import nats
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.inbox import Inbox
from tests.waiting import until
from tracker_daemon.config import load
from tracker_daemon.consumer import JetStreamConsumer, connect, disconnect, jetstream

if TYPE_CHECKING:
    import pytest

    from tracker_daemon.embedded import NatsServer

EXAMPLES = 100

printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)
codes = st.sampled_from(["100", "400", "404", "408", "409", "423", "503"])
descriptions = st.sampled_from(
    [
        "Idle Heartbeat",
        "No Messages",
        "Request Timeout",
        "Consumer Deleted",
        "Message Size Exceeds MaxBytes",
        "Exceeded MaxRequestBatch of 10",
        "Exceeded MaxWaiting",
        "Leadership Change",
        "Consumer is push based",
        "Server Shutdown",
    ]
)
status_headers = st.fixed_dictionaries(
    {},
    optional={
        "Status": codes | printable,
        "Description": descriptions | printable,
        "Nats-Pending-Messages": st.integers().map(str) | printable,
    },
)


def generated() -> list[dict[str, str]]:
    """Headers of status messages, the same in every run."""
    made: list[dict[str, str]] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(status_headers)
    def make(headers: dict[str, str]) -> None:
        made.append(headers)

    make()
    return made


async def test_after_any_status_messages_are_asked_for_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes to the request under way, which goes on after a heartbeat and else is replaced."""
    monkeypatch.setattr(jetstream, "WATCH_SECONDS", 0.01)
    name = uuid4().hex
    subject = f"{name}.decisions"
    given_ = {"servers": nats_server.url, "stream": name, "durable": name, "decisions_subject": subject}
    given_ |= {"outcomes_subject": f"{name}.outcomes", "stream_max_bytes": "16MiB"}
    nats_settings = load(overrides={f"nats.{key}": value for key, value in given_.items()}, environ={}).nats
    inbox = Inbox()
    defects: list[Exception] = []
    client, agent = await connect(nats_settings, lambda _: None), await nats.connect(nats_server.url)
    consumer = JetStreamConsumer(client, nats_settings, inbox.receive, inbox.room, defects.append)
    await consumer.start()
    try:
        await until(lambda: consumer._subscription.request)
        for number, headers in enumerate(generated(), 1):
            request = consumer._subscription.request
            assert request is not None
            await agent.publish(request.reply, headers=headers or None)
            await agent.jetstream().publish(subject, b"%d" % number)
            await inbox.until(number)
            await until(lambda: consumer._subscription.request and consumer.attached)
            goes_on = headers.get("Status") == "100"
            assert (consumer._subscription.request is request) == goes_on, headers
            inbox.take()
        assert inbox.payloads() == [b"%d" % number for number in range(1, EXAMPLES + 1)]
        assert not defects
        assert consumer.trouble is None
    finally:
        await consumer.stop()
        await disconnect(client)
        await agent.jetstream().delete_stream(name)
        await agent.close()
