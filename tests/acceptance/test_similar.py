"""A daemon learns the scales of the history that it finds, and answers by them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from tests.acceptance.command import tracker, until
from tests.factory import decision, deliver
from tests.record import BEGIN
from tracker_daemon.store import Store

if TYPE_CHECKING:
    import asyncpg

    from tests.acceptance.conftest import Run


async def test_numbers_are_compared_once_a_daemon_has_learnt_their_scales(
    run: Run, settings: dict[str, str], dsn: str, sql: asyncpg.Connection
) -> None:
    store = Store(dsn)
    times = [(BEGIN + timedelta(hours=n)).isoformat() for n in range(40)]
    await store.write(deliver(*(decision(context={"rsi": n}, timestamp=times[n]) for n in range(40))))
    await store.close()
    question = ("similar", '{"rsi": 30.5}', "--json")
    before = orjson.loads((await tracker(*question, settings=settings)).out)
    assert (before["precedents"], before["unknown"]) == ([], ["rsi"])
    daemon = await (await run(settings)).ready()

    async def learnt() -> bool:
        found: bool = await sql.fetchval("SELECT count(*) = 2 FROM llm_scales")
        return found

    await until("the scales are learnt", learnt)
    after = orjson.loads((await tracker(*question, settings=settings)).out)
    # Of the 40, 20 lie between the quartiles, and a quarter of that is 5 on either side.
    near = [each["indicators"][0]["value"] for each in after["precedents"]]
    assert sorted(near) == [26, 27, 28, 29, 30, 31, 32, 33, 34, 35]
    assert [each["distance"] for each in after["precedents"][:2]] == [0.025, 0.025]
    assert await daemon.stop() == 0
