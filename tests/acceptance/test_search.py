"""A daemon and the index of texts: found at once, indexed in the background, in nobody's way."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from tests.acceptance.command import until
from tests.factory import decision
from tests.texts import indexed, nothing_waits
from tracker_daemon.lease import Lease
from tracker_daemon.queries import Filter, reading, search

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream


async def found(sql: asyncpg.Connection) -> set[UUID]:
    """What holds the word of all of them."""
    async with reading(sql):
        return {hit.decision.id for hit in (await search(sql, "breakout", Filter(), 1000)).rows}


async def test_what_is_published_is_found_at_once_and_indexed_in_the_background(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """Of several daemons one indexes, all of them count; who waits for the index finds as much."""
    ids, elsewhere = {uuid4() for _ in range(300)}, Lease("text_index")
    await elsewhere.take(sql)
    daemons = [await (await run(settings)).ready() for _ in range(2)]
    await stream.publish(*(decision(id=str(id_), prompt="A breakout?") for id_ in ids))
    await stream.settled(300)
    assert await found(sql) == ids
    for waiting in (300, 0):
        for daemon in daemons:

            async def counted() -> bool:
                return (await daemon.metrics())("text_index_waiting") == waiting  # noqa: B023 - called here

            await until(f"{waiting} texts wait", counted)
        if waiting:
            assert await indexed(sql) == {}
            await elsewhere.give_back(sql)
    assert await nothing_waits(sql)
    assert (await indexed(sql)).keys() == ids
    assert await found(sql) == ids
    for daemon in daemons:
        assert await daemon.stop() == 0
