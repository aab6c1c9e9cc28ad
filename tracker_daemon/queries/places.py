"""The places in the index of situations that a filter lets through, and which of them are near a question."""

from __future__ import annotations

import math
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.queries.filter import UNDECIDED, Filter, Selection
from tracker_daemon.queries.times import bounded
from tracker_daemon.situations.asking import Asking
from tracker_daemon.situations.generations import Known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncpg import Record

    from tracker_daemon.postgres import Connection

GROWTH: Final = 8
"""Times as many cells, or places, as before are looked into next."""
LEAST: Final = 1e-6
"""What a decision must share at least, whatever the question says; and more than rounding takes away."""

_FIRST_CELLS: Final = 192
"""Looked into at first, to know how near the nearest are; those that the question lies in anyway."""
_FIRST_CELLS_OF_SYMBOL: Final = 512
"""The same for what a symbol has there, which the index finds without the rest."""

# Most places have all that is asked: for the others, what they lack is taken back. Numbers are parameters: a
# question about the same indicators is the same text, which a connection may keep prepared. Each vector is in
# a SELECT of its own, so that it is read once and not for each place. What has no time is left out last: as a
# condition on the index it would be compared with every place in it.
_NEAREST: Final = """
SELECT decision_id, {made_at} AS created_at, distance, present, {vector}.vector_send(situation) AS situation
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
                       situation OPERATOR({vector}.*) (SELECT {slopes}::text::{vector}.vector),
                       (SELECT {target}::text::{vector}.vector)
                   ) + ({unusual}) AS far
            FROM llm_situation_index
            WHERE cell = ANY({cells}::text::int[]) AND {condition}
            OFFSET 0
        ) placed
        OFFSET 0
    ) compared
    WHERE distance <= {farthest} AND created_at IS NOT NULL
    ORDER BY distance, created_at DESC LIMIT {most}
) nearest
"""
# By the primary key: the planner would look all of a symbol up, too. The columns that are asked about alone,
# which come from the nodes of Citus to the coordinator.
_PASSING: Final = """
SELECT id FROM (
    SELECT id, symbol, agent_name, decision_type, created_at, outcome
    FROM {source} WHERE id = ANY({ids}::uuid[]) OFFSET 0
) found
WHERE {condition}
"""


class Near(Struct, frozen=True):
    """A place that is near; `apart` is its distance as it will be compared.

    In `distance` only what is unusual has a most: all else is equally far from that, and the sum would rank
    by it alone.
    """

    decision_id: UUID
    created_at: datetime
    distance: float
    apart: float


class Look(Struct, frozen=True):
    """What is asked of the places of a generation."""

    known: Known
    asking: Asking

    @property
    def first_cell(self) -> int:
        """The number of the first cell in the index."""
        return self.known.number << 16

    def near(self, rows: Sequence[Record]) -> list[Near]:
        """What `_NEAREST` has found."""
        present = np.array([row["present"] for row in rows], dtype=np.int64)
        sent = np.dtype([("dimensions", ">i4"), ("at", ">f4", len(self.known.axes.all))])
        places = np.frombuffer(b"".join(row["situation"] for row in rows), sent)
        apart = self.asking.apart(present, places["at"].astype(np.float64)).tolist()
        return [
            Near(row["decision_id"], row["created_at"], row["distance"], one)
            for row, one in zip(rows, apart, strict=True)
        ]


class Places:
    """The places in the index that a filter lets through."""

    def __init__(self, connection: Connection, wanted: Filter, vector: str, max_distance: float) -> None:
        """Nothing is looked at yet; `vector` is the schema of pgvector."""
        self.wanted = wanted
        self._connection = connection
        self._vector = vector
        self._max_distance = max_distance

    async def nearest(self, look: Look, count: int, most: int) -> list[Near]:
        """So many at `most`, the nearest first, with the `count` nearest among them that are near at all.

        Cells are looked into, the nearest first, until no other can hold what is nearer than these; none that
        has nothing by the agent or of the symbol. Of places equally near the latest is first.
        """
        found: list[Near] = []
        bounds, far = look.known.cells.bounds(look.asking), math.inf
        bounds[look.known.cells.without(self.wanted.agent_name, self.wanted.symbol)] = np.nan
        first = _FIRST_CELLS if self.wanted.symbol is None else _FIRST_CELLS_OF_SYMBOL
        size = max(first, int(np.count_nonzero(bounds <= LEAST)))
        while len(cells := np.flatnonzero(bounds <= far + LEAST)):
            if len(cells) > size:
                cells = cells[np.argpartition(bounds[cells], size)[:size]]
            bounds[cells] = np.nan
            farthest = found[most - 1].distance if len(found) >= most else math.inf
            found += await self._look_into(look, (look.first_cell + cells).tolist(), most, farthest)
            found.sort(key=attrgetter("created_at"), reverse=True)
            found.sort(key=attrgetter("distance"))
            last = sorted(each.apart for each in found)[count - 1] if len(found) >= count else math.inf
            size, far = size * GROWTH, min(last, self._max_distance / look.asking.part)
        nearest = sorted(found[:most], key=attrgetter("created_at"), reverse=True)
        return sorted(nearest, key=attrgetter("apart"))

    async def passing(self, ids: list[UUID], *, resolved: bool) -> set[UUID]:
        """Those of the decisions that have the outcome."""
        chosen = Selection(self.wanted)
        condition = f"{chosen.condition} AND NOT {UNDECIDED}" if resolved else chosen.condition
        statement = _PASSING.format(source=chosen.source, ids=chosen.parameter(ids), condition=condition)
        return {row["id"] for row in await self._connection.fetch(statement, *chosen.values)}

    async def _look_into(self, look: Look, cells: list[int], most: int, farthest: float) -> list[Near]:
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
            lacking=_lacking(asking, chosen),
            lost=_lost(asking, chosen),
            unusual=_unusual(asking, chosen),
            made_at=bounded("created_at"),
            least=_float(max(asking.min_shared - LEAST, LEAST), chosen),
            condition=condition,
            slopes=chosen.parameter(str(slopes)),
            target=chosen.parameter(str(target)),
            cells=chosen.parameter(f"{{{','.join(map(str, cells))}}}"),
            farthest=_float(farthest, chosen),
            most=chosen.parameter(most),
        )
        return look.near(await self._connection.fetch(statement, *chosen.values))


def _lacking(asking: Asking, chosen: Selection) -> str:
    """How far 0, which stands for what a place lacks, is from the question."""
    terms = {
        number: _float(abs(one.coordinate) * one.slope, chosen)
        for number, one in asking.axes.items()
        if not one.unusual
    }
    return _sum("= 0", terms)


def _lost(asking: Asking, chosen: Selection) -> str:
    """The share of what a place lacks."""
    return _sum("= 0", {number: _float(share, chosen) for number, share in asking.shares.items()})


def _unusual(asking: Asking, chosen: Selection) -> str:
    """How far what a place has is from what is unusual in the question, at most the share of each."""
    terms = {}
    for number, one in asking.axes.items():
        if one.unusual:
            coordinate, slope, share = (_float(x, chosen) for x in (one.coordinate, one.slope, one.share))
            away = f"abs((situation::real[])[{number + 1}] - {coordinate}) * {slope}"
            terms[number] = f"LEAST({away}, {share})"
    return _sum("<> 0", terms)


def _sum(has: str, terms: Mapping[int, str]) -> str:
    """SQL for the sum of the terms of those axes that a place has, or lacks."""
    added = (
        f"CASE WHEN present & {1 << axis:d} {has} THEN {term} ELSE 0 END" for axis, term in terms.items()
    )
    return " + ".join(added) or "0"


def _float(value: float, chosen: Selection) -> str:
    """A parameter that is a float: in decimals, arithmetic for each place takes far longer."""
    return f"{chosen.parameter(value)}::float8"
