"""A daemon and the vector index: kept in the background, in nobody's way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tests.acceptance.command import until
from tests.conftest import DIMENSIONS
from tests.embeddings import indexed, nearest
from tests.factory import decision, outcome
from tracker_daemon.lease import Lease

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.command import Daemon
    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream


def decisions(count: int) -> dict[UUID, dict[str, Any]]:
    """Payloads that carry an embedding by chance, by their ids."""
    chance = random.Random(7)  # noqa: S311 - a test's data
    ids = [uuid4() for _ in range(count)]
    return {
        id_: decision(id=str(id_), prompt_embedding=[chance.gauss(0, 1) for _ in range(DIMENSIONS)])
        for id_ in ids
    }


async def counts(daemon: Daemon, number: int) -> None:
    """Wait until the daemon says that so many decisions are not in the index yet."""

    async def said() -> bool:
        return (await daemon.metrics())("embedding_index_waiting") == number

    await until(f"{number} embeddings wait", said)


async def test_published_embeddings_are_near_at_once_and_indexed_in_the_background(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """Of several daemons one indexes, all of them count; who indexes nothing finds as much."""
    payloads, elsewhere = decisions(100), Lease("embedding_index")
    await elsewhere.take(sql)
    daemons = [await (await run(settings)).ready() for _ in range(2)]
    await stream.publish(*payloads.values(), decision())
    await stream.settled(101)
    wanted = next(iter(payloads.values()))["prompt_embedding"]
    before = await nearest(sql, wanted, None, 100)
    assert {near.id for near in before} == payloads.keys()
    assert await indexed(sql) == {}
    for daemon in daemons:
        await counts(daemon, 100)
    await elsewhere.give_back(sql)
    for daemon in daemons:
        await counts(daemon, 0)
    assert (await indexed(sql)).keys() == payloads.keys()
    assert await nearest(sql, wanted, None, 100) == before
    for daemon in daemons:
        assert await daemon.stop() == 0


async def test_an_index_that_cannot_be_kept_is_said_once_and_holds_nothing_up(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_embedding_index RENAME TO gone")
    daemon = await (await run(settings)).ready()
    payloads = decisions(30)
    await stream.publish(*payloads.values())
    await stream.publish(*(outcome(id_, pnl=1) for id_ in payloads), subject=stream.outcomes)
    await stream.settled(60)
    await daemon.said("warning", "a chore fails", "embedding_index", "llm_embedding_index")
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == 30
    assert await daemon.obstacles() == {}
    await counts(daemon, 30)
    await sql.execute("ALTER TABLE gone RENAME TO llm_embedding_index")
    await daemon.said("info", "a chore is done again", "embedding_index")
    await counts(daemon, 0)
    assert (await indexed(sql)).keys() == payloads.keys()
    assert sum(line.get("chore") == "embedding_index" for line in daemon.lines()) == 2
    assert await daemon.stop() == 0
