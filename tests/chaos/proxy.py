"""A TCP proxy that cuts, delays and swallows what passes between the daemon and one of its servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from tests.chaos import wire
from tests.chaos.wire import Moment

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterable

    from tests.chaos.wire import Feed, Piece

_CHUNK: Final = 256 * 1024
_HOST: Final = "127.0.0.1"


class Fate(Enum):
    """What becomes of the bytes at a moment, by the word of the action that it set off."""

    PASS = auto()
    """They go on."""
    SWALLOW = auto()
    """They are lost; what comes after them goes on."""
    RESET = auto()
    """They are lost, and the connection is reset."""


Action = Callable[[], Awaitable[Fate]]


class Proxy(ABC):
    """Listens on a free port of 127.0.0.1 inside its `async with` and passes on to the server at `target`.

    A side that closes or resets its connection does so to the other side too. A connection that the server
    does not take is reset.
    """

    moments: ClassVar[frozenset[Moment]]
    """What it watches for."""

    def __init__(self, target: int | Callable[[], int]) -> None:
        """Stand before the server at this port of 127.0.0.1; a function is asked at each new connection."""
        self._target = target
        self._listener: socket.socket
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._armed: list[_Trigger] = []
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self.port = 0
        """Where it listens."""
        self.cut = 0
        """Open connections that it has reset so far, by `reset` or by `Fate.RESET`."""
        self.delay_seconds = 0.0
        """How long each chunk waits before it goes on, either way."""

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server((_HOST, 0), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await asyncio.sleep(0)  # a task that is cancelled before its first step leaves its socket open
        for connection in self._connections:
            connection.reset()
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for trigger in self._armed:
            trigger.fired.cancel()
        for error in ends:
            if isinstance(error, Exception):
                raise error

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return sum(not connection.ended for connection in self._connections)

    def hold(self) -> None:
        """Become a black hole: connections stay open and new ones are taken, and nothing goes through."""
        self._open.clear()

    def release(self) -> None:
        """End the `hold`: what came meanwhile goes on."""
        self._open.set()

    def refuse(self) -> None:
        """Reset every new connection as soon as it comes."""
        self._refusing = True

    def accept(self) -> None:
        """End the `refuse`."""
        self._refusing = False

    def reset(self) -> None:
        """Reset every open connection, on both sides, without a word of goodbye."""
        for connection in self._connections:
            self._cut(connection)

    def strand(self) -> int:
        """Lose all that passes on the open connections from now on, their end too; return how many they are.

        Neither side learns of it, as when a firewall has forgotten a connection. New ones are well.
        """
        open_ = [one for one in self._connections if not (one.ended or one.stranded)]
        for connection in open_:
            connection.stranded = True
        return len(open_)

    def arm(self, moment: str, action: Action, after: int = 0) -> asyncio.Future[None]:
        """Run the action once, when the moment comes after `after` others, before its bytes go on.

        Several actions for one moment take turns: each counts from when the one before it was set off. The
        future is done when the action has returned, and cancelled when the proxy ends before. What an action
        raises, the future raises, and so does the end of the proxy. ValueError for a moment not in `moments`.
        """
        if moment not in self.moments:
            raise ValueError(f"{moment!r} never comes here, only: {', '.join(sorted(self.moments))}")
        trigger = _Trigger(moment, action, after)
        self._armed.append(trigger)
        return trigger.fired

    @abstractmethod
    def _framing(self) -> tuple[Feed, Feed]:
        """Return the framing of a new connection: from its client, from its server."""

    def _drops(self, moment: Moment) -> bool:  # noqa: ARG002 - for the proxies that lose something
        return False

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refusing:
            _reset_at_close(client)
            client.close()
            return
        connection = _Connection()
        self._connections.add(connection)
        task = asyncio.create_task(self._serve(connection, client))
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        # One that failed is kept for the end of the proxy, which raises its error.
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _serve(self, connection: _Connection, client: socket.socket) -> None:
        from_client, from_server = self._framing()
        try:
            client_reader, client_writer = await connection.attach(sock=client)
            await self._open.wait()
            if connection.ended:
                return
            try:
                port = self._target() if callable(self._target) else self._target
                server_reader, server_writer = await connection.attach(host=_HOST, port=port)
            except OSError:
                connection.reset()
                return
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, client_reader, from_client, server_writer))
                pumps.create_task(self._pump(connection, server_reader, from_server, client_writer))
        finally:
            await connection.close()
            self._connections.discard(connection)

    async def _pump(
        self, connection: _Connection, reader: StreamReader, feed: Feed, writer: StreamWriter
    ) -> None:
        try:
            while chunk := await self._read(connection, reader):
                if not connection.stranded:
                    await self._forward(connection, feed(chunk), writer)
        finally:
            if not connection.stranded:
                connection.end()

    async def _read(self, connection: _Connection, reader: StreamReader) -> bytes:
        """Return the next chunk when its time to go on has come; nothing at the connection's end."""
        try:
            chunk = await reader.read(_CHUNK)
        except ConnectionError:
            await self._open.wait()
            connection.reset()
        else:
            await asyncio.sleep(self.delay_seconds)
            await self._open.wait()
        return b"" if connection.ended else chunk

    async def _forward(self, connection: _Connection, pieces: Iterable[Piece], writer: StreamWriter) -> None:
        ready: list[memoryview] = []
        for data, moment in pieces:
            if moment is not None and self._drops(moment):
                continue
            if moment is not None and (trigger := self._due(moment)):
                await self._send(connection, ready, writer)
                fate = await trigger.fire()
                if fate is Fate.RESET:
                    self._cut(connection)
                if connection.ended or connection.stranded:
                    return
                if fate is Fate.SWALLOW:
                    continue
            ready.append(data)
        await self._send(connection, ready, writer)

    async def _send(self, connection: _Connection, ready: list[memoryview], writer: StreamWriter) -> None:
        """Send what is ready, all of it, unless the connection ends first."""
        await self._open.wait()
        if not ready or connection.ended:
            return
        try:
            writer.writelines(ready)
            await writer.drain()
        except ConnectionError:
            connection.reset()
        ready.clear()

    def _due(self, moment: Moment) -> _Trigger | None:
        trigger = next((trigger for trigger in self._armed if trigger.moment == moment), None)
        if trigger is None:
            return None
        if trigger.after:
            trigger.after -= 1
            return None
        self._armed.remove(trigger)
        return trigger

    def _cut(self, connection: _Connection) -> None:
        if not connection.ended:
            self.cut += 1
        connection.reset()


class PostgresProxy(Proxy):
    """Stands before a PostgreSQL without TLS."""

    moments = frozenset({Moment.MID_COPY, Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT})

    def _framing(self) -> tuple[Feed, Feed]:
        return wire.postgres()


class NatsProxy(Proxy):
    """Stands before a nats-server without TLS."""

    moments = frozenset({Moment.ACK})

    def __init__(self, target: int | Callable[[], int]) -> None:
        """Lose no acks at first."""
        super().__init__(target)
        self.drop_acks = False
        """Whether acks are lost on the way; such an ack is no moment."""
        self.acks_dropped = 0
        """Acks that were lost so."""

    def _framing(self) -> tuple[Feed, Feed]:
        return wire.nats()

    def _drops(self, moment: Moment) -> bool:
        drops = self.drop_acks and moment is Moment.ACK
        self.acks_dropped += drops
        return drops


class _Connection:
    """A client's connection and, as soon as there is one, the server's that belongs to it."""

    def __init__(self) -> None:
        self.ended = False
        self.stranded = False
        self._writers: list[StreamWriter] = []

    async def attach(self, **where: Any) -> tuple[StreamReader, StreamWriter]:
        # The reader stops at twice its limit.
        reader, writer = await asyncio.open_connection(limit=_CHUNK // 2, **where)
        # So drained means sent: what a moment calls gone must not sit in a buffer that a reset empties.
        writer.transport.set_write_buffer_limits(high=0)
        self._writers.append(writer)
        if self.ended:
            self.reset()
        return reader, writer

    def reset(self) -> None:
        self.ended = True
        for writer in self._writers:
            _reset_at_close(writer.get_extra_info("socket"))
            writer.transport.abort()

    def end(self) -> None:
        self.ended = True
        for writer in self._writers:
            writer.close()

    async def close(self) -> None:
        self.end()
        for writer in self._writers:
            with contextlib.suppress(ConnectionError):  # a reset is an end like any other
                await writer.wait_closed()


class _Trigger:
    """An action that waits for its moment."""

    def __init__(self, moment: str, action: Action, after: int) -> None:
        self.moment = moment
        self.after = after
        self.fired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._action = action

    async def fire(self) -> Fate:
        try:
            fate = await self._action()
        except BaseException as error:
            self._done(error)
            raise
        self._done(None)
        return fate

    def _done(self, error: BaseException | None) -> None:
        if self.fired.done():  # whoever waited has given up
            return
        if isinstance(error, asyncio.CancelledError):
            self.fired.cancel()
        elif error is not None:
            self.fired.set_exception(error)
        else:
            self.fired.set_result(None)


def _reset_at_close(connection: socket.socket) -> None:
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
