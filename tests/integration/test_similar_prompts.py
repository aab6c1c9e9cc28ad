"""Prompts alike, by embedding and by words: exact where it can be, never blind, never beyond its filter."""

from __future__ import annotations

import asyncio
import importlib
import math
import random
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tests import texts
from tests.conftest import DIMENSIONS, create_database
from tests.embeddings import Neighbour, indexed, nearest, queue, store, waiting
from tests.factory import decision, deliver
from tests.plans import explained, nodes
from tests.record import BEGIN, known
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.migrate import migrate
from tracker_daemon.postgres import connected
from tracker_daemon.queries import Filter, prompts, reading, similar_prompts
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    import asyncpg

    from tests.record import Row
    from tracker_daemon.embedded import PostgresServer
    from tracker_daemon.queries import AlikePrompts

WIDE = 64
"""Dimensions in which an index has something to choose from."""


@pytest.fixture
def _by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the index, however few decisions there are."""
    monkeypatch.setattr(prompts, "FEW", -1)


@pytest.fixture(params=["all", "index"])
def _either_way(request: pytest.FixtureRequest) -> None:
    """Compare everything, or what the index gives."""
    if request.param == "index":
        request.getfixturevalue("_by_index")


async def index_all(dsn: str) -> None:
    """Run the index until nothing waits."""
    index = EmbeddingIndex(dsn)
    async with connected(dsn) as sql:
        while await waiting(sql):
            await index.look()
    await index.leave()


async def ask(
    sql: asyncpg.Connection,
    embedding: Sequence[float],
    limit: int = 20,
    *,
    words: str | None = None,
    **of: Any,
) -> AlikePrompts:
    async with reading(sql):
        return await similar_prompts(sql, embedding, Filter(**of), limit, words=words)


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine distance, by its definition."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return 1 - product / math.hypot(*one) / math.hypot(*other)


def clustered(count: int) -> list[list[float]]:
    """Embeddings around 40 centres, as prompts of a few kinds have them."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    centres = [[chance.gauss(0, 1) for _ in range(WIDE)] for _ in range(40)]
    return [[x + chance.gauss(0, 0.5) for x in chance.choice(centres)] for _ in range(count)]


@pytest.fixture
async def wide_dsn(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Yield the DSN of a migrated database for embeddings of `WIDE` numbers."""
    async with create_database(postgres_server) as dsn:
        await migrate(dsn, WIDE)
        yield dsn


@pytest.fixture
async def wide(wide_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to the database of `wide_dsn`."""
    async with connected(wide_dsn) as connection:
        yield connection


# Distances, in the queue and in the index.


@pytest.mark.usefixtures("_either_way")
async def test_neighbours_come_by_their_exact_distance_before_and_after_indexing(
    dsn: str, sql: asyncpg.Connection
) -> None:
    wanted, embeddings = [1.0, 0.5, -0.25], [[1, 0, 0], [-1, 0, 0], [2, 1, -0.5], [0, 0, 1], [1, 1, 1]]
    ids = await store(sql, *embeddings)
    expected = sorted(
        (distance(wanted, embedding), id_) for id_, embedding in zip(ids, embeddings, strict=True)
    )
    for _ in range(2):
        found = await nearest(sql, wanted, None, 10)  # more than there are
        assert [near.id for near in found] == [id_ for _, id_ in expected]
        assert [near.distance for near in found] == pytest.approx([d for d, _ in expected], abs=1e-6)
        assert await nearest(sql, wanted, None, 2) == found[:2]
        await index_all(dsn)
    assert len(await indexed(sql)) == len(ids)


@pytest.mark.usefixtures("_either_way")
async def test_one_that_is_in_queue_and_index_comes_once(dsn: str, sql: asyncpg.Connection) -> None:
    ids = await store(sql, [1, 2, 3], [3, 2, 1])
    await index_all(dsn)
    await queue(sql, *ids)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 1)] == ids[:1]
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == ids


@pytest.mark.usefixtures("_either_way")
async def test_a_decision_is_seen_in_the_very_moment_in_which_it_moves(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """Out of the queue, then into the index, then committed: a look at each of these moments."""
    [id_] = await store(sql, [1, 2, 3])
    [moved] = await nearest(sql, [1, 2, 3], None, 10)
    async with connected(dsn) as mover, connected(dsn) as looker:
        move = mover.transaction()
        await move.start()
        await mover.execute("DELETE FROM llm_embedding_queue")
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
        await mover.execute("INSERT INTO llm_embedding_index VALUES ($1, '[1,2,3]')", id_)
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
        await move.commit()
        assert await nearest(looker, [1, 2, 3], None, 10) == [moved]
    assert moved == Neighbour(id_, pytest.approx(0, abs=1e-6))


@pytest.mark.usefixtures("_by_index")
async def test_not_one_is_missed_while_all_of_them_move(
    wide_dsn: str, wide: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another connection asks without a pause: each answer has the nearest of all."""
    monkeypatch.setattr("tracker_daemon.backlog.MAX_ROWS", 3)
    monkeypatch.setattr("tracker_daemon.backlog.FIRST_ROWS", 1)
    monkeypatch.setattr("tracker_daemon.backlog.LOOK_SECONDS", 0)
    embeddings = clustered(100)
    ids = await store(wide, *embeddings)
    order = sorted(range(100), key=lambda number: distance(embeddings[0], embeddings[number]))
    answers: list[AlikePrompts] = []
    running = asyncio.create_task(EmbeddingIndex(wide_dsn).run())
    async with connected(wide_dsn) as looker:
        while await waiting(wide):
            answers.append(await ask(looker, embeddings[0], 10))
    running.cancel()
    await asyncio.wait({running})
    assert {answer.exact for answer in answers} == {True, False}
    for answer in answers:
        assert [row.decision.id for row in answer.rows] == [ids[number] for number in order[:10]]


@pytest.mark.usefixtures("_either_way")
async def test_an_embedding_of_zeros_or_of_huge_numbers_keeps_nothing_from_the_index(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """Zeros have no direction, of others float32 has no squares, and halves of floats end at 65,504."""
    zeros = [0, 0, 0]
    ids = await store(sql, zeros, [1e-38, 2e-38, 3e-38], [1e6, 2e6, 2e6], [3, 2, 1], [-3e38, -2e38, -1e38])
    for _ in range(2):
        for asked in ([1, 2, 3], [5e307, 1e308, 1.5e308], [1e-39, 2e-39, 3e-39]):
            assert [near.id for near in await nearest(sql, asked, None, 10)] == ids[1:]
        await index_all(dsn)
    assert (await indexed(sql)).keys() == set(ids)


@pytest.mark.usefixtures("_either_way")
async def test_a_pruned_decision_is_skipped_in_queue_and_index(sql: asyncpg.Connection) -> None:
    gone, kept = await store(sql, [1, 2, 3], [3, 2, 1])
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", gone)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [kept]
    await sql.execute("INSERT INTO llm_embedding_index VALUES ($1, '[1,2,3]'), ($2, '[3,2,1]')", gone, kept)
    await sql.execute("DELETE FROM llm_embedding_queue")
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [kept]


@pytest.mark.not_on_citus("the estimate for a spread table is a constant, and never few")
async def test_of_a_long_queue_the_latest_are_compared_and_the_others_counted(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await store(sql, *([number, 1, 0] for number in range(5)))
    for few, expected, left_out in ((-1, sorted(ids)[-2:], 3), (10, ids, 0)):
        monkeypatch.setattr(prompts, "FEW", few)
        monkeypatch.setattr(prompts, "CANDIDATES", 0)  # the index has none of them
        monkeypatch.setattr(prompts, "MAX_QUEUED", 2)
        answer = await ask(sql, [1, 1, 1])
        assert {row.decision.id for row in answer.rows} == set(expected)
        assert (answer.exact, answer.left_out) == (few > 0, left_out)


# The index.


@pytest.mark.usefixtures("_by_index")
async def test_nearly_all_of_the_exact_neighbours_are_found_through_the_index(
    wide_dsn: str, wide: asyncpg.Connection
) -> None:
    embeddings = clustered(2020)
    ids = await store(wide, *embeddings[:2000])
    await index_all(wide_dsn)
    await wide.execute("ANALYZE")
    hits = 0
    for wanted in embeddings[2000:]:
        answer = await ask(wide, wanted, 10)
        assert not answer.exact
        exact = sorted(zip((distance(wanted, other) for other in embeddings[:2000]), ids, strict=True))[:10]
        hits += len({row.decision.id for row in answer.rows} & {id_ for _, id_ in exact})
    assert hits >= 0.99 * 20 * 10


@pytest.mark.usefixtures("_by_index")
async def test_candidates_come_from_the_index_and_distances_are_taken_of_them_alone(
    wide_dsn: str, wide: asyncpg.Connection
) -> None:
    await store(wide, *clustered(2000))
    await index_all(wide_dsn)
    await wide.execute("ANALYZE")
    async with explained(wide) as plans:
        assert not (await ask(wide, clustered(1)[0], 10, agent_name="momentum")).exact
    candidates, alike = [
        plan
        for plan in plans
        if "llm_embedding_index" in plan["Query Text"] and "EXISTS" not in plan["Query Text"]
    ] + [plan for plan in plans if "by_embedding" in plan["Query Text"]]
    assert "llm_embedding_index_direction" in {node.get("Index Name") for node in nodes(candidates["Plan"])}
    compared = [node for node in nodes(alike["Plan"]) if node.get("Subplan Name") == "CTE compared"]
    assert [node["Actual Rows"] for node in compared] == [10 * prompts.CANDIDATES]


@pytest.mark.usefixtures("_by_index")
async def test_the_scan_goes_on_until_enough_pass_the_filter_and_else_all_are_compared(
    wide_dsn: str, wide: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in four is this agent's, and of another there are fewer than the index could find enough of."""
    monkeypatch.setattr(prompts, "EF_SEARCH", 20)
    embeddings = clustered(2000)
    ids = await store(wide, *embeddings)
    await wide.execute("UPDATE llm_decisions SET agent_name = 'quarter' WHERE id = ANY($1)", ids[::4])
    await wide.execute("UPDATE llm_decisions SET agent_name = 'rare' WHERE id = ANY($1)", ids[1::200])
    await index_all(wide_dsn)
    await wide.execute("ANALYZE")
    for agent, mine, exact in (("quarter", ids[::4], False), ("rare", ids[1::200], True)):
        answer = await ask(wide, embeddings[0], 10, agent_name=agent)
        assert answer.exact is exact
        assert len(answer.rows) == 10
        assert {row.decision.id for row in answer.rows} <= set(mine)


async def test_few_are_all_compared_as_the_planner_expects(
    wide_dsn: str, wide: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "FEW", 100)
    ids = await store(wide, *clustered(1000))
    await wide.execute("UPDATE llm_decisions SET agent_name = 'rare' WHERE id = ANY($1)", ids[::50])
    await index_all(wide_dsn)
    await wide.execute("ANALYZE")
    for of, exact in (({}, False), ({"agent_name": "rare"}, True), ({"agent_name": "momentum"}, False)):
        assert (await ask(wide, clustered(1)[0], 5, **of)).exact is exact


async def test_nothing_of_it_stays_in_the_session(dsn: str) -> None:
    """Behind PgBouncer in transaction mode the session is somebody else's next."""
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "enable_seqscan", "enable_sort")
    async with connected(dsn, statement_cache=False) as connection:
        await store(connection, *[[1, 2, 3]] * 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prompts, "FEW", -1)
            await ask(connection, [1, 2, 3], words="rsi")
        settings = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        assert settings == ["40", "off", "on", "on"]
        assert await connection.fetch("SELECT * FROM pg_prepared_statements") == []


async def test_what_was_indexed_by_signs_is_queued_for_its_direction(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration of a database that an older daemon has filled; embeddings may be longer than an index."""
    from tracker_daemon.migrate import migrations  # noqa: PLC0415 - replaced in a moment

    with monkeypatch.context() as patch:
        patch.setattr("tracker_daemon.migrate.migrations", lambda: [m for m in migrations() if m.number < 15])
        await migrate(database, 4001)
    async with connected(database) as sql:
        ids = await store(sql, [1] * 4001, [-1] * 4000 + [5])
        await sql.execute("DELETE FROM llm_embedding_queue WHERE decision_id = $1", ids[0])
        await sql.execute(
            "INSERT INTO llm_embedding_index SELECT id, binary_quantize(prompt_embedding) FROM llm_decisions"
        )
        await migrate(database, 4001)
        assert await waiting(sql) == 2
        await index_all(database)
        held = await indexed(sql)
        assert {id_: held[id_] for id_ in ids} == {
            ids[0]: pytest.approx([4000**-0.5] * 4000, rel=1e-3),
            ids[1]: pytest.approx([-(4000**-0.5)] * 4000, rel=1e-3),
        }
        monkeypatch.setattr(prompts, "FEW", -1)
        assert [near.id for near in await nearest(sql, [1] * 4001, None, 1)] == ids[:1]


# The filter.


@pytest.fixture
async def mixed(dsn: str, record: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a record with a past, whose embeddings are of two models, or there are none."""
    chance = random.Random(3)  # noqa: S311 - a test's data
    for id_ in sorted(row["id"] for row in await known(record)):
        await record.execute(
            "UPDATE llm_decisions SET prompt_embedding = $2::float8[]::vector, embedding_model = $3 "
            "WHERE id = $1",
            id_,
            chance.choice([None, *([chance.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(4))]),
            chance.choice(["a", "b", None]),
        )
    await record.execute(
        "INSERT INTO llm_embedding_queue SELECT id FROM llm_decisions WHERE prompt_embedding IS NOT NULL"
    )
    await index_all(dsn)
    return record


def embedding_of(row: Row) -> list[float]:
    return msgspec.json.decode(row["prompt_embedding"], type=list[float])


FILTERS: list[dict[str, Any]] = [
    {},
    {"symbol": "BTC"},
    {"agent_name": "risk", "model": "gpt-x"},
    {"outcome": "SUCCESS", "symbol": "SPY"},
    {"context": {"trend": "up"}},
    {"since": BEGIN + timedelta(days=3), "until": BEGIN + timedelta(days=6)},
    {"as_of": BEGIN + timedelta(days=5)},
    {"as_of": BEGIN + timedelta(days=9), "symbol": "ETH", "outcome": "FAILURE"},
    {"symbol": "none of ours"},
]


def matches(row: Row, of: dict[str, Any]) -> bool:
    """Whether a filter chooses a row; the time of the record is seen to elsewhere."""
    equal = ("symbol", "agent_name", "model", "outcome")
    context = msgspec.json.decode(row["context"] or "{}")
    return (
        all(row[name] == of[name] for name in equal if name in of)
        and of.get("context", {}).items() <= context.items()
        and ("since" not in of or of["since"] <= row["created_at"] < of["until"])
    )


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("of", FILTERS, ids=str)
@pytest.mark.parametrize("model", ["a", "b", None])
async def test_an_answer_is_what_plain_python_finds_among_the_rows(
    mixed: asyncpg.Connection, of: dict[str, Any], model: str | None
) -> None:
    """Other models, other symbols, the future, and outcomes that came later never show."""
    asked = [0.3, -1.0, 0.5]
    rows = [row for row in await known(mixed, of.get("as_of")) if matches(row, of)]
    expected = sorted(
        (
            (distance(asked, embedding_of(row)), row["id"], row["outcome"], row["pnl"])
            for row in rows
            if row["prompt_embedding"] is not None and row["embedding_model"] == model
        ),
        key=lambda each: each[0],
    )
    answer = await ask(mixed, asked, 100, embedding_model=model, **of)
    told = [(row.distance, row.decision.id, row.decision.outcome, row.decision.pnl) for row in answer.rows]
    assert [each[1:] for each in told] == [each[1:] for each in expected]
    assert [each[0] for each in told] == pytest.approx([each[0] for each in expected], abs=1e-5)
    assert [row.by_embedding for row in answer.rows] == list(range(1, len(expected) + 1))
    assert {row.by_words for row in answer.rows} <= {None}
    assert answer.embedding_model == model
    fewer = await ask(mixed, asked, 3, embedding_model=model, **of)
    assert fewer.rows == answer.rows[:3]


async def test_of_equally_near_ones_the_latest_come_first_and_have_one_rank(dsn: str) -> None:
    ids = sorted(uuid4() for _ in range(6))
    times = [BEGIN + timedelta(hours=number // 2) for number in range(6)]
    writer = Store(dsn)
    await writer.write(
        deliver(
            *(
                decision(id=str(id_), timestamp=time.isoformat(), prompt_embedding=[1, 2, 3])
                for id_, time in zip(ids, times, strict=True)
            )
        )
    )
    await writer.close()
    async with connected(dsn) as sql:
        answer = await ask(sql, [1, 2, 4])
    assert [row.decision.id for row in answer.rows] == [ids[number] for number in (5, 4, 3, 2, 1, 0)]
    assert [row.by_embedding for row in answer.rows] == [1] * 6


# Words, too.


async def with_words(dsn: str, *about: tuple[str, list[float] | None]) -> list[UUID]:
    """Store decisions with a prompt and an embedding each, an hour apart."""
    ids = [uuid4() for _ in about]
    writer = Store(dsn)
    payloads = [
        decision(
            id=str(id_),
            prompt=prompt,
            response="-",
            timestamp=(BEGIN + timedelta(hours=hour)).isoformat(),
            **({} if embedding is None else {"prompt_embedding": embedding}),
        )
        for hour, (id_, (prompt, embedding)) in enumerate(zip(ids, about, strict=True))
    ]
    assert set(await writer.write(deliver(*payloads))) == {"stored"}
    await writer.close()
    return ids


def fused(*rankings: Iterable[tuple[UUID, int]]) -> dict[UUID, Fraction]:
    """Reciprocal rank fusion as the paper has it."""
    scores: dict[UUID, Fraction] = {}
    for ranking in rankings:
        for id_, rank in ranking:
            scores[id_] = scores.get(id_, Fraction()) + Fraction(1, 60 + rank)
    return scores


@pytest.mark.usefixtures("_either_way")
async def test_two_rankings_are_fused_by_their_ranks(dsn: str, sql: asyncpg.Connection) -> None:
    """Side by side is better than apart; what has no embedding has a rank by its words alone."""
    ids = await with_words(
        dsn,
        ("oil breakout", [0, 1, 0]),
        ("breakout of gold, and much later, after many other words, oil", [1, 0.1, 0]),
        ("oil breakout: the oil breakout", None),
        ("nothing of the kind", [1, 0, 0]),
        ("gold", [1, 0.5, 0]),
        ("oil", [0, 0, 1]),
    )
    words = dict(zip((ids[2], ids[0], ids[1]), (1, 2, 3), strict=True))
    near = dict(zip((ids[3], ids[1], ids[4]), (1, 2, 3), strict=True)) | {ids[0]: 4, ids[5]: 4}
    scores = fused(words.items(), near.items())
    expected = sorted(scores, key=lambda id_: (-scores[id_], near.get(id_, math.inf), -ids.index(id_)))
    for move in (texts.index_all, index_all):
        answer = await ask(sql, [1, 0, 0], words="breakout oil")
        assert {row.decision.id: row.by_words for row in answer.rows if row.by_words} == words
        assert {row.decision.id: row.by_embedding for row in answer.rows if row.by_embedding} == near
        assert [row.decision.id for row in answer.rows] == expected
        assert [row.distance for row in answer.rows if row.decision.id == ids[2]] == [None]
        assert (await ask(sql, [1, 0, 0], 2, words="breakout oil")).rows == answer.rows[:2]
        await move(dsn)


async def test_words_follow_the_filter_too(dsn: str, record: asyncpg.Connection) -> None:
    """Whatever was found by its words alone, in the queue or the index; there are no embeddings at all."""
    for of in FILTERS * 2:
        rows = [row for row in await known(record, of.get("as_of")) if matches(row, of)]
        holding = {row["id"] for row in rows if {"sell", "hold"} <= texts_of(row)}
        answer = await ask(record, [1, 0, 0], 100, words="sell hold", **of)
        assert {row.decision.id for row in answer.rows} <= holding
        assert len(answer.rows) == min(len(holding), 100)
        assert all((row.distance, row.by_embedding) == (None, None) for row in answer.rows)
        if of is FILTERS[-1]:
            await texts.index_all(dsn)


def texts_of(row: Row) -> set[str]:
    return {word.strip(".,:;()!?\"'{}").lower() for word in f"{row['prompt']} {row['response']}".split()}


async def test_of_very_common_words_the_latest_are_looked_at(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("tracker_daemon.queries.search"), "MANY", 3)
    ids = await with_words(dsn, *((f"oil {number}", None) for number in range(5)))
    await texts.index_all(dsn)
    answer = await ask(sql, [1, 0, 0], words="oil")
    assert {row.decision.id for row in answer.rows} == set(ids[2:])
    assert answer.words_looked_at == 3
    assert (await ask(sql, [1, 0, 0], words="oil 3")).words_looked_at is None


# What cannot be asked, and what there is nothing of.


@pytest.mark.parametrize(
    ("embedding", "says"),
    [
        ([1.0, 2.0], "an embedding has 3 numbers here, not 2"),
        ([], "an embedding has 3 numbers here, not 0"),
        ([0.0, 0.0, 0.0], "nothing but zeros has no direction"),
        ([1.0, 2.0, math.nan], "finite numbers only"),
        ([1.0, 2.0, -math.inf], "finite numbers only"),
    ],
)
async def test_what_is_no_embedding_is_refused_and_the_connection_stays_good(
    sql: asyncpg.Connection, embedding: list[float], says: str
) -> None:
    [id_] = await store(sql, [1, 2, 3])
    with pytest.raises(InvalidQuestion, match=says):
        await ask(sql, embedding)
    assert [near.id for near in await nearest(sql, [1, 2, 3], None, 10)] == [id_]


@pytest.mark.parametrize(
    ("limit", "words", "says"),
    [
        (0, None, "from 1 to 100, not 0"),
        (101, None, "not 101"),
        (1, "?", "no word"),
        (1, "-oil", "a word that"),
    ],
)
async def test_what_is_out_of_bounds_is_refused(
    sql: asyncpg.Connection, limit: int, words: str | None, says: str
) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        await ask(sql, [1, 2, 3], limit, words=words)


@pytest.mark.usefixtures("_either_way")
async def test_where_there_is_nothing_to_compare_the_answer_says_so(
    dsn: str, sql: asyncpg.Connection
) -> None:
    answer = await ask(sql, [1, 2, 3])
    assert (answer.rows, answer.embedded, answer.lacking) == ((), False, 0)
    ids = await store(sql, None, None)
    await sql.execute("DELETE FROM llm_embedding_queue")
    await sql.execute("INSERT INTO llm_prompt_queue (decisions) VALUES ($1)", ids)
    answer = await ask(sql, [1, 2, 3])
    assert (answer.rows, answer.embedded, answer.lacking) == ((), False, 2)
    await store(sql, [1, 2, 3])
    for _ in range(2):
        answer = await ask(sql, [1, 2, 3], embedding_model="another")
        assert (answer.rows, answer.embedded, answer.lacking) == ((), True, 2)
        await index_all(dsn)
