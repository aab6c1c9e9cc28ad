"""The generations of axes and cells: questions read each once, and then only what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tracker_daemon.postgres import translated
from tracker_daemon.situations.axes import Axes, Axis
from tracker_daemon.situations.cells import Cells
from tracker_daemon.situations.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Record

    from tracker_daemon.postgres import Connection

KEPT: Final = 8
"""Of all databases that a process asks, the last ones that it has met."""

_TURN: Final = 200
_READ: Final = "SELECT generation, axes, tree FROM llm_situation_axes WHERE generation = $1"
_CHANGES: Final = """
SELECT cell & 65535 AS leaf, present, low, high, changed FROM llm_situation_cells
WHERE changed > $2 AND cell BETWEEN $1::int << 16 AND ($1::int << 16) + 65535
"""


class Generation(Struct, frozen=True):
    """What the numbers of a place mean, and which cell it lies in."""

    number: int
    axes: Axes
    tree: Tree


class Known(Struct):
    """A generation and how far its cells reach, as of the change `seen`."""

    generation: Generation
    cells: Cells
    seen: int = 0


_kept: dict[tuple[int, datetime], Known] = {}


def generation_of(row: Record) -> Generation:
    """A row of `llm_situation_axes`."""
    axes = Axes(msgspec.json.decode(row["axes"], type=list[Axis]))
    return Generation(row["generation"], axes, msgspec.json.decode(row["tree"], type=Tree))


async def known(connection: Connection, named: Sequence[tuple[int, datetime]], changed: int) -> list[Known]:
    """The generations of these numbers, learnt at these times, as of a change at least; ask in a transaction.

    None is ever changed itself, and no two, of whatever databases, were learnt in the same microsecond.
    """
    found = []
    for name in named:
        if (one := _kept.get(name)) is None:
            with translated():
                [row] = await connection.fetch(_READ, name[0])
            generation = generation_of(row)
            one = Known(generation, Cells(generation.tree))
        if one.seen < changed:
            with translated():
                changes = await connection.cursor(_CHANGES, name[0], one.seen)
                while rows := await changes.fetch(_TURN):
                    for row in rows:
                        one.cells.widen(row["leaf"], row["present"], row["low"], row["high"])
            one.seen = max(one.seen, changed)
        _kept.pop(name, None)
        _kept[name] = one
        found.append(one)
    for name in list(_kept)[:-KEPT]:
        del _kept[name]
    return found
