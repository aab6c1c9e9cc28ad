"""`tracker-daemon prune`, and a daemon that prunes by itself, while messages come in and come again."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
import pytest

from tests.acceptance.command import SCRIPT, tracker, until
from tests.factory import days_ago, decision, outcome

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

RETENTION = {"TRACKER_RETENTION_OLDER_THAN_DAYS": "30"}
ROWS = 40_000


async def fill(sql: asyncpg.Connection, decisions: int, days: int) -> None:
    """Put in so many decisions of that age, an outcome of each, a place in the queue, and one in an index."""
    await sql.execute(
        "WITH made AS (INSERT INTO llm_decisions "
        "(agent_name, decision_type, symbol, prompt, response, model, created_at) "
        "SELECT '', '', '', '', '', '', now() - make_interval(days => $2) FROM generate_series(1, $1) "
        "RETURNING id), queued AS (INSERT INTO llm_embedding_queue SELECT id FROM made), "
        "indexed AS (INSERT INTO llm_text_index SELECT id, '' FROM made), placed AS "
        "(INSERT INTO llm_situation_index (decision_id, symbol, agent_name, decision_type, present) "
        "SELECT id, '', '', '', 0 FROM made) "
        "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at) "
        "SELECT id, gen_random_uuid(), 'SUCCESS', now(), now() FROM made",
        decisions,
        days,
    )


async def rows(sql: asyncpg.Connection) -> list[int]:
    """Decisions, and those of them that have their outcome, and outcomes."""
    row = await sql.fetchrow(
        "SELECT (SELECT count(*) FROM llm_decisions), (SELECT count(*) FROM llm_outcomes), "
        "(SELECT count(*) FROM llm_outcomes JOIN llm_decisions ON id = decision_id)"
    )
    assert row is not None
    return list(row)


async def pruned(settings: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run it for a program; return what it says."""
    ended = await tracker("prune", "--json", *arguments, settings=settings)
    assert (ended.code, ended.err) == (0, "")
    document: dict[str, Any] = orjson.loads(ended.out)
    return document


@pytest.mark.parametrize(
    ("age", "complaint"),
    [
        ("0d", "0d has not passed"),
        ("2999-01-01", "2999-01-01 has not passed"),
        ("999999w", "expected an age"),
    ],
)
async def test_what_is_no_age_is_refused(age: str, complaint: str) -> None:
    ended = await tracker("prune", "--older-than", age, settings={})
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err


async def test_a_dry_run_counts_what_a_run_deletes(settings: dict[str, str], sql: asyncpg.Connection) -> None:
    await fill(sql, 700, 91)
    await fill(sql, 3, 89)
    dry = await pruned(settings, "--older-than", "90d", "--dry-run")
    assert (dry["dry_run"], dry["complete"]) == (True, True)
    assert await rows(sql) == [703] * 3
    assert await sql.fetchval("SELECT horizon FROM tracker_retention") is None
    human = await tracker("prune", "--older-than", "90d", settings={**settings, "COLUMNS": "80"})
    assert (human.code, human.err) == (0, "")
    lines = [line.split() for line in human.out.splitlines()]
    assert lines[0] == ["table", "rows", "deleted"]
    assert {line[0]: int(line[1]) for line in lines[1:-1]} == dry["rows"]
    assert dry["rows"] == {
        "llm_decisions": 700,
        "llm_outcomes": 700,
        "llm_embedding_queue": 700,
        "llm_embedding_index": 0,
        "llm_text_index": 700,
        "llm_situation_index": 700,
        "llm_dead_letters": 0,
        "llm_alerts": 0,
    }
    horizon = await sql.fetchval("SELECT horizon FROM tracker_retention")
    assert f"{horizon:%Y-%m-%d %H:%M:%S}" in human.out
    assert await rows(sql) == [3] * 3
    again = await pruned(settings, "--older-than", "100d")
    assert not any(again["rows"].values())
    # It does not move back, and that is what is said.
    assert datetime.fromisoformat(again["horizon"]) == horizon


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_stopped_in_the_middle_it_leaves_nothing_by_halves(
    settings: dict[str, str], sql: asyncpg.Connection, number: signal.Signals
) -> None:
    """And once more it does the rest."""
    await fill(sql, ROWS, 91)
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "prune", "--older-than", "90d", env=settings, stdout=-1, stderr=-1
    )

    async def begun() -> bool:
        return bool(await sql.fetchval("SELECT count(*) < $1 FROM llm_decisions", ROWS))

    await until("it deletes", begun)
    process.send_signal(number)
    out, err = await process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert b"stopped: nothing is left by halves" in err
        assert b"Traceback" not in err
        assert b"rows deleted" in out
    decisions, outcomes, theirs = await rows(sql)
    assert 0 < decisions == outcomes == theirs
    for table in ("llm_embedding_queue", "llm_text_index", "llm_situation_index"):
        assert await sql.fetchval(f"SELECT count(*) FROM {table}") == decisions
    rest = await pruned(settings, "--older-than", "90d")
    assert rest["rows"]["llm_decisions"] >= decisions - 500  # a killed one's last step may commit later
    assert await rows(sql) == [0] * 3


async def test_a_daemon_prunes_while_it_stores_and_loses_nothing(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """Old rows go and new ones come at the same time, outcomes of rows on their way out among them."""
    await fill(sql, 5000, 31)
    ids = [row["id"] for row in await sql.fetch("SELECT id FROM llm_decisions LIMIT 1500")]
    await stream.make()
    young = [uuid4() for _ in range(1500)]
    daemon = await (await run({**settings, **RETENTION})).ready()
    publishing = [
        stream.publish(*(decision(id=str(id_), outcome="PENDING") for id_ in young)),
        stream.publish(*(outcome(id_, pnl=1) for id_ in ids), subject=stream.outcomes),
        stream.publish(*(outcome(id_, pnl=1) for id_ in young), subject=stream.outcomes),
    ]
    await asyncio.gather(*publishing)
    await stream.settled(4500)

    async def gone() -> bool:
        return (await daemon.metrics())("pruned_rows_total", table="llm_decisions") == 5000

    await until("every old decision is pruned", gone)
    stored = await sql.fetch("SELECT id FROM llm_decisions WHERE outcome = 'SUCCESS'")
    assert {row["id"] for row in stored} == set(young)
    assert (await rows(sql))[::2] == [1500, 3000]
    metrics = await daemon.metrics()
    for subject in (stream.decisions, stream.outcomes):
        metrics.assert_adds_up(subject)
    assert metrics("writer_retries_total") == 0
    assert await daemon.obstacles() == {}
    assert await daemon.stop() == 0
    verified = await tracker("verify", settings=settings)
    assert verified.code == 0, verified.out


async def test_a_stream_that_is_delivered_anew_brings_nothing_back(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """To a new durable consumer: decisions and outcomes from both sides of the horizon, invalid messages."""
    old, young = uuid4(), uuid4()
    daemon = await (await run(settings)).ready()
    for id_, days in ((old, 31), (young, 29)):
        time = days_ago(days)
        await stream.publish(decision(id=str(id_), timestamp=time), decision(timestamp=time), b"bad")
        await stream.publish(outcome(id_, timestamp=time), subject=stream.outcomes)
    await stream.settled(8)
    assert await daemon.stop() == 0
    assert (await pruned(settings, "--older-than", "30d"))["rows"]["llm_decisions"] == 2
    verified = await tracker("verify", settings=settings)
    assert verified.code == 0
    assert "3 messages have expired" in " ".join(verified.out.split())
    assert "all that is acknowledged is in the tables or has expired." in verified.out
    await stream.delete_durable()
    daemon = await (await run(settings)).ready()
    await stream.settled(8)
    metrics = await daemon.metrics()
    results = ("stored", "duplicate", "dead_letter", "expired")
    assert {
        subject: [metrics("messages_settled_total", subject=subject, result=result) for result in results]
        for subject in (stream.decisions, stream.outcomes)
    } == {stream.decisions: [0, 4, 0, 2], stream.outcomes: [0, 1, 0, 1]}
    metrics.assert_adds_up(stream.decisions)
    metrics.assert_adds_up(stream.outcomes)
    assert await daemon.stop() == 0
    assert await rows(sql) == [2, 1, 1]
