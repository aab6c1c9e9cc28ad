"""Embeddings that take the place of others, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.embeddings import direction, indexed, queue, store, waiting
from tests.locks import blocked
from tests.waiting import until
from tracker_daemon.embeddings import EmbeddingIndex, estimate
from tracker_daemon.embeddings.prompts import fill, of_models
from tracker_daemon.postgres import connected

if TYPE_CHECKING:
    import asyncpg

NEW = np.array([3, 2, 1], np.float32)


async def index_all(dsn: str) -> None:
    index = EmbeddingIndex(dsn)
    async with connected(dsn) as sql:
        while await waiting(sql):
            await index.look()
    await index.leave()


async def test_the_index_holds_the_new_one(dsn: str, sql: asyncpg.Connection) -> None:
    renewed, kept = await store(sql, [1, 2, 3], [1, 2, 3])
    await sql.execute("UPDATE llm_decisions SET embedding_model = 'old' WHERE id = $1", renewed)
    await index_all(dsn)
    await fill(sql, of_models(["old"]), "new", {renewed: NEW})
    assert await waiting(sql) == 1
    await index_all(dsn)
    assert await indexed(sql) == {renewed: direction([3, 2, 1]), kept: direction([1, 2, 3])}


async def test_whoever_moves_the_older_one_meanwhile_is_waited_for(dsn: str, sql: asyncpg.Connection) -> None:
    """Else it would stay in the index for ever."""
    [id_] = await store(sql, [1, 2, 3])
    await sql.execute("UPDATE llm_decisions SET embedding_model = 'old'")
    await index_all(dsn)
    await sql.execute("DELETE FROM llm_embedding_index")
    await queue(sql, id_)
    async with connected(dsn) as renewing:
        async with sql.transaction():
            await sql.execute("DELETE FROM llm_embedding_queue")
            await sql.execute(
                "INSERT INTO llm_embedding_index SELECT id, prompt_embedding::halfvec FROM llm_decisions"
            )
            filling = asyncio.create_task(fill(renewing, of_models(["old"]), "new", {id_: NEW}))
            await until(lambda: blocked(sql, 1))
        await filling
    await index_all(dsn)
    assert await indexed(sql) == {id_: direction([3, 2, 1])}


@pytest.mark.not_on_citus("how many rows there are its nodes know, and all are counted")
async def test_many_are_estimated_and_few_are_counted(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute(
        "INSERT INTO llm_decisions "
        "(agent_name, decision_type, symbol, prompt, response, model, prompt_embedding)"
        " SELECT '', '', '', repeat('x', 100), '', '', CASE WHEN number % 4 = 0 THEN '[1,2,3]'::vector END"
        " FROM generate_series(1, 8000) number"
    )
    counted = await estimate(sql, 60)
    assert (counted.decisions, counted.characters, counted.exact) == (6000, 360_000, True)
    monkeypatch.setattr(import_module("tracker_daemon.embeddings.backfill"), "SAMPLE_ROWS", 2000)
    await sql.execute("ANALYZE llm_decisions")
    guessed = await estimate(sql, 60)
    assert not guessed.exact
    assert guessed.decisions == pytest.approx(6000, rel=0.5)
    assert guessed.characters == pytest.approx(60 * guessed.decisions, rel=0.01)
