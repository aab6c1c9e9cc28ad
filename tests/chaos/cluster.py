"""Three nats-servers that hold every stream together, each of which can be killed."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import nats
import nats.errors
import orjson

from tests.acceptance.command import until
from tracker_daemon.embedded import NatsServer
from tracker_daemon.embedded.folders import make_folder
from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NAMES: Final = ("one", "two", "three")
ATTEMPTS: Final = 5
ANSWER_SECONDS: Final = 5.0
# Below the ports that Linux gives to outgoing connections, which could take a killed server's.
PORTS: Final = range(20_000, 32_768)
USER, PASSWORD = "system", "for one scene"
ALL_CONNECTIONS: Final = 2
"""What a server takes for: the connections that are open, and those that have ended."""


class Cluster:
    """A cluster on 127.0.0.1, an async context in which its servers follow one leader."""

    def __init__(self, folder: Path) -> None:
        """Keep each server's streams and log in a folder of its own under `folder`."""
        self._folder = folder
        self.servers = {name: NatsServer(folder / name) for name in NAMES}
        """The servers by the names that a stream's leader goes by."""

    async def __aenter__(self) -> Self:
        make_folder(self._folder)  # which the servers, starting side by side, would each make
        try:
            for _ in range(ATTEMPTS):
                self._route(*free_ports())
                try:
                    await self.start()
                except StartupError as error:  # most likely a port was taken, so there are others
                    failure = error
                    await self._each(NatsServer.stop)
                else:
                    return self
        except BaseException:
            await self._each(NatsServer.stop)
            raise
        raise failure

    async def __aexit__(self, *_: object) -> None:
        await self._each(NatsServer.stop)

    @property
    def url(self) -> str:
        """Where clients connect: every server, separated by commas."""
        return ",".join(server.url for server in self.servers.values())

    async def start(self) -> None:
        """Start the servers that do not run, and return once all follow one leader."""
        await self._each(NatsServer.start)
        await until("the servers of the cluster follow one leader", self._united)

    async def kill(self, *names: str) -> None:
        """End these servers as a crash would."""
        await self._each(NatsServer.kill, *names)

    async def restart(self, name: str) -> None:
        """Have a server leave in good order and come back."""
        await self._each(NatsServer.stop, name)
        await self.start()

    @asynccontextmanager
    async def without(self, *names: str) -> AsyncIterator[None]:
        """Be without these servers, as after a crash, for the length of a block."""
        await self.kill(*names)
        try:
            yield
        finally:
            await self.start()

    async def sent_by(self, client: str, *names: str) -> int:
        """How many messages these servers have had from clients of this name, connected or gone."""
        answers = [await self._ask(name, "CONNZ", state=ALL_CONNECTIONS) for name in names]
        connections = [each for answer in answers for each in answer["connections"]]
        return sum(each["in_msgs"] for each in connections if each.get("name") == client)

    def _route(self, *ports: int) -> None:
        """Have the servers meet on these ports from the next start on."""
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        for (name, server), port in zip(self.servers.items(), ports, strict=True):
            server.options = (
                f"server_name: {name}\n"
                f'cluster {{ name: chaos, listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
                f'accounts {{ $SYS {{ users: [{{ user: "{USER}", password: "{PASSWORD}" }}] }} }}\n'
            )

    async def _united(self) -> bool:
        """Whether every server knows the leader, and the leader hears from every other."""
        for name, server in self.servers.items():
            if server.process.poll() is not None:
                raise StartupError(f"the server {name} of the cluster has ended: see {server.log}")
        try:
            views = [(await self._ask(name, "JSZ")).get("meta_cluster", {}) for name in self.servers]
        except (nats.errors.Error, OSError, TimeoutError):
            return False  # one has just started, or is about to end
        leaders = {view.get("leader") for view in views}
        heard = max(sum(other["current"] for other in view.get("replicas", [])) for view in views)
        return len(leaders) == 1 and None not in leaders and heard == len(self.servers) - 1

    async def _ask(self, name: str, what: str, **options: Any) -> dict[str, Any]:
        """Ask a server about itself."""
        system = await nats.connect(
            self.servers[name].url,
            user=USER,
            password=PASSWORD,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
        )
        try:
            request = orjson.dumps({"server_name": name, "exact_match": True, **options})
            subject = f"$SYS.REQ.SERVER.PING.{what}"
            answer = await system.request(subject, request, timeout=ANSWER_SECONDS)
        finally:
            await system.close()
        found: dict[str, Any] = orjson.loads(answer.data)["data"]
        return found

    async def _each(self, act: Callable[[NatsServer], None], *names: str) -> None:
        """Do something to these servers, or to all, side by side; none is left in the midst of it."""
        acting = asyncio.gather(
            *(asyncio.to_thread(act, self.servers[name]) for name in names or self.servers),
            return_exceptions=True,
        )
        try:
            results = await asyncio.shield(acting)
        except asyncio.CancelledError:
            await acting  # a thread cannot be cancelled
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result


def free_ports() -> list[int]:
    """A port for each server, which as likely as not nobody holds."""
    return random.sample(PORTS, len(NAMES))
