"""Poison apart from good rows: what the database rejects is split until the row to blame stands alone."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from tracker_daemon.postgres import Rejected, Unreadable, translated

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from tracker_daemon.postgres import Connection

MAX_LINE_HINTS: Final = 8
"""Poison rows of a batch that are found by the line number in the server's error; then halving is cheaper."""

T = TypeVar("T")
V = TypeVar("V")


class Isolation:
    """Inserts within one transaction, each part of a batch behind a savepoint of its own."""

    def __init__(self, connection: Connection, rows: Counter[str], *, blaming: bool) -> None:
        """`rows`: counted by `insert`; those of a part that is rolled back are taken off again.

        `blaming`: an 08P01 is the fault of the one row that the batch has.
        """
        self._connection = connection
        self._rows = rows
        self._blaming = blaming

    async def insert(
        self,
        items: Sequence[T],
        insert: Callable[[Sequence[T]], Awaitable[list[V]]],
        poison: Callable[[T, Rejected], V],
    ) -> list[V]:
        """Insert all items, each part that the database rejects without its poison; verdicts in order."""
        verdicts: list[V] = []
        hints = MAX_LINE_HINTS
        parts = deque([items])
        while parts:
            part = parts.popleft()
            rows = self._rows.copy()
            try:
                with self._judged():
                    async with self._connection.transaction():
                        verdicts += await insert(part)
            except Rejected as error:
                self._rows.clear()
                self._rows.update(rows)
                if len(part) == 1:
                    verdicts.append(poison(part[0], error))
                    continue
                at = error.position if hints > 0 else None
                hints -= 1
                cuts = (len(part) // 2,) if at is None else (at, at + 1)
                bounds = (0, *cuts, len(part))
                split = [part[a:b] for a, b in pairwise(bounds) if a < b]
                parts.extendleft(reversed(split))
        return verdicts

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Errors as `translated` has them, but 08P01 is `Rejected` where it blames the row.

        Never on a connection that PgBouncer has closed: there the rollback to the savepoint fails first.
        """
        try:
            with translated():
                yield
        except Unreadable as error:
            if not self._blaming:
                raise
            raise error.rejected from error
