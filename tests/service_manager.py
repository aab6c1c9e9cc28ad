"""The side of systemd in tests: a socket that daemons tell how they do."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ServiceManager:
    """All that it was told, in order."""

    def __init__(self, listener: socket.socket) -> None:
        """Hear what comes to this socket, which is bound already."""
        self._listener = listener
        self._told: list[str] = []

    def told(self) -> list[str]:
        """Every assignment so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._told += self._listener.recv(4096).decode().split("\n")
        return self._told

    def beats(self) -> int:
        """How often the watchdog was fed so far."""
        return self.told().count("WATCHDOG=1")

    def status(self) -> str:
        """What the operator reads."""
        said = [line.removeprefix("STATUS=") for line in self.told() if line.startswith("STATUS=")]
        return said[-1] if said else ""


@contextlib.contextmanager
def service_manager(address: str) -> Iterator[ServiceManager]:
    """Listen at this address, a path or `@` and a name, for the length of a block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        listener.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        yield ServiceManager(listener)
