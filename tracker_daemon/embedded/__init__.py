"""Real nats-server and PostgreSQL with pgvector for one machine, run from wheels under one data folder.

A run that is killed leaves its servers behind, and the next run in the folder stops them. The kernel's death
signal would not do: it follows the thread that started a server, which may end long before the run does.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

from tracker_daemon.embedded.folders import default_data_dir, folder_errors, held
from tracker_daemon.embedded.servers import NatsServer, PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EmbeddedServers", "NatsServer", "PostgresServer", "default_data_dir"]

# As large as the daemon's contract allows a payload, and room for its stream whatever the disk has free now.
_NATS_OPTIONS: Final = "max_payload: 8MB\njetstream { max_file_store: 16GB }\n"


class EmbeddedServers:
    """Both servers under `data_dir`, for one run at a time: a context manager that starts and stops them."""

    def __init__(self, data_dir: Path) -> None:
        """Give each server its folder, so that data and addresses stay when `data_dir` is used again."""
        self.data_dir = data_dir.resolve()
        self.nats = NatsServer(self.data_dir / "nats", options=_NATS_OPTIONS)
        self.postgres = PostgresServer(self.data_dir / "postgres")
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with folder_errors(self.data_dir), contextlib.ExitStack() as started:
            started.enter_context(held(self.data_dir))
            for server in (self.nats, self.postgres):
                server.stop_left_behind()
                started.enter_context(server)
            self._running = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
