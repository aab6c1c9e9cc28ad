"""Which decisions a question about situations compares: those that its index holds nearest, or might."""

from __future__ import annotations

import math
from itertools import islice, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.postgres import schema_of_vector
from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection
from tracker_daemon.queries.times import bounded
from tracker_daemon.situations.asking import Asking, askings
from tracker_daemon.situations.axes import Axes, Axis
from tracker_daemon.situations.tree import Tree, reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Record

    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries.situation import Situation

PLACES: Final = 100
"""The nearest places that an answer compares, or five for each precedent where these are more."""
MOST_PLACES: Final = 10_000
"""Where the outcome matters: it is looked up for so many."""
QUEUED_ROWS: Final = 10
"""Of the queue, the last ones, up to 1,000 decisions, which are compared, too."""

_FIRST_CELLS: Final = 48
"""Looked into at first, to know how near the nearest are."""
_GROWTH: Final = 8
"""Times as many cells, or places, as before are looked into next."""
_LEAST: Final = 1e-6
"""What a decision must share at least, whatever the question says; and more than rounding takes away."""
_KNOWN: Final = ("symbol", "agent_name", "decision_type", "since", "until", "as_of", "outcome")
"""Conditions that the index, or a look at a few rows, can tell."""

# Each decision is in the index or the queue once a sweep has seen them all. A generation counts for as long
# as anything lies in it.
_GENERATIONS: Final = """
SELECT generation, axes, tree FROM llm_situation_axes
WHERE EXISTS (SELECT 1 FROM llm_situation_axes WHERE swept_at IS NOT NULL)
  AND generation BETWEEN (SELECT min(cell) >> 16 FROM llm_situation_index)
                     AND (SELECT max(cell) >> 16 FROM llm_situation_index)
"""
_SPREADS: Final = """
SELECT path, (scales -> path ->> 'spread')::float8 AS spread FROM (
    SELECT scales FROM llm_scales WHERE learnt_at <= COALESCE($2::timestamptz, 'infinity')
    ORDER BY learnt_at DESC LIMIT 1
) learnt CROSS JOIN unnest($1::text[]) path
WHERE scales -> path IS NOT NULL
"""
# Most places have all that is asked: for the others, what they lack is taken back.
_NEAREST: Final = """
SELECT decision_id, {made_at} AS created_at,
       CASE WHEN complete THEN far ELSE (far - ({lacking})) / shared END AS distance
FROM (
    SELECT decision_id, created_at, present, present & {bits:d} = {bits:d} AS complete,
           CASE WHEN present & {bits:d} = {bits:d} THEN 1 ELSE 1 - ({lost}) END AS shared,
           {vector}.l1_distance(
               situation OPERATOR({vector}.*) {slopes}::float8[]::{vector}.vector,
               {target}::float8[]::{vector}.vector
           ) AS far
    FROM llm_situation_index
    WHERE cell = ANY({cells}::int[]) AND created_at IS NOT NULL AND {condition}
    OFFSET 0
) placed
WHERE shared >= {least}
ORDER BY distance, placed.created_at DESC LIMIT {most:d}
"""
# By the primary key: the planner would look all of a symbol up, too.
_PASSING: Final = """
SELECT id FROM (SELECT * FROM {source} WHERE id = ANY({ids}::uuid[]) OFFSET 0) found WHERE {condition}
"""
_QUEUE: Final = """
SELECT ARRAY(
    SELECT unnest(decisions)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC LIMIT {rows:d}) last
) AS latest, (
    SELECT COALESCE(sum(cardinality(decisions)), 0)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC OFFSET {rows:d}) others
) AS waiting
"""


class Candidates(Struct, frozen=True):
    """Decisions to compare; `waiting`: so many others wait for a place in the index, or for a new one."""

    ids: list[UUID]
    waiting: int


class _Look(Struct, frozen=True):
    """What is asked of the places of a generation, which have so many `axes`, and the cells they lie in."""

    generation: int
    axes: int
    asking: Asking
    tree: Tree

    def cells(self) -> Iterator[tuple[float, int]]:
        """Yield the cells to look into, the nearest first, with their distance."""
        for bound, leaf in reach(self.tree, self.asking.axes, self.asking.min_shared):
            yield bound, (self.generation << 16) + leaf


async def candidates(
    connection: Connection, situation: Situation, wanted: Filter, limit: int, *, resolved: bool
) -> Candidates | None:
    """Return what to compare for an answer of so many; ask inside `reading`. None: the index cannot say.

    There is none yet, or it has no axes for most of the situation, or does not know what the filter chooses
    by, or of what it holds near too little has the outcome asked for.
    """
    if any(getattr(wanted, name) is not None for name in Filter.__struct_fields__ if name not in _KNOWN):
        return None
    looks = await _looks(connection, situation, wanted)
    if not looks:
        return None
    places = _Places(connection, wanted, await schema_of_vector(connection), situation.max_distance)
    found: dict[UUID, None] = {}
    for look in looks:
        chosen = await _chosen(places, look, limit, resolved=resolved)
        if chosen is None:
            return None
        found |= dict.fromkeys(chosen)
    [queue] = await connection.fetch(_QUEUE.format(rows=QUEUED_ROWS))
    return Candidates([*(found | dict.fromkeys(queue["latest"]))], queue["waiting"])


async def _looks(connection: Connection, situation: Situation, wanted: Filter) -> list[_Look]:
    """What is to be asked of the index; nothing, if it cannot answer."""
    counting = situation.weighted()
    paths = [indicator.path for indicator, _ in counting]
    spreads = {row["path"]: row["spread"] for row in await connection.fetch(_SPREADS, paths, wanted.as_of)}
    found = []
    for row in await connection.fetch(_GENERATIONS):
        axes = Axes(msgspec.json.decode(row["axes"], type=list[Axis]))
        tree = msgspec.json.decode(row["tree"], type=Tree)
        if not (asked := askings(axes, counting, spreads, situation.min_overlap)):
            return []
        found += [_Look(row["generation"], len(axes.all), asking, tree) for asking in asked]
    return found


async def _chosen(places: _Places, look: _Look, limit: int, *, resolved: bool) -> list[UUID] | None:
    """The nearest that the whole filter chooses; None: of very many, too few have the outcome."""
    enough = max(PLACES, 5 * limit)
    if not resolved and places.wanted.outcome is None:
        return await places.nearest(look, limit, enough)
    count = 2 * limit
    while True:
        near = await places.nearest(look, count, max(2 * count, enough))
        passing = await places.passing(near, resolved=resolved)
        if len(passing.intersection(near[:count])) >= limit or len(near) < count:
            return [id_ for id_ in near if id_ in passing][:enough]
        if count >= MOST_PLACES:
            return None
        count = min(count * _GROWTH, MOST_PLACES)


class _Places:
    """The places in the index that a filter lets through."""

    def __init__(self, connection: Connection, wanted: Filter, vector: str, max_distance: float) -> None:
        """Nothing is looked at yet; `vector` is the schema of pgvector."""
        self.wanted = wanted
        self._connection = connection
        self._vector = vector
        self._max_distance = max_distance

    async def nearest(self, look: _Look, count: int, most: int) -> list[UUID]:
        """So many at `most`, the nearest first, with the `count` nearest among them that are near at all.

        Cells are looked into, the nearest first, until no other can hold what is nearer than these.
        """
        found: list[Record] = []
        reached, size, far = look.cells(), _FIRST_CELLS, math.inf
        while cells := [cell for _, cell in islice(_no_farther(reached, far), size)]:
            found += await self._look_into(look, cells, most)
            found.sort(key=itemgetter("created_at"), reverse=True)
            found.sort(key=itemgetter("distance"))
            if len(cells) < size:
                break
            last = found[count - 1]["distance"] if len(found) >= count else math.inf
            size, far = size * _GROWTH, min(last, self._max_distance / look.asking.part)
        return [row["decision_id"] for row in found[:most]]

    async def passing(self, ids: list[UUID], *, resolved: bool) -> set[UUID]:
        """Those of the decisions that have the outcome."""
        chosen = Selection(self.wanted)
        condition = f"{chosen.condition} AND NOT {UNDECIDED}" if resolved else chosen.condition
        statement = _PASSING.format(source=chosen.source, ids=chosen.parameter(ids), condition=condition)
        return {row["id"] for row in await self._connection.fetch(statement, *chosen.values)}

    async def _look_into(self, look: _Look, cells: list[int], most: int) -> list[Record]:
        """The nearest places in these cells."""
        asked, known = look.asking, replace(self.wanted, outcome=None, as_of=None)
        chosen = Selection(known)
        condition = chosen.condition
        if self.wanted.as_of is not None:
            condition += f" AND created_at <= {chosen.parameter(self.wanted.as_of)}"
        has = "present & {bit:d} = 0"
        lacking = " + ".join(
            f"CASE WHEN {has.format(bit=1 << number)} THEN {abs(one.coordinate) * one.slope!r} ELSE 0 END"
            for number, one in asked.axes.items()
        )
        lost = " + ".join(
            f"CASE WHEN {has.format(bit=1 << number)} THEN {share!r} ELSE 0 END"
            for number, share in asked.shares.items()
        )
        statement = _NEAREST.format(
            vector=self._vector,
            bits=asked.bits,
            lacking=lacking,
            lost=lost,
            made_at=bounded("created_at"),
            least=repr(max(asked.min_shared - _LEAST, _LEAST)),
            condition=condition,
            slopes=chosen.parameter(asked.slopes(look.axes)),
            target=chosen.parameter(asked.target(look.axes)),
            cells=chosen.parameter(cells),
            most=most,
        )
        return await self._connection.fetch(statement, *chosen.values)


def _no_farther(reached: Iterator[tuple[float, int]], far: float) -> Iterator[tuple[float, int]]:
    return takewhile(lambda one: one[0] <= far, reached)
