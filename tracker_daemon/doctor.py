"""Looks at a set-up, whether or not a daemon runs on it, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import nats.errors
import nats.js.errors
from msgspec import Struct

from tracker_daemon import migrate
from tracker_daemon.consumer import connect, consumer_risks, disconnect, missing_subjects
from tracker_daemon.errors import Misconfigured, TrackerError, Unavailable
from tracker_daemon.postgres import check_statements, connected, server_of, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from tracker_daemon.config import NatsSettings, Settings

TIMEOUT_SECONDS: Final = 20

_ADDRESSES = {"postgres": "TRACKER_POSTGRES_DSN", "nats": "TRACKER_NATS_SERVERS"}
_RIGHTS = [
    ("llm_decisions", "SELECT"),
    ("llm_decisions", "INSERT"),
    ("llm_decisions", "UPDATE"),
    ("llm_outcomes", "SELECT"),
    ("llm_outcomes", "INSERT"),
    ("llm_dead_letters", "SELECT"),
    ("llm_dead_letters", "INSERT"),
    ("trading_sessions", "SELECT"),
    ("trading_sessions", "INSERT"),
    ("llm_embedding_queue", "SELECT"),
    ("llm_embedding_queue", "INSERT"),
    ("llm_embedding_queue", "DELETE"),
    ("llm_embedding_index", "SELECT"),
    ("llm_embedding_index", "INSERT"),
    ("tracker_retention", "SELECT"),
    ("tracker_leases", "SELECT"),
    ("tracker_leases", "INSERT"),
    ("tracker_leases", "UPDATE"),
]


_RETENTION_RIGHTS = [
    ("tracker_retention", "UPDATE"),
    ("llm_decisions", "DELETE"),
    ("llm_outcomes", "DELETE"),
    ("llm_dead_letters", "DELETE"),
    ("llm_embedding_index", "DELETE"),
]


class Finding(Struct, frozen=True):
    """One thing looked at: whether it is well, what was seen, and for what is not well the remedy."""

    part: str
    ok: bool
    seen: str


async def examine(settings: Settings) -> list[Finding]:
    """Look at PostgreSQL and NATS and return everything found; an outage is a finding, not an error."""
    return [
        finding
        for part, findings in (("postgres", _postgres(settings)), ("nats", _nats(settings.nats)))
        async for finding in _bounded(part, findings)
    ]


async def _bounded(part: str, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    """Pass findings on; the error that ends them is the last one."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for finding in findings:
                yield finding
    except Misconfigured as error:
        yield Finding(part, ok=False, seen=str(error))
    except Unavailable as error:
        yield Finding(part, ok=False, seen=f"{error}; start it, or change {_ADDRESSES[part]}")
    except (TrackerError, nats.errors.Error) as error:
        yield Finding(part, ok=False, seen=str(error) or type(error).__name__)
    except TimeoutError:
        yield Finding(part, ok=False, seen=f"no answer within {TIMEOUT_SECONDS} s")


async def _postgres(settings: Settings) -> AsyncIterator[Finding]:
    dsn = settings.postgres.dsn.get_secret_value()
    if settings.postgres.statement_cache:
        await check_statements(dsn)
    async with connected(dsn, statement_cache=settings.postgres.statement_cache) as connection:
        with translated():
            version = await connection.fetchval("SHOW server_version")
            yield Finding("postgres", ok=True, seen=f"PostgreSQL {version} at {server_of(dsn)}")
            vector = await connection.fetchrow(
                "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'"
            )
        if vector is None:
            seen = "the server has no pgvector: install it there (Debian: postgresql-NN-pgvector)"
            yield Finding("vector", ok=False, seen=seen)
        else:
            installed = vector["installed_version"]
            seen = (
                f"pgvector {installed}"
                if installed
                else f"pgvector {vector['default_version']}, migrate will create it"
            )
            yield Finding("vector", ok=True, seen=seen)
        try:
            await migrate.check_schema(dsn, settings.embedding.dimensions)
        except TrackerError as error:
            yield Finding("schema", ok=False, seen=str(error))
            return
        yield Finding("schema", ok=True, seen="every migration is applied")
        rights = _RIGHTS + (_RETENTION_RIGHTS if settings.retention.older_than_days else [])
        with translated():
            if required := await migrate.required_columns(connection, "trading_sessions", ["id"]):
                yield Finding("sessions", ok=False, seen=migrate.sessions_remedy(required))
            denied = await connection.fetch(
                "SELECT name, verb FROM unnest($1::text[], $2::text[]) AS needed (name, verb) "
                "WHERE NOT CASE verb WHEN 'DELETE' THEN has_table_privilege(name, verb) "
                "ELSE has_any_column_privilege(name, verb) END",
                *zip(*rights, strict=True),
            )
            temporary = await connection.fetchval(
                "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
            )
            closed = await connection.fetchval(
                "SELECT extnamespace::regnamespace::text FROM pg_extension "
                "WHERE extname = 'vector' AND NOT has_schema_privilege(extnamespace, 'USAGE')"
            )
        if not temporary:
            yield Finding("rights", ok=False, seen="the role lacks a right: GRANT TEMPORARY ON DATABASE")
        elif closed:
            seen = f"the role lacks a right, to use pgvector: GRANT USAGE ON SCHEMA {closed}"
            yield Finding("rights", ok=False, seen=seen)
        elif denied:
            grants = "; ".join(f"GRANT {row['verb']} ON {row['name']}" for row in denied)
            yield Finding("rights", ok=False, seen=f"the role lacks rights: {grants}")
        else:
            yield Finding("rights", ok=True, seen="the role may write to every table")


async def _nats(settings: NatsSettings) -> AsyncIterator[Finding]:
    client = await connect(settings, lambda _: None, patient=False)
    try:
        url = client.connected_url
        version = client.connected_server_version
        server = f"nats-server {version.major}.{version.minor}.{version.patch}"
        yield Finding("nats", ok=True, seen=f"{server} at {url and url.netloc.rpartition('@')[2]}")
        if settings.mode == "jetstream":
            async for finding in _stream(client.jetstream(), settings):
                yield finding
    finally:
        await disconnect(client)


async def _stream(js: JetStreamContext, settings: NatsSettings) -> AsyncIterator[Finding]:
    try:
        await js.account_info()
    except nats.errors.Error as error:
        seen = f"JetStream does not answer ({error}): enable it on the server, or set TRACKER_NATS_MODE=core"
        yield Finding("jetstream", ok=False, seen=seen)
        return
    try:
        stream = await js.stream_info(settings.stream)
    except nats.js.errors.NotFoundError:
        yield await _other_stream(js, settings) or _missing("stream", f"stream {settings.stream}", settings)
        return
    seen = f"{settings.stream}: {stream.state.messages} messages, {stream.state.bytes} bytes"
    if missing := missing_subjects(stream, settings):
        seen = f"the stream {settings.stream} does not capture {missing}: add it to its subjects"
    yield Finding("stream", ok=not missing, seen=seen)
    try:
        consumer = await js.consumer_info(settings.stream, settings.durable)
    except nats.js.errors.NotFoundError:
        yield _missing("consumer", f"durable consumer {settings.durable}", settings)
        return
    risks = consumer_risks(consumer.config)
    seen = f"{settings.durable}: {consumer.num_pending} waiting, {consumer.num_ack_pending} unacknowledged"
    yield Finding("consumer", ok=not risks, seen="; ".join(risks) or seen)


async def _other_stream(js: JetStreamContext, settings: NatsSettings) -> Finding | None:
    """What is wrong if another stream captures a subject already, so that ours could not be made."""
    for subject in (settings.decisions_subject, settings.outcomes_subject):
        with contextlib.suppress(nats.js.errors.NotFoundError):
            name = await js.find_stream_name_by_subject(subject)
            return Finding(
                "stream", ok=False, seen=f"{subject} is captured by {name}: set TRACKER_NATS_STREAM to it"
            )
    return None


def _missing(part: str, what: str, settings: NatsSettings) -> Finding:
    if settings.manage_stream:
        return Finding(part, ok=True, seen=f"no {what} yet: the daemon makes it at its first start")
    seen = f"no {what}: create it, or set TRACKER_NATS_MANAGE_STREAM=true"
    return Finding(part, ok=False, seen=seen)
