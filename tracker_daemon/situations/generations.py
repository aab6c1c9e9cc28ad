"""The generations of axes and cells: questions read each once, and then only what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from msgspec import Struct

from tracker_daemon.postgres import translated
from tracker_daemon.situations.axes import Axes, Axis
from tracker_daemon.situations.cells import Cells
from tracker_daemon.situations.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from asyncpg import Record
    from numpy.typing import NDArray

    from tracker_daemon.postgres import Connection

KEPT: Final = 8
"""Of all databases that a process asks, the last ones that it has met."""

_TURN: Final = 500
_READ: Final = "SELECT axes FROM llm_situation_axes WHERE generation = $1"
_CHANGES: Final = """
SELECT cell & 65535 AS leaf, present, agents, symbols, array_send(low) AS low, array_send(high) AS high
FROM llm_situation_cells
WHERE changed > $2 AND cell BETWEEN $1::int << 16 AND ($1::int << 16) + 65535
"""
# As PostgreSQL sends an array: five numbers, then the elements, each with its length.
_HEADER: Final = 20
_ELEMENT: Final = np.dtype([("bytes", ">i4"), ("number", ">f4")])


class Generation(Struct, frozen=True):
    """What the numbers of a place mean, and which cell it lies in."""

    number: int
    axes: Axes
    tree: Tree


class Known(Struct):
    """The axes of a generation, and how far its cells reach, as of the change `seen`."""

    number: int
    axes: Axes
    cells: Cells
    seen: int = 0


_kept: dict[tuple[int, datetime], Known] = {}


def generation_of(row: Record) -> Generation:
    """A row of `llm_situation_axes`."""
    return Generation(row["generation"], _axes(row), msgspec.json.decode(row["tree"], type=Tree))


async def known(connection: Connection, named: Sequence[tuple[int, datetime]], changed: int) -> list[Known]:
    """The generations of these numbers, learnt at these times, as of a change at least; ask in a transaction.

    None is ever changed itself, and no two, of whatever databases, were learnt in the same microsecond.
    """
    found = []
    for name in named:
        if (one := _kept.get(name)) is None:
            with translated():
                [row] = await connection.fetch(_READ, name[0])
            axes = _axes(row)
            one = Known(name[0], axes, Cells(len(axes.all)))
        if one.seen < changed:
            with translated():
                changes = await connection.cursor(_CHANGES, name[0], one.seen)
                while rows := await changes.fetch(_TURN):
                    _widen(one.cells, rows)
            one.seen = max(one.seen, changed)
        _kept.pop(name, None)
        _kept[name] = one
        found.append(one)
    for name in list(_kept)[:-KEPT]:
        del _kept[name]
    return found


def _axes(row: Record) -> Axes:
    return Axes(msgspec.json.decode(row["axes"], type=list[Axis]))


def _widen(cells: Cells, rows: Sequence[Record]) -> None:
    leaves, present, agents, symbols = (
        np.array([row[name] for row in rows]) for name in ("leaf", "present", "agents", "symbols")
    )
    cells.name(leaves, agents, symbols)
    cells.widen(leaves, present, *(_numbers([row[name] for row in rows]) for name in ("low", "high")))


def _numbers(arrays: Sequence[bytes]) -> NDArray[np.float32]:
    """Arrays of REAL, all of one length, as PostgreSQL has sent them: a row for each."""
    sent = np.frombuffer(b"".join(arrays), dtype=np.uint8).reshape(len(arrays), -1)[:, _HEADER:]
    numbers: NDArray[np.float32] = np.ascontiguousarray(sent).view(_ELEMENT)["number"].astype(np.float32)
    return numbers
