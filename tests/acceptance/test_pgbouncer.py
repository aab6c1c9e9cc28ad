"""The daemon before a PgBouncer that speaks TLS, in both of its modes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from tests.acceptance.command import tracker, until
from tests.factory import decision, outcome
from tests.servers import Away

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream
    from tests.certificates import Authority
    from tests.pgbouncer import PgBouncer

HOST = "127.0.0.1"
DECISIONS = 1000
COUNTS = """
SELECT
    (SELECT count(*) FROM llm_decisions) AS decisions,
    (SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS') AS decided,
    (SELECT count(*) FROM llm_outcomes) AS outcomes,
    (SELECT count(*) FROM llm_dead_letters) AS dead_letters,
    (SELECT count(*) FROM llm_embedding_index) + (SELECT count(*) FROM llm_embedding_queue) AS indexed
"""


def through(bouncer: PgBouncer, database: str, authority: Authority) -> dict[str, str]:
    """The settings of a daemon whose way to the database this is."""
    query = f"sslmode=verify-full&sslrootcert={authority.file}"
    cache = "on" if bouncer.pool_mode == "session" else "off"
    dsn = bouncer.dsn(urlsplit(database).path[1:], query=query)
    return {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_POSTGRES_STATEMENT_CACHE": cache}


@pytest.mark.parametrize("bouncer", ["session", "transaction"], indirect=True)
async def test_every_message_is_there_once_after_pgbouncer_was_killed(
    run: Run,
    basics: dict[str, str],
    stream: Stream,
    database: str,
    bouncer: PgBouncer,
    authority: Authority,
) -> None:
    """Two daemons at load, which migrate that way too, or straight, and `verify`, which looks that way."""
    settings = {**basics, **stream.settings, **through(bouncer, database, authority)}
    if bouncer.pool_mode == "session":
        settings["TRACKER_POSTGRES_MIGRATE_DSN"] = database
    daemons = [await run(settings) for _ in range(2)]
    for daemon in daemons:
        await daemon.ready()
    ids = [UUID(int=number) for number in range(DECISIONS)]
    for part in (ids[: DECISIONS // 2], ids[DECISIONS // 2 :]):
        await stream.publish(*(decision(id=str(id_), prompt_embedding=[1, 2, 3]) for id_ in part))
        await stream.publish(*(outcome(id_) for id_ in part), subject=stream.outcomes)
        await stream.publish(*[b"bad"] * 5)
        async with Away(bouncer, "killed"):
            await stream.publish(*(outcome(id_) for id_ in part), subject=stream.outcomes)
    await stream.settled(3 * DECISIONS + 10)
    for daemon in daemons:
        await daemon.ready()
    connection = await asyncpg.connect(database)
    row = await connection.fetchrow(COUNTS)
    await connection.close()
    assert dict(row) == {
        "decisions": DECISIONS,
        "decided": DECISIONS,
        "outcomes": 2 * DECISIONS,
        "dead_letters": 10,
        "indexed": DECISIONS,
    }
    ended = await tracker("verify", settings=settings)
    assert ended.code == 0, ended.out + ended.err
    assert sum([(await daemon.metrics())("writer_retries_total") for daemon in daemons]) > 0
    for daemon in daemons:
        assert "Traceback" not in daemon.output()
        assert await daemon.stop() == 0


@pytest.mark.parametrize("bouncer", ["transaction"], indirect=True)
async def test_prepared_statements_in_transaction_mode_are_found_before_a_message_is_taken(
    run: Run, settings: dict[str, str], bouncer: PgBouncer, authority: Authority
) -> None:
    wrong = {
        **settings,
        **through(bouncer, settings["TRACKER_POSTGRES_DSN"], authority),
        "TRACKER_POSTGRES_STATEMENT_CACHE": "on",
    }
    remedy = "behind PgBouncer in transaction mode set TRACKER_POSTGRES_STATEMENT_CACHE=off"
    daemon = await run(wrong)
    await daemon.said("warning", "the database is not ready", remedy)

    async def says_so() -> bool:
        return remedy in (await daemon.obstacles()).get("start", "")

    await until("/readyz names the setting", says_so)
    assert await daemon.stop() == 0
    ended = await tracker("check", settings=wrong)
    assert ended.code == 1
    assert remedy in ended.out
    assert "Traceback" not in daemon.output() + ended.err


@pytest.mark.parametrize("bouncer", ["session"], indirect=True)
async def test_a_certificate_that_has_expired_is_said_until_there_is_another(
    run: Run, settings: dict[str, str], stream: Stream, bouncer: PgBouncer, authority: Authority
) -> None:
    bouncer.stop()
    bouncer.certificate = authority.issue(HOST, expired=True)
    bouncer.start()
    daemon = await run({**settings, **through(bouncer, settings["TRACKER_POSTGRES_DSN"], authority)})
    await daemon.said("warning", "the database is not ready", "it has expired; renew it on the server")
    bouncer.stop()
    bouncer.certificate = authority.issue(HOST)
    bouncer.start()
    await daemon.ready()
    await stream.publish(decision())
    await stream.settled(1)
    assert "Traceback" not in daemon.output()
    assert await daemon.stop() == 0
