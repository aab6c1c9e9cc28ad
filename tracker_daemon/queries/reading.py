"""Connections for questions: they only read, each question in one snapshot and with a limit of time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from tracker_daemon.errors import InvalidQuestion, Unavailable
from tracker_daemon.postgres import Rejected, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.postgres import Connection

TIMEOUT_SECONDS: Final = 10.0

# Planned for the values at hand: a plan for any agent and any time would be good for none. A time in a cursor
# is text, which another session reads.
_LIMITS: Final = """
SET LOCAL statement_timeout = {milliseconds:d}; SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL datestyle = 'ISO'
"""


@asynccontextmanager
async def reading(connection: Connection, seconds: float = TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Let a block ask in one snapshot; a statement that takes longer than `seconds` is ended by the server.

    Raises `InvalidQuestion` for values that the database refuses, else as `translated`.
    """
    try:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(_LIMITS.format(milliseconds=round(seconds * 1000)))
                yield
    except Rejected as error:
        raise InvalidQuestion(f"the database cannot look for that: {error}") from error
    except Unavailable as error:
        if isinstance(error.__cause__, asyncpg.QueryCanceledError):
            raise InvalidQuestion(
                f"this question takes longer than {seconds:g} s: ask about less, by agent, model or time"
            ) from error
        raise
