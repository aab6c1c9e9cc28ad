"""`tracker-daemon run` from publish to row, and every way in which it ends."""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from tests.acceptance.command import until
from tests.acceptance.stream import encoded, stream_on
from tests.conftest import create_database
from tests.factory import decision
from tests.servers import Away
from tracker_daemon.embedded import NatsServer, PostgresServer
from tracker_daemon.signals import STOPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.msg import Msg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

ACK_WAIT_SECONDS = 2
"""Of durables whose messages a second daemon waits for."""

# As Go's encoding/json writes a struct: no id, nanoseconds with an offset, <, > and & escaped.
SEED = (
    '{"session_id":"7f0c2f4e-6f0b-4c0f-9a63-0f6f5d0c1a2b","decision_type":"signal","symbol":"BTC/USDT",'
    '"prompt":"Decision %d: RSI \\u003c 30 \\u0026 volume rising. Buy?",'
    '"response":"{\\"action\\":\\"BUY\\",\\"confidence\\":0.85}","model":"claude-sonnet-4",'
    '"tokens_used":1543,"latency_ms":1250,"context":{"indicators":{"macd":-1.25,"rsi":28.5},'
    '"market_conditions":{"price":43250.123456789,"trend":"bullish"}},"agent_name":"technical-agent",'
    '"confidence":0.85,"timestamp":"2026-11-05T16:04:05.123456%03d+01:00"}'
)

DECISION_COLUMNS = (
    "id, session_id, agent_name, decision_type, symbol, prompt, prompt_embedding::text, response, model, "
    "tokens_used, latency_ms, outcome, pnl, outcome_at, context, confidence, created_at, action, cost_usd, "
    "extra, experiment, variant, propensity, embedding_model"
)
OUTCOME_COLUMNS = "decision_id, outcome, pnl, observed_at, source, note, extra, stream_sequence"


class Agents:
    """Agents that decide by chance: payloads to publish, and the rows that these must become."""

    def __init__(self, seed: int = 7) -> None:
        """Make the same payloads from the same seed."""
        self._random = random.Random(seed)  # noqa: S311 - a test's data
        self._sessions = [self._uuid() for _ in range(5)]

    def decide(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """A payload with every field, under either of its names, and its row."""
        chance = self._random
        created_at, timestamp = self._time()
        confidence, cost = Decimal(chance.randrange(10_001)).scaleb(-4), Decimal(number).scaleb(-6)
        row = {
            "id": self._uuid(),
            "session_id": chance.choice(self._sessions),
            "agent_name": chance.choice(("momentum", "Größe", "趋势")),
            "decision_type": chance.choice(("signal", "risk_approval")),
            "symbol": chance.choice(("BTC/USDT", "ETH", "IBM")),
            "prompt": f"Decision {number}: buy, sell or hold?\n\t“🚀”",
            "prompt_embedding": f"[{number},{number + 0.5},-0.25]",
            "response": f"Because of reason {number}: hold.",
            "model": chance.choice(("gpt-x", "claude-y")),
            "tokens_used": chance.randrange(2**31),
            "latency_ms": number,
            "context": {"rsi": chance.randrange(1000) / 10, "levels": [1, {"deep": None}], "note": "é"},
            "confidence": confidence,
            "created_at": created_at,
            "action": chance.choice(("BUY", "SELL", "HOLD")),
            "cost_usd": cost,
            "extra": {"unheard_of": {"kept": number}},
            "experiment": "prompts",
            "variant": chance.choice(("a", "b")),
            "propensity": Decimal("0.5000000000"),
            "embedding_model": "e5",
            "outcome": None,
            "pnl": None,
            "outcome_at": None,
        }
        payload = {
            name: row[name]
            for name in (
                *("agent_name", "decision_type", "symbol", "prompt", "response", "model", "tokens_used"),
                *("latency_ms", "action", "experiment", "variant", "embedding_model", "propensity"),
            )
        } | {
            chance.choice(("id", "decision_id")): str(row["id"]),
            "session_id": str(row["session_id"]),
            chance.choice(("timestamp", "created_at")): timestamp,
            chance.choice(("context", "metadata")): row["context"],
            "confidence": chance.choice((confidence, str(confidence))),
            "cost_usd": chance.choice((cost, f"{cost:f}")),
            "prompt_embedding": [number, number + 0.5, -0.25],
            "unheard_of": {"kept": number},
        }
        return payload, row

    def settle(self, decision_id: UUID) -> tuple[dict[str, Any], dict[str, Any]]:
        """An outcome's payload and its row in the ledger, the stream sequence still to come."""
        chance = self._random
        observed_at, timestamp = self._time()
        word = chance.choice(("SUCCESS", "failure", "Pending"))
        pnl = Decimal(chance.randrange(-(10**19), 10**19)).scaleb(-8)
        row = {
            "decision_id": decision_id,
            "outcome": word.upper(),
            "pnl": pnl,
            "observed_at": observed_at,
            "source": "desk",
            "note": f"settled\n{chance.random()}",
            "extra": {"fee": 0.25},
        }
        payload = {
            chance.choice(("decision_id", "id")): str(decision_id),
            "outcome": word,
            chance.choice(("pnl", "outcome_pnl")): chance.choice((pnl, f"{pnl:f}")),
            chance.choice(("timestamp", "observed_at")): timestamp,
            "source": row["source"],
            "note": row["note"],
            "fee": 0.25,
        }
        return payload, row

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def _time(self) -> tuple[datetime, str]:
        """A past time as stored, to the microsecond, and as Go would print it in some zone."""
        chance = self._random
        time = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**12))
        local = time + timedelta(hours=2)
        zone, shown = chance.choice((("Z", time), ("+02:00", local), ("", time)))
        return time, f"{shown:%Y-%m-%dT%H:%M:%S.%f}{chance.randrange(500):03}{zone}"


async def decisions_in(sql: asyncpg.Connection) -> dict[UUID, dict[str, Any]]:
    rows = await sql.fetch(f"SELECT {DECISION_COLUMNS} FROM llm_decisions")
    return {row["id"]: _parsed(row, "context", "extra") for row in rows}


async def outcomes_in(sql: asyncpg.Connection) -> dict[int, dict[str, Any]]:
    rows = await sql.fetch(f"SELECT {OUTCOME_COLUMNS} FROM llm_outcomes")
    return {row["stream_sequence"]: _parsed(row, "extra") for row in rows}


def _parsed(row: asyncpg.Record, *documents: str) -> dict[str, Any]:
    return dict(row) | {name: row[name] and orjson.loads(row[name]) for name in documents}


def projection(event: dict[str, Any]) -> dict[str, Any]:
    """What a decision shows of the event of the ledger that has won."""
    return {"outcome": event["outcome"], "pnl": event["pnl"], "outcome_at": event["observed_at"]}


def seed_payloads(count: int) -> list[bytes]:
    """Payloads without an id, which nothing but the stream position can tell from each other."""
    return [(SEED % (number, number % 1000)).encode() for number in range(count)]


async def assert_stored_once(dsn: str, decisions: int) -> None:
    """So many payloads of `seed_payloads` are rows, each once, and nothing is a dead letter."""
    sql = await asyncpg.connect(dsn)
    try:
        row = await sql.fetchrow("SELECT count(*), count(DISTINCT prompt) AS prompts FROM llm_decisions")
        assert row is not None
        assert tuple(row) == (decisions, decisions)
        assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters") == 0
    finally:
        await sql.close()


async def any_row(dsn: str) -> None:
    """Wait until a decision is committed."""
    sql = await asyncpg.connect(dsn)
    try:
        await until(
            "a decision is committed", lambda: sql.fetchval("SELECT EXISTS (SELECT FROM llm_decisions)")
        )
    finally:
        await sql.close()


async def test_every_message_is_stored_exactly_and_counted(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """5,000 decisions and their outcomes, half of these published first, a tenth as the seed's Go struct."""
    agents = Agents()
    made = [agents.decide(number) for number in range(4500)]
    expected = {row["id"]: row for _, row in made}
    ledger = [agents.settle(id_) for id_ in expected]
    seeds = seed_payloads(500)

    daemon = await (await run(settings)).ready()
    early = await stream.publish(*(payload for payload, _ in ledger[:2250]), subject=stream.outcomes)
    mixed = [payload for payload, _ in made] + seeds
    random.Random(1).shuffle(mixed)  # noqa: S311 - a test's data
    await stream.publish(*mixed)
    late = await stream.publish(*(payload for payload, _ in ledger[2250:]), subject=stream.outcomes)
    await stream.settled(9500)

    # Nobody knows the ids of the Go structs before they are stored: their outcomes come after a look.
    found = {
        row["prompt"]: row["id"]
        for row in await sql.fetch(
            "SELECT id, prompt FROM llm_decisions WHERE agent_name = 'technical-agent'"
        )
    }
    assert len(found) == 500
    seed_ledger = [agents.settle(id_) for id_ in found.values()]
    last = await stream.publish(*(payload for payload, _ in seed_ledger), subject=stream.outcomes)
    await stream.settled(10_000)

    expected |= {row["id"]: row for row in (_seed_row(payload, found) for payload in seeds)}
    for (_, row), sequence in zip(ledger + seed_ledger, early + late + last, strict=True):
        row["stream_sequence"] = sequence
        expected[row["decision_id"]] |= projection(row)
    assert await decisions_in(sql) == expected
    assert await outcomes_in(sql) == {row["stream_sequence"]: row for _, row in ledger + seed_ledger}

    metrics = await daemon.metrics()
    for subject in (stream.decisions, stream.outcomes):
        metrics.assert_adds_up(subject)
        assert metrics("messages_settled_total", subject=subject, result="stored") == 5000
    for table, rows in (("llm_decisions", 5000), ("llm_outcomes", 5000), ("llm_dead_letters", 0)):
        assert metrics("rows_committed_total", table=table) == rows
        assert await sql.fetchval(f"SELECT count(*) FROM {table}") == rows
    assert metrics("redeliveries_total") == metrics("stream_gap_messages_total") == 0
    assert await daemon.stop() == 0
    assert await stream.unacknowledged() == 0


def _seed_row(payload: bytes, ids: dict[str, UUID]) -> dict[str, Any]:
    """What a payload of `SEED` must become."""
    fields = orjson.loads(payload)
    assert ids[fields["prompt"]].version == 7
    return {
        "id": ids[fields["prompt"]],
        "session_id": UUID("7f0c2f4e-6f0b-4c0f-9a63-0f6f5d0c1a2b"),
        "agent_name": "technical-agent",
        "decision_type": "signal",
        "symbol": "BTC/USDT",
        "prompt": fields["prompt"],
        "prompt_embedding": None,
        "response": '{"action":"BUY","confidence":0.85}',
        "model": "claude-sonnet-4",
        "tokens_used": 1543,
        "latency_ms": 1250,
        "context": {
            "indicators": {"macd": -1.25, "rsi": 28.5},
            "market_conditions": {"price": 43250.123456789, "trend": "bullish"},
        },
        "confidence": Decimal("0.8500"),
        # To the microsecond, to which the nanoseconds are rounded.
        "created_at": datetime(
            2026, 11, 5, 15, 4, 5, 123456 + (int(fields["timestamp"][26:29]) >= 500), tzinfo=UTC
        ),
        "action": "BUY",
        "cost_usd": None,
        "extra": None,
        "experiment": None,
        "variant": None,
        "propensity": None,
        "embedding_model": None,
    }


@pytest.mark.parametrize("number", STOPS)
async def test_a_signal_flushes_what_is_held_and_acknowledges_it(
    number: signal.Signals, run: Run, settings: dict[str, str], stream: Stream, dsn: str
) -> None:
    """No timer or bound would flush these messages: the drain does."""
    daemon = await (await run({**settings, "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "3600"})).ready()
    await stream.publish(*seed_payloads(300))
    await daemon.received(300)
    await assert_stored_once(dsn, 0)
    assert await daemon.stop(number) == 0
    assert (await daemon.said("stopped"))["left_to_the_stream"] == 0
    assert await stream.unacknowledged() == 0
    await assert_stored_once(dsn, 300)


async def test_messages_published_before_the_first_start_are_stored(
    run: Run, settings: dict[str, str], stream: Stream, dsn: str
) -> None:
    await stream.make(durable=False)
    await stream.publish(*seed_payloads(200))
    daemon = await run(settings)
    await stream.settled(200)
    await assert_stored_once(dsn, 200)
    assert await daemon.stop() == 0


async def test_sigterm_under_load_loses_nothing_and_doubles_nothing(
    run: Run, settings: dict[str, str], stream: Stream, dsn: str
) -> None:
    await stream.make(ack_wait=ACK_WAIT_SECONDS)
    payloads = iter(seed_payloads(50_000))
    published = 0
    enough = asyncio.Event()

    async def publish() -> None:
        nonlocal published
        while not enough.is_set():
            published += len(await stream.publish(*(next(payloads) for _ in range(200))))

    first = await (await run(settings)).ready()
    publishing = asyncio.create_task(publish())
    await any_row(dsn)
    assert await first.stop() in (0, 3)
    enough.set()
    await publishing
    second = await (await run(settings)).ready()
    await stream.settled(published)
    await assert_stored_once(dsn, published)
    assert await second.stop() == 0


async def test_kill_9_loses_nothing_and_doubles_nothing(
    run: Run, settings: dict[str, str], stream: Stream, dsn: str
) -> None:
    await stream.make(ack_wait=ACK_WAIT_SECONDS)
    await stream.publish(*seed_payloads(5000))
    # Small batches, so that the kill comes between two of many.
    first = await run({**settings, "TRACKER_BATCH_MAX_ROWS": "25", "TRACKER_POSTGRES_WRITERS": "1"})
    await any_row(dsn)
    await first.kill()
    assert await stream.unacknowledged() > 0
    second = await (await run(settings)).ready()
    await stream.settled(5000)
    await assert_stored_once(dsn, 5000)
    assert await second.stop() == 0


async def test_kill_9_between_commit_and_acknowledgement_doubles_nothing(
    run: Run, basics: dict[str, str], dsn: str, data_dir: Path
) -> None:
    """The stream's server has crashed when the batch is committed, so no acknowledgement gets out."""
    with NatsServer(data_dir) as server:
        async with stream_on(server) as stream:
            await stream.make(ack_wait=ACK_WAIT_SECONDS)
            settings = {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": dsn}
            first = await (await run({**settings, "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "2"})).ready()
            await stream.publish(*seed_payloads(100))
            await first.received(100)
            server.kill()
            await any_row(dsn)
            await first.kill()
            server.start()
            second = await (await run(settings)).ready()
            await stream.settled(100)
            await assert_stored_once(dsn, 100)
            metrics = await second.metrics()
            assert metrics("messages_settled_total", result="duplicate") == 100
            assert await second.stop() == 0


@pytest.fixture(scope="module")
def own_server(servers_folder: Path) -> Iterator[PostgresServer]:
    """Yield a PostgreSQL for tests that take it away; each leaves it running."""
    with PostgresServer(servers_folder / "taken-away", options={"fsync": "off"}) as server:
        yield server


@pytest.fixture
async def own_dsn(own_server: PostgresServer) -> AsyncIterator[str]:
    async with create_database(own_server) as dsn:
        yield dsn


@pytest.fixture
def own_settings(basics: dict[str, str], stream: Stream, own_dsn: str) -> dict[str, str]:
    return {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": own_dsn}


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_sigterm_with_postgres_away_leaves_the_messages_to_the_next_daemon(
    how: str, run: Run, own_settings: dict[str, str], stream: Stream, own_server: PostgresServer
) -> None:
    await stream.make(ack_wait=ACK_WAIT_SECONDS)
    first = await (await run({**own_settings, "TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "1"})).ready()
    await stream.publish(*seed_payloads(100))
    await stream.settled(100)
    with Away(own_server, how):
        await stream.publish(*seed_payloads(400)[100:])
        await first.received(400)
        assert await first.stop() == 3
        assert (await first.said("stopped"))["left_to_the_stream"] == 300
        assert await stream.unacknowledged() == 300
    second = await (await run(own_settings)).ready()
    await stream.settled(400)
    await assert_stored_once(own_settings["TRACKER_POSTGRES_DSN"], 400)
    assert (await second.metrics())("redeliveries_total") >= 300
    assert await second.stop() == 0


async def test_what_is_held_through_an_outage_is_not_delivered_again(
    run: Run, own_settings: dict[str, str], stream: Stream, own_server: PostgresServer
) -> None:
    await stream.make(ack_wait=ACK_WAIT_SECONDS)
    daemon = await (await run(own_settings)).ready()
    with Away(own_server, "killed"):
        await stream.publish(*seed_payloads(50))
        await daemon.received(50)
        await stream.ack_waits(2, ACK_WAIT_SECONDS)
    await stream.settled(50)
    await assert_stored_once(own_settings["TRACKER_POSTGRES_DSN"], 50)
    assert (await daemon.metrics())("redeliveries_total") == 0
    assert await daemon.stop() == 0


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_second_sigterm_does_not_wait_for_the_deadline(
    how: str, run: Run, own_settings: dict[str, str], stream: Stream, own_server: PostgresServer
) -> None:
    daemon = await (await run({**own_settings, "TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "3600"})).ready()
    with Away(own_server, how):
        await stream.publish(*seed_payloads(50))
        await daemon.received(50)
        daemon.send(signal.SIGTERM)
        await daemon.said("draining")
        assert await daemon.stop() == 3
        assert (await daemon.said("stopped"))["left_to_the_stream"] == 50


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_sigterm_with_nats_away_stores_what_is_held_and_the_next_daemon_acknowledges_it(
    how: str, run: Run, basics: dict[str, str], dsn: str, data_dir: Path
) -> None:
    with NatsServer(data_dir) as server:
        async with stream_on(server) as stream:
            await stream.make(ack_wait=ACK_WAIT_SECONDS)
            settings = {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": dsn}
            first = await (await run({**settings, "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "3600"})).ready()
            await stream.publish(*seed_payloads(100))
            await first.received(100)
            with Away(server, how):
                assert await first.stop() == 0
                await assert_stored_once(dsn, 100)
            second = await (await run(settings)).ready()
            await stream.settled(100)
            await assert_stored_once(dsn, 100)
            assert await second.stop() == 0


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("away", ["TRACKER_POSTGRES_DSN", "TRACKER_NATS_SERVERS"])
async def test_a_signal_while_a_server_is_waited_for_ends_it_in_order(
    away: str, number: signal.Signals, run: Run, settings: dict[str, str], taken_port: int
) -> None:
    scheme, _, _ = settings[away].partition("://")
    daemon = await run({**settings, away: f"{scheme}://127.0.0.1:{taken_port}"})
    # Both are waited for with a line that names the address.
    await daemon.said("warning", str(taken_port))
    assert await daemon.stop(number) == 0


async def test_core_mode_stores_what_comes_and_answers_nobody(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """A reply subject in core NATS is the publisher's own: no acknowledgement goes there."""
    daemon = await (await run({**settings, "TRACKER_NATS_MODE": "core"})).ready()
    agents = Agents()
    made = [agents.decide(number) for number in range(100)]
    ledger = [agents.settle(row["id"]) for _, row in made]
    answers: list[Msg] = []

    async def answer(message: Msg) -> None:
        answers.append(message)

    client, inbox = stream.client, stream.client.new_inbox()
    await client.subscribe(inbox, cb=answer)
    for subject, payloads in ((stream.outcomes, ledger), (stream.decisions, made)):
        for payload, _ in payloads:
            await client.publish(subject, encoded(payload), reply=inbox)
    await client.publish(stream.decisions, encoded(decision(model=None)), reply=inbox)

    async def all_settled() -> bool:
        return (await daemon.metrics())("messages_settled_total") == 201

    await until("all messages are settled", all_settled)
    metrics = await daemon.metrics()
    for subject in (stream.decisions, stream.outcomes):
        metrics.assert_adds_up(subject)
    assert await daemon.stop() == 0
    await client.flush()
    assert not answers
    expected = {row["id"]: row | projection(event) for (_, row), (_, event) in zip(made, ledger, strict=True)}
    assert await decisions_in(sql) == expected
    assert await sql.fetchval("SELECT count(*) FROM llm_outcomes") == 100
    letter = await sql.fetchrow("SELECT reason, stream, stream_sequence FROM llm_dead_letters")
    assert letter is not None
    assert tuple(letter) == ("missing_field", None, None)


async def test_core_mode_stores_on_sigterm_what_it_holds(
    run: Run, settings: dict[str, str], stream: Stream, dsn: str
) -> None:
    holding = {"TRACKER_NATS_MODE": "core", "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "3600"}
    daemon = await (await run({**settings, **holding})).ready()
    for payload in seed_payloads(100):
        await stream.client.publish(stream.decisions, payload)
    await daemon.received(100)
    await assert_stored_once(dsn, 0)
    assert await daemon.stop() == 0
    await assert_stored_once(dsn, 100)
