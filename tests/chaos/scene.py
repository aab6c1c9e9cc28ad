"""The scene of one fault: servers behind proxies, agents under load, daemons, rounds, and their record."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats.errors
from msgspec import Struct
from nats.js.errors import NotFoundError

from tests.acceptance.command import Daemon, Finished, tracker, until
from tests.acceptance.stream import stream_on
from tests.chaos.agents import ANSWER_SECONDS, BURST, Agents, Load
from tests.chaos.cluster import Cluster
from tests.chaos.judge import Verdict, committed, judge, sums
from tests.chaos.proxy import NatsProxy, PostgresProxy
from tests.conftest import DIMENSIONS, create_database
from tracker_daemon.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from tests.acceptance.command import Metrics
    from tracker_daemon.embedded import NatsServer, PostgresServer

ACK_WAIT_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 150.0
SAMPLE_SECONDS: Final = 0.2


class Report(Struct):
    """What happened in a scene: faults by kind, seconds until each was recovered from, and the verdict."""

    injected: Counter[str]
    recoveries: list[float]
    peak_mib: float
    verdict: Verdict


class Role(NamedTuple):
    """A role of the database, and where it connects."""

    name: str
    dsn: str


class Scene:
    """An async context in which faults are injected, round after round, while agents publish.

    The daemons reach both servers through a proxy; agents and judge reach them directly.
    """

    def __init__(
        self,
        nats_server: NatsServer,
        postgres: PostgresServer,
        folder: Path,
        *,
        rounds: int,
        seed: int,
        whole: bool = True,
        package: Path | None = None,
        clustered: bool = False,
    ) -> None:
        """`whole`: no short cut for a quick look; `package`: a folder with another tracker_daemon to run."""
        self.nats = nats_server
        self.cluster = Cluster(folder / "cluster")
        """Three nats-servers instead of the one, if the scene is `clustered`; no proxy is before them."""
        self.postgres = postgres
        self.rounds_asked = rounds
        self.whole = whole
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - where a fault strikes
        self.injected: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.daemons: list[Daemon] = []
        self.counts_are_exact = False
        """Whether the daemon's rows_committed must equal the tables: no kill, no COMMIT without a reply."""
        self.folder = folder
        """Where the scene keeps its files; whoever made it removes it."""
        self._clustered = clustered
        self._replicas = len(self.cluster.servers) if clustered else 1
        self._package = package
        self._peak_kib = 0
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Make database, stream, durable, proxies; no daemon runs and nothing is published yet."""
        try:
            await self._set_up()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take all of it away again; the servers go on."""
        # Told of it, no part puts a failure of its own, such as servers not yet back, before the first one.
        await self._exits.__aexit__(kind, error, trace)

    async def _set_up(self) -> None:
        enter = self._exits.enter_async_context
        self.dsn = await enter(create_database(self.postgres))
        await migrate(self.dsn, DIMENSIONS)
        self.stream = await enter(stream_on(await enter(self.cluster) if self._clustered else self.nats))
        await self.stream.make(ack_wait=ACK_WAIT_SECONDS, replicas=self._replicas)
        self.agents = Agents(self.stream, self.seed)
        self.load = Load(self.stream, self.agents)
        self._exits.push_async_callback(self.load.abort)
        self.nats_proxy = await enter(NatsProxy(lambda: self.nats.port))
        self.postgres_proxy = await enter(PostgresProxy(lambda: self.postgres.port))
        self._exits.push_async_callback(self._kill_daemons)
        sampling = asyncio.create_task(self._sample())
        self._exits.callback(sampling.cancel)

    @property
    def settings(self) -> dict[str, str]:
        """The whole environment of a daemon in this scene."""
        parts = urlsplit(self.dsn)
        through = parts.netloc.replace(f":{parts.port}", f":{self.postgres_proxy.port}")
        return {
            **self.stream.settings,
            **({"PYTHONPATH": str(self._package)} if self._package else {}),
            "TRACKER_HTTP_PORT": "0",
            "TRACKER_LOG_FORMAT": "json",
            "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
            "TRACKER_NATS_SERVERS": self.cluster.url
            if self._clustered
            else f"nats://127.0.0.1:{self.nats_proxy.port}",
            "TRACKER_NATS_STREAM_REPLICAS": str(self._replicas),
            "TRACKER_POSTGRES_DSN": urlunsplit(parts._replace(netloc=through)),
        }

    async def daemon(self, **settings: str) -> Daemon:
        """Start a daemon, with settings of its own where given; it may not have got far yet."""
        log = self.folder / f"daemon-{len(self.daemons)}.log"
        daemon = Daemon({**self.settings, **settings}, log, patience=PATIENCE_SECONDS)
        self.daemons.append(daemon)
        return await daemon.start()

    async def sql(self) -> asyncpg.Connection:
        """Open a connection to the database, past the proxy; it is closed with the scene."""
        connection = await asyncpg.connect(self.dsn)
        self._exits.callback(connection.terminate)
        return connection

    async def rounds(
        self, *, least: int = 1, most: int | None = None, load: bool = True
    ) -> AsyncIterator[int]:
        """Yield once for each fault to inject, under `load`; afterwards its recovery is waited for.

        Where the body ends, the fault must be mended: there the time to recover begins, until everything
        that was in the stream at that moment is acknowledged.
        """
        for daemon in self.running():
            await daemon.ready()
        if load:
            await self.load.start()
        clock = asyncio.get_running_loop().time
        count = max(least, self.rounds_asked) if self.whole else self.rounds_asked
        for number in range(min(count, most or count)):
            if load:
                await self.load.flow(self.chance.randrange(2 * BURST, 12 * BURST))
            yield number
            mended = clock()
            await self.recovered()
            self.recoveries.append(clock() - mended)

    async def recovered(self) -> None:
        """Wait until what the stream has confirmed by now is acknowledged."""
        last = max((item.sequence for item in self.load.confirmed[-BURST:]), default=0)
        floor = 0

        async def risen() -> int | None:
            reached = await self.stream.ack_floor()
            return reached if reached > floor or reached >= last else None

        while floor < last:  # however long a backlog takes: patience is for what does not move
            floor = await self.eventually(f"more than {floor} of {last} messages are acknowledged", risen)

    async def eventually(self, what: str, holds: Any) -> Any:
        """Wait until a coroutine function's answer is true; NATS being away is no answer.

        A question that finds no leader is never answered: it is asked again before that counts as recovery.
        """

        async def answer() -> Any:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await holds()
            except (nats.errors.Error, NotFoundError, TimeoutError):
                return None

        return await until(what, answer, seconds=PATIENCE_SECONDS)

    async def until_obstacle(self, daemon: Daemon, *parts: str) -> None:
        """Wait until one of the parts keeps the daemon from being ready; alive it must be all the while."""

        async def met() -> bool:
            status, _ = await daemon.get("/healthz")
            assert status == 200, f"/healthz answers {status}"
            return not (await daemon.obstacles()).keys().isdisjoint(parts)

        await until(f"{parts} keep the daemon from being ready", met, seconds=PATIENCE_SECONDS)

    async def until_paused(self, daemon: Daemon) -> None:
        """Wait until the daemon waits for an operator, and says so."""

        async def paused() -> bool:
            return bool((await daemon.metrics())("paused") and "postgres" in await daemon.obstacles())

        await until("the daemon is paused", paused, seconds=PATIENCE_SECONDS)

    async def until_said(self, daemon: Daemon, text: str, times: int) -> None:
        """Wait until a text is so many times in what the daemon has said."""

        async def said() -> bool:
            return daemon.output().count(text) >= times

        await until(f"the daemon says {text!r} {times} times", said, seconds=PATIENCE_SECONDS)

    async def until_redelivered(self, daemon: Daemon) -> None:
        """Wait until messages have come to the daemon again from now on."""
        before = (await daemon.metrics())("redeliveries_total")

        async def redelivered() -> bool:
            return (await daemon.metrics())("redeliveries_total") > before

        await until("messages are delivered again", redelivered, seconds=PATIENCE_SECONDS)

    async def until_locked_out(self) -> None:
        """Wait until a batch waits for somebody's lock."""
        sql = await self.sql()
        locked_out = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'tracker-daemon' AND wait_event_type = 'Lock')"
        )
        await until("a batch waits for a lock", lambda: sql.fetchval(locked_out), seconds=PATIENCE_SECONDS)

    async def command(self, *arguments: str) -> str:
        """Run another command of an operator's, which must succeed, and return what it says."""
        finished = await self._run(*arguments)
        assert finished.code == 0, (
            f"{arguments} ended with exit code {finished.code}: {finished.err}{finished.out}"
        )
        return finished.out

    async def _run(self, *arguments: str) -> Finished:
        seconds = PATIENCE_SECONDS + len(self.load.confirmed) / 1000
        return await tracker(*arguments, settings=self.settings, seconds=seconds)

    async def role(self) -> Role:
        """Make a role that may write and nothing else; it is dropped with the scene."""
        sql = await self.sql()
        name, password = f"writer_{uuid.uuid4().hex}", uuid.uuid4().hex
        await sql.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'; "
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {name}"
        )
        self._exits.push_async_callback(self._execute, f"DROP OWNED BY {name}; DROP ROLE {name}")
        database = urlsplit(self.dsn).path
        return Role(name, f"postgresql://{name}:{password}@127.0.0.1:{self.postgres_proxy.port}{database}")

    async def _execute(self, statement: str) -> None:
        await (await self.sql()).execute(statement)

    def running(self) -> list[Daemon]:
        """The daemons that have not ended."""
        return [daemon for daemon in self.daemons if daemon.process.returncode is None]

    async def conclude(self) -> Report:
        """End the load, let the daemons finish and leave, and have everything judged."""
        await self.load.stop()
        await self.eventually("every message is acknowledged", self._all_settled)
        sql = await self.sql()
        verdict = await judge(self.load.confirmed, sql)
        for daemon in self.running():
            metrics = await self._at_rest(daemon)
            verdict.wrong += sums(metrics, (self.stream.decisions, self.stream.outcomes))
            if self.counts_are_exact:
                verdict.wrong += await committed(metrics, sql)
        await self._measure()
        # The operators' judge has to come to the same end.
        seen = await self._run("verify")
        if seen.code:
            verdict.wrong.append(f"verify ended with exit code {seen.code}: {seen.err}{seen.out}")
        for daemon in self.running():
            if code := await daemon.stop():
                verdict.wrong.append(f"a daemon that had nothing left to do ended with exit code {code}")
        return Report(self.injected, self.recoveries, self._peak_kib / 1024, verdict)

    async def _at_rest(self, daemon: Daemon) -> Metrics:
        """What a daemon counts once it holds nothing: it may write copies of what is acknowledged already."""

        async def nothing_held() -> Metrics | None:
            metrics = await daemon.metrics()
            return None if metrics("buffered_rows") else metrics

        return await until("the daemon holds nothing", nothing_held, seconds=PATIENCE_SECONDS)

    async def _all_settled(self) -> bool:
        return await self.stream.unacknowledged() == 0

    async def _sample(self) -> None:
        while True:
            await self._measure()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _measure(self) -> None:
        for daemon in self.running():
            try:
                status = Path(f"/proc/{daemon.process.pid}/status").read_text()  # noqa: ASYNC240 - no disk
            except FileNotFoundError:
                continue  # it has just ended
            for line in status.splitlines():
                if line.startswith("VmHWM"):
                    self._peak_kib = max(self._peak_kib, int(line.split()[1]))

    async def _kill_daemons(self) -> None:
        for daemon in self.daemons:
            await daemon.kill()


def new_seed() -> int:
    """A seed for a run that was given none."""
    return uuid.uuid4().int % 10**6
