"""Servers that a test takes away for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
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
            # One that has ended meanwhile must not keep the others from being told.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(pid, number)
                # The threads of a process that is to be stopped go on until each of them is told; one that
                # has ended (Z) stays as it is while its parent is stopped.
                while number == signal.SIGSTOP and _state(pid) not in {"T", "Z"}:
                    time.sleep(0.001)


def _state(pid: int) -> str:
    """The letter of the kernel's for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
