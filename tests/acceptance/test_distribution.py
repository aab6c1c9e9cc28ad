"""`tracker-daemon migrate --distribute` as an operator runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.command import tracker
from tests.conftest import create_database
from tests.named import NO_CITUS, NamedServer
from tracker_daemon.distribution import DISTRIBUTED, REFERENCE

if TYPE_CHECKING:
    from tracker_daemon.embedded import PostgresServer


async def test_without_citus_it_says_what_that_takes(
    basics: dict[str, str], postgres_server: PostgresServer
) -> None:
    async with create_database(postgres_server, template="template0") as dsn:
        ended = await tracker("migrate", "--distribute", settings={**basics, "TRACKER_POSTGRES_DSN": dsn})
    assert ended.code == 2
    [sentence] = [line for line in ended.err.splitlines() if line.startswith("tracker-daemon: ")]
    assert "has no Citus" in sentence
    assert "citus_add_node" in sentence
    assert "Traceback" not in ended.err


async def test_on_citus_it_migrates_and_distributes_once(
    basics: dict[str, str], postgres_server: PostgresServer, database: str
) -> None:
    if not isinstance(postgres_server, NamedServer) or not postgres_server.nodes:
        pytest.skip(NO_CITUS)
    settings = {**basics, "TRACKER_POSTGRES_DSN": database}
    first = await tracker("migrate", "--distribute", settings=settings)
    assert first.code == 0
    said = first.out.splitlines()
    assert said[0] == "applied 001_decisions"
    assert said[-len(DISTRIBUTED) - 1 :] == [f"distributed {table}" for table in (REFERENCE, *DISTRIBUTED)]
    again = await tracker("migrate", "--distribute", settings=settings)
    assert again.code == 0
    assert again.out == "nothing to do: every migration is applied, every table is distributed\n"
