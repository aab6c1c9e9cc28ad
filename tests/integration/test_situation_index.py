"""The index of situations against a real PostgreSQL: who gets a place in it, when, and a new one.

How a backlog is worked off in steps is shown by `test_backlog.py`; what the index finds, by
`test_candidates.py`.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from tests.chores import running
from tests.factory import days_ago, decision, deliver
from tests.locks import blocked
from tests.situations import bounds, few, generations, index_all, names, places, queue, waiting
from tests.waiting import until, until_metric
from tracker_daemon.lease import Lease
from tracker_daemon.migrate import migrations
from tracker_daemon.postgres import connected
from tracker_daemon.retention import cutoff, move_horizon, prune, pruning
from tracker_daemon.situations.cells import bit_of
from tracker_daemon.situations.index import MAX_BYTES, SituationIndex
from tracker_daemon.store import Store

if TYPE_CHECKING:
    import asyncpg

__all__ = ["few"]


async def store(dsn: str, *contexts: dict[str, Any] | None, **more: Any) -> list[UUID]:
    """Have a daemon's store record a decision with each context; return their ids."""
    writer, batch = Store(dsn), deliver(*(decision(context=context, **more) for context in contexts))
    assert await writer.write(batch) == ["stored"] * len(contexts)
    await writer.close()
    return [delivery.message.identity for delivery in batch]


async def store_as_older(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Store decisions as a daemon does that knows nothing of the index: in its table alone."""
    await sql.executemany(
        "INSERT INTO llm_decisions (id, agent_name, decision_type, symbol, prompt, response, model, context) "
        """VALUES ($1, 'momentum', 'signal', 'BTC', '?', '!', 'gpt-x', '{"rsi": 50}')""",
        [(id_,) for id_ in ids],
    )


def situations(count: int) -> list[dict[str, Any]]:
    return [{"rsi": number, "trend": ("up", "down")[number % 2]} for number in range(count)]


# Who gets a place.


async def test_below_so_many_decisions_there_is_none_and_nothing_waits(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await store(dsn, *situations(150))
    assert len(await waiting(sql)) == 150
    await index_all(dsn)
    assert (await waiting(sql), await places(sql), await generations(sql)) == ([], {}, [])


@pytest.mark.usefixtures("_impatient", "few")
async def test_what_is_stored_gets_its_place_and_leaves_the_queue(dsn: str, sql: asyncpg.Connection) -> None:
    """What was there before the first generation, too."""
    ids = await store(dsn, *situations(150))
    async with running(SituationIndex(dsn)):
        await until(lambda: _all_swept(sql, 1))
        ids += await store(dsn, *situations(120))
        await until_metric("tracker_situation_index_waiting", 0)

        async def placed() -> bool:
            return set(await places(sql)) == set(ids)

        await until(placed)
    assert await generations(sql) == [(150, True)]
    assert set((await places(sql)).values()) == {1}


async def _all_swept(sql: asyncpg.Connection, count: int) -> bool:
    found = await generations(sql)
    return len(found) == count and all(swept for _, swept in found) and not await waiting(sql)


@pytest.mark.usefixtures("few")
async def test_a_place_is_where_the_context_is(dsn: str, sql: asyncpg.Connection) -> None:
    """A number by its distance from the median, in interquartile ranges; a category by itself."""
    ids = await store(dsn, *situations(100), {"trend": "up"}, {"rsi": 1e300})
    await index_all(dsn)
    axes = json.loads(await sql.fetchval("SELECT axes FROM llm_situation_axes"))
    assert [axis[:2] for axis in axes] == [["rsi", None], ["trend", "up"], ["trend", "down"]]
    middle, spread = axes[0][2:4]
    assert (middle, spread) == (50, 50)
    rows = {
        row["decision_id"]: (row["present"], json.loads(row["text"]), row["symbol"])
        for row in await sql.fetch("SELECT *, situation::text AS text FROM llm_situation_index")
    }
    assert rows[ids[0]] == (0b111, [-1, 0.5, 0], "BTC")
    assert rows[ids[75]] == (0b111, [0.5, 0, 0.5], "BTC")
    assert rows[ids[100]] == (0b110, [0, 0.5, 0], "BTC")
    assert rows[ids[101]] == (0b001, [100, 0, 0], "BTC")


@pytest.mark.usefixtures("few")
async def test_a_large_context_has_its_place_by_its_smallest_members(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """A context may come with all that its agent has seen."""
    large = {"book": [f"{uuid4()}" for _ in range(MAX_BYTES // 30)]}
    ids = await store(dsn, *situations(20), {"rsi": 50, "trend": "up"})
    ids += await store(dsn, large | {"rsi": 50, "trend": "up"}, large)
    await index_all(dsn)
    rows = {
        row["decision_id"]: (row["present"], row["text"])
        for row in await sql.fetch("SELECT *, situation::text AS text FROM llm_situation_index")
    }
    assert rows[ids[-2]] == rows[ids[-3]]
    assert rows[ids[-2]][0]
    assert rows[ids[-1]][0] == 0
    assert set((await places(sql)).values()) == {1}


@pytest.mark.usefixtures("few")
async def test_what_the_database_refuses_holds_nothing_up_and_is_said(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """Such as by a constraint of the operator's own."""
    ids = await store(dsn, *situations(20))
    poison = ids.pop(7)
    await sql.execute(f"ALTER TABLE llm_situation_index ADD CHECK (decision_id <> '{poison}')")
    with capture_logs() as lines:
        await index_all(dsn)
    assert await places(sql) == dict.fromkeys(ids, 1)
    assert lines[0]["event"].startswith("a decision that nobody will find")
    assert lines[0]["decision"] == str(poison)


@pytest.mark.usefixtures("few")
async def test_what_cannot_be_found_has_no_place_and_waits_for_none(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """Without a context, or with one that only others can have written."""
    placed = await store(dsn, *situations(20), {}, {"other": None})
    none = await store(dsn, None)
    deep, array = uuid4(), uuid4()
    await store_as_older(sql, deep, array)
    await sql.execute(
        "UPDATE llm_decisions SET context = (repeat('[', 3000) || repeat(']', 3000))::jsonb WHERE id = $1",
        deep,
    )
    await sql.execute("UPDATE llm_decisions SET context = '[1]' WHERE id = $1", array)
    with capture_logs() as lines:
        await index_all(dsn)
    assert lines == []
    assert await waiting(sql) == []
    assert await places(sql) == dict.fromkeys(placed, 1) | dict.fromkeys([*none, deep, array])
    await index_all(dsn)
    assert await waiting(sql) == []


@pytest.mark.usefixtures("_impatient", "few")
async def test_what_an_older_daemon_stores_beside_it_gets_a_place_too(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """In several steps, from the first key to the last; before it starts, and while it runs."""
    ids = {UUID(int=0), *(uuid4() for _ in range(120)), UUID(int=2**128 - 1)}
    await store_as_older(sql, *ids)

    async def placed() -> bool:
        return set(await places(sql)) == ids

    async with running(SituationIndex(dsn)):
        await until(placed)
        late = {uuid4() for _ in range(10)}
        await store_as_older(sql, *late)
        ids |= late
        await until(placed)


@pytest.mark.usefixtures("few")
async def test_what_is_gone_or_placed_already_only_leaves_the_queue(
    dsn: str, sql: asyncpg.Connection
) -> None:
    ids = await store(dsn, *situations(20))
    await index_all(dsn)
    await queue(sql, uuid4(), ids[3])
    await index_all(dsn)
    assert (await waiting(sql), set(await places(sql))) == ([], set(ids))


# How far cells reach.


async def reaches(sql: asyncpg.Connection) -> dict[int, tuple[int, list[float], list[float]]]:
    """What is kept of each cell, numbers as they are printed."""
    rows = await sql.fetch(
        "SELECT cell, present, low::text[] AS low, high::text[] AS high FROM llm_situation_cells"
    )
    return {
        row["cell"]: (row["present"], [float(at) for at in row["low"]], [float(at) for at in row["high"]])
        for row in rows
    }


async def named(sql: asyncpg.Connection) -> dict[int, tuple[int, int]]:
    """What is kept of each cell's agents and symbols; bigint has a sign."""
    rows = await sql.fetch("SELECT cell, agents, symbols FROM llm_situation_cells")
    return {row["cell"]: (row["agents"] % 2**64, row["symbols"] % 2**64) for row in rows}


async def changes(sql: asyncpg.Connection) -> dict[int, int]:
    return dict(await sql.fetch("SELECT cell, changed FROM llm_situation_cells"))


@pytest.mark.usefixtures("few")
async def test_a_cell_reaches_as_far_as_its_places(dsn: str, sql: asyncpg.Connection) -> None:
    """From the first on, whatever they lack; and only what has grown has changed."""
    await store(dsn, *situations(100), {"rsi": 30}, {"trend": "up"}, {})
    await index_all(dsn)
    assert len(await reaches(sql)) > 20
    assert await reaches(sql) == await bounds(sql)
    before, reached = await changes(sql), await reaches(sql)
    await store(dsn, *situations(50), {"rsi": -7, "trend": "up"}, {"trend": "down"}, None)
    await index_all(dsn)
    assert await reaches(sql) == await bounds(sql)
    grown = {cell for cell, reach in (await reaches(sql)).items() if reached.get(cell) != reach}
    after = await changes(sql)
    assert 0 < len(grown) < 5
    assert {cell for cell in after if before.get(cell) != after[cell]} == grown
    assert min(after[cell] for cell in grown) > max(before.values())


@pytest.mark.usefixtures("few")
async def test_a_cell_has_the_names_of_its_places(dsn: str, sql: asyncpg.Connection) -> None:
    """Whichever of the 64 bits are theirs; and a cell that gets another one has changed."""
    some = [f"agent {number}" for number in range(150)]
    assert {bit_of(name) for name in some} >= {0, 63}
    for name in some:
        await store(dsn, *situations(3), agent_name=name, symbol=name.upper())
    await store(dsn, *situations(60), agent_name="\u00fcber", symbol="\u20bf")
    await index_all(dsn)
    assert await named(sql) == await names(sql)
    before, had = await changes(sql), await named(sql)
    await store(dsn, *situations(60), agent_name="momentum", symbol="\u20bf")
    await store(dsn, *situations(60), agent_name="\u00fcber", symbol="BTC")
    await index_all(dsn)
    assert await named(sql) == await names(sql)
    more = {cell for cell, bits in (await named(sql)).items() if had[cell] != bits}
    after = await changes(sql)
    assert more == {cell for cell in after if before[cell] != after[cell]} != set()


@pytest.mark.usefixtures("few")
async def test_what_was_placed_before_the_migrations_is_reached_too(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await store(dsn, *situations(100), {"rsi": 30}, {"trend": "up"}, None)
    await store(dsn, *situations(20), agent_name="\u00fcber", symbol="ETH")
    await index_all(dsn)
    reached, had = await reaches(sql), await named(sql)
    await sql.execute(
        "DROP FUNCTION llm_situation_cells_widen CASCADE; DROP FUNCTION llm_bit_of_name;"
        " DROP TABLE llm_situation_cells"
    )
    for name in ("situation_cells", "situation_names"):
        [migration] = [each for each in migrations() if each.name == name]
        async with sql.transaction():
            await sql.execute(migration.sql)
    assert (await reaches(sql), await named(sql)) == (reached, had)
    assert len(reached) > 20
    await store(dsn, {"rsi": 30}, agent_name="late")
    await index_all(dsn)
    assert await named(sql) == await names(sql) != had


# A new place.


@pytest.mark.usefixtures("few")
async def test_when_there_are_four_times_as_many_all_get_new_places(
    dsn: str, sql: asyncpg.Connection
) -> None:
    ids = await store(dsn, *situations(60))
    await index_all(dsn)
    ids += await store(dsn, *situations(179))
    await index_all(dsn)
    assert await generations(sql) == [(60, True)]
    ids += await store(dsn, {"rsi": 5, "vix": 20})
    await index_all(dsn)
    assert await generations(sql) == [(60, True), (240, True)]
    assert await places(sql) == dict.fromkeys(ids, 2)
    cells = await sql.fetchval("SELECT count(DISTINCT cell) FROM llm_situation_index")
    assert 240 / 4 / 4 < cells < 240


async def test_contexts_that_say_nothing_make_no_index(dsn: str, sql: asyncpg.Connection) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracker_daemon.situations.index.FIRST", 4)
        await store(dsn, *[{}, None, {"a": None}] * 5)
        await index_all(dsn)
    assert await generations(sql) == []


@pytest.mark.usefixtures("few")
async def test_one_daemon_at_a_time(dsn: str, sql: asyncpg.Connection) -> None:
    await store(dsn, *situations(20))
    other = Lease("situation_index")
    await other.take(sql)
    await index_all(dsn)
    assert await generations(sql) == []
    assert len(await waiting(sql)) == 20
    await other.give_back(sql)
    await index_all(dsn)
    assert len(await places(sql)) == 20


# Beside the pruning.


async def pruned(dsn: str) -> None:
    async with connected(dsn) as connection:
        before = await cutoff(connection, timedelta(days=30))
        await move_horizon(connection, before)
        async for _ in prune(connection, before, unreplayed=False):
            pass


@pytest.mark.usefixtures("few")
async def test_a_decision_that_is_pruned_in_the_middle_of_its_step_leaves_no_trace(
    dsn: str, sql: asyncpg.Connection
) -> None:
    """The step has read it and not entered it yet: the pruning waits for the step."""
    await store(dsn, *situations(20))
    await index_all(dsn)
    await store(dsn, {"rsi": 5}, timestamp=days_ago(31))
    index = SituationIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_situation_index IN EXCLUSIVE MODE")
        step = asyncio.create_task(index.look())
        await until(lambda: blocked(sql, 1))
        pruning = asyncio.create_task(pruned(dsn))
        await until(lambda: blocked(sql, 2))
    await asyncio.gather(step, pruning)
    await index.leave()
    assert len(await places(sql)) == await sql.fetchval("SELECT count(*) FROM llm_decisions") == 20


@pytest.mark.usefixtures("few")
async def test_a_step_in_the_middle_of_a_pruning_enters_nothing_that_goes(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pruning has deleted it, and is not committed yet: the step waits for the pruning."""
    patient = pruning._LIMITS.replace("lock_timeout = '500ms'", "lock_timeout = '60s'")
    monkeypatch.setattr(pruning, "_LIMITS", patient)  # until the step has come, on a busy machine too
    await store(dsn, *situations(20))
    await index_all(dsn)
    await store(dsn, {"rsi": 5}, timestamp=days_ago(31))
    index = SituationIndex(dsn)
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_embedding_queue IN EXCLUSIVE MODE")
        going = asyncio.create_task(pruned(dsn))
        await until(lambda: blocked(sql, 1))
        step = asyncio.create_task(index.look())
        await until(lambda: blocked(sql, 2))
    await asyncio.gather(step, going)
    await index.leave()
    assert len(await places(sql)) == await sql.fetchval("SELECT count(*) FROM llm_decisions") == 20
