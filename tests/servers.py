"""Servers that a test takes away for a while."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracker_daemon.embedded import NatsServer, PostgresServer


class Away:
    """A server that is away for the length of a block: stopped, killed, or frozen.

    `async with` leaves the event loop to others while the server goes and comes.
    """

    def __init__(self, server: PostgresServer | NatsServer, how: str) -> None:
        """Keep which one, and how."""
        self._server = server
        self._how = how

    def __enter__(self) -> None:
        if self._how == "frozen":
            self._signal(signal.SIGSTOP)
        else:
            getattr(self._server, {"stopped": "stop", "killed": "kill"}[self._how])()

    def __exit__(self, *_: object) -> None:
        if self._how == "frozen":
            self._signal(signal.SIGCONT)
        else:
            self._server.start()

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._server.pids:
            os.kill(pid, number)
