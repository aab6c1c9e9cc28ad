"""Migrations: `schemas/sql/NNN_name.sql`, applied in order, while daemons write."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import tenacity
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon import history
from tracker_daemon.errors import Misconfigured, SchemaError
from tracker_daemon.postgres import Connection, Locked, Rejected, connected, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from importlib.resources.abc import Traversable

log = structlog.get_logger(__name__)

LOCK_KEY: Final = 0x74726163  # "trac": one migrator at a time in a database
LOCK_POLL_SECONDS: Final = 0.2
LOCK_SECONDS: Final = 1.1
"""How long a change waits for a table: everybody who comes later queues behind it.

Just longer than the server's `deadlock_timeout`, after which an autovacuum is told to give way.
"""
LOCK_ATTEMPTS: Final = 20
INDEXED_DIMENSIONS: Final = 4000
"""Numbers of an embedding that a vector index can hold, in halves."""
STATEMENT_SECONDS: Final = 86_400.0
"""A change to a large table takes its time; what must not wait does not wait for it."""

T = TypeVar("T")

# What ends at a semicolon that stands in no body, text or comment.
_STATEMENT: Final = re.compile(r"(?:\$\$.*?\$\$|'[^']*'|--[^\n]*|[^;])+", re.DOTALL)
_IN_PARTITIONS: Final = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('llm_decisions')"
_REMEDY: Final = (
    "install pgvector on the server (Debian: postgresql-NN-pgvector), "
    "or let a superuser run CREATE EXTENSION vector in this database"
)


class Migration(Struct, frozen=True):
    """One SQL file; its first line may say more.

    `-- breaking` keeps older daemons away from its result. `-- concurrently NAME`: it is nothing but
    `CREATE INDEX CONCURRENTLY IF NOT EXISTS NAME …`, and is applied outside of a transaction.
    """

    number: int
    name: str
    sql: str

    @property
    def breaking(self) -> bool:
        """Whether older daemons must not write to its result."""
        return self.sql.startswith("-- breaking")

    @property
    def index(self) -> str | None:
        """The index that is built while others write; None: an ordinary migration."""
        words = self.sql.partition("\n")[0].split()
        return words[2] if words[:2] == ["--", "concurrently"] else None


def migrations() -> list[Migration]:
    """Every migration that this version brings, in order."""
    folder = files("tracker_daemon") / "schemas" / "sql"
    return sorted(
        (_read(file) for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda m: m.number
    )


def _read(file: Traversable) -> Migration:
    sql = file.read_text("utf-8")
    number, _, name = file.name.removesuffix(".sql").partition("_")
    return Migration(int(number), name, sql)


async def migrate(dsn: str, dimensions: int) -> list[Migration]:
    """Apply what is missing and return it; refuse what `check_schema` refuses."""
    async with locked(dsn), connected(dsn, statement_cache=False) as connection:
        with translated():
            await _check_owner(connection)
            await history.make(connection)
            applied = await history.applied(connection)
            missing = [migration for migration in migrations() if migration.number not in applied]
            for migration in missing:
                if migration.index is None:
                    await briefly_locked(connection, partial(apply, connection, migration, dimensions))
                else:
                    await _build(connection, migration, migration.index, dimensions)
            await _check(connection, dimensions)
    return missing


async def check_schema(dsn: str, dimensions: int) -> None:
    """Raise `SchemaError` if this version must not write here, `Misconfigured` if it cannot yet."""
    async with connected(dsn, statement_cache=False) as connection:
        with translated():
            await _check_owner(connection)
            await _check(connection, dimensions)


@asynccontextmanager
async def locked(dsn: str) -> AsyncIterator[None]:
    """Be the only migrator for the length of a block, by a lock in a transaction of its own.

    A session's lock would stay with PgBouncer's connection, in transaction mode, when the session is over.
    """
    waiting = False
    async with connected(dsn, statement_cache=False) as connection:
        with translated():
            # Polled, each time in a transaction that ends: CREATE INDEX CONCURRENTLY waits for every snapshot
            # that is older, those of others that wait for this lock too.
            while True:
                async with connection.transaction():
                    if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                        # A simple query: it ends the one before, whose snapshot would be waited for too.
                        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                        yield
                        return
                if not waiting:
                    log.info("another process migrates this database, waiting")
                waiting = True
                await asyncio.sleep(LOCK_POLL_SECONDS)


async def apply(connection: Connection, migration: Migration, dimensions: int) -> None:
    """Apply one migration and write that down, in the caller's transaction unless it builds an index."""
    sql = migration.sql.replace(":embedding_dimensions", str(dimensions))
    sql = sql.replace(":indexed_dimensions", str(min(dimensions, INDEXED_DIMENSIONS)))
    try:
        with translated():
            # One by one: Citus sends to its nodes the whole text that a change of a table stands in.
            for statement in filter(str.strip, _STATEMENT.findall(sql)):
                await connection.execute(statement, timeout=STATEMENT_SECONDS)
            await history.record(connection, migration.number, migration.name, breaking=migration.breaking)
    except Locked as error:
        raise Locked(f"migration {migration.number:03}_{migration.name}: {error}") from error
    except (Misconfigured, Rejected) as error:
        roles = "the roles that it needs are in deploy/README.md, its SQL in schemas/sql"
        remedy = _REMEDY if '"vector"' in str(error) else roles
        raise Misconfigured(f"migration {migration.number:03}_{migration.name}: {error}; {remedy}") from error
    log.info("migration applied", number=migration.number, name=migration.name)


async def briefly_locked(connection: Connection, change: Callable[[], Awaitable[T]]) -> T:
    """Make a change in a transaction that waits for no table for long; after some attempts raise `Locked`."""

    async def attempt() -> T:
        with translated():
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                return await change()

    return await tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Locked),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=5),
        stop=tenacity.stop_after_attempt(LOCK_ATTEMPTS),
        before_sleep=_in_use,
        reraise=True,
    )(attempt)


def _in_use(retry: tenacity.RetryCallState) -> None:
    log.warning("a table is in use, trying again", reason=str(retry.outcome and retry.outcome.exception()))


async def _build(connection: Connection, migration: Migration, index: str, dimensions: int) -> None:
    """Build an index while others write; on a table in partitions, where that cannot be, while they wait."""
    if await connection.fetchval(_IN_PARTITIONS):
        waited_for = replace(migration, sql=migration.sql.replace("INDEX CONCURRENTLY", "INDEX"))
        await briefly_locked(connection, partial(apply, connection, waited_for, dimensions))
    else:
        await _drop_invalid(connection, index)
        await apply(connection, migration, dimensions)


async def _drop_invalid(connection: Connection, index: str) -> None:
    """Drop what a build that was interrupted has left."""
    if await connection.fetchval(
        "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index
    ):
        await connection.execute(f"DROP INDEX CONCURRENTLY {index}", timeout=STATEMENT_SECONDS)


async def _check_owner(connection: Connection) -> None:
    if await history.is_foreign(connection):
        raise SchemaError(
            "this database has a table llm_decisions that tracker-daemon did not make; nothing was changed. "
            "tracker-daemon migrate --adopt takes it over with every row; or give the daemon a database of "
            "its own (TRACKER_POSTGRES_DSN)"
        )
    if await history.is_half_adopted(connection):
        raise SchemaError(
            "the adoption of this database's llm_decisions is not finished: "
            "run tracker-daemon migrate --adopt again, with the same options"
        )


async def _check(connection: Connection, dimensions: int) -> None:
    applied = await history.applied(connection)
    if not applied:
        raise Misconfigured("the tables are not there yet: run tracker-daemon migrate")
    known = {migration.number for migration in migrations()}
    if known - applied.keys():
        raise Misconfigured("the schema is older than this version: run tracker-daemon migrate")
    if ahead := [number for number, breaking in applied.items() if breaking and number not in known]:
        raise SchemaError(f"migration {ahead[0]} of a newer version breaks this one: upgrade tracker-daemon")
    width = await connection.fetchval(
        "SELECT atttypmod FROM pg_attribute "
        "WHERE attrelid = 'llm_decisions'::regclass AND attname = 'prompt_embedding'"
    )
    if width != dimensions:
        raise SchemaError(
            f"TRACKER_EMBEDDING_DIMENSIONS is {dimensions}, but this database was migrated with {width}: "
            "set it to that, or use another database"
        )
    if required := await required_columns(connection, "trading_sessions", ["id"]):
        log.warning("decisions whose session is not known yet will wait", reason=sessions_remedy(required))


async def required_columns(connection: Connection, table: str, known: Sequence[str]) -> list[str]:
    """The columns of a table, other than these, that an INSERT without them fails for; quoted for SQL."""
    rows = await connection.fetch(
        """
        SELECT quote_ident(attname) FROM pg_attribute
        WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL($2::text[])
          AND attnotnull AND NOT atthasdef AND attidentity = ''
        ORDER BY attnum
        """,
        table,
        known,
    )
    return [name for (name,) in rows]


def sessions_remedy(required: list[str]) -> str:
    """What to do about a `trading_sessions` of which the daemon can make no row."""
    ways = "; ".join(f"ALTER TABLE trading_sessions ALTER COLUMN {name} SET DEFAULT …" for name in required)
    return (
        f"trading_sessions wants {', '.join(required)}, of which the daemon knows nothing: a decision stays "
        f"in the stream until somebody has made the row of its session. Or let the daemon make it: {ways}"
    )
