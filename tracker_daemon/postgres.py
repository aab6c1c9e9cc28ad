"""Connections to PostgreSQL, and what the errors of asyncpg and of the server mean for a message."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from pgvector.asyncpg import register_vector

from tracker_daemon import tls
from tracker_daemon.errors import Misconfigured, TrackerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

Connection = asyncpg.Connection

CONNECT_TIMEOUT_SECONDS: Final = 10.0
COMMAND_TIMEOUT_SECONDS: Final = 30.0
ROWS_PER_TURN: Final = 200
"""After so many rows of a COPY the event loop gets its turn."""

# Worth trying again: connection lost, transaction in a state that it should not be in (a read-only standby, a
# time limit of the server's), serialization failure, deadlock, out of resources, lock timeout, shutting down,
# a statement that our own timeout cancelled, a disk that fails.
_RETRY = ("08", "25", "40", "53", "55P03", "57", "58")
# An operator must act: missing table, column, key, database, schema or extension; another type; no right; no
# login; a pooler that keeps no prepared statements.
_MISCONFIGURED = (
    *("42P01", "42703", "42501", "42804", "42P10", "28", "3D000", "3F000", "0A000", "58P01"),
    *("26000", "42P05"),
)
# These blame the data of a row for certain. What is in neither list may come from an operator's own trigger
# or index, or from a defect of the server.
_DATA = ("22", "54", "23502", "23503", "23514")

# What a node of Citus refuses comes without names but in its message, ending in a shard's number.
_OF_A_SHARD = re.compile(
    r'(?:(?:column "(\w+)" of )?(?:relation|table) "(\w+)_\d+" )?violates [a-z -]+ constraint'
    r'(?: "(\w+)_\d+")?'
)

_POOLED = "; behind PgBouncer in transaction mode set TRACKER_POSTGRES_STATEMENT_CACHE=off"
_REMEDIES = {
    "3D000": "; create it, or name another",
    "28P01": "; see user and password of the DSN",
    "28000": "; see the user of the DSN, and the server's pg_hba.conf",
    "26000": _POOLED,
    "42501": (
        "; deploy/postgres/roles.sql gives each role its rights, and is run after every migration; "
        "what it withholds is the owner's to do"
    ),
    "53300": "; raise max_connections, or lower TRACKER_POSTGRES_WRITERS",
    "42P05": _POOLED,
    "55P03": "; a longer transaction holds a table, pg_stat_activity says whose",
}


class Rejected(TrackerError):
    """The database refuses the data of a statement; the message may quote the data.

    `position` is the index of the row in its COPY, where the server names it. `known`: this SQLSTATE blames
    the data for certain. `safely` says what happened without a word of the data, for logs.
    """

    def __init__(
        self, sqlstate: str, message: str, position: int | None = None, *, known: bool = True, where: str = ""
    ) -> None:
        """Keep what isolation needs to find the row; `where` names table, column and constraint."""
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate
        self.position = position
        self.known = known
        self.safely = f"SQLSTATE {sqlstate}{where}"


class Unreadable(Unavailable):
    """08P01: the server cannot read what it was sent, or PgBouncer has a trouble of its own.

    Which of the two only repetition tells; `rejected` is what it means if a row is to blame.
    """

    def __init__(self, rejected: Rejected) -> None:
        """Keep the other meaning."""
        super().__init__(f"PostgreSQL: {rejected.safely}")
        self.rejected = rejected


class Locked(Unavailable):
    """A lock was not to be had, in time or at all: somebody else works there."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of driver and server into `Unavailable`, `Misconfigured` or `Rejected`, cause kept."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _translate(error) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A cancelled transaction whose connection is cut: its rollback fails, but the task has to end.
            raise asyncio.CancelledError from error
        reason = (
            "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        )
        raise Unavailable(f"PostgreSQL: {reason}") from error


def _translate(error: asyncpg.PostgresError) -> Exception:
    # Not str(error), to which asyncpg appends the server's DETAIL, and that quotes rows.
    state, message = error.sqlstate or "unknown", str(error.args[0] if error.args else type(error).__name__)
    remedy = _REMEDIES.get(state, "")
    if state.startswith(_MISCONFIGURED):
        return Misconfigured(f"PostgreSQL refuses ({state}): {message}{remedy}")
    copy = re.search(r"^COPY (\S+), line (\d+)(?:, column (\w+))?", error.context or "", re.MULTILINE)
    table, line, column = copy.groups() if copy else (None, None, None)
    names = (error.table_name or table, error.column_name or column, error.constraint_name)
    if not any(names) and (shard := _OF_A_SHARD.search(message)):
        names = shard[2], shard[1], shard[3]
    where = f" on {', '.join(filter(None, names))}" if any(names) else ""
    position = int(line) - 1 if line else None
    if state == "08P01":
        return Unreadable(Rejected(state, message, position, where=where))
    if state.startswith(_RETRY):
        kind = Locked if state in {"55P03", "40P01"} else Unavailable
        return kind(f"PostgreSQL ({state}): {message}{remedy}")
    return Rejected(state, message, position, known=state.startswith(_DATA), where=where)


async def connect(dsn: str, *, statement_cache: bool = True) -> Connection:
    """Open a connection; raise `Unavailable` or `Misconfigured`, naming the server but no password.

    Behind PgBouncer in transaction mode only one without `statement_cache` can be relied on.
    """
    try:
        with translated():
            return await asyncpg.connect(
                dsn,
                timeout=CONNECT_TIMEOUT_SECONDS,
                command_timeout=COMMAND_TIMEOUT_SECONDS,
                statement_cache_size=100 if statement_cache else 0,
                server_settings={"application_name": "tracker-daemon"},
            )
    except (Unavailable, Rejected) as error:
        raise _refusal(error, dsn) from error.__cause__


def _refusal(error: Unavailable | Rejected, dsn: str) -> Unavailable:
    """Why no connection came about; no message's data has been said yet, so all may be told."""
    cause, words = error.__cause__, str(error)
    kind = Misconfigured if isinstance(error, Misconfigured) else Unavailable
    if about_tls := tls.explained(cause, "sslrootcert of the DSN", "sslcert of the DSN"):
        kind, words = Misconfigured, f"PostgreSQL: {about_tls}"
    elif "rejected SSL upgrade" in str(cause):
        kind, words = Misconfigured, "PostgreSQL offers no TLS, which sslmode of the DSN demands"
    elif isinstance(error, Unreadable):  # PgBouncer says this of whatever it refuses
        words = f"PostgreSQL refuses ({error.rejected}); see user, password, database, sslmode of the DSN"
    elif isinstance(cause, asyncpg.ConnectionDoesNotExistError) and "sslmode=" in dsn:
        words += ", as by one that demands a certificate of each client: see sslcert of the DSN"
    return kind(f"{words} (at {server_of(dsn)})")


async def check_statements(dsn: str) -> None:
    """Raise `Misconfigured` where a prepared statement is lost, or is another's, in the next transaction."""
    async with connected(dsn) as one, connected(dsn) as other:
        with translated():
            statement = await one.prepare("SELECT 1")
            await statement.fetchval()
            async with other.transaction():
                # PgBouncer hands on what was used last: the first connection has to take another server's.
                await other.execute("SELECT 1")
                await statement.fetchval(timeout=CONNECT_TIMEOUT_SECONDS)


async def close(connection: Connection) -> None:
    """Close without waiting for a server that may be frozen."""
    try:
        await connection.close(timeout=1)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


@asynccontextmanager
async def connected(dsn: str, *, statement_cache: bool = True) -> AsyncIterator[Connection]:
    """A connection for the length of a block."""
    connection = await connect(dsn, statement_cache=statement_cache)
    try:
        yield connection
    finally:
        await close(connection)


async def schema_of_vector(connection: Connection) -> str:
    """The schema of pgvector, quoted for SQL: a role's search path need not name it; ask in a transaction."""
    with translated():
        schema = await connection.fetchval(
            "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        )
    if schema is None:
        raise Misconfigured("the extension vector is missing in this database: run tracker-daemon migrate")
    return str(schema)


async def register_types(connection: Connection) -> None:
    """Teach a connection the binary format of pgvector's `vector`."""
    schema = await schema_of_vector(connection)
    with translated():
        await register_vector(connection, schema=schema)


@asynccontextmanager
async def _limited(connection: Connection) -> AsyncIterator[None]:
    """A time limit for a COPY, that the end of the connection brings forward.

    asyncpg's own knows neither: while a COPY waits for the socket to take more, it waits for ever.
    """

    def end(_: object) -> None:
        limit.reschedule(0)

    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS) as limit:
            connection.add_termination_listener(end)
            try:
                yield
            finally:
                connection.remove_termination_listener(end)
    except TimeoutError:
        connection.terminate()  # it is in the middle of a message: not even a ROLLBACK would be understood
        raise


async def _paced(rows: Iterable[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    """The rows, with turns for others in between: to encode a whole batch can take 12 ms."""
    for number, row in enumerate(rows, start=1):
        yield row
        if number % ROWS_PER_TURN == 0:
            await asyncio.sleep(0)


async def copy(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """COPY rows into a table, encoded for the types that its columns have by now; errors as `translated`.

    Rows that are made as they are asked for cost 2 µs less each: those of a whole batch leave the cache.
    """
    try:
        with translated():
            async with _limited(connection):
                await connection.copy_records_to_table(table, records=_paced(rows), columns=columns)
    except (ArithmeticError, ValueError) as error:
        raise Rejected("22000", f"a value does not fit its column: {error}", where=f" on {table}") from error
    except (AttributeError, LookupError, TypeError) as error:
        raise Misconfigured(
            f"a column of {table} has another type than it was migrated with: {error}"
        ) from error


def server_of(dsn: str) -> str:
    """Host, port and database of a DSN, for messages."""
    parts = urlsplit(dsn)
    [host, *_] = parse_qs(parts.query).get("host", ["the default host"])
    return f"{parts.netloc.rpartition('@')[2] or host}{parts.path}"
