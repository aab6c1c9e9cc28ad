"""What a tracker does while the servers are away, refuse, or have forgotten to answer."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import nats
import pytest
from nats.js.api import StreamConfig

from tests.acceptance.stream import Stream, stream_on
from tests.factory import decision
from tests.servers import Away
from tests.trackers import over_nats
from tests.waiting import round_trip, until
from tracker_daemon.client import DecisionTracker, outbox
from tracker_daemon.client import over_nats as over_nats_side
from tracker_daemon.client.on_postgres import OnPostgres
from tracker_daemon.client.over_nats import OverNats
from tracker_daemon.client.payload import written
from tracker_daemon.config import EmbeddingSettings
from tracker_daemon.embedded import NatsServer
from tracker_daemon.errors import InvalidPayload, TrackerError, Unavailable
from tracker_daemon.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    import asyncpg
    from nats.aio.msg import Msg

    from tracker_daemon.client import Call
    from tracker_daemon.embedded import PostgresServer


@pytest.fixture
def own_server(data_dir: Path) -> Iterator[NatsServer]:
    """Yield a nats-server that a test may take away, for it alone."""
    with NatsServer(data_dir) as server:
        yield server


async def stored(stream: Stream) -> int:
    return (await stream.client.jetstream().stream_info(stream.name)).state.messages


async def test_nats_away_is_waited_out_with_a_bounded_queue(
    own_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Tracking returns at once, what has no room is counted and said once, the rest arrives."""
    caplog.set_level(logging.INFO, outbox.__name__)
    async with stream_on(own_server) as stream:
        await stream.make()
        async with over_nats(stream, max_queued_bytes=50_000) as tracker:
            await tracker.track_decision(**decision(), confirm=True)
            async with Away(own_server, "stopped"):
                for _ in range(1000):
                    await tracker.track_decision(**decision())
                await until(lambda: "decisions wait" in caplog.text)
                with pytest.raises(Unavailable, match="queue is full"):
                    await tracker.track_decision(**decision(), confirm=True)
            await tracker.flush()
            kept = 1001 - (tracker.dropped - 1)
            assert 100 < kept < 900
            assert await stored(stream) == kept
            await tracker.track_decision(**decision(), confirm=True)
    messages = [record.message for record in caplog.records if record.name == outbox.__name__]
    assert [message.split(":")[0] for message in messages] == [
        "a decision or outcome is not recorded, and others may follow",
        "decisions wait to be recorded",
        "decisions are recorded again",
        f"{tracker.dropped} decisions or outcomes were not recorded so far",
    ]


async def test_postgresql_away_is_waited_out(
    postgres_server: PostgresServer, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a connection that breaks in the middle; its lines go where the agent's go, not to stdout."""
    async with DecisionTracker.on_postgres(dsn, max_queued_bytes=50_000) as tracker:
        await tracker.track_decision(**decision(), confirm=True)
        async with Away(postgres_server, "killed"):
            for _ in range(1000):
                await tracker.track_decision(**decision())
            line = re.compile("event='cannot write, trying again' reason=.PostgreSQL")
            await until(lambda: line.search(caplog.text))
            with pytest.raises(Unavailable, match="PostgreSQL"):
                await tracker.get_recent_decisions()
        await tracker.flush()
        kept = 1001 - tracker.dropped
        assert 100 < kept < 900
        page = await tracker.get_recent_decisions(limit=1000)
        assert len(page.rows) == kept


async def test_a_stream_that_comes_later_gets_what_was_tracked_before(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wants to be sure hears that it is not, and why; the message waits all the same."""
    monkeypatch.setattr(outbox, "CONFIRM_SECONDS", 0.5)
    async with over_nats(stream) as tracker:
        with pytest.raises(Unavailable, match=rf"no stream takes {stream.decisions}.*stays in the queue"):
            await tracker.track_decision(**decision(), confirm=True)
        await stream.make()
        await tracker.flush()
        assert await stored(stream) == 1


async def test_what_waits_holds_up_only_its_flush(stream: Stream) -> None:
    """A stream that takes decisions alone gets them; their outcomes wait until it takes those too."""
    js = stream.client.jetstream()
    config = StreamConfig(name=stream.name, subjects=[stream.decisions], max_bytes=1 << 20)
    await js.add_stream(config)
    async with over_nats(stream) as tracker:
        await tracker.update_decision_outcome(uuid4(), "SUCCESS")
        await tracker.track_decision(**decision())
        flushing = asyncio.create_task(tracker.flush())
        await stream.holds(1)
        assert not flushing.done()
        await js.update_stream(config.evolve(subjects=[stream.decisions, stream.outcomes]))
        await flushing
        assert await stored(stream) == 2
        assert tracker.dropped == 0


async def test_a_message_whose_ack_was_lost_is_stored_once(
    stream: Stream, dsn: str, sql: asyncpg.Connection
) -> None:
    """An outcome above all, which has no id of its own in its payload."""
    await stream.make()
    id_ = uuid4()
    messages = [
        written("llm.decisions", decision(id=id_)),
        written("llm.outcomes", {"decision_id": id_, "outcome": "SUCCESS"}),
    ]
    subjects = {"llm.decisions": stream.decisions, "llm.outcomes": stream.outcomes}
    sides = [
        OverNats([stream.settings["TRACKER_NATS_SERVERS"]], subjects, ""),
        OnPostgres(dsn, None, EmbeddingSettings()),
    ]
    for side in sides:
        for _ in range(2):
            assert await side.send(messages) == [None, None]
        await side.close()
    assert await stored(stream) == 2
    assert await sql.fetchval("SELECT count(*) FROM llm_outcomes") == 1
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"


async def test_what_nats_will_never_take_holds_up_nothing(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """More than its connections take, and more than the stream does."""
    config = StreamConfig(name=stream.name, subjects=[stream.decisions], max_bytes=8 << 20, max_msg_size=5000)
    await stream.client.jetstream().add_stream(config)
    async with over_nats(stream) as tracker:
        await tracker.track_decision(**decision(prompt="p" * (2 << 20)))
        for size in (2 << 20, 6000):
            with pytest.raises(InvalidPayload, match=r"too_large.*NATS refuses them"):
                await tracker.track_decision(**decision(prompt="p" * size), confirm=True)
        await tracker.track_decision(**decision(), confirm=True)
        assert tracker.dropped == 3
        assert await stored(stream) == 1
    assert "is not recorded" in caplog.text


async def test_what_nats_takes_without_its_header_alone_holds_up_nothing(stream: Stream) -> None:
    """The server counts the header with its id, and hangs up; its client counts the payload alone."""
    await stream.make()
    said: dict[str, Any] = decision() | {"id": uuid4(), "timestamp": datetime(2026, 1, 1, tzinfo=UTC)}
    empty = len(written("llm.decisions", said | {"prompt": ""}).payload)
    room = stream.client.max_payload - empty - len(f"NATS/1.0\r\nNats-Msg-Id: {uuid4()}\r\n\r\n")
    async with over_nats(stream) as tracker:
        await tracker.track_decision(**said | {"prompt": "p" * room}, confirm=True)
        with pytest.raises(InvalidPayload, match=r"too_large.*NATS refuses them"):
            await tracker.track_decision(**said | {"prompt": "p" * (room + 1)}, confirm=True)
        await tracker.track_decision(**decision(), confirm=True)
    assert await stored(stream) == 2


async def test_a_publish_that_is_not_permitted_says_so(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(over_nats_side, "ACK_SECONDS", 0.2)
    login = 'authorization { users: [{ user: agent, password: secret, permissions: { publish: "other" } }] }'
    with NatsServer(data_dir, options=login) as server:
        tracker = DecisionTracker.over_nats(server.url.replace("//", "//agent:secret@"))
        await tracker.track_decision(**decision())
        await until(lambda: "decisions wait" in caplog.text)
        await tracker.close(0)
    assert "permissions violation for publish" in caplog.text.lower()
    assert "secret" not in caplog.text


async def test_what_postgresql_will_never_take_holds_up_nothing(
    dsn: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even a dead letter of it, because of somebody's trigger."""
    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no' USING ERRCODE = 'P7777'; END $$"
    )
    for table, when in (("llm_decisions", "WHEN (NEW.symbol = 'ETH')"), ("llm_dead_letters", "")):
        await sql.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW {when} EXECUTE FUNCTION refuse()"
        )
    async with DecisionTracker.on_postgres(dsn) as tracker:
        with pytest.raises(TrackerError, match="PostgreSQL takes neither it nor its dead letter"):
            await tracker.track_decision(**decision(symbol="ETH"), confirm=True)
        await tracker.track_decision(**decision(), confirm=True)
        assert tracker.dropped == 1
    assert "P7777" in caplog.text
    assert await sql.fetchval("SELECT string_agg(symbol, ',') FROM llm_decisions") == "BTC"


async def test_what_breaks_the_contract_breaks_no_agent(
    stream: Stream, dsn: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to the dead letters, and who asks for a confirmation is told instead."""
    await stream.make()
    async with over_nats(stream) as one, DecisionTracker.on_postgres(dsn) as other:
        for tracker in (one, other):
            await tracker.track_decision(**decision(), confidence=85)
            await tracker.flush()
            with pytest.raises(InvalidPayload, match="confidence: expected a decimal from 0 to 1"):
                await tracker.track_decision(**decision(), confidence=85, confirm=True)
            await tracker.track_decision(**decision(), context={"model": object()})
            with pytest.raises(InvalidPayload, match="cannot be written as JSON"):
                await tracker.track_decision(**decision(), context={"model": object()}, confirm=True)
            assert tracker.dropped == 1
    assert await stored(stream) == 1
    letters = await sql.fetch("SELECT reason, field FROM llm_dead_letters")
    assert [tuple(letter) for letter in letters] == [("invalid_field", "confidence")]
    assert (
        caplog.text.count("this goes to the dead letters: invalid_field at confidence: expected a decimal")
        == 2
    )


async def test_the_end_is_bounded_and_counts_what_is_left(
    postgres_server: PostgresServer, dsn: str, own_server: NatsServer
) -> None:
    trackers = [DecisionTracker.on_postgres(dsn), DecisionTracker.over_nats(own_server.url)]
    async with Away(postgres_server, "frozen"), Away(own_server, "frozen"):
        for tracker in trackers:
            for _ in range(3):
                await tracker.track_decision(**decision())
            waiting = asyncio.create_task(tracker.track_decision(**decision(), confirm=True))
            await until(lambda: len(tracker._outbox._entries) == 4)  # noqa: B023 - it is over before the next
            await tracker.close(0.1)
            assert tracker.dropped == 4
            with pytest.raises(Unavailable, match="was closed before"):
                await waiting
            await tracker.track_decision(**decision())
            assert tracker.dropped == 5
            await tracker.close()


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_an_agent_that_does_not_close_hears_what_is_lost(
    seconds: float, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nothing had been begun yet."""
    tracker = DecisionTracker.on_postgres(postgres_server.dsn("nowhere"))

    async def forget() -> None:
        for _ in range(3):
            await tracker.track_decision(**decision())
        await asyncio.sleep(seconds)

    asyncio.run(forget())
    assert tracker.dropped == 3
    assert "is not recorded, and others may follow: the tracker was not closed before" in caplog.text


async def test_a_client_of_the_agents_own_stays_open(stream: Stream) -> None:
    await stream.make()
    client = await nats.connect(stream.settings["TRACKER_NATS_SERVERS"])
    async with DecisionTracker.over_nats(client, decisions_subject=stream.decisions) as tracker:
        await tracker.track_decision(**decision(), confirm=True)
    assert client.is_connected
    await client.close()
    async with DecisionTracker.over_nats(client) as tracker:
        with pytest.raises(Unavailable, match="the client that was given is not connected"):
            await tracker.get_recent_decisions()


async def test_nobody_to_ask(own_server: NatsServer) -> None:
    async with DecisionTracker.over_nats(own_server.url, query_subject="nobody") as tracker:
        with pytest.raises(Unavailable, match=r"no daemon answers nobody\.recent"):
            await tracker.get_recent_decisions()
    own_server.stop()
    async with DecisionTracker.over_nats(own_server.url) as tracker:
        with pytest.raises(Unavailable, match=r"is out of reach: .*Connect call failed"):
            await tracker.get_recent_decisions()
    own_server.start()


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "of another version than this client: .*missing required field `rows`"),
        (
            {"Nats-Service-Error-Code": "503", "Nats-Service-Error": "too many"},
            r"the daemon cannot answer \(503\): too many",
        ),
    ],
)
async def test_an_answer_that_is_none(stream: Stream, headers: dict[str, str], says: str) -> None:
    async def answer(question: Msg) -> None:
        await stream.client.publish(question.reply, b"{}", headers=headers)

    await stream.client.subscribe(f"{stream.questions}.recent", cb=answer)
    async with over_nats(stream) as tracker:
        await round_trip(stream.client)
        with pytest.raises(Unavailable, match=says):
            await tracker.get_recent_decisions()


async def test_on_postgres_cuts_out_what_it_is_told_to(dsn: str, sql: asyncpg.Connection) -> None:
    redactor = Redactor(["email"])
    async with DecisionTracker.on_postgres(dsn, redactor=redactor) as tracker:
        await tracker.track_decision(**decision(prompt="from a@example.com"), confirm=True)
    assert "a@example.com" not in await sql.fetchval("SELECT prompt FROM llm_decisions")


async def hang_up() -> None:
    raise ConnectionResetError("the model hung up")


async def test_a_block_that_asks_a_model_is_tracked_however_it_ends(
    dsn: str, sql: asyncpg.Connection
) -> None:
    asked = decision(response=None)
    async with DecisionTracker.on_postgres(dsn) as tracker:
        async with tracker.decision(**asked, context={"rsi": 62.1}) as d:
            d.response = '{"action": "SELL"}'
            d.confidence, d.tokens_used, d.cost_usd = 0.9, 812, "0.012"
            d.context["seen"] = 3
            done = d.id
        broken, slow = tracker.decision(**asked), tracker.decision(**asked)

        async def ask(call: Call, model: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
            async with asyncio.timeout(seconds), call:
                call.response = "Bu"
                await model

        with pytest.raises(ConnectionResetError):
            await ask(broken, hang_up())
        with pytest.raises(TimeoutError):
            await ask(slow, asyncio.Event().wait(), 0.05)
        await tracker.flush()
    rows = {row["id"]: row for row in await sql.fetch("SELECT * FROM llm_decisions")}
    assert rows.keys() == {done, broken.id, slow.id}
    assert rows[slow.id]["latency_ms"] >= 25
    assert (rows[done]["action"], rows[done]["extra"]) == ("SELL", None)
    assert rows[done]["context"] == '{"rsi": 62.1, "seen": 3}'
    assert (rows[done]["tokens_used"], str(rows[done]["cost_usd"])) == (812, "0.012000")
    assert (rows[broken.id]["response"], rows[slow.id]["response"]) == ("Bu", "Bu")
    errors = {id_: msgspec.json.decode(rows[id_]["extra"])["error"] for id_ in (broken.id, slow.id)}
    assert errors[broken.id] == {"type": "ConnectionResetError", "message": "the model hung up"}
    assert errors[slow.id]["type"] == "CancelledError"
