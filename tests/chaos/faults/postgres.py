"""PostgreSQL goes away, hangs, loses the connection, or refuses for a while."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from tests.chaos.fault import fault
from tests.chaos.proxy import Fate
from tests.servers import Away

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.chaos.scene import Scene


async def _away(scene: Scene, how: str, seconds: float) -> None:
    """Take the server away under load, for so long, or as long as it takes to be noticed."""
    daemon = await scene.daemon()
    async for _ in scene.rounds(most=3 if seconds > 10 else None):
        async with Away(scene.postgres, how):
            scene.injected["outages"] += 1
            await scene.until_obstacle(daemon, "postgres")
            await scene.load.flow(100)
            if scene.whole:
                await asyncio.sleep(seconds)  # the length of the outage


@fault("PostgreSQL stopped for 10 s")
async def stopped(scene: Scene) -> None:
    await _away(scene, "stopped", 10)


@fault("PostgreSQL stopped for 60 s", quick=False)
async def stopped_for_long(scene: Scene) -> None:
    await _away(scene, "stopped", 60)


@fault("PostgreSQL kill -9")
async def crashed(scene: Scene) -> None:
    await _away(scene, "killed", 0)


@fault("PostgreSQL frozen (SIGSTOP)")
async def frozen(scene: Scene) -> None:
    await _away(scene, "frozen", 5)


@fault("PostgreSQL away at start-up")
async def away_at_start(scene: Scene) -> None:
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await daemon.stop()
        async with Away(scene.postgres, "killed"):
            scene.injected["outages"] += 1
            daemon = await scene.daemon()
            await scene.until_obstacle(daemon, "start")


@fault("connections to PostgreSQL cut")
async def cut(scene: Scene) -> None:
    await scene.daemon()
    async for _ in scene.rounds():
        scene.postgres_proxy.reset()
    scene.injected["connections cut"] = scene.postgres_proxy.cut


@fault("connections to PostgreSQL refused")
async def refused(scene: Scene) -> None:
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        scene.postgres_proxy.refuse()
        scene.injected["connections cut"] += scene.postgres_proxy.connections
        scene.postgres_proxy.reset()
        await scene.until_obstacle(daemon, "postgres")
        scene.postgres_proxy.accept()


@fault("connections to PostgreSQL stalled")
async def stalled(scene: Scene) -> None:
    """Nothing goes through for a while; then all of it does."""
    await scene.daemon()
    async for _ in scene.rounds():
        scene.postgres_proxy.hold()
        await scene.load.flow(500)
        scene.postgres_proxy.release()
        scene.injected["stalls"] += 1


@fault("connection cut mid-COPY")
async def cut_in_copy(scene: Scene) -> None:
    await _cut_at("mid-copy", scene)


@fault("reply to COMMIT lost")
async def reply_lost(scene: Scene) -> None:
    await _cut_at("after-commit", scene)


async def _cut_at(moment: str, scene: Scene) -> None:
    async def cut() -> Fate:
        return Fate.RESET

    await scene.daemon()
    async for _ in scene.rounds():
        await scene.postgres_proxy.arm(moment, cut)
        scene.injected["connections cut"] += 1


@fault("packets to PostgreSQL dropped", quick=False)
async def dropped(scene: Scene) -> None:
    """Connections that are open go silent for ever; those opened later are well again."""
    daemon = await scene.daemon()
    async for _ in scene.rounds(most=3):
        scene.injected["connections silenced"] += scene.postgres_proxy.strand()
        await scene.until_obstacle(daemon, "postgres", "progress")


@fault("PostgreSQL slow to answer")
async def slow(scene: Scene) -> None:
    await scene.daemon()
    async for _ in scene.rounds():
        scene.postgres_proxy.delay_seconds = 0.05
        await scene.load.flow(300)
        scene.postgres_proxy.delay_seconds = 0
        scene.injected["delays"] += 1


@fault("slow database, backlog of 1,000,000", quick=False)
async def backlog(scene: Scene) -> None:
    """Memory does not grow with what waits; nothing is dropped on the way."""
    await scene.stream.remove()
    await scene.stream.make(max_bytes=2 << 30)
    async for _ in scene.rounds(most=1, load=False):
        for _ in range(100):
            await scene.load.pour(scene.agents.brief_decision() for _ in range(10_000))
        scene.injected["messages waiting"] += len(scene.load.confirmed)
        scene.postgres_proxy.delay_seconds = 0.01
        daemon = await scene.daemon()
        await daemon.received(100_000)
        scene.postgres_proxy.delay_seconds = 0
    assert (await daemon.metrics())("slow_consumer_drops_total") == 0


@fault("backends terminated by an administrator")
async def terminated(scene: Scene) -> None:
    await scene.daemon()
    async for _ in scene.rounds():
        scene.injected["backends ended"] += await _terminate(await scene.sql())


async def _terminate(sql: asyncpg.Connection) -> int:
    """End the daemons' backends as pg_terminate_backend does, and return how many they were."""
    ended: int = await sql.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'tracker-daemon'"
    )
    return ended


@fault("max_connections reached")
async def full(scene: Scene) -> None:
    """Somebody has taken every connection there is, the daemon's as well."""
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        sql = await scene.sql()
        async with _crowd(scene):
            await _terminate(sql)
            scene.injected["connections refused"] += 1
            await scene.until_obstacle(daemon, "postgres")


@asynccontextmanager
async def _crowd(scene: Scene) -> AsyncIterator[None]:
    """Hold connections until no more are to be had, and take each that is given back."""

    async def crowd(taken: AsyncExitStack) -> None:
        while True:
            try:
                connection = await asyncpg.connect(scene.dsn)
            except asyncpg.TooManyConnectionsError:
                full.set()
                await asyncio.sleep(0.01)  # before the next look for a place that became free
            else:
                taken.callback(connection.terminate)

    full = asyncio.Event()
    async with AsyncExitStack() as taken:
        crowding = asyncio.create_task(crowd(taken))
        taken.callback(crowding.cancel)
        await full.wait()
        yield


@fault("failover to a read-only server")
async def read_only(scene: Scene) -> None:
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        sql = await scene.sql()
        name = await sql.fetchval("SELECT current_database()")
        await sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await _terminate(sql)
        scene.injected["failovers"] += 1
        await scene.until_obstacle(daemon, "postgres")
        await sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


@fault("deadlock")
async def deadlock(scene: Scene) -> None:
    """A batch waits for a row that somebody inserts, who waits for a row of the batch."""
    daemon = await scene.daemon(TRACKER_BATCH_FLUSH_INTERVAL_SECONDS="0.5", TRACKER_POSTGRES_WRITERS="1")
    insert = (
        "INSERT INTO llm_decisions (id, decision_type, symbol, prompt, response, model, agent_name) "
        "VALUES ($1, '', '', '', '', '', '')"
    )
    async for number in scene.rounds():
        drafts = (scene.agents.decision() for _ in range(2))
        first, second = sorted(drafts, key=lambda draft: str(draft.decision_id))
        sql = await scene.sql()
        await sql.execute("SET deadlock_timeout = '1h'")  # the daemon's backend finds it, and is the victim
        holding = sql.transaction()
        await holding.start()
        await sql.execute(insert, second.decision_id)
        await scene.load.publish(first, second)
        await scene.until_locked_out()
        await sql.execute(insert, first.decision_id)
        await holding.rollback()
        await scene.until_said(daemon, "40P01", number + 1)
        scene.injected["deadlocks"] += 1


@fault("lock timeout")
async def lock_timeout(scene: Scene) -> None:
    sql = await scene.sql()
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE \"{name}\" SET lock_timeout = '200ms'")
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_decisions IN EXCLUSIVE MODE")
            await scene.until_obstacle(daemon, "postgres")
        scene.injected["locks"] += 1


@fault("disk full (53100)")
async def disk_full(scene: Scene) -> None:
    """As the server says it when a table cannot grow; what it says is all the daemon sees of a disk."""
    sql = await scene.sql()
    await sql.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
    )
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await sql.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON llm_decisions EXECUTE FUNCTION full_disk()"
        )
        await scene.until_obstacle(daemon, "postgres")
        scene.injected["outages"] += 1
        await sql.execute("DROP TRIGGER full_disk ON llm_decisions")


@fault("column dropped")
async def column_dropped(scene: Scene) -> None:
    """Writing is paused until an operator has mended the schema, and goes on by itself."""
    sql = await scene.sql()
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await sql.execute("ALTER TABLE llm_decisions DROP COLUMN variant")
        await scene.until_paused(daemon)
        scene.injected["migrations gone wrong"] += 1
        await sql.execute("ALTER TABLE llm_decisions ADD COLUMN variant varchar(100)")


@fault("grant revoked")
async def grant_revoked(scene: Scene) -> None:
    sql = await scene.sql()
    role = await scene.role()
    daemon = await scene.daemon(TRACKER_POSTGRES_DSN=role.dsn, TRACKER_MIGRATE_ON_START="false")
    async for _ in scene.rounds():
        await sql.execute(f"REVOKE INSERT ON llm_outcomes FROM {role.name}")
        await scene.until_paused(daemon)
        scene.injected["grants revoked"] += 1
        await sql.execute(f"GRANT INSERT ON llm_outcomes TO {role.name}")
