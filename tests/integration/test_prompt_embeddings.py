"""Embeddings made in the background: who gets one, what is left alone meanwhile, what is waited out."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.chaos.proxy import PostgresProxy
from tests.chores import running
from tests.conftest import DIMENSIONS
from tests.embeddings import indexed, nearest
from tests.factory import EMBEDDING, days_ago, decision, deliver, outcome
from tests.locks import blocked
from tests.provider import MODEL, EmbeddingServer, answer, good, vector
from tests.servers import Away
from tests.waiting import until, until_metric
from tracker_daemon import metrics
from tracker_daemon.client import DecisionTracker
from tracker_daemon.config import EmbeddingSettings
from tracker_daemon.embeddings import EmbeddingIndex, PromptEmbeddings, provider_of
from tracker_daemon.embeddings.embedder import BLAMING_FAILURES
from tracker_daemon.lease import Lease
from tracker_daemon.postgres import connected
from tracker_daemon.queries import prompts
from tracker_daemon.retention import cutoff, move_horizon, prune
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tracker_daemon.embedded import PostgresServer

pytestmark = pytest.mark.usefixtures("_impatient")


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look and count without a pause."""
    for pause in ("LOOK_SECONDS", "COUNT_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.backlog.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """Yield a provider's server that answers well until it is told otherwise."""
    async with EmbeddingServer() as server:
        yield server


def chore(dsn: str, server: EmbeddingServer, **more: Any) -> PromptEmbeddings:
    """A daemon's part that makes embeddings of the server's, eight at a time."""
    settings = EmbeddingSettings.model_validate(
        {
            "provider": "openai",
            "url": server.url,
            "model": MODEL,
            "dimensions": DIMENSIONS,
            "batch_texts": 8,
            "timeout_seconds": 20,
            **more,
        }
    )
    provider = provider_of(settings)
    assert provider is not None
    return PromptEmbeddings(dsn, provider, settings)


async def store(dsn: str, *prompts: str, **fields: Any) -> list[UUID]:
    """Store a decision with each prompt, in one batch, as a daemon with a provider does."""
    ids = [uuid4() for _ in prompts]
    payloads = [
        decision(id=str(id_), prompt=prompt, **fields) for id_, prompt in zip(ids, prompts, strict=True)
    ]
    writer = Store(dsn)
    assert await writer.write(deliver(*payloads, contract=EMBEDDING)) == ["stored"] * len(ids)
    await writer.close()
    return ids


def texts(count: int, first: int = 0) -> list[str]:
    return [f"The RSI is {number}: buy?" for number in range(first, first + count)]


async def stored(sql: asyncpg.Connection) -> dict[UUID, tuple[list[float] | None, str | None]]:
    """Embedding and model of every decision."""
    rows = await sql.fetch(
        "SELECT id, prompt_embedding::float4[]::float8[] AS embedding, embedding_model AS model "
        "FROM llm_decisions"
    )
    return {row["id"]: (row["embedding"], row["model"]) for row in rows}


def made(ids: list[UUID], prompts: list[str]) -> dict[UUID, tuple[list[float], str]]:
    return {id_: (vector(prompt), MODEL) for id_, prompt in zip(ids, prompts, strict=True)}


async def waiting(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_prompt_queue"))


async def nothing_waits(sql: asyncpg.Connection) -> bool:
    return not await waiting(sql)


def failures(kind: str) -> float:
    return metrics.registry.get_sample_value("tracker_embedding_failures_total", {"kind": kind}) or 0


async def queued_for_index(sql: asyncpg.Connection) -> set[UUID]:
    return {row["decision_id"] for row in await sql.fetch("SELECT decision_id FROM llm_embedding_queue")}


# What gets one.


async def test_what_is_stored_without_an_embedding_gets_one_and_is_indexed(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """More than a row of the queue holds, and than a batch."""
    prompts = texts(250)
    ids = await store(dsn, *prompts[:220])
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
        ids += await store(dsn, *prompts[220:])
        await until(lambda: nothing_waits(sql))
        await until_metric("tracker_embeddings_waiting", 0)
    assert await stored(sql) == made(ids, prompts)
    assert await queued_for_index(sql) == set(ids)
    assert max(map(len, server.asked)) == 8
    async with running(EmbeddingIndex(dsn)):
        await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM llm_embedding_queue"))
    assert (await indexed(sql)).keys() == set(ids)
    [near] = await nearest(sql, vector(prompts[7]), MODEL, 1)
    assert (near.id, near.distance) == (ids[7], pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("straight", [True, False])
async def test_only_where_a_provider_is_set_and_nothing_is_brought_is_it_queued(
    straight: bool, dsn: str, sql: asyncpg.Connection
) -> None:
    """Whichever way the batch takes: a dead letter in it takes the careful one, a duplicate too."""
    bare, brought = uuid4(), uuid4()
    payloads = [decision(id=str(bare)), decision(id=str(brought), prompt_embedding=[1, 2, 3])]
    if not straight:
        payloads.append(payloads[0])
    writer = Store(dsn)
    await writer.write(deliver(decision()))
    assert await waiting(sql) == 0
    await writer.write(deliver(*payloads, contract=EMBEDDING))
    await writer.write(deliver(*payloads, contract=EMBEDDING))
    await writer.close()
    assert [row["decisions"] for row in await sql.fetch("SELECT * FROM llm_prompt_queue")] == [[bare]]


async def test_an_embedding_that_came_with_a_payload_is_never_rewritten(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """Not even where it is queued, or comes while the provider is asked."""
    brought, late = uuid4(), uuid4()
    own = {"prompt_embedding": [1, 2, 3], "embedding_model": "own"}
    writer = Store(dsn)
    await writer.write(deliver(decision(id=str(brought), **own), decision(id=str(late))))
    await writer.close()

    async def come_late(asked: list[str]) -> web.Response:
        async with connected(dsn) as connection:
            await connection.execute(
                "UPDATE llm_decisions SET prompt_embedding = '[4,5,6]', embedding_model = 'late' "
                "WHERE id = $1",
                late,
            )
        return await good(asked)

    server.handler = come_late
    await sql.execute("INSERT INTO llm_prompt_queue (decisions) VALUES ($1)", [brought, late])
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == {brought: ([1, 2, 3], "own"), late: ([4, 5, 6], "late")}
    assert server.asked == [["Buy, sell or hold?"]]


async def unqueued(dsn: str, *prompts: str, **fields: Any) -> list[UUID]:
    """Track a decision with each prompt by a client on PostgreSQL, which knows of no provider."""
    async with DecisionTracker.on_postgres(dsn) as tracker:
        return [
            await tracker.track_decision(**decision(prompt=prompt, **fields), confirm=True)
            for prompt in prompts
        ]


@pytest.mark.parametrize("rows", [1, 4, 12, 100])
async def test_what_nobody_has_queued_is_found_within_a_day_and_after_an_hour(
    rows: int, dsn: str, sql: asyncpg.Connection, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps that end amid equal times; what is older is left to the operator, who may have to pay."""
    monkeypatch.setattr("tracker_daemon.embeddings.filling.SWEEP_ROWS", rows)
    prompts = texts(12)
    own = {"prompt_embedding": [1, 2, 3], "embedding_model": "own"}
    ids = await unqueued(dsn, *prompts[:9], timestamp=days_ago(0.5))
    ids += await unqueued(dsn, *prompts[9:], timestamp=days_ago(0.9))
    [brought] = await unqueued(dsn, "brought", timestamp=days_ago(0.5), **own)
    left = await unqueued(dsn, " \n", timestamp=days_ago(0.5))
    left += await unqueued(dsn, "a moment ago", timestamp=days_ago(0.03))
    left += await unqueued(dsn, "before", timestamp=days_ago(1.1))
    queued = await store(dsn, "queued", timestamp=days_ago(0.5))
    expected: dict[UUID, Any] = made([*ids, *queued], [*prompts, "queued"])
    expected |= {brought: ([1, 2, 3], "own"), **dict.fromkeys(left, (None, None))}

    async def all_made() -> bool:
        return await stored(sql) == expected and await nothing_waits(sql)

    async with running(chore(dsn, server)):
        await until(all_made)
    assert await sql.fetchval("SELECT count(*) FROM llm_prompt_queue") == 0
    assert sorted(text for batch in server.asked for text in batch) == sorted([*prompts, "queued"])


async def test_it_is_looked_for_again_and_what_is_refused_comes_only_once_more(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.embeddings.filling.SWEEP_SECONDS", 0.02)
    before = failures("text")

    async def picky(asked: list[str]) -> web.Response:
        return await (answer({}, 400) if "poison" in asked else good)(asked)

    server.handler = picky
    [refused] = await store(dsn, "poison", timestamp=days_ago(0.9))
    ids: list[UUID] = []
    async with running(chore(dsn, server)):
        for number, prompt in enumerate(texts(5)):
            ids += await unqueued(dsn, prompt, timestamp=days_ago(0.5 - number / 100))
            await until(
                lambda: sql.fetchval(
                    "SELECT bool_and(prompt_embedding IS NOT NULL OR prompt = 'poison') FROM llm_decisions"
                )
            )
    assert failures("text") == before + 2
    assert await stored(sql) == {**made(ids, texts(5)), refused: (None, None)}


async def test_of_a_long_prompt_the_beginning_is_embedded_and_of_an_empty_one_nothing(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    long, blank, empty = await store(dsn, "é📈" * 50_000, " \n\t" * 100, "")
    async with running(chore(dsn, server, max_characters=11)):
        await until(lambda: nothing_waits(sql))
    assert server.asked == [["é📈é📈é📈é📈é📈é"]]
    assert await stored(sql) == {
        long: (vector("é📈é📈é📈é📈é📈é"), MODEL),
        blank: (None, None),
        empty: (None, None),
    }


async def test_batches_end_at_so_many_bytes_too(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    prompts = ["é" * 10, "é" * 30, "é" * 5, "é" * 5, "é" * 10]
    await store(dsn, *prompts)
    async with running(chore(dsn, server, batch_bytes=30)):
        await until(lambda: nothing_waits(sql))
    assert sorted(text for batch in server.asked for text in batch) == sorted(prompts)
    for batch in server.asked:
        assert len(batch) == 1 or len("".join(batch).encode()) <= 30
    assert len(server.asked) < len(prompts)


async def test_what_is_gone_by_now_only_leaves_the_queue(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    kept, gone = await store(dsn, *texts(2))
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", gone)
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    assert (await stored(sql)).keys() == await queued_for_index(sql) == {kept}


async def test_whatever_the_model_is_called_it_is_stored_so(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """It stands in the text of a statement."""
    [id_] = await store(dsn, "Buy?")
    name = "o'\"Model\\'; DROP TABLE llm_decisions; -- $1 {id} ü"
    async with running(chore(dsn, server, model=name)):
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == {id_: (vector("Buy?"), name)}
    assert server.models == {name}


# What it leaves alone.


async def test_outcomes_that_come_meanwhile_stay_as_they_are(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """Projected before, while the provider is asked, and after: no lock is held meanwhile."""
    prompts = texts(3)
    ids = await store(dsn, *prompts)
    writer = Store(dsn)
    await writer.write(deliver(outcome(ids[0], pnl="1.5")))

    async def project(asked: list[str]) -> web.Response:
        await writer.write(deliver(outcome(ids[1], "FAILURE", pnl="-2.25")))
        return await good(asked)

    server.handler = project
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    await writer.write(deliver(outcome(ids[2], "PENDING", pnl=3)))
    await writer.close()
    rows = await sql.fetch("SELECT id, outcome, pnl::text FROM llm_decisions")
    assert {row["id"]: (row["outcome"], row["pnl"]) for row in rows} == {
        ids[0]: ("SUCCESS", "1.50000000"),
        ids[1]: ("FAILURE", "-2.25000000"),
        ids[2]: ("PENDING", "3.00000000"),
    }
    assert await stored(sql) == made(ids, prompts)


async def test_what_is_pruned_while_the_provider_is_asked_leaves_no_trace(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    await store(dsn, "old", timestamp=days_ago(31))

    async def prune_meanwhile(asked: list[str]) -> web.Response:
        async with connected(dsn) as connection:
            before = await cutoff(connection, timedelta(days=30))
            await move_horizon(connection, before)
            async for _ in prune(connection, before, unreplayed=False):
                pass
        return await good(asked)

    server.handler = prune_meanwhile
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == {}
    assert await queued_for_index(sql) == set()


@pytest.mark.not_on_citus("its patience is the coordinator's alone, and the row is locked on a node")
async def test_a_writer_that_holds_a_row_is_given_way(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """It waits less long than a deadlock takes to be found, which so never ends a writer."""
    prompts = texts(4)
    ids = await store(dsn, *prompts)
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            async with sql.transaction():
                await sql.execute("UPDATE llm_decisions SET outcome = 'SUCCESS' WHERE id = $1", ids[2])
                await until(lambda: lines)
            await until(lambda: nothing_waits(sql))
    assert "55P03" in lines[0]["reason"]
    assert await stored(sql) == made(ids, prompts)
    assert await sql.fetchval("SELECT outcome FROM llm_decisions WHERE id = $1", ids[2]) == "SUCCESS"


# What it waits out.


async def test_a_missing_right_is_waited_for_and_the_file_that_grants_it_is_named(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    ids = await store(dsn, "Buy?")
    await sql.execute("ALTER TABLE llm_embedding_queue RENAME TO gone")
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            await until(lambda: lines)
            assert "llm_embedding_queue" in lines[0]["reason"]
            assert "deploy/postgres/embeddings.sql" in lines[0]["reason"]
            await sql.execute("ALTER TABLE gone RENAME TO llm_embedding_queue")
            await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, ["Buy?"])


TROUBLES = {
    "500": (answer({}, 500), "failing", "answers 500"),
    "429": (answer({}, 429, **{"Retry-After": "0.05"}), "busy", "answers 429"),
    "401": (answer({}, 401), "refused", "look at TRACKER_EMBEDDING_URL"),
    "400 to everything": (answer({"error": {"code": "model_not_found"}}, 400), "refused", "no text at all"),
    "garbage": (answer(b"<html>"), "garbage", "no list of embeddings"),
    "too few": (answer({"data": []}), "garbage", "0 embeddings for 8 texts"),
    "wrong dimension": (
        answer({"data": [{"index": index, "embedding": [1, 2]} for index in range(8)]}),
        "garbage",
        "have 2 numbers, TRACKER_EMBEDDING_DIMENSIONS is 3",
    ),
    "NaN": (
        answer({"data": [{"index": index, "embedding": [1, 2, float("nan")]} for index in range(8)]}),
        "garbage",
        "no list of embeddings",
    ),
    "cut": (None, "unreachable", "cannot be reached"),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_while_the_provider_is_no_good_decisions_wait_and_it_is_said_once(
    name: str, dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    server.handler, kind, words = TROUBLES[name]
    failed = failures(kind)
    prompts = texts(12)
    ids = await store(dsn, *prompts)
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            await until(lambda: failures(kind) >= failed + BLAMING_FAILURES + 3)
            await until_metric("tracker_embeddings_waiting", 12)
            assert {embedding for embedding, _ in (await stored(sql)).values()} == {None}
            assert await waiting(sql) == 12
            server.handler = good
            await until(lambda: nothing_waits(sql))
            await until_metric("tracker_embeddings_waiting", 0)
            await until(lambda: len(lines) > 1)
    assert await stored(sql) == made(ids, prompts)
    assert [(line["log_level"], line["event"], line["chore"]) for line in lines] == [
        ("warning", "a chore fails, trying again and again", "embedding"),
        ("info", "a chore is done again", "embedding"),
    ]
    assert words in lines[0]["reason"]
    assert "RSI" not in lines[0]["reason"]


async def test_a_provider_that_is_away_is_waited_for(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    prompts = texts(3)
    await server.stop()
    ids = await store(dsn, *prompts)
    failed = failures("unreachable")
    async with running(chore(dsn, server)):
        await until(lambda: failures("unreachable") >= failed + 2)
        await server.start()
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, prompts)


async def test_a_slow_provider_holds_nothing_up_and_keeps_its_lease(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is prolonged while it is waited for, so nobody else asks for the same ones."""
    monkeypatch.setattr("tracker_daemon.embeddings.embedder.SECONDS", 0.1)
    released = asyncio.Event()

    async def dawdle(asked: list[str]) -> web.Response:
        await released.wait()
        return await good(asked)

    server.handler = dawdle
    prompts = texts(4)
    ids = await store(dsn, *prompts)
    async with running(chore(dsn, server), chore(dsn, server)):
        await until(lambda: server.asked)
        [before] = await sql.fetch("SELECT * FROM tracker_leases WHERE name = 'embedding'")

        async def prolonged() -> bool:
            [now] = await sql.fetch("SELECT * FROM tracker_leases WHERE name = 'embedding'")
            return bool(now["holder"] == before["holder"] and now["expires_at"] > before["expires_at"])

        await until(prolonged)
        ids += await store(dsn, "another")
        assert len(server.asked) == 1
        released.set()
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, [*prompts, "another"])
    assert sorted(text for batch in server.asked for text in batch) == sorted([*prompts, "another"])


async def test_whoever_has_lost_its_lease_meanwhile_writes_nothing(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.embeddings.embedder.SECONDS", 0.1)
    other = Lease("embedding")

    async def take_over(asked: list[str]) -> web.Response:
        await sql.execute("UPDATE tracker_leases SET expires_at = renewed_at - interval '1 second'")
        await other.take(sql)
        await until(lambda: lines)
        return await good(asked)

    server.handler = take_over
    await store(dsn, "Buy?")
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            await until(lambda: lines)
            assert "another process" in lines[0]["reason"]
            assert await waiting(sql) == 1
            server.handler = good
            await other.give_back(sql)
            await until(lambda: nothing_waits(sql))


@pytest.mark.parametrize("how", ["refused", "failing", "cut", "silent"])
async def test_one_text_that_is_refused_for_good_holds_up_no_other(
    how: str, dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """By a 400, or by an error of the server's, its end or its silence each time that it sees it."""
    before, never = failures("text"), asyncio.Event()

    async def picky(asked: list[str]) -> web.Response | None:
        if not any("poison" in text for text in asked):
            return await good(asked)
        if how == "silent":
            await never.wait()
        elif how != "cut":
            return web.json_response({}, status=400 if how == "refused" else 500)
        return None

    server.handler = picky
    prompts = texts(30)
    prompts[13] = "poison"
    ids = await store(dsn, *prompts)
    with capture_logs() as lines:
        async with running(chore(dsn, server, timeout_seconds=1 if how == "silent" else 20)):
            await until(lambda: nothing_waits(sql))
    never.set()
    assert failures("text") == before + 1
    expected: dict[UUID, Any] = {**made(ids, prompts), ids[13]: (None, None)}
    assert await stored(sql) == expected
    [line] = [line for line in lines if "decision" in line]
    assert (line["log_level"], line["decision"]) == ("warning", str(ids[13]))
    assert "poison" not in str(line)


async def test_one_that_the_database_refuses_holds_up_no_other(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """Such as by a constraint of the operator's own; the provider is not asked again for the others."""
    prompts = texts(20)
    ids = await store(dsn, *prompts)
    await sql.execute(f"ALTER TABLE llm_decisions ADD CHECK (id <> '{ids[7]}' OR prompt_embedding IS NULL)")
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, prompts) | {ids[7]: (None, None)}
    assert await queued_for_index(sql) == {*ids} - {ids[7]}
    assert (lines[0]["event"], lines[0]["decision"]) == ("a decision that gets no embedding", str(ids[7]))
    assert sorted(text for asked in server.asked for text in asked) == sorted(prompts)


async def test_one_that_takes_few_requests_at_once_is_told_what_it_refuses_all_the_same(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """To find the text takes more requests than it takes in a row: what they told is kept."""

    async def picky(asked: list[str]) -> web.Response | None:
        if len(server.asked) % 3 == 0:
            return await answer({}, 429)(asked)
        return await (answer({}, 400) if "poison" in asked else good)(asked)

    server.handler = picky
    prompts = texts(8)
    prompts[0] = "poison"
    ids = await store(dsn, *prompts)
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    expected: dict[UUID, Any] = {**made(ids, prompts), ids[0]: (None, None)}
    assert await stored(sql) == expected


async def test_one_that_is_too_slow_for_a_whole_batch_is_asked_for_less(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    never = asyncio.Event()

    async def slow(asked: list[str]) -> web.Response:
        if len(asked) > 2:
            await never.wait()
        return await good(asked)

    server.handler = slow
    prompts = texts(8)
    ids = await store(dsn, *prompts)
    async with running(chore(dsn, server, timeout_seconds=1)):
        await until(lambda: nothing_waits(sql))
    never.set()
    assert await stored(sql) == made(ids, prompts)


async def test_several_share_one_queue_without_loss_and_without_asking_twice(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    prompts = texts(400)
    ids: list[UUID] = []
    async with running(*(chore(dsn, server) for _ in range(3))):
        for start in range(0, 400, 40):
            ids += await store(dsn, *prompts[start : start + 40])
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, prompts)
    assert sorted(text for batch in server.asked for text in batch) == sorted(prompts)


async def test_one_that_ends_in_the_middle_has_lost_at_most_a_batch(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """What was made is committed, and is not asked for again."""
    prompts = texts(60)
    ids = await store(dsn, *prompts)
    never = asyncio.Event()

    async def stop_at_the_third(asked: list[str]) -> web.Response:
        if len(server.asked) == 3:
            await never.wait()
        return await good(asked)

    server.handler = stop_at_the_third
    async with running(chore(dsn, server)):
        await until(lambda: len(server.asked) == 3)
    never.set()
    assert sum(embedding is not None for embedding, _ in (await stored(sql)).values()) == 16
    assert await waiting(sql) == 60
    async with running(chore(dsn, server)):
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, prompts)
    assert sum(map(len, server.asked)) == 60 + 8


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_an_outage_of_the_database_is_waited_out(
    how: str, dsn: str, postgres_server: PostgresServer, server: EmbeddingServer
) -> None:
    prompts = texts(20)
    ids = await store(dsn, *prompts[:10])
    with capture_logs() as lines:
        async with running(chore(dsn, server)):
            async with connected(dsn) as sql:
                await until(lambda: nothing_waits(sql))
            async with Away(postgres_server, how):
                await until(lambda: lines)
            ids += await store(dsn, *prompts[10:])
            async with connected(dsn) as sql:
                await until(lambda: nothing_waits(sql))
                assert await stored(sql) == made(ids, prompts)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_the_database_may_go_while_the_provider_is_asked(
    how: str, dsn: str, postgres_server: PostgresServer, server: EmbeddingServer
) -> None:
    prompts = texts(12)
    ids = await store(dsn, *prompts)

    async def go_once(asked: list[str]) -> web.Response:
        if len(server.asked) == 2:
            async with Away(postgres_server, how):
                pass
        return await good(asked)

    server.handler = go_once
    async with running(chore(dsn, server)):
        await until(lambda: len(server.asked) > 2)
        async with connected(dsn) as sql:
            await until(lambda: nothing_waits(sql))
            assert await stored(sql) == made(ids, prompts)
            assert await queued_for_index(sql) == set(ids)


async def test_one_that_freezes_in_the_middle_holds_up_nobody(
    dsn: str, sql: asyncpg.Connection, postgres_server: PostgresServer, server: EmbeddingServer
) -> None:
    """The server ends what it has begun, and its rows are free for the projection of outcomes."""
    ids = await store(dsn, "Buy?")
    async with PostgresProxy(lambda: postgres_server.port) as proxy, AsyncExitStack() as exits:
        frozen = chore(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"), server)
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_embedding_queue IN EXCLUSIVE MODE")
            await exits.enter_async_context(running(frozen))
            await until(lambda: blocked(sql, 1))
            proxy.hold()
        await until(
            lambda: sql.fetchval("SELECT count(*) = 1 FROM llm_decisions WHERE prompt_embedding IS NOT NULL")
        )
        writer = Store(dsn)
        await writer.write(deliver(outcome(ids[0])))
        await writer.close()
        proxy.release()
        await until(lambda: nothing_waits(sql))
    assert await stored(sql) == made(ids, ["Buy?"])
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"


async def test_it_needs_no_session_of_its_own(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """As behind PgBouncer in transaction mode: no prepared statement is left, each look may have another."""
    prompts = texts(150)
    ids = await store(dsn, *prompts)
    part = chore(dsn, server)
    part._statement_cache = False
    while await waiting(sql):
        await part.look()
        assert part._connection is not None
        assert await part._connection.fetch("SELECT * FROM pg_prepared_statements") == []
        await part._close()
    await part.leave()
    assert await stored(sql) == made(ids, prompts)


async def test_the_time_that_the_provider_takes_is_not_rested_for(
    dsn: str, sql: asyncpg.Connection, server: EmbeddingServer
) -> None:
    """It costs this process and the database nothing."""

    async def dawdle(asked: list[str]) -> web.Response:
        await asyncio.sleep(2)
        return await good(asked)

    server.handler = dawdle
    await store(dsn, "Buy?")
    part = chore(dsn, server)
    assert await part.look() < 3 * 2
    assert await nothing_waits(sql)
    await part.leave()


# Whose they are.


async def test_neighbours_are_of_one_model_alone(dsn: str, sql: asyncpg.Connection) -> None:
    """From the queue and from the index: nearer ones of another model are as if they were not there."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    models = [None, "a", "b"]
    ids: dict[str | None, list[UUID]] = {model: [uuid4() for _ in range(20)] for model in models}
    writer = Store(dsn)
    await writer.write(
        deliver(
            *(
                decision(
                    id=str(id_),
                    prompt_embedding=[chance.gauss(0, 1) for _ in range(DIMENSIONS)],
                    embedding_model=model,
                )
                for model in models
                for id_ in ids[model]
            )
        )
    )
    await writer.close()
    for _ in range(2):
        for model in models:
            found = await nearest(sql, [1, 2, 3], model, 100)
            assert {near.id for near in found} == set(ids[model])
            assert await nearest(sql, [1, 2, 3], model, 5) == found[:5]
        assert await nearest(sql, [1, 2, 3], "c", 100) == []
        async with running(EmbeddingIndex(dsn)):
            await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM llm_embedding_queue"))


async def test_however_many_of_another_model_are_nearer_there_are_as_many_neighbours_as_wanted(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are looked at as candidates."""
    await sql.execute(
        "INSERT INTO llm_decisions "
        "(agent_name, decision_type, symbol, prompt, response, model, prompt_embedding, embedding_model) "
        "SELECT '', '', '', '', '', '', CASE WHEN number > 5 THEN '[1,2,3]' ELSE '[-1,-2,3]' END::vector, "
        "CASE WHEN number > 5 THEN 'a' ELSE 'b' END FROM generate_series(1, 1005) number; "
        "INSERT INTO llm_embedding_index "
        "SELECT id, l2_normalize(prompt_embedding)::halfvec FROM llm_decisions"
    )
    monkeypatch.setattr(prompts, "FEW", -1)
    assert len(await nearest(sql, [1, 2, 3], "b", 5)) == 5
