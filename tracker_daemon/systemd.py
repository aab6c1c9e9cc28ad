"""What systemd is told over its socket: started, alive, what is in the way, stopping.

Where there is no such socket (`$NOTIFY_SOCKET`), nothing is told, and nobody else needs to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import textwrap
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the status is looked at; it is sent when it has changed."""
MAX_STATUS: Final = 1000
"""Characters of a status: systemd drops a message of more than 4096 bytes, whatever else is in it."""


@contextlib.asynccontextmanager
async def supervised(
    alive: Callable[[], bool],
    obstacles: Callable[[], Mapping[str, str]],
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Callable[[], None]]:
    """Say that the daemon has started, and how it does for the length of the block.

    Yields what says that it is stopping. The watchdog is fed while `alive` and the event loop turns, whatever
    the obstacles are; these, in the words of `/readyz`, are the status.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        yield lambda: None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        # A systemd that is busy must not hold the event loop.
        connection.setblocking(False)
        supervisor = _Supervisor(connection, address, obstacles)
        supervisor.tell(READY="1")
        tasks = [asyncio.create_task(supervisor.keep_status())]
        if beat_seconds := _beat_seconds(environ):
            tasks.append(asyncio.create_task(supervisor.beat(alive, beat_seconds)))
        try:
            yield lambda: supervisor.tell(STOPPING="1", STATUS=supervisor.status())
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def _beat_seconds(environ: Mapping[str, str]) -> float:
    """The time between two beats, a third of the watchdog's patience; 0: it does not watch this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), str(os.getpid())
    ours = microseconds.isdecimal() and environ.get("WATCHDOG_PID", pid) == pid
    return int(microseconds) / 3_000_000 if ours else 0


class _Supervisor:
    """The other end of the socket, as this process sees it."""

    def __init__(
        self, connection: socket.socket, address: str, obstacles: Callable[[], Mapping[str, str]]
    ) -> None:
        self._connection = connection
        self._address = address
        self._obstacles = obstacles
        self._unsent: dict[str, str] = {}
        self._refused = False

    def status(self) -> str:
        """One line about what is in the way."""
        found = "; ".join(f"{part}: {reason}" for part, reason in self._obstacles().items())
        return textwrap.shorten(f"not ready: {found}", MAX_STATUS, placeholder=" …") if found else "ready"

    def tell(self, **states: str) -> None:
        """Send these states, and those that were refused before: systemd ends what never says READY."""
        self._unsent |= states
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        # An abstract address is written with an @ for its NUL.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        try:
            self._connection.sendto(message.encode(errors="replace"), address)
        except OSError as error:
            if not self._refused:
                log.warning(
                    "systemd cannot be told how the daemon does, and may end it",
                    socket=self._address,
                    reason=error.strerror or str(error),
                )
            self._refused = True
        else:
            self._unsent.clear()

    async def keep_status(self) -> None:
        """Send the status whenever it has changed."""
        said = ""
        while True:
            if (status := self.status()) != said or self._unsent:
                self.tell(STATUS=status)
                said = status
            await asyncio.sleep(LOOK_SECONDS)

    async def beat(self, alive: Callable[[], bool], seconds: float) -> None:
        """Feed the watchdog until a part has died."""
        while alive():
            self.tell(WATCHDOG="1")
            await asyncio.sleep(seconds)
