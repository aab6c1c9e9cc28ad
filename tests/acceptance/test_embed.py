"""Daemon and command with the provider `local`, on a database for its 256 dimensions."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from tests.acceptance.command import SCRIPT, tracker, until
from tests.conftest import create_database
from tests.embeddings import nearest
from tests.factory import decision, deliver, outcome
from tests.provider import EmbeddingServer, answer, good, vector
from tests.servers import Away
from tracker_daemon.embeddings.local import Local
from tracker_daemon.migrate import migrate
from tracker_daemon.postgres import connected
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream
    from tracker_daemon.embedded import PostgresServer

ACK_WAIT_SECONDS = 2
LOCAL = {"TRACKER_EMBEDDING_PROVIDER": "local", "TRACKER_EMBEDDING_DIMENSIONS": "256"}
FILL = (
    "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model) "
    "SELECT '', '', '', 'RSI ' || number, '', '' FROM generate_series(1, $1::int) number"
)
LACKING = "SELECT count(*) FROM llm_decisions WHERE prompt_embedding IS NULL"


@pytest.fixture
async def wide_dsn(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Yield the DSN of a migrated database for embeddings of 256 numbers."""
    async with create_database(postgres_server) as dsn:
        await migrate(dsn, 256)
        yield dsn


@pytest.fixture
async def wide(wide_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to the database of `wide_dsn`."""
    connection = await asyncpg.connect(wide_dsn)
    yield connection
    await connection.close()


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}/status").exists()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_published_prompts_get_their_embeddings_and_are_found_by_meaning(
    run: Run, settings: dict[str, str], stream: Stream, wide_dsn: str, wide: asyncpg.Connection
) -> None:
    """Two daemons share the work; of a killed one nothing is left behind."""
    await stream.make(ack_wait=ACK_WAIT_SECONDS)  # the server may still deliver to the killed one
    own = {**settings, **LOCAL, "TRACKER_POSTGRES_DSN": wide_dsn}
    killed, other = [await (await run(own)).ready() for _ in range(2)]
    about = {
        "btc": "Bitcoin breaks out, momentum is strong and the trend is up",
        "oil": "Crude oil inventories rise, OPEC cuts production again",
        "fed": "The central bank raises interest rates to fight inflation",
    }
    ids = {name: uuid4() for name in about}
    brought = uuid4()
    await stream.publish(
        *(decision(id=str(ids[name]), prompt=prompt) for name, prompt in about.items()),
        decision(id=str(brought), prompt_embedding=[1] * 256, embedding_model="own"),
        *(decision(prompt=f"RSI {number}") for number in range(300)),
    )

    async def none_lacks() -> bool:
        return await wide.fetchval("SELECT count(*) = 304 FROM llm_decisions") and not await wide.fetchval(
            LACKING
        )

    await until("every decision has an embedding", none_lacks)
    processes = [pid for daemon in (killed, other) for pid in children(daemon.process.pid)]
    assert processes
    await killed.kill()
    await stream.publish(outcome(ids["btc"], pnl=2), subject=stream.outcomes)
    more = [uuid4() for _ in range(50)]
    await stream.publish(*(decision(id=str(id_), prompt=f"ADX {id_}") for id_ in more))
    await stream.settled(355)

    async def none_waits() -> bool:
        scraped = await other.metrics()
        return not await wide.fetchval(LACKING) and scraped("embeddings_waiting") == 0

    await until("nothing waits any more", none_waits)
    local = Local(60)
    for name, question in (
        ("oil", "petroleum production and inventories"),
        ("fed", "monetary policy: interest rates"),
    ):
        [embedding] = await local.embed([question])
        [near] = await nearest(wide, embedding, Local.model, 1)
        assert near.id == ids[name]
    await local.close()
    rows = await wide.fetch("SELECT embedding_model, count(*) FROM llm_decisions GROUP BY 1")
    assert dict(map(tuple, rows)) == {"own": 1, Local.model: 353}
    assert await wide.fetchval("SELECT outcome FROM llm_decisions WHERE id = $1", ids["btc"]) == "SUCCESS"
    assert (await other.metrics())("embedding_failures_total") == 0
    assert await other.stop() == 0

    async def none_is_left() -> bool:
        return not any(map(exists, processes))

    await until("no process is left", none_is_left)


@pytest.mark.parametrize("dimensions", ["1536", "3"])
async def test_a_database_of_another_dimension_is_refused_with_a_remedy(
    dimensions: str, run: Run, settings: dict[str, str]
) -> None:
    daemon = await run({**settings, **LOCAL, "TRACKER_EMBEDDING_DIMENSIONS": dimensions})
    assert await daemon.ended() == 2
    assert "must be 256 for TRACKER_EMBEDDING_PROVIDER local" in daemon.output()
    assert "take openai and a model of that dimension, or begin a new database" in daemon.output()


async def test_a_backfill_says_what_it_would_do_does_it_and_has_nothing_left_to_do(
    wide_dsn: str, wide: asyncpg.Connection
) -> None:
    """More decisions than one step walks over; one has an embedding, one nothing to embed."""
    own = {**LOCAL, "TRACKER_POSTGRES_DSN": wide_dsn}
    await wide.execute(FILL, 2100)
    first = UUID(int=0)
    await wide.execute(
        "UPDATE llm_decisions SET prompt = ' ' WHERE prompt = 'RSI 1'; "
        f"UPDATE llm_decisions SET id = '{first}' WHERE prompt = 'RSI 2'; "
        "UPDATE llm_decisions SET prompt_embedding = array_fill(1, ARRAY[256])::vector WHERE prompt = 'RSI 3'"
    )
    letters = sum(len(f"RSI {number}") for number in range(1, 2101)) - 2 * len("RSI 1")
    dry = await tracker("embed", "--backfill", "--dry-run", settings=own)
    said = f"2,098 decisions would be given an embedding ({Local.model}), of {letters:,} characters in all"
    assert (dry.code, dry.out, dry.err) == (0, f"{said}; nothing was changed\n", "")
    assert await wide.fetchval(LACKING) == 2099
    done = await tracker("embed", "--backfill", settings=own)
    assert (done.code, done.out, done.err) == (
        0,
        f"2,098 decisions were given an embedding ({Local.model})\n",
        "",
    )
    assert await wide.fetchval(LACKING) == 1
    assert await wide.fetchval("SELECT count(*) FROM llm_embedding_queue") == 2098
    again = await tracker("embed", "--backfill", settings=own)
    assert (again.code, again.out) == (0, f"0 decisions were given an embedding ({Local.model})\n")


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """Yield a provider's server that answers well until it is told otherwise."""
    async with EmbeddingServer() as server:
        yield server


@pytest.fixture
def remote(dsn: str, server: EmbeddingServer) -> dict[str, str]:
    """The settings of a command that asks that server, and its whole environment."""
    return {
        "TRACKER_POSTGRES_DSN": dsn,
        "TRACKER_EMBEDDING_DIMENSIONS": "3",
        "TRACKER_EMBEDDING_PROVIDER": "openai",
        "TRACKER_EMBEDDING_URL": server.url,
        "TRACKER_EMBEDDING_MODEL": "small-1",
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_backfill_that_is_stopped_goes_on_where_it_was(
    number: signal.Signals, sql: asyncpg.Connection, server: EmbeddingServer, remote: dict[str, str]
) -> None:
    await sql.execute(FILL, 100)
    stuck, never = asyncio.Event(), asyncio.Event()

    async def stop_at_the_third(texts: list[str]) -> web.Response:
        if len(server.asked) == 3:
            stuck.set()
            await never.wait()
        return await good(texts)

    server.handler = stop_at_the_third
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(SCRIPT, "embed", "--backfill"), env={"COLUMNS": "240", **remote}, stdout=pipe, stderr=pipe
    )
    await stuck.wait()
    second = await tracker("embed", "--backfill", settings=remote)
    assert second.code == 1
    assert "another process makes the same embeddings" in second.err
    process.send_signal(number)
    out, err = await process.communicate()
    never.set()
    assert (process.returncode, out.decode(), err.decode()) == (
        1,
        "",
        "stopped: 64 decisions were given an embedding (small-1); run it again for the rest\n",
    )
    assert await sql.fetchval(LACKING) == 36
    done = await tracker("embed", "--backfill", settings=remote)
    assert (done.code, done.out) == (0, "36 decisions were given an embedding (small-1)\n")
    rows = await sql.fetch("SELECT prompt, prompt_embedding::float4[]::float8[] AS made FROM llm_decisions")
    assert all(row["made"] == vector(row["prompt"]) for row in rows)


async def test_what_an_older_model_has_embedded_is_embedded_anew_by_its_name(
    sql: asyncpg.Connection, remote: dict[str, str]
) -> None:
    """No other embedding is touched: of agents' own models, of none, and of the provider's own."""
    await sql.execute(FILL, 60)
    for first, last, model in (
        (1, 40, "old"),
        (41, 45, "it's their own"),
        (46, 50, None),
        (51, 55, "small-1"),
    ):
        await sql.execute(
            "UPDATE llm_decisions SET prompt_embedding = '[9, 9, 9]', embedding_model = $3 "
            "WHERE substr(prompt, 5)::int BETWEEN $1 AND $2",
            first,
            last,
            model,
        )
    dry = await tracker("embed", "--renew", "old", "--dry-run", settings=remote)
    assert dry.out.startswith("40 decisions would be given an embedding (small-1), of ")
    done = await tracker("embed", "--renew", "old", settings=remote)
    assert (done.code, done.out) == (0, "40 decisions were given an embedding (small-1)\n")
    rows = await sql.fetch(
        "SELECT prompt, substr(prompt, 5)::int AS number, embedding_model AS model, "
        "prompt_embedding::float4[]::float8[] AS made FROM llm_decisions"
    )
    for row in rows:
        if row["number"] <= 40:
            assert (row["model"], row["made"]) == ("small-1", vector(row["prompt"]))
        elif row["number"] <= 55:
            assert row["made"] == [9, 9, 9]
    assert await sql.fetchval(LACKING) == 5
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_queue") == 40
    both = await tracker("embed", "--renew", "old", "--renew", "it's their own", settings=remote)
    assert both.out == "5 decisions were given an embedding (small-1)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say what to embed"),
        (("--backfill", "--renew", "old"), "say what to embed"),
        (("--renew", "small-1"), "small-1 is what the provider makes"),
    ],
)
async def test_what_is_embedded_anew_is_said_by_name(
    arguments: tuple[str, ...], says: str, remote: dict[str, str]
) -> None:
    ended = await tracker("embed", *arguments, settings=remote)
    assert ended.code == 2
    assert says in " ".join(ended.err.split())


async def test_a_backfill_waits_for_a_provider_that_fails_and_names_what_is_refused(
    sql: asyncpg.Connection, server: EmbeddingServer, remote: dict[str, str]
) -> None:
    await sql.execute(FILL, 40)
    [poison] = await sql.fetch("SELECT id FROM llm_decisions WHERE prompt = 'RSI 7'")

    async def fail_once(texts: list[str]) -> web.Response:
        if len(server.asked) == 1:
            return await answer({}, 503)(texts)
        return await (answer({}, 400) if "RSI 7" in texts else good)(texts)

    server.handler = fail_once
    done = await tracker("embed", "--backfill", settings=remote)
    assert done.code == 0
    assert done.out == "39 decisions were given an embedding (small-1), 1 were refused, see above\n"
    assert "answers 503" in done.err
    assert str(poison["id"]) in done.err
    assert await sql.fetchval(LACKING) == 1


async def test_a_backfill_whose_database_goes_ends_with_a_sentence_and_can_be_run_again(
    dsn: str, postgres_server: PostgresServer, server: EmbeddingServer, remote: dict[str, str]
) -> None:
    async with connected(dsn) as connection:
        await connection.execute(FILL, 100)

    async def go_once(texts: list[str]) -> web.Response:
        if len(server.asked) == 2:
            async with Away(postgres_server, "killed"):
                pass
        return await good(texts)

    server.handler = go_once
    ended = await tracker("embed", "--backfill", settings=remote)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("tracker-daemon: PostgreSQL")
    early = await tracker("embed", "--backfill", settings=remote)
    assert early.code == 1
    assert "should it have died, try again in 15 s" in early.err
    async with connected(dsn) as connection:
        await connection.execute("UPDATE tracker_leases SET expires_at = renewed_at")
    again = await tracker("embed", "--backfill", settings=remote)
    assert (again.code, again.out) == (0, "68 decisions were given an embedding (small-1)\n")


async def test_a_daemon_that_is_killed_before_it_can_write_leaves_all_to_the_next(
    run: Run,
    settings: dict[str, str],
    stream: Stream,
    sql: asyncpg.Connection,
    server: EmbeddingServer,
    remote: dict[str, str],
) -> None:
    """Killed while it waits for the provider, whose answer comes too late."""
    killed = await (await run({**settings, **remote})).ready()

    async def kill_first(texts: list[str]) -> web.Response:
        if len(server.asked) == 1:
            await killed.kill()
        return await good(texts)

    server.handler = kill_first
    await stream.publish(*(decision(prompt=f"RSI {number}") for number in range(5)))
    assert await killed.ended() == -signal.SIGKILL
    assert await sql.fetchval(LACKING) == 5
    other = await (await run({**settings, **remote})).ready()

    async def none_lacks() -> bool:
        return not await sql.fetchval(LACKING)

    await until("every decision has an embedding", none_lacks)
    rows = await sql.fetch("SELECT prompt, prompt_embedding::float4[]::float8[] AS made FROM llm_decisions")
    assert [row["made"] for row in rows] == [vector(row["prompt"]) for row in rows]
    assert await other.stop() == 0


async def test_whatever_goes_wrong_neither_the_key_nor_a_prompt_is_logged(
    run: Run,
    settings: dict[str, str],
    stream: Stream,
    sql: asyncpg.Connection,
    server: EmbeddingServer,
    remote: dict[str, str],
) -> None:
    key, prompt = "sk-planted", "Is the planted trend up?"
    echo = {"error": {"message": f"{key}: {prompt}", "code": prompt, "type": key}}
    answers = [
        *(answer(echo, status) for status in (401, 429, 500)),
        *(answer(f"{key}: {prompt}".encode()), answer({"data": [echo]}), answer({"data": []})),
    ]

    async def one_after_the_other(texts: list[str]) -> web.Response | None:
        handler = answers.pop(0) if answers else good
        return await handler(texts)

    server.handler = one_after_the_other
    own = {"TRACKER_EMBEDDING_KEY": key, "TRACKER_LOG_LEVEL": "debug"}
    daemon = await (await run({**settings, **remote, **own})).ready()
    await stream.publish(decision(prompt=prompt))

    async def has_one() -> bool:
        return bool(
            await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE prompt_embedding IS NOT NULL")
        )

    await until("it has an embedding", has_one)
    assert await daemon.stop() == 0
    assert server.headers[-1]["Authorization"] == f"Bearer {key}"
    assert "answers 401" in daemon.output()
    assert "planted" not in daemon.output()


async def test_a_backfill_that_no_provider_can_do_ends_with_a_sentence(
    server: EmbeddingServer, remote: dict[str, str], sql: asyncpg.Connection
) -> None:
    await sql.execute(FILL, 3)
    server.handler = answer({"error": {"code": "invalid_api_key"}}, 401)
    done = await tracker("embed", "--backfill", settings=remote)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"tracker-daemon: {server.url}/embeddings answers 401 (invalid_api_key): look")
    assert await sql.fetchval(LACKING) == 3


async def test_without_a_provider_or_anything_to_embed_the_command_is_used_wrongly(dsn: str) -> None:
    own = {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_EMBEDDING_DIMENSIONS": "3"}
    ended = await tracker("embed", "--backfill", settings=own)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("tracker-daemon: TRACKER_EMBEDDING_PROVIDER: must be local or openai")
    ended = await tracker("embed", settings=own)
    assert ended.code == 2
    assert "--backfill" in ended.err


@pytest.mark.parametrize("hybrid", [False, True])
async def test_prompts_are_found_by_a_text(settings: dict[str, str], wide_dsn: str, hybrid: bool) -> None:
    """By the provider `local`, before there is an embedding and after."""
    own = {**settings, **LOCAL, "TRACKER_POSTGRES_DSN": wide_dsn}
    asked = ("prompts", "crude oil supply", *(["--hybrid"] if hybrid else []))
    none = await tracker(*asked, settings=own)
    assert (none.code, none.err) == (0, "")
    assert "No decision has an embedding yet." in none.out
    assert "embed --backfill" in none.out
    store = Store(wide_dsn)
    texts = ("OPEC cuts: petroleum is short", "interest rates rise again", "crude oil supply [bold]\x1b[31m")
    await store.write(deliver(*(decision(prompt=prompt, symbol="CL") for prompt in texts)))
    await store.close()
    assert (await tracker("embed", "--backfill", settings=own)).code == 0
    told = orjson.loads((await tracker(*asked, "--json", settings=own)).out)
    assert [row["decision"]["prompt"] for row in told["rows"]] == [texts[2], texts[0], texts[1]]
    assert [row["by_words"] for row in told["rows"]] == [1 if hybrid else None, None, None]
    assert (told["exact"], told["embedding_model"]) == (True, Local.model)
    text = (await tracker(*asked, "--limit", "1", settings=own)).out
    assert f"distance {told['rows'][0]['distance']:.3f}, by embedding 1." in text
    assert ("by words 1." in text) is hybrid
    assert "\x1b" not in text
    sheet = (await tracker(*asked, "--csv", settings=own)).out
    lines = list(csv.DictReader(io.StringIO(sheet, newline="")))
    assert [line["by_embedding"] for line in lines] == ["1", "2", "3"]
    assert lines[1]["prompt"] == texts[0]
    other = await tracker(*asked, "--symbol", "none", settings=own)
    assert f"None of these decisions has an embedding of {Local.model}." in other.out
    for wrong, says in (
        (("prompts", " "), "says nothing"),
        (("prompts", "oil", "--embedding-model", "x"), "cannot be compared"),
        (("prompts", "oil", "--set", "embedding.provider=none"), "TRACKER_EMBEDDING_PROVIDER is none"),
    ):
        refused = await tracker(*wrong, settings=own)
        assert (refused.code, refused.out, says in refused.err) == (1, "", True)
