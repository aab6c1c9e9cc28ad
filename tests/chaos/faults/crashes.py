"""The daemon itself dies at the worst of moments, is asked to leave, or sleeps."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from tests.acceptance.command import until
from tests.chaos.agents import EXPIRED_DAYS
from tests.chaos.fault import fault
from tests.chaos.proxy import Fate
from tests.servers import Away

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.acceptance.command import Daemon
    from tests.chaos.scene import Scene

DRAINED, WORK_LEFT = 0, 3
PRUNING = {"TRACKER_RETENTION_OLDER_THAN_DAYS": str(EXPIRED_DAYS - 1)}
OLD_DECISIONS = 5000
OLD_ROWS = f"""
WITH made AS (
    INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model, created_at)
    SELECT '', '', '', n, '', '', now() - make_interval(days => $1)
    FROM generate_series(1, {OLD_DECISIONS}) n RETURNING id, created_at
)
INSERT INTO llm_outcomes (decision_id, event_id, outcome, note, observed_at, received_at)
SELECT id, id, 'SUCCESS', id, now(), now() FROM made
"""
OLD_ARE_FEWER = "SELECT count(*) < $1 FROM llm_decisions, tracker_retention WHERE created_at < horizon"
GIVEN_BACK = "SELECT expires_at = renewed_at FROM tracker_leases WHERE name = 'retention'"


def killing(daemon: Daemon) -> Callable[[], Awaitable[Fate]]:
    """Kill the daemon and keep what it was just sending or about to hear."""

    async def kill() -> Fate:
        await daemon.kill()
        return Fate.SWALLOW

    return kill


@fault("kill -9 before COMMIT")
async def before_commit(scene: Scene) -> None:
    """All rows of a batch are copied, its COMMIT never arrives."""
    await _killed_at("before-commit", scene)


@fault("kill -9 between COMMIT and ack")
async def after_commit(scene: Scene) -> None:
    """A batch is committed, and the daemon never learns it."""
    await _killed_at("after-commit", scene)


async def _killed_at(moment: str, scene: Scene) -> None:
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await scene.postgres_proxy.arm(moment, killing(daemon))
        scene.injected["kills"] += 1
        daemon = await scene.daemon()


@fault("kill -9 mid-ack")
async def mid_ack(scene: Scene) -> None:
    """Some messages of a batch are acknowledged, the rest of them not."""
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        some = scene.chance.randrange(1, 20)
        await scene.nats_proxy.arm("ack", killing(daemon), after=some)
        scene.injected["kills"] += 1
        daemon = await scene.daemon()


@fault("kill -9 at any moment")
async def at_any_moment(scene: Scene) -> None:
    """25 kills over 24,000 messages, or more."""
    daemon = await scene.daemon()
    async for _ in scene.rounds(least=25):
        await scene.load.flow(scene.chance.randrange(1, 1000))
        await daemon.kill()
        scene.injected["kills"] += 1
        daemon = await scene.daemon()
    if scene.whole:
        await scene.load.until(lambda: len(scene.load.confirmed) >= 24_000)


@fault("SIGTERM under load")
async def sigterm(scene: Scene) -> None:
    """It drains and leaves in good order; the next one goes on."""
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await daemon.said("started")  # before that, a signal ends it as any process
        assert await daemon.stop() == DRAINED
        scene.injected["signals"] += 1
        daemon = await scene.daemon()


@fault("SIGTERM twice")
async def sigterm_twice(scene: Scene) -> None:
    """The second does not let it finish."""
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await daemon.said("started")
        daemon.send(signal.SIGTERM)
        await daemon.said("draining")
        assert await daemon.stop() in (DRAINED, WORK_LEFT)
        scene.injected["signals"] += 2
        daemon = await scene.daemon()


@fault("SIGTERM, PostgreSQL down")
async def sigterm_without_postgres(scene: Scene) -> None:
    """What cannot be written in time stays with the stream."""
    deadline = {"TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "1"}
    daemon = await scene.daemon(**deadline)
    async for _ in scene.rounds():
        async with Away(scene.postgres, "killed"):
            await scene.load.flow(100)
            await scene.until_obstacle(daemon, "postgres")
            assert await daemon.stop() == WORK_LEFT
        scene.injected["signals"] += 1
        daemon = await scene.daemon(**deadline)


@fault("kill -9 while old rows are pruned")
async def pruning(scene: Scene) -> None:
    """A step of pruning is whole or nothing, and what is younger than the horizon stays."""
    sql = await scene.sql()
    daemon = await scene.daemon(**PRUNING)
    await until("the horizon is there", lambda: sql.fetchval("SELECT horizon FROM tracker_retention"))
    async for _ in scene.rounds():
        await daemon.kill()
        # Beside the stream, whose messages expire; and without the 15 s for which the dead hold their lease.
        await sql.execute(OLD_ROWS, EXPIRED_DAYS)
        await sql.execute("DELETE FROM tracker_leases WHERE name = 'retention'")
        daemon = await scene.daemon(**PRUNING)
        left = scene.chance.randrange(500, OLD_DECISIONS)
        await until("some are pruned", lambda: sql.fetchval(OLD_ARE_FEWER, left))  # noqa: B023 - called now
        await daemon.kill()
        scene.injected["kills"] += 1
        await scene.load.publish(*(scene.agents.expired() for _ in range(20)))
        await sql.execute("DELETE FROM tracker_leases WHERE name = 'retention'")
        daemon = await scene.daemon(**PRUNING)
        await until("all are pruned", lambda: sql.fetchval(OLD_ARE_FEWER, 1))


@fault("holder of a lease frozen", quick=False)
async def holder_frozen(scene: Scene) -> None:
    """It prunes, and all that is left another one prunes, once the lease has expired; then it wakes up."""
    sql = await scene.sql()
    heir = await scene.daemon(**PRUNING)
    async for _ in scene.rounds():
        await scene.eventually("the other one has done", lambda: sql.fetchval(GIVEN_BACK))
        await sql.execute(OLD_ROWS, EXPIRED_DAYS)
        holder = await scene.daemon(**PRUNING)
        left = scene.chance.randrange(2000, OLD_DECISIONS)
        await scene.eventually("some are pruned", partial(sql.fetchval, OLD_ARE_FEWER, left))
        holder.send(signal.SIGSTOP)
        try:
            assert not await sql.fetchval(OLD_ARE_FEWER, 1), "the holder had nothing left to do"
            scene.injected["freezes"] += 1
            # What it was given of the holder's may still lie in that one's open transaction.
            assert await heir.stop() in (DRAINED, WORK_LEFT)
            heir = await scene.daemon(**PRUNING)
            await scene.eventually("all are pruned", partial(sql.fetchval, OLD_ARE_FEWER, 1))
        finally:
            holder.send(signal.SIGCONT)
        assert await holder.stop() in (DRAINED, WORK_LEFT)  # it wakes up to all that its socket held


@fault("one of two daemons frozen")
async def frozen(scene: Scene) -> None:
    """Its messages are delivered to the other one; then it wakes up and goes on with what it held."""
    sleeper = await scene.daemon()
    other = await scene.daemon()
    async for _ in scene.rounds():
        sleeper.send(signal.SIGSTOP)
        try:
            await scene.until_redelivered(other)
        finally:
            sleeper.send(signal.SIGCONT)
        scene.injected["freezes"] += 1


@fault("outcomes shuffled over two daemons")
async def shuffled(scene: Scene) -> None:
    """Decisions with 1 to 3 outcomes each, 4,000 in all, in any order; small batches, so that they race."""
    for _ in range(2):
        await scene.daemon(TRACKER_BATCH_MAX_ROWS="25")
    async for _ in scene.rounds(least=20, load=False):
        drafts = scene.agents.settled_stories(200)
        seen = set()
        for draft in drafts:
            if draft.fate == "outcome" and draft.decision_id not in seen:
                scene.injected["outcomes before their decision"] += 1
            elif draft.fate == "decision":
                seen.add(draft.decision_id)
        await scene.load.publish(*drafts)
