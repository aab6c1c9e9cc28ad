"""Leases on a real PostgreSQL: one holder at a time, by the server's clock, over whatever connection."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tracker_daemon.errors import Misconfigured
from tracker_daemon.lease import SECONDS, Lease
from tracker_daemon.postgres import connected

if TYPE_CHECKING:
    import asyncpg


async def expire(sql: asyncpg.Connection) -> None:
    """Let every lease have ended a moment ago, as if its holder had been frozen since."""
    await sql.execute(
        "UPDATE tracker_leases "
        "SET renewed_at = renewed_at - interval '1 day', expires_at = now() - interval '1 ms'"
    )


async def test_one_holder_keeps_the_others_away_until_it_gives_back(sql: asyncpg.Connection) -> None:
    ours, theirs = Lease("work"), Lease("work")
    assert await ours.take(sql)
    assert not await theirs.take(sql)
    assert await ours.take(sql)
    await ours.give_back(sql)
    assert await theirs.take(sql)
    assert not await ours.take(sql)


async def test_names_do_not_know_each_other(sql: asyncpg.Connection) -> None:
    assert await Lease("one").take(sql)
    assert await Lease("other").take(sql)


async def test_a_lease_that_expired_is_anothers_and_its_old_holder_learns_that(
    sql: asyncpg.Connection,
) -> None:
    frozen, next_one = Lease("work"), Lease("work")
    assert await frozen.take(sql)
    await expire(sql)
    assert await next_one.take(sql)
    assert not await frozen.take(sql)


async def test_giving_back_what_is_anothers_by_now_changes_nothing(sql: asyncpg.Connection) -> None:
    frozen, next_one = Lease("work"), Lease("work")
    await frozen.take(sql)
    await expire(sql)
    await next_one.take(sql)
    await frozen.give_back(sql)
    assert not await frozen.take(sql)


async def test_to_take_again_is_to_prolong(sql: asyncpg.Connection) -> None:
    """Also one that expired, while nobody else came."""
    lease = Lease("work")
    await lease.take(sql)
    await expire(sql)
    assert await lease.take(sql)
    row = await sql.fetchrow("SELECT expires_at - renewed_at, expires_at > now() FROM tracker_leases")
    assert row is not None
    assert tuple(row) == (timedelta(seconds=SECONDS), True)


async def test_of_many_at_once_one_takes_it(dsn: str, sql: asyncpg.Connection) -> None:
    async def take(lease: Lease) -> bool:
        async with connected(dsn) as connection:
            return await lease.take(connection)

    for _ in range(3):  # where there is no row yet, and where one has expired
        assert sum(await asyncio.gather(*(take(Lease("work")) for _ in range(8)))) == 1
        await expire(sql)


async def test_it_is_the_holders_and_not_the_connections(dsn: str, sql: asyncpg.Connection) -> None:
    """As behind PgBouncer in transaction mode, where each transaction may have another session."""
    lease = Lease("work")
    for _ in range(2):
        async with connected(dsn, statement_cache=False) as connection:
            assert await lease.take(connection)
            assert not await Lease("work").take(connection)
            assert await connection.fetch("SELECT * FROM pg_prepared_statements") == []
    async with connected(dsn, statement_cache=False) as connection:
        await lease.give_back(connection)
    assert await Lease("work").take(sql)


async def test_without_its_table_an_operator_must_act(sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE tracker_leases RENAME TO gone")
    for use in (Lease("work").take, Lease("work").give_back):
        with pytest.raises(Misconfigured, match="tracker_leases"):
            await use(sql)
