"""The index of situations, kept in the background: each decision has a place, a new one as they multiply."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from tracker_daemon import metrics
from tracker_daemon.backlog import Backlog, Queue, idle
from tracker_daemon.messages.payload import stored_object
from tracker_daemon.postgres import schema_of_vector, translated
from tracker_daemon.situations.axes import Values
from tracker_daemon.situations.generations import Generation, generation_of
from tracker_daemon.situations.tree import Grower, leaf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tracker_daemon.postgres import Connection

FIRST: Final = 5000
"""Decisions without which there is no index: so many are compared one by one."""
TIMES: Final = 4
"""As many decisions as there were when a generation was learnt make the next one due."""
SAMPLE: Final = 10_000
"""Decisions that axes are learnt from, wherever in the record."""
IN_A_CELL: Final = 25
"""Decisions of a cell when it is made, about; `TIMES` as many when the next generation is due."""
MAX_CELLS: Final = 30_000
"""For each a process that asks keeps 8 bytes, and 8 for each axis."""
SAMPLED_IN_A_CELL: Final = 2
"""Decisions for each cell in the sample that cells are learnt from; 16 bits must number what they come to."""
LOOK_SECONDS: Final = 300.0
"""How often decisions are counted."""
SWEEP_SECONDS: Final = 6 * 3600.0
"""How long it rests after it has looked through all decisions for those without a place."""
SWEEP_ROWS: Final = 10_000
"""Decisions that one step looks at: their keys alone, in the order of the keys."""
MAX_BYTES: Final = 16_384
"""As stored, of a context that is read here; of a larger one its smallest members are, up to so much."""

_TURN: Final = 50
_QUEUE: Final = Queue(
    "situation_index",
    "SELECT id AS key, cardinality(decisions) AS size FROM llm_situation_queue ORDER BY id LIMIT {limit:d}",
    "SELECT unnest(decisions) FROM llm_situation_queue WHERE id IN ({keys})",
    "DELETE FROM llm_situation_queue WHERE id IN ({keys})",
    "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_situation_queue",
    metrics.situation_index_waiting,
    "a decision that nobody will find by its situation through the index",
)
_LATEST: Final = """
SELECT generation, axes, tree FROM llm_situation_axes WHERE generation > COALESCE($1, 0)
ORDER BY generation DESC LIMIT 1
"""
# In the order of the keys, so that their index is counted and not the table.
_COUNT: Final = "SELECT count(*) FROM (SELECT id FROM llm_decisions ORDER BY id LIMIT $1) first_ones"
_DUE: Final = "SELECT COALESCE(max(decisions) * {times:d}, {first:d}) FROM llm_situation_axes"
_CONTEXT: Final = f"CASE WHEN pg_column_size(context) <= {MAX_BYTES} THEN context END AS context"
_SOME: Final = f"SELECT {_CONTEXT} FROM llm_decisions TABLESAMPLE SYSTEM ({{percent!r}}) LIMIT {{most:d}}"
# A lesson may take longer than the lease lasts: of two that were learnt at a time one is kept.
_KEEP: Final = """
INSERT INTO llm_situation_axes (generation, decisions, axes, tree)
SELECT COALESCE(max(generation), 0) + 1, $1, $2, $3 FROM llm_situation_axes
HAVING $1 >= COALESCE(max(decisions) * {times:d}, {first:d})
ON CONFLICT DO NOTHING
"""
# A context may come with all that its agent has seen, and its indicators are the smallest part of that.
_CONTEXTS: Final = f"""
SELECT id, CASE WHEN pg_column_size(context) <= {MAX_BYTES} THEN context
    WHEN jsonb_typeof(context) = 'object' THEN (
        SELECT COALESCE(jsonb_object_agg(key, value), '{{{{}}}}') FROM (
            SELECT key, value, sum(octet_length(key) + pg_column_size(value)) OVER smallest AS bytes
            FROM jsonb_each(context) WINDOW smallest AS (ORDER BY pg_column_size(value), key)
        ) member WHERE bytes <= {MAX_BYTES}
    )
END AS context
FROM llm_decisions WHERE id = ANY({{ids}})
"""
# One message, transaction and all: a daemon that freezes keeps nothing locked from the one that takes over.
# The lock is also that of the pruning, which else could delete a decision, and its place here, between
# the moments at which the decision is read here and its place is made.
_INDEX: Final = """
SELECT pg_advisory_xact_lock('llm_situation_index'::regclass::bigint);
INSERT INTO llm_situation_index
    (decision_id, cell, created_at, symbol, agent_name, decision_type, present, situation)
SELECT d.id, p.cell::int, d.created_at, d.symbol, d.agent_name, d.decision_type, p.present::bigint,
       p.situation::{vector}.vector
FROM (VALUES {places}) AS p (id, cell, present, situation) JOIN llm_decisions d ON d.id = p.id::uuid
ON CONFLICT (decision_id) DO UPDATE
SET cell = EXCLUDED.cell, present = EXCLUDED.present, situation = EXCLUDED.situation;
"""
# In one snapshot a decision is in the queue, in the index, or missed; as is one whose place is of an older
# generation. The ids of a step come as an array, which is looked up by the primary key whatever is guessed
# about it. A step that is not full has no last one: else it would go on for as long as decisions come.
_SWEEP: Final = """
WITH walked AS MATERIALIZED (
    SELECT id FROM llm_decisions WHERE id >= $1 ORDER BY id LIMIT {rows:d}
), missed AS (
    SELECT id FROM walked
    EXCEPT SELECT decision_id FROM llm_situation_index
    WHERE decision_id = ANY(ARRAY(SELECT id FROM walked)) AND (cell IS NULL OR cell >> 16 = $2)
    EXCEPT SELECT unnest(decisions) FROM llm_situation_queue
), queued AS (
    INSERT INTO llm_situation_queue (decisions)
    SELECT array_agg(id) FROM (SELECT id, (row_number() OVER () - 1) / 100 AS number FROM missed) m
    GROUP BY number
)
SELECT id FROM walked ORDER BY id OFFSET {rows:d} - 1
"""
_SWEPT: Final = "UPDATE llm_situation_axes SET swept_at = now() WHERE generation = $1 AND swept_at IS NULL"


class SituationIndex(Backlog):
    """Gives queued decisions their places; those that are gone leave the queue."""

    def __init__(self, dsn: str, *, busy: Callable[[], bool] = idle, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, _QUEUE, busy=busy, statement_cache=statement_cache)
        self._generation: Generation | None = None
        self._count_decisions_at = self._sweep_at = 0.0
        self._swept = UUID(int=0)

    async def _move(self, connection: Connection, ids: str, leave: str) -> None:
        if (generation := await self._latest(connection)) is None:  # the first sweep will find them
            with translated():
                await connection.execute(leave)
            return
        with translated():
            async with connection.transaction(readonly=True):
                rows = await connection.fetch(_CONTEXTS.format(ids=ids))
                vector = await schema_of_vector(connection)
        places = []
        for number, row in enumerate(rows):
            places.append(f"('{row['id']}', {_place(generation, stored_object(row['context']))})")
            if not number % _TURN:
                await asyncio.sleep(0)
        enter = _INDEX.format(vector=vector, places=", ".join(places)) if places else ""
        with translated():
            await connection.execute(enter + leave)

    async def _sweep(self, connection: Connection) -> bool:
        """Learn a generation that is due; then queue decisions that have no place in the latest."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._count_decisions_at and await self._lease.take(connection):
            self._count_decisions_at = clock() + LOOK_SECONDS
            if await learn(connection):
                self._swept, self._sweep_at = UUID(int=0), 0.0
        if clock() < self._sweep_at or not await self._lease.take(connection):
            return False
        if (generation := await self._latest(connection)) is None:
            return False
        with translated():
            async with connection.transaction():
                last = await connection.fetchval(
                    _SWEEP.format(rows=SWEEP_ROWS), self._swept, generation.number
                )
                if last is None:
                    await connection.execute(_SWEPT, generation.number)
        if last is None:
            self._swept, self._sweep_at = UUID(int=0), clock() + SWEEP_SECONDS
            return False
        self._swept = last
        return True

    async def _latest(self, connection: Connection) -> Generation | None:
        with translated():
            async with connection.transaction(readonly=True):
                row = await connection.fetchrow(_LATEST, self._generation and self._generation.number)
        if row is not None:
            self._generation = generation_of(row)
        return self._generation


async def learn(connection: Connection) -> bool:
    """Learn a generation of axes and cells if one is due; return whether it was."""
    with translated():
        async with connection.transaction(readonly=True):
            due = await connection.fetchval(_DUE.format(times=TIMES, first=FIRST))
            count = await connection.fetchval(_COUNT, due)
            if count < due:
                return False
            decisions = await connection.fetchval(_COUNT, None)
    values = Values()
    async for context in _some(connection, SAMPLE, decisions):
        values.add(context)
    axes = await values.axes()
    if not axes.all:
        return False
    cells = min(max(decisions / IN_A_CELL, 1), MAX_CELLS)
    grower = Grower(len(axes.all))
    async for context in _some(connection, max(SAMPLE, math.ceil(cells * SAMPLED_IN_A_CELL)), decisions):
        grower.add(axes.place(context))
    tree = await grower.grow(cells)
    with translated():
        async with connection.transaction():
            await connection.execute(
                _KEEP.format(times=TIMES, first=FIRST),
                decisions,
                msgspec.json.encode(axes.all).decode(),
                msgspec.json.encode(tree).decode(),
            )
    return True


async def _some(connection: Connection, count: int, decisions: int) -> AsyncIterator[dict[str, Any]]:
    """Yield the contexts of about so many decisions from anywhere in the record, a twentieth more at most."""
    some = _SOME.format(percent=min(100.0, 100 * count / decisions), most=math.ceil(1.05 * count))
    with translated():
        async with connection.transaction(readonly=True):
            rows = await connection.cursor(some)
            while turn := await rows.fetch(_TURN):
                for row in turn:
                    if (context := stored_object(row["context"])) is not None:
                        yield context


def _place(generation: Generation, context: Any) -> str:
    """Cell, axes that it has and coordinates of a context, as SQL; NULL for what has no place."""
    if context is None:
        return "NULL, 0, NULL"
    place = generation.axes.place(context)
    cell = (generation.number << 16) + leaf(generation.tree, place)
    return f"{cell}, {place.present}, '[{','.join(map(repr, place.coordinates))}]'"
