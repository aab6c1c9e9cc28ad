"""Real servers, one pair for each process of the run, and a fresh database for each test that wants one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.acceptance.stream import Stream, stream_on
from tests.certificates import Authority
from tests.named import NO_CITUS, NOT_ON_CITUS, NOT_OURS, SETTING, NamedServer
from tests.pgbouncer import PROGRAM, PgBouncer
from tests.record import backdate, fill
from tracker_daemon.distribution import distribute
from tracker_daemon.embedded import NatsServer, PostgresServer, servers
from tracker_daemon.migrate import migrate
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# A busy machine is no reason to fail, here as in every other test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

DIMENSIONS = 3

# Tests that may be skipped even where TRACKER_TEST_STRICT=1 says that everything must run.
ALLOWED_SKIPS: frozenset[str] = frozenset()

# Where files need no disk, and what the servers of all processes may take there.
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is made for this run alone
ROOM_BYTES = 8 << 30

# What a crash of the machine would lose is of no interest here; what a crash of the server would lose is.
QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "max_connections": "200"}


@pytest.fixture(autouse=True)
def _logs_by_default() -> None:
    """Log as structlog does by itself, whatever a test before this one has made of it."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Yield a folder that PostgreSQL's user can enter when root runs the tests, unlike pytest's own.

    In memory where there is room: a database of each test's own is 500 files, made and soon deleted.
    """
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="tracker-tests-", dir=MEMORY if roomy else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(servers_folder: Path) -> Path:
    """Return the path of a data folder of the test's own, not yet made."""
    return servers_folder / uuid.uuid4().hex


@pytest.fixture(scope="session")
def nats_server(servers_folder: Path) -> Iterator[NatsServer]:
    """Yield the process's nats-server; a test that stops or freezes it leaves it running again."""
    with NatsServer(servers_folder / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[PostgresServer | NamedServer]:
    """Yield the process's PostgreSQL; a test that stops or freezes it leaves it running again."""
    if dsn := os.environ.get(SETTING):
        named = NamedServer(dsn)
        asyncio.run(named.open())
        yield named
        asyncio.run(named.close())
        return
    with PostgresServer(servers_folder / "postgres", options=QUICK) as server:
        yield server


@contextlib.asynccontextmanager
async def create_database(server: PostgresServer, *, template: str | None = None) -> AsyncIterator[str]:
    """Yield the DSN of a new database, empty or a copy of `template`, that is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    await _make_database(server, name, template)
    try:
        yield server.dsn(name)
    finally:
        await _drop_database(server, name)


@pytest.fixture(autouse=True)
def _where_citus_takes_it(request: pytest.FixtureRequest) -> None:
    """Skip a test that is marked `not_on_citus`, with what Citus does not take, where the server has it."""
    marker = request.node.get_closest_marker("not_on_citus")
    if marker and has_nodes(request.getfixturevalue("postgres_server")):
        pytest.skip(NOT_ON_CITUS + marker.args[0])


def has_nodes(server: PostgresServer | NamedServer) -> bool:
    """Whether it is the coordinator of a cluster of Citus."""
    return isinstance(server, NamedServer) and bool(server.nodes)


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Yield the DSN of an empty database of the test's own."""
    async with create_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the name of a migrated database, to be copied."""
    name = f"migrated_{uuid.uuid4().hex}"

    async def make() -> None:
        await _make_database(postgres_server, name)
        await migrate(postgres_server.dsn(name), DIMENSIONS)
        if has_nodes(postgres_server):
            await distribute(postgres_server.dsn(name))
            await postgres_server.lay_aside(name)

    asyncio.run(make())
    yield name
    asyncio.run(_drop_database(postgres_server, name))


@pytest.fixture(scope="session")
def past(postgres_server: PostgresServer, template: str) -> Iterator[str]:
    """Yield the name of a migrated database with a past, see `tests/record.py`, to be copied."""
    name = f"past_{uuid.uuid4().hex}"

    async def make() -> None:
        await _make_database(postgres_server, name, template)
        store = Store(postgres_server.dsn(name))
        await fill(store)
        await store.close()
        connection = await asyncpg.connect(postgres_server.dsn(name))
        await backdate(connection)
        await connection.close()
        if isinstance(postgres_server, NamedServer):
            await postgres_server.lay_aside(name)

    asyncio.run(make())
    yield name
    asyncio.run(_drop_database(postgres_server, name))


@pytest.fixture
def original(request: pytest.FixtureRequest) -> str:
    """Return the name of the database that the test gets a copy of: one with a past if it wants `record`."""
    name: str = request.getfixturevalue("past" if "record" in request.fixturenames else "template")
    return name


@pytest.fixture
async def dsn(postgres_server: PostgresServer, original: str) -> AsyncIterator[str]:
    """Yield the DSN of a migrated database of the test's own, for embeddings of `DIMENSIONS` numbers."""
    async with create_database(postgres_server, template=original) as dsn:
        yield dsn


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to the database of `dsn`."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def stream(nats_server: NatsServer) -> AsyncIterator[Stream]:
    """Yield a stream of the test's own on the shared server, not yet made."""
    async with stream_on(nats_server) as stream:
        yield stream


@pytest.fixture
def record(sql: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection to a record with a past, see `tests/record.py`: `dsn` is a copy of `past`."""
    return sql


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return a certificate authority of the test's own."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def bouncer(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, data_dir: Path, authority: Authority
) -> Iterator[PgBouncer]:
    """Yield a PgBouncer of the test's own, running in the mode that the test's parameter names."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    with PgBouncer(data_dir, postgres_server, authority.issue("127.0.0.1"), request.param) as bouncer:
        yield bouncer


async def _make_database(server: PostgresServer, name: str, template: str | None = None) -> None:
    if isinstance(server, NamedServer):
        how = f'TEMPLATE "{template or server.blank}"'
    else:  # nobody waits for the checkpoints of a copy that does not wait for a disk
        how = f'TEMPLATE "{template or "template1"}" STRATEGY file_copy'
    await _administer(server, f'CREATE DATABASE "{name}" {how}')
    if isinstance(server, NamedServer) and server.nodes:
        await server.set_up(name)


async def _drop_database(server: PostgresServer, name: str) -> None:
    if isinstance(server, NamedServer):
        await server.drop(name)
    else:
        await _administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _administer(server: PostgresServer, statement: str) -> None:
    if isinstance(server, NamedServer):
        await server.administer(statement)
        return
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker ports of its own: a server that is away for a while has to find its own one free."""
    if worker := getattr(config, "workerinput", None):
        number = int(worker["workerid"].removeprefix("gw"))
        servers._PORTS = servers._PORTS[number :: worker["workercount"]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a strict run in which a test was skipped that should not have been."""
    if session.exitstatus == pytest.ExitCode.OK and _forbidden_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the tests whose skipping failed the run."""
    if skips := _forbidden_skips(config):
        terminalreporter.section("skipped, though TRACKER_TEST_STRICT=1", red=True)
        for nodeid in skips:
            terminalreporter.line(nodeid)


def _forbidden_skips(config: pytest.Config) -> list[str]:
    # A worker has no terminal: its reports are counted where all of them arrive.
    if os.environ.get("TRACKER_TEST_STRICT") != "1" or hasattr(config, "workerinput"):
        return []
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None, "a strict run counts skips in the terminal's report: do not turn it off"
    skipped = {
        report.nodeid
        for report in reporter.stats.get("skipped", [])
        if not any(reason in str(report.longrepr) for reason in (NOT_OURS, NO_CITUS, NOT_ON_CITUS))
    }
    return sorted(skipped - ALLOWED_SKIPS)
