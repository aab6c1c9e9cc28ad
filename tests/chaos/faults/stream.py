"""NATS goes away, hangs, loses acknowledgements; the stream or its consumer is deleted, made anew, purged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.chaos.agents import BURST
from tests.chaos.fault import fault
from tests.chaos.scene import ACK_WAIT_SECONDS
from tests.servers import Away

if TYPE_CHECKING:
    from tests.chaos.scene import Scene


async def _away(scene: Scene, how: str) -> None:
    scene.counts_are_exact = True
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        async with Away(scene.nats, how):
            scene.injected["outages"] += 1
            await scene.until_obstacle(daemon, "nats")


@fault("NATS restarted")
async def restarted(scene: Scene) -> None:
    await _away(scene, "stopped")


@fault("NATS kill -9")
async def crashed(scene: Scene) -> None:
    await _away(scene, "killed")


@fault("NATS frozen (SIGSTOP)")
async def frozen(scene: Scene) -> None:
    await _away(scene, "frozen")


@fault("connections to NATS cut")
async def cut(scene: Scene) -> None:
    await scene.daemon()
    async for _ in scene.rounds():
        scene.nats_proxy.reset()
    scene.injected["connections cut"] = scene.nats_proxy.cut


@fault("connections to NATS stalled")
async def stalled(scene: Scene) -> None:
    """Nothing goes through for a while; then all of it does."""
    await scene.daemon()
    async for _ in scene.rounds():
        scene.nats_proxy.hold()
        await scene.load.flow(500)
        scene.nats_proxy.release()
        scene.injected["stalls"] += 1


@fault("packets to NATS dropped", quick=False)
async def dropped(scene: Scene) -> None:
    """The connection that is open goes silent for ever; those opened later are well again."""
    daemon = await scene.daemon()
    async for _ in scene.rounds(most=5):
        scene.injected["connections silenced"] += scene.nats_proxy.strand()
        await scene.until_obstacle(daemon, "nats")


@fault("acks lost")
async def acks_lost(scene: Scene) -> None:
    """What was committed comes again, is recognised, and is acknowledged then."""
    scene.counts_are_exact = True
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        scene.nats_proxy.drop_acks = True
        await scene.until_redelivered(daemon)
        scene.nats_proxy.drop_acks = False
    scene.injected["acks lost"] = scene.nats_proxy.acks_dropped


@fault("flush longer than the ack wait")
async def long_flush(scene: Scene) -> None:
    """What is held is not delivered again, for however long a batch is being written."""
    sql = await scene.sql()
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_decisions IN EXCLUSIVE MODE")
            await scene.load.flow(100)
            await asyncio.sleep(2 * ACK_WAIT_SECONDS)  # the length of the flush
        scene.injected["long flushes"] += 1
    assert (await daemon.metrics())("redeliveries_total") == 0


@fault("durable consumer deleted")
async def consumer_deleted(scene: Scene) -> None:
    """It is made again, and everything in the stream comes again."""
    await scene.daemon()
    scene.load.rate = 100
    async for _ in scene.rounds():
        await scene.stream.delete_durable()
        scene.injected["consumers deleted"] += 1


@fault("stream deleted and made again")
async def stream_deleted(scene: Scene) -> None:
    """Sequences begin anew with 1; no message of the new stream is taken for one of the old."""
    await scene.daemon()
    async for number in scene.rounds():
        await scene.load.stop()
        await scene.recovered()
        await scene.stream.remove()
        if number % 2:  # else the daemon makes both
            await scene.stream.make()
        scene.injected["streams deleted"] += 1
        await scene.load.start()
        await scene.load.flow(2 * BURST)


@fault("stream purged")
async def purged(scene: Scene) -> None:
    """What nobody had seen is gone, and counted; what was held is committed."""
    sql = await scene.sql()
    daemon = await scene.daemon(TRACKER_BATCH_MAX_ROWS="10")
    async for _ in scene.rounds():
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_decisions IN EXCLUSIVE MODE")
            await scene.load.flow(200)  # more than there is room for
            await scene.load.stop()
            delivered = await scene.stream.delivered()
            await scene.stream.purge()
            seen = [item for item in scene.load.confirmed if item.sequence <= delivered]
            scene.injected["messages purged"] += len(scene.load.confirmed) - len(seen)
            scene.load.confirmed[:] = seen
        await scene.load.start()
        await scene.load.flow(1)
    gaps = (await daemon.metrics())("stream_gap_messages_total")
    assert gaps == scene.injected["messages purged"], f"{gaps:.0f} messages were counted as missing"
