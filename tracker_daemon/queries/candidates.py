"""Which decisions a question about situations compares: those that its index holds nearest, or might."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection
from tracker_daemon.queries.times import bounded
from tracker_daemon.situations.asking import Asked, Asking, asking_on
from tracker_daemon.situations.generations import Known, known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncpg import Record

    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries.situation import Situation

PLACES: Final = 200
"""The nearest, of which an answer compares some or all; five for each precedent, if that is more."""
COMPARED: Final = 2
"""Places that an answer compares for each precedent, where the index has axes for all that is asked."""
MOST_PLACES: Final = 10_000
"""Where the outcome matters: it is looked up for so many."""
QUEUED_ROWS: Final = 10
"""Of the queue, the last ones, up to 1,000 decisions, which are compared, too."""

_FIRST_CELLS: Final = 192
"""Looked into at first, to know how near the nearest are; those that the question lies in anyway."""
_FIRST_CELLS_OF_SYMBOL: Final = 512
"""The same for what a symbol has there, which the index finds without the rest."""
_GROWTH: Final = 8
"""Times as many cells, or places, as before are looked into next."""
_LEAST: Final = 1e-6
"""What a decision must share at least, whatever the question says; and more than rounding takes away."""
_KNOWN: Final = ("symbol", "agent_name", "decision_type", "since", "until", "as_of", "outcome")
"""Conditions that the index, or a look at a few rows, can tell."""

# Each decision is in the index or the queue once a sweep has seen them all. A generation counts for as long
# as anything lies in it. The settings hold until the transaction ends: for a thousand cells the planner would
# rather read the whole table, in parallel or by compiled code, which takes ten times as long.
_OUTSET: Final = """
SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('jit', 'off', true), ARRAY(
    SELECT ROW(generation, learnt_at) FROM llm_situation_axes
    WHERE EXISTS (SELECT 1 FROM llm_situation_axes WHERE swept_at IS NOT NULL)
      AND generation BETWEEN (SELECT min(cell) >> 16 FROM llm_situation_index)
                         AND (SELECT max(cell) >> 16 FROM llm_situation_index)
) AS generations, (
    SELECT COALESCE(max(changed), 0) FROM llm_situation_cells
) AS changed, ARRAY(
    SELECT ROW(path, (scales -> path ->> 'spread')::float8) FROM (
        SELECT scales FROM llm_scales WHERE learnt_at <= COALESCE($2::timestamptz, 'infinity')
        ORDER BY learnt_at DESC LIMIT 1
    ) learnt CROSS JOIN unnest($1::text[]) path
    WHERE scales -> path IS NOT NULL
) AS spreads, ARRAY(
    SELECT unnest(decisions)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC LIMIT $3) last
) AS latest, (
    SELECT COALESCE(sum(cardinality(decisions)), 0)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC OFFSET $3) others
) AS waiting, (
    SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'
) AS vector
"""
# Most places have all that is asked: for the others, what they lack is taken back. `apart`, of the nearest
# alone, is the distance as it will be compared: in the sum only what is unusual has a most, since to all else
# it is equally far, and the sum would rank by it alone.
_NEAREST: Final = """
SELECT decision_id, {made_at} AS created_at, distance, ({apart}) / (1 - ({lost})) AS apart
FROM (
    SELECT decision_id, created_at, present, distance, situation::real[] AS at
    FROM (
        SELECT decision_id, created_at, present, situation, distance
        FROM (
            SELECT decision_id, created_at, present, situation,
                   CASE WHEN shared = 1 THEN far WHEN shared >= {least} THEN (far - ({lacking})) / shared END
                       AS distance
            FROM (
                SELECT decision_id, created_at, present, situation,
                       CASE WHEN present & {bits:d} = {bits:d} THEN 1 ELSE 1 - ({lost}) END AS shared,
                       {vector}.l1_distance(
                           situation OPERATOR({vector}.*) {slopes}::{vector}.vector, {target}::{vector}.vector
                       ) + ({unusual}) AS far
                FROM llm_situation_index
                WHERE cell = ANY('{{{cells}}}'::int[]) AND created_at IS NOT NULL AND {condition}
                OFFSET 0
            ) placed
            OFFSET 0
        ) compared
        WHERE distance <= {farthest}::float8
        ORDER BY distance, created_at DESC LIMIT {most:d}
    ) nearest
    OFFSET 0
) told
"""
# By the primary key: the planner would look all of a symbol up, too. The columns of `_KNOWN` alone, which
# come from the nodes of Citus to the coordinator.
_PASSING: Final = """
SELECT id FROM (
    SELECT id, symbol, agent_name, decision_type, created_at, outcome
    FROM {source} WHERE id = ANY({ids}::uuid[]) OFFSET 0
) found
WHERE {condition}
"""


class Candidates(Struct, frozen=True):
    """Decisions to compare; `waiting`: so many others wait for a place in the index, or for a new one."""

    ids: list[UUID]
    waiting: int


class _Look(Struct, frozen=True):
    """What is asked of the places of a generation."""

    known: Known
    asking: Asking

    @property
    def first_cell(self) -> int:
        """The number of the first cell in the index."""
        return self.known.number << 16

    def best(self, places: Sequence[Record], limit: int) -> list[UUID]:
        """What to compare of these: the nearest, where all that is asked has axes; else all."""
        if self.asking.part < 1 - _LEAST:
            return [row["decision_id"] for row in places]
        ranked = sorted(places, key=itemgetter("created_at"), reverse=True)
        ranked.sort(key=itemgetter("apart"))
        return [row["decision_id"] for row in ranked[: COMPARED * limit]]


async def candidates(
    connection: Connection, situation: Situation, wanted: Filter, limit: int, *, resolved: bool
) -> Candidates | None:
    """Return what to compare for an answer of so many; ask inside `reading`. None: the index cannot say.

    There is none yet, or it has no axes for most of the situation, or does not know what the filter chooses
    by, or of what it holds near too little has the outcome asked for.
    """
    if any(getattr(wanted, name) is not None for name in Filter.__struct_fields__ if name not in _KNOWN):
        return None
    counting = situation.weighted()
    paths = [indicator.path for indicator, _ in counting]
    [outset] = await connection.fetch(_OUTSET, paths, wanted.as_of, QUEUED_ROWS)
    looks = []
    for one in await known(connection, outset["generations"], outset["changed"]):
        asking = asking_on(one.axes, counting, dict(outset["spreads"]), situation.min_overlap)
        if asking is None:
            return None
        looks.append(_Look(one, asking))
    if not looks:
        return None
    places = _Places(connection, wanted, outset["vector"], situation.max_distance)
    found: dict[UUID, None] = {}
    for look in looks:
        chosen = await _chosen(places, look, limit, resolved=resolved)
        if chosen is None:
            return None
        found |= dict.fromkeys(chosen)
    return Candidates([*(found | dict.fromkeys(outset["latest"]))], outset["waiting"])


async def _chosen(places: _Places, look: _Look, limit: int, *, resolved: bool) -> list[UUID] | None:
    """The nearest that the whole filter chooses; None: of very many, too few have the outcome."""
    enough = max(PLACES, 5 * limit)
    if not resolved and places.wanted.outcome is None:
        return look.best(await places.nearest(look, limit, enough), limit)
    count = 2 * limit
    while True:
        near = await places.nearest(look, count, max(2 * count, enough))
        passing = await places.passing([row["decision_id"] for row in near], resolved=resolved)
        chosen = [row for row in near if row["decision_id"] in passing]
        if sum(row["decision_id"] in passing for row in near[:count]) >= limit or len(near) < count:
            return look.best(chosen[:enough], limit)
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

    async def nearest(self, look: _Look, count: int, most: int) -> list[Record]:
        """So many at `most`, the nearest first, with the `count` nearest among them that are near at all.

        Cells are looked into, the nearest first, until no other can hold what is nearer than these.
        """
        found: list[Record] = []
        bounds, far = look.known.cells.bounds(look.asking), math.inf
        first = _FIRST_CELLS if self.wanted.symbol is None else _FIRST_CELLS_OF_SYMBOL
        size = max(first, int(np.count_nonzero(bounds <= _LEAST)))
        while len(cells := np.flatnonzero(bounds <= far + _LEAST)):
            if len(cells) > size:
                cells = cells[np.argpartition(bounds[cells], size)[:size]]
            bounds[cells] = np.nan
            farthest = found[most - 1]["distance"] if len(found) >= most else math.inf
            found += await self._look_into(look, (look.first_cell + cells).tolist(), most, farthest)
            found.sort(key=itemgetter("created_at"), reverse=True)
            found.sort(key=itemgetter("distance"))
            last = sorted(map(itemgetter("apart"), found))[count - 1] if len(found) >= count else math.inf
            size, far = size * _GROWTH, min(last, self._max_distance / look.asking.part)
        return found[:most]

    async def passing(self, ids: list[UUID], *, resolved: bool) -> set[UUID]:
        """Those of the decisions that have the outcome."""
        chosen = Selection(self.wanted)
        condition = f"{chosen.condition} AND NOT {UNDECIDED}" if resolved else chosen.condition
        statement = _PASSING.format(source=chosen.source, ids=chosen.parameter(ids), condition=condition)
        return {row["id"] for row in await self._connection.fetch(statement, *chosen.values)}

    async def _look_into(self, look: _Look, cells: list[int], most: int, farthest: float) -> list[Record]:
        """The nearest places in these cells that are no farther."""
        asking = look.asking
        slopes, target = asking.sloped(len(look.known.axes.all))
        chosen = Selection(replace(self.wanted, outcome=None, as_of=None))
        condition = chosen.condition
        if self.wanted.as_of is not None:
            condition += f" AND created_at <= {chosen.parameter(self.wanted.as_of)}"
        statement = _NEAREST.format(
            vector=self._vector,
            bits=asking.bits,
            lacking=_lacking(asking),
            lost=_lost(asking),
            unusual=_apart(
                {number: one for number, one in asking.axes.items() if one.unusual}, "(situation::real[])"
            ),
            apart=_apart(asking.axes, "at"),
            made_at=bounded("created_at"),
            least=repr(max(asking.min_shared - _LEAST, _LEAST)),
            condition=condition,
            slopes=f"'{slopes}'",
            target=f"'{target}'",
            cells=",".join(map(str, cells)),
            farthest=chosen.parameter(farthest),
            most=most,
        )
        return await self._connection.fetch(statement, *chosen.values)


def _lacking(asking: Asking) -> str:
    """How far 0, which stands for what a place lacks, is from the question."""
    terms = {
        number: repr(abs(one.coordinate) * one.slope)
        for number, one in asking.axes.items()
        if not one.unusual
    }
    return _sum("= 0", terms)


def _lost(asking: Asking) -> str:
    """The share of what a place lacks."""
    return _sum("= 0", {number: repr(share) for number, share in asking.shares.items()})


def _apart(axes: Mapping[int, Asked], at: str) -> str:
    """How far what a place has, `at` there, is from the question, no indicator farther than it can be."""
    return _sum(
        "<> 0",
        {
            number: f"LEAST(abs({at}[{number + 1}] - {one.coordinate!r}) * {one.slope!r}, {one.share!r})"
            for number, one in axes.items()
        },
    )


def _sum(has: str, terms: Mapping[int, str]) -> str:
    """SQL for the sum of the terms of those axes that a place has, or lacks; in floats, not in decimals."""
    added = (
        f"CASE WHEN present & {1 << number:d} {has} THEN ({term})::float8 ELSE 0 END"
        for number, term in terms.items()
    )
    return " + ".join(added) or "0"
