"""The role that dashboards read with, made by psql as the compose file's PostgreSQL makes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import yaml

from tests.conftest import DIMENSIONS
from tracker_daemon.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tracker_daemon.embedded import PostgresServer

TOP = Path(__file__).parents[2]
POSTGRES = yaml.safe_load((TOP / "docker-compose.yml").read_text("utf-8"))["services"]["postgres"]
SCRIPTS = {
    target: TOP / source
    for source, target, *_ in (volume.split(":") for volume in POSTGRES["volumes"])
    if target.startswith("/docker-entrypoint-initdb.d/")
}
PASSWORD = "it's secret"


@pytest.fixture
def run_scripts(postgres_server: PostgresServer, database: str) -> Callable[[], None]:
    """Return what does to the database what the image's entry point does: its scripts by their names."""

    def run() -> None:
        for _, script in sorted(SCRIPTS.items()):
            subprocess.run(
                [postgres_server._programs / "psql", "-v", "ON_ERROR_STOP=1", "-X", "-f", script, database],
                env=os.environ | {"READER_PASSWORD": PASSWORD},
                check=True,
                stdout=subprocess.DEVNULL,
            )

    return run


@pytest.fixture
async def reader(database: str, run_scripts: Callable[[], None]) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection of the role, in a database that was migrated after the role was made."""
    run_scripts()
    await migrate(database, DIMENSIONS)
    connection = await asyncpg.connect(database, user="tracker_reader", password=PASSWORD)
    yield connection
    await connection.close()
    owner = await asyncpg.connect(database)
    for role in ("owner", "writer", "reader"):
        await owner.execute(f"DROP OWNED BY tracker_{role}; DROP ROLE tracker_{role}")
    await owner.close()


async def test_the_role_reads_every_table_of_migrations_that_came_later(reader: asyncpg.Connection) -> None:
    tables = await reader.fetch(
        "SELECT relname FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')"
    )
    assert len(tables) >= 5
    for table in tables:
        await reader.execute(f"SELECT FROM {table['relname']}")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO trading_sessions DEFAULT VALUES",
        "UPDATE llm_decisions SET outcome = 'SUCCESS'",
        "DELETE FROM llm_dead_letters",
        "DROP TABLE llm_outcomes",
        "CREATE TABLE more ()",
    ],
)
async def test_the_role_changes_nothing(reader: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute(statement)


async def test_the_scripts_may_run_again_on_a_migrated_database(
    reader: asyncpg.Connection, run_scripts: Callable[[], None]
) -> None:
    run_scripts()
    await reader.execute("SELECT FROM llm_decisions")


async def test_a_question_that_takes_too_long_is_ended(reader: asyncpg.Connection) -> None:
    assert await reader.fetchval("SHOW statement_timeout") == "30s"
