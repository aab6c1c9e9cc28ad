"""A newer version migrates the database while daemons of this one are at work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.acceptance.command import PATIENCE_SECONDS, tracker, until
from tests.factory import decision
from tests.newer import BREAKING, EXPANDING, Newer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

ROWS = 100


class Load:
    """An agent that publishes decisions until it is told to stop."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._stop = False
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> int:
        published = 0
        while not self._stop:
            published += len(await self._stream.publish(decision()))
        return published

    async def stop(self) -> int:
        """Stop, and return how many there are."""
        self._stop = True
        return await self._running


@pytest.fixture
async def reader(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose transaction reads the decisions and does not end by itself."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN; SELECT count(*) FROM llm_decisions")
    yield connection
    await connection.close()


async def test_a_migration_under_load_waits_for_a_long_reader_and_nobody_waits_for_it(
    run: Run,
    settings: dict[str, str],
    stream: Stream,
    sql: asyncpg.Connection,
    reader: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    """Two daemons of this version write before, meanwhile and afterwards; nothing is lost."""
    daemons = [await (await run(settings)).ready() for _ in range(2)]
    newer, load = Newer(tmp_path / "newer", EXPANDING), Load(stream)

    async def more_rows() -> None:
        so_far = await sql.fetchval("SELECT count(*) FROM llm_decisions")

        async def enough() -> bool:
            return bool(await sql.fetchval("SELECT count(*) FROM llm_decisions") >= so_far + ROWS)

        await until(f"{ROWS} more decisions are stored", enough)

    await more_rows()
    async with newer.migrating(settings) as migrating:

        async def waits() -> bool:
            assert migrating.returncode is None, newer.said()
            return "a table is in use" in newer.said()

        await until("the migration waits for the reader", waits)
        await more_rows()
        assert migrating.returncode is None
        await reader.execute("COMMIT")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await migrating.wait() == 0, newer.said()
    assert "applied 998_desk\napplied 999_model\n" in newer.said()
    await more_rows()
    published = await load.stop()
    await stream.settled(published)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == published
    assert await sql.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'llm_decisions_model'::regclass"
    )
    assert (await tracker("verify", settings=settings)).code == 0
    for daemon in [*daemons, await (await run(settings)).ready()]:
        assert await daemon.stop() == 0


async def test_after_a_breaking_migration_this_version_does_not_start(
    settings: dict[str, str], tmp_path: Path
) -> None:
    newer = Newer(tmp_path / "newer", BREAKING)
    assert await newer.migrate(settings) == 0, newer.said()
    for command in ("run", "migrate"):
        ended = await tracker(command, settings=settings)
        assert ended.code == 2
        assert "migration 999 of a newer version breaks this one: upgrade tracker-daemon" in ended.err
