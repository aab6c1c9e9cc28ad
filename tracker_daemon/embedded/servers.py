"""One nats-server, one PostgreSQL: how each is set up, started, stopped, killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import quote

from tracker_daemon.embedded.folders import folder_errors, make_folder, write_private
from tracker_daemon.embedded.processes import family, kill, shut_down, uninterrupted
from tracker_daemon.embedded.wheels import (
    closed_to_others,
    nats_program,
    postgres_account,
    postgres_programs,
)
from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterator, Mapping

_START_SECONDS = 60.0  # PostgreSQL replays its log after a crash
_POLL_SECONDS = 0.02
# Below the ports that Linux gives to outgoing connections, which could take a server's while it is down.
_PORTS = range(20_000, 32_768)
_PORT_ATTEMPTS = 8
_LOG_LINES = 15
# The shell's PG* and locale variables must change neither server; their messages are read here, in English.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


class _Server(ABC):
    """One server process in a folder of its own; start, stop and kill are safe to repeat."""

    name: ClassVar[str]
    program: ClassVar[str]
    ready_line: ClassVar[str]

    def __init__(self, folder: Path, mark: str) -> None:
        """Own `folder`; the path of its entry `mark` is an argument of this server's process alone."""
        self.folder = folder.resolve()
        self.log = self.folder / "server.log"
        self.port = 0
        self._mark = self.folder / mark
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> None:
        """Put into the folder what the server needs to start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line that serves on `port`."""

    def _identity(self) -> dict[str, Any]:
        """Return the arguments of `subprocess` that say whom the server runs as: the caller."""
        return {}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's process, running or ended; StartupError before the first start."""
        if self._process is None:
            raise StartupError(f"{self.name} in {self.folder} has not been started")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the server; StartupError before the first start."""
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        """Process ids of the server, first, and of its children; StartupError before the first start."""
        return family(self.pid)

    def start(self) -> None:
        """Return once the server accepts connections; a StartupError ends with the last lines of its log."""
        if self._process is not None and self._process.poll() is None:
            return
        with folder_errors(self.folder):
            self._prepare()
            kept = self.folder / "port"
            for port in _candidate_ports(kept):
                self.port = port
                if self._serves():
                    kept.write_text(f"{port}\n")
                    return
        raise self._failure(f"found no free port in {_PORT_ATTEMPTS} attempts", since=0)

    def stop(self) -> None:
        """Shut down in good order, by force after 15 s; nothing to do for a server that is not running."""
        if self._process is not None and self._process.poll() is None:
            shut_down(self._process.pid)
            self._process.wait()

    def kill(self) -> None:
        """End the server and its children at once, as a crash would (SIGKILL)."""
        if self._process is not None and self._process.poll() is None:
            kill(self._process.pid)
            self._process.wait()

    def stop_left_behind(self) -> None:
        """Shut down the server that a killed run left behind in this folder."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                program, *arguments = os.fsdecode(file.read_bytes()).split("\0")
                if Path(program).name == self.program and str(self._mark) in arguments:
                    shut_down(int(file.parent.name))

    def _serves(self) -> bool:
        """Run the server on `port` until it is ready; False when the port is taken."""
        try:
            with self.log.open("ab") as log, uninterrupted():
                since = log.tell()
                self._process = subprocess.Popen(  # noqa: S603 - a wheel's program, the caller's settings
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=_ENVIRONMENT,
                    start_new_session=True,  # a terminal's Ctrl-C must reach the daemon alone, which drains
                    **self._identity(),
                )
            return self._becomes_ready(self._process, since)
        except BaseException:
            self.kill()
            raise

    def _becomes_ready(self, process: subprocess.Popen[bytes], since: int) -> bool:
        """Wait for the ready line: whatever else answers on the port, this log is this server's."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            code = process.poll()  # before its log is read, so that no last word is missed
            said = self._said(since)
            if code is not None:
                if "address already in use" in said.lower():
                    return False
                raise self._failure(f"ended with exit code {code} while it started", since)
            if self.ready_line in said:
                return True
            time.sleep(_POLL_SECONDS)
        raise self._failure(f"was not ready after {_START_SECONDS:.0f} s", since)

    def _said(self, since: int) -> str:
        """Return what the log holds from the byte `since` on."""
        with self.log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def _failure(self, what: str, since: int) -> StartupError:
        last = "\n".join(self._said(since).splitlines()[-_LOG_LINES:])
        return StartupError(f"{self.name} in {self.folder} {what}:\n{last}\n(from {self.log})")


class NatsServer(_Server):
    """A nats-server with JetStream on 127.0.0.1; `options` is text for its configuration file."""

    name = "nats-server"
    program = "nats-server"
    ready_line = "Server is ready"

    def __init__(self, folder: Path, *, options: str = "") -> None:
        """Keep streams in `folder`; changed `options` hold from the next start on."""
        super().__init__(folder, "nats.conf")
        self.options = options

    @property
    def url(self) -> str:
        """Where clients connect; the port is 0 before the first start."""
        return f"nats://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        make_folder(self.folder)
        write_private(self._mark, self.options)

    def _command(self) -> list[str]:
        # Flags win over the file: no option can move the store or the address by accident.
        where = ["--addr", "127.0.0.1", "--port", str(self.port), "--store_dir", str(self.folder)]
        return [str(nats_program()), "--jetstream", *where, "--config", str(self._mark)]


class PostgresServer(_Server):
    """A PostgreSQL with pgvector on 127.0.0.1, role and database `tracker`; `options` are server settings."""

    name = "PostgreSQL"
    program = "postgres"
    ready_line = "database system is ready to accept connections"

    def __init__(self, folder: Path, *, options: Mapping[str, str] = MappingProxyType({})) -> None:
        """Keep the cluster in `folder`; changed `options` hold from the next start on."""
        super().__init__(folder, "data")
        self.options = options
        self.passfile = self.folder / "passfile"
        self._programs = Path()

    def dsn(self, database: str = "tracker") -> str:
        """Return where asyncpg and libpq connect; the password stays in the file that it names."""
        address = f"127.0.0.1:{self.port}/{quote(database, safe='')}"
        return f"postgresql://tracker@{address}?passfile={quote(str(self.passfile))}"

    def _identity(self) -> dict[str, Any]:
        account = postgres_account()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}

    def _prepare(self) -> None:
        make_folder(self.folder)
        account = postgres_account()
        if account and (closed := closed_to_others(self.folder)):
            raise StartupError(
                f"PostgreSQL, which refuses to run as root, runs as user {account.pw_name}, who cannot enter "
                f"{closed}: choose another folder with --data-dir, or open this one with chmod o+x"
            )
        self._programs = postgres_programs(self.folder)
        if not self._mark.exists():
            self._create_cluster(account)

    def _create_cluster(self, account: pwd.struct_passwd | None) -> None:
        """Create the cluster, under its final name only when it is complete."""
        unfinished = self.folder / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if account:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        access = ["--username=tracker", "--auth-host=scram-sha-256", "--auth-local=reject"]
        self._run(["initdb", f"--pgdata={unfinished}", *locale, *access])
        password = secrets.token_urlsafe(32)
        # The first setting makes an error an exit code, the second keeps the password out of the log.
        strict = ["-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"]
        self._run(
            ["postgres", "--single", "-D", str(unfinished), *strict, "postgres"],
            f"ALTER ROLE tracker PASSWORD '{password}'\nCREATE DATABASE tracker\n",
        )
        write_private(self.passfile, f"127.0.0.1:*:*:tracker:{password}\n")
        unfinished.rename(self._mark)

    def _run(self, command: list[str], statements: str = "") -> None:
        process = None
        try:
            with self.log.open("ab") as log, uninterrupted():
                since = log.tell()
                process = subprocess.Popen(  # noqa: S603 - the wheel's programs
                    [self._programs / command[0], *command[1:]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd=self.folder,
                    env=_ENVIRONMENT,
                    **self._identity(),
                )
            process.communicate(statements.encode())
        except BaseException:
            if process is not None:
                kill(process.pid)
                process.wait()
            raise
        if code := process.returncode:
            raise self._failure(f"could not be set up, {command[0]} ended with exit code {code}", since)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.options,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._mark), *flags]


def _candidate_ports(kept: Path) -> Iterator[int]:
    """Yield the port in the file `kept`, then others; the server's own bind says which of them is free."""
    if kept.exists() and (port := kept.read_text().strip()).isdigit():
        yield int(port)
    for _ in range(_PORT_ATTEMPTS):
        yield secrets.choice(_PORTS)
