"""A replay against a real stream: all of it arrives once and in order, and a refusal is a sentence."""

from __future__ import annotations

import asyncio
import socket
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import nats
import orjson
import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from tracker_daemon.demo import replay as replaying
from tracker_daemon.demo.market import load
from tracker_daemon.demo.payloads import FLAWS
from tracker_daemon.demo.replay import Progress, replay
from tracker_daemon.demo.script import Script
from tracker_daemon.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from tracker_daemon.demo.script import Subject
    from tracker_daemon.embedded import NatsServer

MARKET = load(datetime.now(UTC))


class Stream:
    """A stream of the test's own, on subjects of its own."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self.name = f"T{uuid.uuid4().hex}"
        self.subjects: dict[Subject, str] = {
            "decisions": f"{self.name}.llm.decisions",
            "outcomes": f"{self.name}.llm.outcomes",
        }
        self.jetstream = jetstream

    def config(self, max_msgs: int = -1) -> StreamConfig:
        """Refuse what is too much, like the daemon's own stream."""
        return StreamConfig(
            self.name, subjects=list(self.subjects.values()), max_msgs=max_msgs, discard=DiscardPolicy.NEW
        )

    async def count(self) -> int:
        """Messages stored."""
        return (await self.jetstream.stream_info(self.name)).state.messages

    async def stored(self) -> list[tuple[str, bytes]]:
        """Every message's subject and payload, in stream order."""
        messages = [await self.jetstream.get_msg(self.name, seq) for seq in range(1, await self.count() + 1)]
        return [(message.subject or "", message.data or b"") for message in messages]


@asynccontextmanager
async def stream_on(server: NatsServer) -> AsyncIterator[Stream]:
    """Yield a stream that is not made yet, and delete it afterwards where it was."""
    client = await nats.connect(server.url)
    try:
        stream = Stream(client.jetstream())
        yield stream
        with suppress(NotFoundError):
            await stream.jetstream.delete_stream(stream.name)
    finally:
        await client.close()


async def test_the_whole_script_is_stored_once_and_in_order(nats_server: NatsServer) -> None:
    script = Script(MARKET, limit=400)
    seen: list[Progress] = []
    async with stream_on(nats_server) as stream:
        await stream.jetstream.add_stream(stream.config())
        progress = await replay(nats_server.url, script, stream.subjects, on_progress=seen.append)
        stored = await stream.stored()
    assert (progress.decisions, progress.outcomes, progress.malformed) == (400, 325, 6)
    assert len(stored) == 731
    decisions = [payload for subject, payload in stored if subject == stream.subjects["decisions"]]
    assert len(decisions) == 400 + sum(not flaw.is_outcome for flaw in FLAWS)
    flawed = {stored[sequence - 1] for sequence in progress.malformed_sequences}
    times = [orjson.loads(message[1])["timestamp"] for message in stored if message not in flawed]
    assert times == sorted(times)
    assert seen
    assert all(each is progress for each in seen)
    assert (progress.stream, progress.day) == (stream.name, MARKET.bars["AAPL"][-1].day)


async def test_progress_knows_where_the_malformed_messages_are(nats_server: NatsServer) -> None:
    async with stream_on(nats_server) as stream:
        await stream.jetstream.add_stream(stream.config())
        progress = await replay(nats_server.url, Script(MARKET, limit=90), stream.subjects, rate=5_000)
        stored = await stream.stored()
    flawed = [stored[sequence - 1] for sequence in progress.malformed_sequences]
    assert not flawed[0][1].endswith(b"}")
    assert b'"model"' not in flawed[1][1]
    assert rb"\u0000" in flawed[2][1]
    assert b'"confidence":1.7' in flawed[3][1]
    assert b'"prompt_embedding":[0.1,0.2,0.3]' in flawed[4][1]
    assert flawed[5][0] == stream.subjects["outcomes"]


async def test_what_a_full_stream_refuses_is_published_again(nats_server: NatsServer) -> None:
    script = Script(MARKET, limit=300)
    async with stream_on(nats_server) as stream:
        await stream.jetstream.add_stream(stream.config(max_msgs=100))
        running = asyncio.create_task(replay(nats_server.url, script, stream.subjects))
        while await stream.count() < 100:
            assert not running.done()
        await stream.jetstream.update_stream(stream.config())
        progress = await running
        assert await stream.count() == 300 + 225 + 6
    assert (progress.decisions, progress.outcomes, progress.malformed) == (300, 225, 6)


async def test_a_stream_that_stays_full_ends_the_replay_with_a_sentence(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only what the stream has stored was counted."""
    monkeypatch.setattr(replaying, "PAUSES_SECONDS", (0.0, 0.0))
    seen: list[Progress] = []
    async with stream_on(nats_server) as stream:
        await stream.jetstream.add_stream(stream.config(max_msgs=300))
        with pytest.raises(
            Unavailable, match=r"did not take 212 .* in 3 attempts .*maximum messages exceeded"
        ):
            await replay(nats_server.url, Script(MARKET, 300), stream.subjects, on_progress=seen.append)
    assert seen[0].decisions + seen[0].outcomes + seen[0].malformed == 300


async def test_without_a_stream_the_replay_ends_with_a_sentence(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PAUSES_SECONDS", (0.0,))
    async with stream_on(nats_server) as stream:
        with pytest.raises(Unavailable, match=r"see that it exists and has room"):
            await replay(nats_server.url, Script(MARKET, 10), stream.subjects)


async def test_a_nats_server_that_is_not_there_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match=r"cannot reach its NATS server .*Connect call failed"):
        await replay(f"nats://127.0.0.1:{port}", Script(MARKET, 1))
