"""Daemons that no test can leave behind, and settings of each test's own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.acceptance.command import Daemon
from tests.conftest import DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.acceptance.stream import Stream


class Run(Protocol):
    """Starts `tracker-daemon run` with this environment and these arguments."""

    async def __call__(self, settings: dict[str, str], *arguments: str | Path) -> Daemon: ...


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Yield what starts daemons; those that still run when the test has ended are killed."""
    daemons: list[Daemon] = []

    async def start(settings: dict[str, str], *arguments: str | Path) -> Daemon:
        daemon = Daemon(settings, tmp_path / f"daemon-{len(daemons)}.log", *arguments)
        daemons.append(daemon)
        return await daemon.start()

    yield start
    for daemon in daemons:
        await daemon.kill()


@pytest.fixture
def basics() -> dict[str, str]:
    """The settings of every daemon here: any HTTP port, JSON lines, short embeddings."""
    return {
        "TRACKER_HTTP_PORT": "0",
        "TRACKER_LOG_FORMAT": "json",
        "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
    }


@pytest.fixture
def settings(basics: dict[str, str], stream: Stream, dsn: str) -> dict[str, str]:
    """The settings of a daemon between the test's own stream and its own migrated database."""
    return {**basics, **stream.settings, "TRACKER_POSTGRES_DSN": dsn}


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Yield a port that somebody holds and nobody answers on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
