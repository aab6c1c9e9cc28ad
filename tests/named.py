"""The PostgreSQL that TRACKER_TEST_POSTGRES_DSN names, in place of one that the tests start."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final, NoReturn
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

SETTING: Final = "TRACKER_TEST_POSTGRES_DSN"
NOT_OURS: Final = f"the server that {SETTING} names is not ours to stop, to stand before, or to look into"
NO_CITUS: Final = f"{SETTING} names no cluster of Citus"
NOT_ON_CITUS: Final = f"{SETTING} names a cluster of Citus, and what this test does takes one server: "
_NODES: Final = "SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"
# Tests put triggers in the way. And where Citus hides its shards, it takes two seconds to learn types on each
# connection.
_SETTINGS: Final = "citus.enable_unsafe_triggers = on", "citus.override_table_visibility = off"
_LEAVE: Final = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"


class NamedServer:
    """Somebody else's server: tests have databases there, and whoever wants more of it is skipped."""

    def __init__(self, dsn: str) -> None:
        """Keep a DSN of the form `postgresql://…`, of a superuser and of a database that is there.

        Where that is a database of Citus, so is each of the tests', on the same nodes.
        """
        self._parts = urlsplit(dsn)
        self.nodes: list[tuple[str, int]] = []
        """Host and port of each node of Citus, the coordinator first; none: it is an ordinary server."""
        self.blank = "template1"
        """What an empty database is copied from."""

    def __getattr__(self, name: str) -> NoReturn:
        """Skip the test that would take it away, or that looks for its files or programs."""
        pytest.skip(NOT_OURS)

    @property
    def port(self) -> int:
        """Where proxies and tests find it on this machine."""
        if self._parts.hostname not in {"127.0.0.1", "localhost"}:
            pytest.skip(NOT_OURS)
        return self._parts.port or 5432

    def dsn(self, database: str | None = None, node: tuple[str, int] | None = None) -> str:
        """Return where asyncpg and libpq connect, by default to the database that was named."""
        user, at, _ = self._parts.netloc.rpartition("@")
        host, port = node or (self._parts.hostname, self._parts.port or 5432)
        path = self._parts.path if database is None else f"/{quote(database, safe='')}"
        # Tests add to the query, and their proxies know no TLS, which Citus switches on by itself.
        query = self._parts.query or "sslmode=disable"
        return self._parts._replace(netloc=f"{user}{at}{host}:{port}", path=path, query=query).geturl()

    async def open(self) -> None:
        """Look for Citus, and make a blank database of it."""
        connection = await asyncpg.connect(self.dsn())
        try:
            if await connection.fetchval("SELECT to_regclass('pg_dist_node') IS NOT NULL"):
                self.nodes = [tuple(row) for row in await connection.fetch(_NODES)]
        finally:
            await connection.close()
        if self.nodes:
            self.blank = f"blank_{uuid.uuid4().hex}"
            await self.administer(f"CREATE DATABASE {self.blank}")
            await self.join(self.blank)
            await self.lay_aside(self.blank)

    async def close(self) -> None:
        """Leave nothing there."""
        if self.nodes:
            await self.drop(self.blank)

    async def join(self, database: str) -> None:
        """Make one database of Citus of those that have this name on the nodes."""
        await self.administer("CREATE EXTENSION citus", database)
        coordinator = await asyncpg.connect(self.dsn(database))
        try:
            await coordinator.execute("SELECT citus_set_coordinator_host($1, $2)", *self.nodes[0])
            for node in self.nodes[1:]:
                await coordinator.execute("SELECT citus_add_node($1, $2)", *node)
        finally:
            await coordinator.close()

    async def set_up(self, database: str) -> None:
        """Set for a database of Citus what tests there rely on."""
        coordinator = await asyncpg.connect(self.dsn())
        try:
            for setting in _SETTINGS:
                await coordinator.execute(f"ALTER DATABASE {database} SET {setting}")
        finally:
            await coordinator.close()

    async def drop(self, database: str) -> None:
        """Drop a database, whoever is in it."""
        await self.lay_aside(database)
        await self.administer(f"DROP DATABASE {database} WITH (FORCE)")

    async def administer(self, statement: str, database: str | None = None) -> None:
        """Execute a statement on every node."""

        async def execute(node: tuple[str, int] | None) -> None:
            connection = await asyncpg.connect(self.dsn(database, node))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        await asyncio.gather(*map(execute, self.nodes or [None]))

    async def lay_aside(self, database: str) -> None:
        """Keep everybody out of a database that is to be copied, Citus' own processes too."""
        if self.nodes:
            await self.administer(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
            await self.administer(_LEAVE.format(database=database))
