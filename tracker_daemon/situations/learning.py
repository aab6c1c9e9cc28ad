"""The scales, learnt in the background by the one daemon that does it for all, and kept with their time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from tracker_daemon.chore import Chore
from tracker_daemon.messages.payload import stored_object
from tracker_daemon.postgres import translated
from tracker_daemon.situations.scales import Sample, Scale

if TYPE_CHECKING:
    from datetime import datetime

    from tracker_daemon.postgres import Connection

FIRST: Final = 20
"""Decisions without which nothing is learnt."""
MOST: Final = 5000
"""Decisions of a lesson, the latest ones; those without a context teach nothing."""
SOON_SECONDS: Final = 3.0
"""When it looks again while there is no lesson yet, or after one; then each time twice as long after."""
LOOK_SECONDS: Final = 40.0
"""How often it looks at least whether a lesson is due; its connection is closed meanwhile."""
MAX_SHARE: Final = 0.1
"""Part of the time that lessons may take where many are due."""

_ROWS: Final = 50
# From when on decisions teach something new, and how many of them make a lesson due.
_LAST: Final = """
SELECT learnt_at + CASE WHEN decisions < {most:d} THEN '0 s' ELSE '1 day' END::interval AS since,
       CASE WHEN decisions < {most:d} THEN GREATEST(decisions, {first:d}) ELSE 1 END AS wanted
FROM llm_scales ORDER BY learnt_at DESC LIMIT 1
"""
# Not from -infinity on: an adopted table may have times before the year 1, which Python has not.
_DUE: Final = """
SELECT created_at FROM llm_decisions
WHERE created_at <= now() AND created_at > COALESCE($1, '0001-01-01 UTC'::timestamptz)
ORDER BY created_at LIMIT 1 OFFSET $2::bigint - 1
"""
# The few contexts that are larger would make a lesson of gigabytes. Compressed, a hundred times as much may
# look small; what looks large is not fetched to be measured.
_LESSON: Final = """
SELECT CASE WHEN pg_column_size(context) <= 16384 THEN
    CASE WHEN octet_length(context::text) <= 16384 THEN context END
END AS context
FROM llm_decisions WHERE created_at <= $1
ORDER BY created_at DESC LIMIT {most:d}
"""
_ANY: Final = "SELECT EXISTS (SELECT FROM llm_scales)"
_KEEP: Final = (
    "INSERT INTO llm_scales (learnt_at, decisions, scales) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
)


class ScaleLearning(Chore):
    """Learns the scales anew each time that the history has doubled, and once a day when it is long."""

    def __init__(self, dsn: str, *, statement_cache: bool = True) -> None:
        """Keep the address; `run` connects."""
        super().__init__(dsn, "scales", statement_cache=statement_cache)
        self._rest = SOON_SECONDS

    async def _look(self, connection: Connection) -> float:
        """Learn what is due, one lesson at a time, unless another daemon does."""
        clock = asyncio.get_running_loop().time
        if not await self._lease.take(connection):
            return LOOK_SECONDS
        began = clock()
        if (until := await due(connection)) is not None:
            await learn(connection, until)
            self._rest = SOON_SECONDS
            return (clock() - began) * (1 / MAX_SHARE - 1)
        await self._lease.give_back(connection)
        with translated():
            async with connection.transaction(readonly=True):
                taught = await connection.fetchval(_ANY)
        rest = self._rest
        self._rest = min(2 * rest, LOOK_SECONDS) if taught else SOON_SECONDS
        return rest


async def due(connection: Connection) -> datetime | None:
    """The time of the next lesson, that of a decision; None: there is none to learn from yet.

    Due is one with as many new decisions as the last one had, or a day after it if that had `MOST`.
    """
    with translated():
        async with connection.transaction(readonly=True):
            last = await connection.fetchrow(_LAST.format(first=FIRST, most=MOST)) or (None, FIRST)
            until: datetime | None = await connection.fetchval(_DUE, *last)
    return until


async def learn(connection: Connection, until: datetime) -> None:
    """Keep the scales as they were at a time, from the decisions made until then."""
    sample, decisions = Sample(), 0
    with translated():
        async with connection.transaction(readonly=True):
            cursor = await connection.cursor(_LESSON.format(most=MOST), until)
            while rows := await cursor.fetch(_ROWS):
                decisions += len(rows)
                for row in rows:
                    sample.add(stored_object(row["context"]) or {})
    scales: dict[str, Scale] = {}
    for path, scale in sample.scales():
        scales[path] = scale
        await asyncio.sleep(0)  # a million numbers are sorted, indicator by indicator
    kept = msgspec.json.encode(scales).decode()
    with translated():
        async with connection.transaction():
            await connection.execute(_KEEP, until, decisions, kept)
