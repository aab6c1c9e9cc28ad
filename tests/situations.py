"""The index of situations as tests look at it: what waits for it, what it holds, all of it done at once."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from tracker_daemon.postgres import connected
from tracker_daemon.situations.cells import bit_of
from tracker_daemon.situations.index import SituationIndex

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

MODULE = "tracker_daemon.situations.index"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be an index of few decisions, in cells of fewer, and let it be counted and swept at once."""
    for name, value in (("FIRST", 4), ("IN_A_CELL", 4), ("SWEEP_ROWS", 50), ("LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(f"{MODULE}.{name}", value)
    monkeypatch.setattr(f"{MODULE}.SWEEP_SECONDS", 0.02)


async def queue(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Put ids into the queue, as the transaction that stores their decisions does."""
    await sql.execute("INSERT INTO llm_situation_queue (decisions) VALUES ($1)", list(ids))


async def waiting(sql: asyncpg.Connection) -> list[UUID]:
    """The ids in the queue, the first ones first."""
    rows = await sql.fetch("SELECT unnest(decisions) FROM llm_situation_queue ORDER BY id")
    return [id_ for (id_,) in rows]


async def places(sql: asyncpg.Connection) -> dict[UUID, int | None]:
    """The generation in which each decision has its place, if it has one."""
    rows = await sql.fetch("SELECT decision_id, cell >> 16 AS generation FROM llm_situation_index")
    return {row["decision_id"]: row["generation"] for row in rows}


async def bounds(sql: asyncpg.Connection) -> dict[int, tuple[int, list[float], list[float]]]:
    """Of each cell the axes that any of its places has, and from where to where they lie: by the places."""
    found: dict[int, tuple[int, list[float], list[float]]] = {}
    for row in await sql.fetch(
        "SELECT cell, present, situation::text AS text FROM llm_situation_index WHERE cell IS NOT NULL"
    ):
        at = json.loads(row["text"])
        has = [bool(row["present"] >> axis & 1) for axis in range(len(at))]
        present, low, high = found.get(row["cell"], (0, [math.inf] * len(at), [-math.inf] * len(at)))
        found[row["cell"]] = (
            present | row["present"],
            [min(a, b if known else -math.inf) for a, b, known in zip(low, at, has, strict=True)],
            [max(a, b if known else math.inf) for a, b, known in zip(high, at, has, strict=True)],
        )
    return found


async def names(sql: asyncpg.Connection) -> dict[int, tuple[int, int]]:
    """Of each cell the bits of its agents and of its symbols: by the places."""
    found: dict[int, tuple[int, int]] = {}
    for row in await sql.fetch(
        "SELECT cell, agent_name, symbol FROM llm_situation_index WHERE cell IS NOT NULL"
    ):
        agents, symbols = found.get(row["cell"], (0, 0))
        found[row["cell"]] = (agents | 1 << bit_of(row["agent_name"]), symbols | 1 << bit_of(row["symbol"]))
    return found


async def generations(sql: asyncpg.Connection) -> list[Any]:
    """Of how many decisions each was learnt, and whether all have been looked through since."""
    return [
        tuple(row)
        for row in await sql.fetch(
            "SELECT decisions, swept_at IS NOT NULL FROM llm_situation_axes ORDER BY generation"
        )
    ]


async def index_all(dsn: str) -> None:
    """Let an index that has just been started do all there is to do, and end."""
    index = SituationIndex(dsn)
    async with connected(dsn) as sql:
        before = None
        while index._lease.held or before != (before := await waiting(sql)):
            await index.look()
    await index.leave()
