"""How `tracker-daemon run` starts where something is wrong: what it says, and when it goes on by itself."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.acceptance.command import tracker, until
from tests.acceptance.stream import stream_on
from tests.conftest import DIMENSIONS
from tests.factory import decision
from tracker_daemon.embedded import NatsServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.acceptance.command import Daemon
    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

SECRET = "hunter2-never-printed"


async def alive_but_not_ready(daemon: Daemon, part: str, reason: str) -> None:
    """Wait until `/readyz` gives this reason, while `/healthz` says that the process is well."""

    async def says_why() -> bool:
        return reason in (await daemon.obstacles()).get(part, "")

    await until(f"/readyz says {part}: … {reason!r}", says_why)
    assert (await daemon.get("/healthz"))[0] == 200


async def takes_messages(daemon: Daemon, stream: Stream) -> None:
    """Wait until it is ready and a message goes through; then end it in order."""
    await daemon.ready()
    await stream.publish(decision())
    await stream.settled(1)
    assert (await daemon.metrics())("rows_committed_total", table="llm_decisions") == 1
    assert await daemon.stop() == 0


@pytest.mark.parametrize("command", ["run", "check", "migrate"])
async def test_all_wrong_settings_are_named_at_once_without_their_secrets(command: str) -> None:
    settings = {
        "TRACKER_BATCH_MAX_ROWS": "0",
        "TRACKER_BATCH_MAX_ROW": "10",
        "TRACKER_NATS_MODE": "kafka",
        "TRACKER_NATS_SERVERS": f"http://agent:{SECRET}@127.0.0.1",
        "TRACKER_NATS_USER": "agent",
        "TRACKER_NATS_TOKEN": SECRET,
        "TRACKER_POSTGRES_DSN": f"mysql://agent:{SECRET}@127.0.0.1/x",
        "TRACKER_HTTP_PORT": "70000",
        "TRACKER_LOG_LEVEL": "loud",
    }
    ended = await tracker(command, settings=settings)
    assert ended.code == 2
    assert ended.out == ""
    named = [line.removeprefix("tracker-daemon: ").partition(":")[0] for line in ended.err.splitlines()]
    assert set(named) == settings.keys() - {"TRACKER_NATS_TOKEN"}
    assert "did you mean TRACKER_BATCH_MAX_ROWS?" in ended.err
    assert "Traceback" not in ended.err
    assert SECRET not in ended.err


async def test_a_taken_http_port_is_named_with_its_setting(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ended = await tracker("run", settings={**settings, "TRACKER_HTTP_PORT": port})
    assert ended.code == 1
    [sentence] = ended.err.splitlines()
    assert sentence.startswith(f"tracker-daemon: cannot listen on 127.0.0.1:{port}")
    assert "TRACKER_HTTP_PORT" in sentence


async def test_a_foreign_table_is_refused_and_left_as_it_is(
    run: Run, settings: dict[str, str], database: str
) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE llm_decisions AS SELECT 42 AS answer")
        daemon = await run({**settings, "TRACKER_POSTGRES_DSN": database})
        assert await daemon.ended() == 2
        last = daemon.output().splitlines()[-1]
        assert last.startswith("tracker-daemon: this database has a table llm_decisions")
        assert "TRACKER_POSTGRES_DSN" in last
        assert "Traceback" not in daemon.output()
        assert await connection.fetchval("SELECT answer FROM llm_decisions") == 42
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert await connection.fetchval(tables) == 1
    finally:
        await connection.close()


@pytest.mark.parametrize("migrates", ["true", "false"])
async def test_another_dimension_than_the_tables_is_refused(
    migrates: str, run: Run, settings: dict[str, str]
) -> None:
    other = {"TRACKER_EMBEDDING_DIMENSIONS": "1536", "TRACKER_MIGRATE_ON_START": migrates}
    daemon = await run({**settings, **other})
    assert await daemon.ended() == 2
    last = daemon.output().splitlines()[-1]
    assert last.startswith("tracker-daemon: TRACKER_EMBEDDING_DIMENSIONS is 1536")
    assert f"migrated with {DIMENSIONS}" in last
    assert "Traceback" not in daemon.output()


async def test_a_nats_server_that_comes_late_is_waited_for(
    run: Run, basics: dict[str, str], dsn: str, data_dir: Path
) -> None:
    with NatsServer(data_dir) as server:
        async with stream_on(server) as stream:
            server.stop()
            daemon = await run({**basics, **stream.settings, "TRACKER_POSTGRES_DSN": dsn})
            await daemon.said("warning", "NATS", f"127.0.0.1:{server.port}")
            await alive_but_not_ready(daemon, "start", "NATS")
            server.start()
            await takes_messages(daemon, stream)


async def test_a_postgres_that_comes_late_is_waited_for(
    run: Run, basics: dict[str, str], stream: Stream, data_dir: Path
) -> None:
    with PostgresServer(data_dir, options={"fsync": "off"}) as server:
        server.stop()
        daemon = await run({**basics, **stream.settings, "TRACKER_POSTGRES_DSN": server.dsn()})
        address = f"127.0.0.1:{server.port}/tracker"
        await daemon.said("warning", "the database is not ready", address)
        await alive_but_not_ready(daemon, "start", address)
        server.start()
        await takes_messages(daemon, stream)


async def test_a_missing_database_is_waited_for(
    run: Run, basics: dict[str, str], stream: Stream, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.dsn(f"late_{stream.name}".lower())
    name = urlsplit(dsn).path[1:]
    daemon = await run({**basics, **stream.settings, "TRACKER_POSTGRES_DSN": dsn})
    await daemon.said("warning", "the database is not ready", f'database "{name}" does not exist')
    await alive_but_not_ready(daemon, "start", name)
    operator = await asyncpg.connect(postgres_server.dsn())
    try:
        await operator.execute(f'CREATE DATABASE "{name}"')
        await takes_messages(daemon, stream)
    finally:
        await operator.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await operator.close()


@pytest.fixture
async def humble_dsn(postgres_server: PostgresServer, database: str) -> AsyncIterator[str]:
    """Yield the DSN of `database` for a role that may make tables there, but no extension."""
    role = f"humble_{urlsplit(database).path[-8:]}"
    operator = await asyncpg.connect(database)
    try:
        await operator.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'; GRANT ALL ON SCHEMA public TO {role}"
        )
        yield f"postgresql://{role}:{SECRET}@127.0.0.1:{postgres_server.port}{urlsplit(database).path}"
        await operator.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    finally:
        await operator.close()


async def test_a_role_without_the_right_to_the_extension_waits_for_an_operator(
    run: Run, basics: dict[str, str], stream: Stream, humble_dsn: str, database: str
) -> None:
    daemon = await run({**basics, **stream.settings, "TRACKER_POSTGRES_DSN": humble_dsn})
    await daemon.said("warning", "let a superuser run CREATE EXTENSION vector in this database")
    await alive_but_not_ready(daemon, "start", "CREATE EXTENSION vector")
    operator = await asyncpg.connect(database)
    await operator.execute("CREATE EXTENSION vector")
    await operator.close()
    await takes_messages(daemon, stream)
    assert SECRET not in daemon.output()


async def test_a_server_without_pgvector_is_waited_for(
    run: Run, basics: dict[str, str], stream: Stream, database: str
) -> None:
    """The server looks for extensions in a folder that has none, until the operator mends that."""
    name = urlsplit(database).path[1:]
    operator = await asyncpg.connect(database)
    await operator.execute(f"ALTER DATABASE {name} SET extension_control_path = '/nowhere'")
    settings = {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": database}
    daemon = await run(settings)
    await daemon.said("warning", "vector", "install pgvector on the server")
    await alive_but_not_ready(daemon, "start", "install pgvector")
    ended = await tracker("check", "--json", settings=settings)
    assert ended.code == 1
    assert "the server has no pgvector" in ended.out
    await operator.execute(f"ALTER DATABASE {name} RESET extension_control_path")
    await operator.close()
    await takes_messages(daemon, stream)


async def test_missing_tables_are_waited_for_when_it_must_not_migrate(
    run: Run, basics: dict[str, str], stream: Stream, database: str
) -> None:
    settings = {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": database}
    daemon = await run({**settings, "TRACKER_MIGRATE_ON_START": "false"})
    await daemon.said("warning", "run tracker-daemon migrate")
    await alive_but_not_ready(daemon, "start", "run tracker-daemon migrate")
    assert (await tracker("migrate", settings=settings)).code == 0
    await takes_messages(daemon, stream)


async def test_a_missing_stream_is_waited_for_when_it_must_not_be_made(
    run: Run, settings: dict[str, str], stream: Stream
) -> None:
    daemon = await run({**settings, "TRACKER_NATS_MANAGE_STREAM": "false"})
    await daemon.said("cannot consume", f"the stream {stream.name} does not exist")
    await alive_but_not_ready(daemon, "nats", "TRACKER_NATS_MANAGE_STREAM")
    await stream.make()
    await takes_messages(daemon, stream)
