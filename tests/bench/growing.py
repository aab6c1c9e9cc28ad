"""Fill a table on the server, with rows that are as large as real ones and come in order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench import rows, tables
from tests.bench.contestants import RawCopy
from tests.bench.tables import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from tests.bench.stage import Stage

FILLING: Final = {
    "fsync": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "1GB",
}
"""Settings under which nothing has to survive, and no row of a table that is filled has to be logged."""


async def grow(stage: Stage, originals: list[bytes], count: int, values: Mapping[str, str]) -> None:
    """Fill `llm_decisions` with copies of the originals, some columns of them computed.

    `values` are SQL over `number` (1 to $2, the count), `kept` (an original) and $1 (the time of the last).
    """
    await RawCopy("", SHIPPED).run(stage, originals)
    await stage.sql.execute(
        "CREATE TABLE kept AS SELECT row_number() OVER () - 1 AS original, d.* FROM llm_decisions d"
    )
    await stage.sql.execute("ALTER TABLE kept ADD PRIMARY KEY (original)")
    await stage.sql.execute("SET session_replication_role = replica")  # sessions are known: no look at each
    await _insert(stage.sql, len(originals), count, values)
    await stage.sql.execute("SET session_replication_role = origin")
    await stage.sql.execute("DROP TABLE kept")


async def _insert(sql: asyncpg.Connection, originals: int, count: int, values: Mapping[str, str]) -> None:
    chosen = {column: f"kept.{column}" for column in SHIPPED.columns} | dict(values)
    # Emptied in the same transaction: then nothing of what follows has to be logged.
    async with sql.transaction():
        await sql.execute("TRUNCATE llm_decisions")
        async with tables.without_indexes(sql, "llm_decisions"):
            await sql.execute(
                f"INSERT INTO llm_decisions ({', '.join(chosen)}) SELECT {', '.join(chosen.values())} "
                f"FROM generate_series(1, $2::bigint) AS number "
                f"JOIN kept ON kept.original = number % {originals}",
                rows.FIRST,
                count,
                timeout=1_800,
            )
