"""How PostgreSQL goes about the statements of a question."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

Plan = dict[str, Any]

_EXPLAIN: Final = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; SET auto_explain.log_buffers = on;
SET auto_explain.log_format = json; SET auto_explain.log_level = notice
"""


@asynccontextmanager
async def explained(connection: asyncpg.Connection) -> AsyncIterator[list[Plan]]:
    """Yield a list that holds, after the block, the plan of each statement about our tables, as it ran."""
    found: list[Plan] = []

    def keep(_: object, log: asyncpg.PostgresLogMessage) -> None:
        plan = json.loads(log.message.partition("plan:\n")[2])
        if " llm_" in plan["Query Text"]:  # and not what the driver asks about types
            found.append(plan)

    connection.add_log_listener(keep)
    await connection.execute(_EXPLAIN)
    yield found
    await connection.execute("SELECT 1")  # the listener hears everything before this is answered
    connection.remove_log_listener(keep)
    await connection.execute("SET auto_explain.log_min_duration = -1")


def nodes(plan: Plan) -> Iterator[Plan]:
    """Every node of a plan, from the top."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
