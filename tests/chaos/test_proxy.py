"""The proxy before real servers: each fault strikes what it is meant for, and when, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from tests.chaos import wire
from tests.chaos.proxy import Fate, NatsProxy, PostgresProxy, Proxy
from tests.chaos.wire import Moment
from tests.factory import decision, deliver, outcome
from tests.waiting import until
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from tests.chaos.proxy import Action
    from tests.chaos.wire import Feed
    from tracker_daemon.embedded import NatsServer, PostgresServer

LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)
SHORT = 0.3  # seconds in which nothing must come


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(lambda: postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def copied(sql: asyncpg.Connection) -> asyncpg.Connection:
    """A connection past the proxy, and the table that batches are copied into."""
    await sql.execute("CREATE TABLE copied (n integer)")
    return sql


@pytest.fixture
async def connection(proxy: PostgresProxy, dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(through(proxy, dsn), server_settings={"application_name": "proxied"})
    yield connection
    connection.terminate()


def through(proxy: Proxy, dsn: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}"))


def doing(fate: Fate, *steps: Callable[[], object]) -> Action:
    """An action that takes the steps and decides so."""

    async def act() -> Fate:
        for step in steps:
            step()
        return fate

    return act


async def forever() -> Fate:
    await asyncio.Event().wait()
    return Fate.PASS


async def batch(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.copy_records_to_table("copied", records=[(1,), (2,)])


async def rows(sql: asyncpg.Connection) -> int:
    """Count what was committed, once the proxied connection's backend is gone and can commit nothing more."""

    async def gone() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'proxied' AND datname = $1"
        return not await sql.fetchval(query, await sql.fetchval("SELECT current_database()"))

    await until(gone)
    count: int = await sql.fetchval("SELECT count(*) FROM copied")
    return count


def typed(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def query(statement: bytes) -> bytes:
    return typed(b"Q", statement + b"\0")


IDLE, IN_TRANSACTION = typed(b"Z", b"I"), typed(b"Z", b"T")
POSTGRES_TALK = [
    ("client", struct.pack("!II", 8, 80877103)),
    ("server", b"N"),
    ("client", struct.pack("!II", 17, 196608) + b"user\0tr\0\0"),
    ("server", typed(b"R", bytes(4)) + IDLE),
    ("client", query(b"BEGIN;")),
    ("server", typed(b"C", b"BEGIN\0") + IN_TRANSACTION),
    (
        "client",
        query(b"COPY t FROM STDIN") + typed(b"d", b"COMMIT;" * 90) + typed(b"d", b"more") + typed(b"c"),
    ),
    ("server", typed(b"G", b"\1\0\0") + typed(b"C", b"COPY 1\0") + IN_TRANSACTION),
    ("client", query(b"ROLLBACK TO s;")),
    ("server", typed(b"C", b"ROLLBACK\0") + IN_TRANSACTION),
    ("client", query(b"COMMIT;")),
    ("server", typed(b"C", b"COMMIT\0") + IDLE),
    ("client", query(b"BEGIN;") + query(b"COMMIT;")),
    ("server", typed(b"C", b"BEGIN\0") + IN_TRANSACTION + typed(b"C", b"COMMIT\0") + IDLE),
]
NATS_TALK = [
    ("server", b'INFO {"server_id":"PUB $JS.ACK.x 0"}\r\n'),
    ("client", b'CONNECT {"verbose":false}\r\nPING\r\nSUB a.b  1\r\n'),
    (
        "client",
        b"PUB $JS.ACK.s.d.1  4\r\n+WPI\r\nPUB $JS.ACK.s.d.1  4\r\n-NAK\r\nPUB $JS.ACK.s.d.1  0\r\n\r\n",
    ),
    ("client", b"PUB a.b c.d 24\r\nPUB $JS.ACK.s.d.2 0\r\n\r\n1\r\n"),
    ("client", b"HPUB a.b 12 16\r\nNATS/1.0\r\n\r\n\r\n\r\n\r\n"),
    ("client", b"PUB $JS.ACK.s.d.2 inbox 4\r\n+ACK\r\nPONG\r\nUNSUB 1\r\n"),
]


@pytest.mark.parametrize(
    ("framing", "talk", "moments"),
    [
        (wire.postgres, POSTGRES_TALK, [Moment.MID_COPY, Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT]),
        (wire.nats, NATS_TALK, [Moment.ACK, Moment.ACK]),
    ],
)
def test_however_the_chunks_fall_all_bytes_pass_and_the_moments_are_the_same(
    framing: Callable[[], tuple[Feed, Feed]], talk: list[tuple[str, bytes]], moments: list[Moment]
) -> None:
    for size in range(1, 1 + max(len(said) for _, said in talk)):
        seen: list[Moment] = []
        feeds = dict(zip(("client", "server"), framing(), strict=True))
        for side, said in talk:
            passed = b""
            for at in range(0, len(said), size):
                for data, moment in feeds[side](said[at : at + size]):
                    passed += data
                    # A frame that is longer than a chunk has its moment with its first bytes only.
                    seen += [moment] if moment else []
            assert passed == said
        assert seen == moments


async def test_a_batch_comes_past_each_moment_once_and_its_projection_past_none(
    proxy: PostgresProxy, dsn: str, sql: asyncpg.Connection
) -> None:
    """At each moment the database is in the state that the moment is named for."""
    states: list[tuple[str, int]] = []

    async def look() -> Fate:
        activity = "SELECT state, query FROM pg_stat_activity WHERE application_name = 'tracker-daemon'"
        [(state, statement)] = await sql.fetch(f"{activity} AND datname = current_database()")
        begun = statement.split()[0] if state == "active" else state
        states.append((begun, await sql.fetchval("SELECT count(*) FROM llm_decisions")))
        return Fate.PASS

    fired = [proxy.arm(moment, look) for moment in ("before-commit", "after-commit", "mid-copy")]
    again = [proxy.arm(moment, look) for moment in ("before-commit", "after-commit")]
    id_, store = uuid4(), Store(through(proxy, dsn))
    assert await store.write(deliver(decision(id=str(id_)), outcome(id_))) == ["stored"] * 2
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"
    assert all(each.done() for each in fired)
    assert not any(each.done() for each in again)
    # The COMMIT has come, so its backend waits; once it has been carried out, the row is there.
    assert states == [("COPY", 0), ("idle in transaction", 0), ("idle", 1)]
    await store.close()


@pytest.mark.parametrize(
    ("moment", "committed"), [("mid-copy", 0), ("before-commit", 0), ("after-commit", 2)]
)
async def test_reset_at_a_moment_loses_the_connection_and_nothing_that_was_committed(
    proxy: PostgresProxy,
    connection: asyncpg.Connection,
    copied: asyncpg.Connection,
    moment: str,
    committed: int,
) -> None:
    fired = proxy.arm(moment, doing(Fate.RESET))
    with pytest.raises(LOST):
        await batch(connection)
    assert fired.done()
    assert await rows(copied) == committed
    assert proxy.cut == 1
    await closed(proxy)


@pytest.mark.parametrize(
    ("moment", "result"), [("mid-copy", "stored"), ("before-commit", "stored"), ("after-commit", "duplicate")]
)
async def test_a_store_that_is_reset_at_a_moment_finds_what_it_had_committed(
    proxy: PostgresProxy, dsn: str, moment: str, result: str
) -> None:
    store = Store(through(proxy, dsn))
    proxy.arm(moment, doing(Fate.RESET))
    assert await store.write(deliver(decision())) == [result]
    assert proxy.cut == 1
    await store.close()


async def test_a_swallowed_commit_is_never_carried_out(
    proxy: PostgresProxy, connection: asyncpg.Connection, copied: asyncpg.Connection
) -> None:
    writing = asyncio.create_task(batch(connection))
    await proxy.arm("before-commit", doing(Fate.SWALLOW))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(writing), SHORT)
    connection.terminate()
    with pytest.raises(LOST):
        await writing
    assert await rows(copied) == 0
    assert proxy.cut == 0


BATCH = """
import asyncio, asyncpg, sys

async def main():
    connection = await asyncpg.connect(sys.argv[1], server_settings={"application_name": "proxied"})
    async with connection.transaction():
        await connection.copy_records_to_table("copied", records=[(1,), (2,)])

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("moment", "fate", "committed"),
    [
        ("mid-copy", Fate.RESET, 0),
        ("before-commit", Fate.SWALLOW, 0),
        ("before-commit", Fate.RESET, 0),
        ("after-commit", Fate.SWALLOW, 2),
    ],
)
async def test_a_process_that_is_killed_at_a_moment_leaves_the_proxy_at_work(
    proxy: PostgresProxy,
    dsn: str,
    copied: asyncpg.Connection,
    *,
    moment: str,
    fate: Fate,
    committed: int,
) -> None:
    process: asyncio.subprocess.Process | None = None

    async def kill() -> Fate:
        assert process is not None
        process.kill()
        await process.wait()
        return fate

    fired = proxy.arm(moment, kill)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BATCH, through(proxy, dsn))
    await fired
    assert await rows(copied) == committed
    await closed(proxy)
    newcomer = await asyncpg.connect(through(proxy, dsn))
    assert await newcomer.fetchval("SELECT 1") == 1
    await newcomer.close()


async def test_actions_for_one_moment_take_turns(
    proxy: PostgresProxy, connection: asyncpg.Connection, copied: asyncpg.Connection
) -> None:
    """The first waits for one other occurrence, the second counts from there."""
    log: list[str] = []
    first = proxy.arm("before-commit", doing(Fate.PASS, lambda: log.append("first")), after=1)
    second = proxy.arm("before-commit", doing(Fate.PASS, lambda: log.append("second")), after=1)
    for number in range(5):
        await batch(connection)
        log.append(str(number))
    assert log == ["0", "first", "1", "2", "second", "3", "4"]
    assert first.done()
    assert second.done()
    assert await copied.fetchval("SELECT count(*) FROM copied") == 10


async def test_a_moment_that_never_comes_is_refused_at_once(proxy: PostgresProxy) -> None:
    with pytest.raises(
        ValueError, match="'ack' never comes here, only: after-commit, before-commit, mid-copy"
    ):
        proxy.arm("ack", doing(Fate.PASS))


@pytest.mark.usefixtures("copied")
async def test_what_an_action_raises_is_raised_by_its_future_and_by_the_end_of_the_proxy(
    postgres_server: PostgresServer, dsn: str
) -> None:
    async def fail() -> Fate:
        raise ConnectionError("of the action's own")

    proxy = await PostgresProxy(postgres_server.port).__aenter__()
    connection = await asyncpg.connect(through(proxy, dsn))
    fired = proxy.arm("before-commit", fail)
    with pytest.raises(LOST):
        await batch(connection)
    with pytest.raises(ConnectionError, match="of the action's own"):
        await fired
    with pytest.raises(ExceptionGroup) as raised:
        await proxy.__aexit__()
    assert raised.group_contains(ConnectionError, match="of the action's own")


async def test_reset_ends_every_connection_idle_or_not(
    proxy: PostgresProxy, connection: asyncpg.Connection, sql: asyncpg.Connection, dsn: str
) -> None:
    idle = await asyncpg.connect(through(proxy, dsn))
    waiting = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))
    activity = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'proxied' AND state = 'active'"
    await until(lambda: sql.fetchval(activity))
    assert proxy.connections == 2
    proxy.reset()
    assert (proxy.connections, proxy.cut) == (0, 2)
    with pytest.raises(LOST):
        await waiting
    with pytest.raises(LOST):
        await idle.fetchval("SELECT 1")
    proxy.reset()
    assert proxy.cut == 2
    newcomer = await asyncpg.connect(through(proxy, dsn))
    assert proxy.connections == 1
    await newcomer.close()
    await closed(proxy)


class Ends:
    """Both ends of one connection through a proxy, as bare sockets, and where the next one would come."""

    def __init__(self, client: socket.socket, server: socket.socket, listener: socket.socket) -> None:
        self.client, self.server, self.listener = client, server, listener


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[tuple[Proxy, Ends]]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        async with NatsProxy(listener.getsockname()[1]) as proxy:
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            server, _ = await loop.sock_accept(listener)
            with server:
                yield proxy, Ends(client, server, listener)


async def closed(proxy: Proxy) -> None:
    await until(lambda: proxy.connections == 0)


async def received(end: socket.socket) -> bytes:
    async with asyncio.timeout(30):
        return await asyncio.get_running_loop().sock_recv(end, 1024)


async def test_reset_reaches_both_sides_as_a_reset() -> None:
    async with bare() as (proxy, ends):
        proxy.reset()
        for end in (ends.client, ends.server):
            with pytest.raises(ConnectionResetError):
                await received(end)


async def test_how_one_side_ends_its_connection_the_other_learns() -> None:
    """In good order or by a reset; the proxy counts neither as its own doing."""
    for leaving, left in (("client", "server"), ("server", "client")):
        async with bare() as (proxy, ends):
            await asyncio.get_running_loop().sock_sendall(getattr(ends, leaving), b"PING\r\n")
            getattr(ends, leaving).close()
            assert await received(getattr(ends, left)) == b"PING\r\n"
            assert await received(getattr(ends, left)) == b""
            await closed(proxy)
        async with bare() as (proxy, ends):
            end = getattr(ends, leaving)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
            with pytest.raises(ConnectionResetError):
                await received(getattr(ends, left))
            assert proxy.cut == 0


async def test_a_reset_ends_connections_that_have_just_come_or_are_held() -> None:
    """The server never hears of them: the first that it sees is the one that came after the release."""
    loop = asyncio.get_running_loop()
    async with bare() as (proxy, ends):
        proxy.hold()
        with socket.create_connection(("127.0.0.1", proxy.port)) as held:
            await until(lambda: proxy.connections == 2)
            await until(lambda: all(connection._writers for connection in proxy._connections))
            with socket.create_connection(("127.0.0.1", proxy.port)) as just_come:
                proxy._accept()
                proxy.reset()
                assert proxy.cut == 3
                for newcomer in (held, just_come):
                    newcomer.setblocking(False)
                    with pytest.raises(ConnectionResetError):
                        await received(newcomer)
        proxy.release()
        with socket.create_connection(("127.0.0.1", proxy.port)) as late:
            late.sendall(b"PING\r\n")
            server, _ = await loop.sock_accept(ends.listener)
            with server:
                assert await received(server) == b"PING\r\n"


async def test_nothing_is_set_off_by_what_follows_a_reset() -> None:
    async with bare() as (proxy, ends):
        first, second = (proxy.arm("ack", doing(Fate.RESET)) for _ in range(2))
        ends.client.sendall(b"PUB $JS.ACK.s.d.1  0\r\n\r\n" * 2)
        await first
        with pytest.raises(ConnectionResetError):
            await received(ends.server)
        await until(lambda: not proxy._tasks)
        assert not second.done()


@pytest.mark.parametrize("linger", [None, 0], ids=["in good order", "by a reset"])
async def test_the_end_of_one_side_is_held_too(linger: int | None) -> None:
    async with bare() as (proxy, ends):
        proxy.hold()
        if linger is not None:
            ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger))
        ends.client.close()
        hearing = asyncio.create_task(received(ends.server))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(hearing), SHORT)
        proxy.release()
        with contextlib.suppress(ConnectionResetError):
            assert await hearing == b""
        await closed(proxy)


async def test_a_held_proxy_does_not_read_on() -> None:
    """More than all buffers on the way can take stays with its sender, and arrives after the release."""
    loop, sent = asyncio.get_running_loop(), b"PUB a 33554432\r\n" + bytes(32 << 20) + b"\r\n"
    async with bare() as (proxy, ends):
        proxy.hold()
        sending = asyncio.create_task(loop.sock_sendall(ends.client, sent))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 3 * SHORT)
        with pytest.raises(BlockingIOError):
            ends.server.recv(1)
        proxy.release()
        arrived = bytearray()
        while len(arrived) < len(sent):
            arrived += await loop.sock_recv(ends.server, 1 << 20)
        await sending
        assert arrived == sent


async def test_what_is_held_flows_on_after_the_release(
    proxy: PostgresProxy, connection: asyncpg.Connection, dsn: str
) -> None:
    proxy.hold()
    held = asyncio.create_task(connection.fetchval("SELECT 1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(held), SHORT)
    with pytest.raises(TimeoutError):
        await asyncpg.connect(through(proxy, dsn), timeout=SHORT)
    newcomer = asyncio.create_task(asyncpg.connect(through(proxy, dsn)))
    proxy.release()
    assert await held == 1
    late = await newcomer
    assert await late.fetchval("SELECT 2") == 2
    await late.close()
    assert proxy.cut == 0


async def test_a_stranded_connection_is_silent_for_ever_and_the_server_never_learns_of_its_end(
    proxy: PostgresProxy, connection: asyncpg.Connection, dsn: str, sql: asyncpg.Connection
) -> None:
    backend = connection.get_server_pid()
    assert proxy.strand() == 1
    asking = asyncio.create_task(connection.fetchval("SELECT 1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asking), SHORT)
    newcomer = await asyncpg.connect(through(proxy, dsn))
    assert await newcomer.fetchval("SELECT 2") == 2
    await newcomer.close()
    connection.terminate()
    with pytest.raises(LOST):
        await asking
    assert await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend) == 1
    assert proxy.strand() == 0


async def test_an_answer_is_held_like_a_question(
    proxy: PostgresProxy, connection: asyncpg.Connection, copied: asyncpg.Connection
) -> None:
    """The action holds: its own bytes wait as well, and a reset ends what is held."""
    writing = asyncio.create_task(batch(connection))
    await proxy.arm("after-commit", doing(Fate.PASS, proxy.hold))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(writing), SHORT)
    proxy.reset()
    with pytest.raises(LOST):
        await writing
    proxy.release()
    assert await rows(copied) == 2


async def test_refusing_resets_new_connections_and_leaves_the_others(
    proxy: PostgresProxy, connection: asyncpg.Connection, dsn: str
) -> None:
    proxy.refuse()
    with pytest.raises(LOST):
        await asyncpg.connect(through(proxy, dsn))
    with socket.create_connection(("127.0.0.1", proxy.port)) as refused:
        refused.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await received(refused)
    assert await connection.fetchval("SELECT 1") == 1
    assert (proxy.connections, proxy.cut) == (1, 0)
    proxy.accept()
    newcomer = await asyncpg.connect(through(proxy, dsn))
    await newcomer.close()


async def test_a_server_may_be_started_after_its_proxy(postgres_server: PostgresServer, dsn: str) -> None:
    """Until it is there, connections are reset."""
    with socket.socket() as unheard:  # bound and not listening: nothing else can take its port
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        async with PostgresProxy(lambda: port) as proxy:
            with pytest.raises(LOST):
                await asyncpg.connect(through(proxy, dsn))
            assert (proxy.connections, proxy.cut) == (0, 0)
            port = postgres_server.port
            await (await asyncpg.connect(through(proxy, dsn))).close()


@pytest.mark.parametrize("way", ["to the server", "to the client"])
async def test_what_is_delayed_comes_after_what_was_sent_later_past_the_proxy(
    proxy: PostgresProxy, connection: asyncpg.Connection, sql: asyncpg.Connection, way: str
) -> None:
    """Whoever notifies through the proxy, or listens there, is behind twenty direct round trips."""
    heard = asyncio.Event()
    speaker, listener = (connection, sql) if way == "to the server" else (sql, connection)
    await listener.add_listener("news", lambda *_: heard.set())
    proxy.delay_seconds = 1.0
    speaking = asyncio.create_task(speaker.execute("NOTIFY news"))
    if way == "to the client":
        await speaking
    for _ in range(20):
        await sql.fetchval("SELECT 1")
    assert not heard.is_set()
    async with asyncio.timeout(30):
        await heard.wait()
        await speaking


async def test_the_end_of_a_proxy_leaves_no_task_and_no_connection(
    postgres_server: PostgresServer, dsn: str, copied: asyncpg.Connection
) -> None:
    """Not of an action at work, a delayed chunk, a held newcomer, nor one that has just come."""
    before = asyncio.all_tasks()
    async with PostgresProxy(postgres_server.port) as proxy:
        acting, delayed = [await asyncpg.connect(through(proxy, dsn)) for _ in range(2)]
        never = proxy.arm("before-commit", forever)
        stuck = [asyncio.create_task(batch(acting))]
        await until(lambda: not proxy._armed)
        unfired = proxy.arm("after-commit", forever)
        proxy.delay_seconds = 600
        stuck.append(asyncio.create_task(delayed.fetchval("SELECT 1")))
        proxy.hold()
        held = socket.create_connection(("127.0.0.1", proxy.port))
        await until(lambda: proxy.connections == 3)
        just_come = socket.create_connection(("127.0.0.1", proxy.port))
        proxy._accept()
    for task in stuck:
        with pytest.raises(LOST):
            await task
    with held, just_come:
        for newcomer in (held, just_come):
            newcomer.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await received(held)
        with contextlib.suppress(ConnectionResetError):
            assert await received(just_come) == b""
    assert never.cancelled()
    assert unfired.cancelled()
    assert proxy.connections == 0
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert await rows(copied) == 0


class Durable:
    """A stream with three messages and its durable consumer: seen past the proxy, read through it."""

    def __init__(
        self, js: JetStreamContext, name: str, subscription: JetStreamContext.PullSubscription
    ) -> None:
        self._js, self._name, self._subscription = js, name, subscription

    async def fetch(self) -> list[Msg]:
        """Wait for the messages that are there to be had."""
        return await self._subscription.fetch(3, timeout=30)

    async def unacknowledged(self) -> int | None:
        """Messages that were delivered and not acknowledged."""
        pending: int | None = (await self._js.consumer_info(self._name, self._name)).num_ack_pending
        return pending

    async def until_unacknowledged(self, count: int) -> None:
        async def holds() -> bool:
            return await self.unacknowledged() == count

        await until(holds)


@pytest.fixture
async def nats_proxy(nats_server: NatsServer) -> AsyncIterator[NatsProxy]:
    async with NatsProxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
async def client(nats_proxy: NatsProxy) -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://127.0.0.1:{nats_proxy.port}", reconnect_time_wait=0.05)
    yield client
    await client.close()


@pytest.fixture
async def durable(nats_server: NatsServer, client: Client) -> AsyncIterator[Durable]:
    """Ack wait: one second."""
    direct, name = await nats.connect(nats_server.url), uuid4().hex
    js = direct.jetstream()
    await js.add_stream(StreamConfig(name=name, subjects=[name]))
    config = ConsumerConfig(durable_name=name, ack_policy=AckPolicy.EXPLICIT, ack_wait=1)
    await js.add_consumer(name, config)
    for _ in range(3):
        await js.publish(name, b"+ACK")
    yield Durable(js, name, await client.jetstream().pull_subscribe_bind(name, name))
    await js.delete_stream(name)
    await direct.close()


async def test_an_ack_that_is_swallowed_makes_its_message_come_again(
    nats_proxy: NatsProxy, durable: Durable
) -> None:
    """The second ack, at which moment the first has arrived; a sign of work in progress is no ack."""
    left: list[int | None] = []

    async def look() -> Fate:
        await durable.until_unacknowledged(2)
        left.append(await durable.unacknowledged())
        return Fate.SWALLOW

    fired = nats_proxy.arm("ack", look, after=1)
    messages = await durable.fetch()
    for message in messages:
        await message.in_progress()
    for message in messages:
        await message.ack()
    await fired
    assert left == [2]
    [again] = await durable.fetch()
    assert again.metadata.sequence.stream == messages[1].metadata.sequence.stream
    assert again.metadata.num_delivered == 2
    await again.ack()
    await durable.until_unacknowledged(0)


async def test_dropped_acks_are_counted_and_their_messages_come_again(
    nats_proxy: NatsProxy, durable: Durable
) -> None:
    nats_proxy.drop_acks = True
    moment = nats_proxy.arm("ack", doing(Fate.PASS))
    for message in await durable.fetch():
        await message.ack()
    again: list[Msg] = []
    while len(again) < 3:
        again += await durable.fetch()
    assert [message.metadata.num_delivered for message in again] == [2, 2, 2]
    assert nats_proxy.acks_dropped == 3
    assert not moment.done()
    nats_proxy.drop_acks = False
    for message in again:
        await message.ack()
    await moment
    await durable.until_unacknowledged(0)
    assert nats_proxy.acks_dropped == 3


async def test_a_reset_in_the_middle_of_acks_is_survived_by_the_client(
    nats_proxy: NatsProxy, client: Client, durable: Durable
) -> None:
    fired = nats_proxy.arm("ack", doing(Fate.RESET), after=1)
    for message in await durable.fetch():
        await message.ack()
    await fired
    await until(lambda: client.stats["reconnects"] == 1)
    assert nats_proxy.cut == 1
    again: list[Msg] = []
    while len(again) < 2:
        again += await durable.fetch()
    assert [message.metadata.num_delivered for message in again] == [2, 2]
