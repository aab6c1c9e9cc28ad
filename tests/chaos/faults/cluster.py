"""Of three nats-servers that hold the stream together, some are killed, restarted, or cede the lead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import orjson
from nats.js.errors import ServiceUnavailableError

from tests.chaos.agents import ANSWER_SECONDS
from tests.chaos.fault import fault

if TYPE_CHECKING:
    from tests.acceptance.command import Daemon
    from tests.chaos.scene import Scene

OUTAGE_SECONDS: Final = 10
REQUESTS_PER_SECOND: Final = 5
"""Once a second the daemon asks for stream, consumer, messages and the lag, so more than that is a spin."""
LINES: Final = 20
"""However long an outage is, the connection is lost, found, lost on the next server, and no answer comes."""


@fault("stream leader kill -9", quick=False, servers="cluster")
async def leader_killed(scene: Scene) -> None:
    """Two servers go on without it; it is started again before the next leader is killed."""
    await scene.daemon()
    async for _ in scene.rounds():
        await scene.cluster.start()
        await scene.cluster.kill(await _leader(scene))
        scene.injected["leaders killed"] += 1
    await scene.cluster.start()


@fault("leaders stepped down", servers="cluster")
async def stepped_down(scene: Scene) -> None:
    """The lead of the stream goes to another server, and that of the durable consumer."""
    await scene.daemon()
    name, durable = scene.stream.name, scene.stream.durable
    async for _ in scene.rounds():
        for kind, led in (("STREAM", name), ("CONSUMER", f"{name}.{durable}")):
            answer = await scene.stream.client.request(f"$JS.API.{kind}.LEADER.STEPDOWN.{led}", timeout=10)
            assert orjson.loads(answer.data).get("success"), answer.data
            scene.injected["leaders stepped down"] += 1


@fault("rolling restart of three servers", quick=False, servers="cluster")
async def restarted(scene: Scene) -> None:
    """Each leaves in good order, the one that the daemon is connected to too, and is back before the next."""
    await scene.daemon()
    async for _ in scene.rounds():
        for name in scene.chance.sample(sorted(scene.cluster.servers), len(scene.cluster.servers)):
            await scene.cluster.restart(name)
            scene.injected["restarts"] += 1


@fault("quorum lost and regained", quick=False, servers="cluster")
async def quorum_lost(scene: Scene) -> None:
    """The one server that is left can do nothing; the daemon waits, and wears out neither it nor the log."""
    daemon = await scene.daemon()
    clock = asyncio.get_running_loop().time
    async for _ in scene.rounds():
        survivor, *lost = scene.chance.sample(sorted(scene.cluster.servers), 3)
        said = _lines(daemon)
        async with scene.cluster.without(*lost):
            scene.injected["outages"] += 1
            await _refused(scene)
            await scene.until_obstacle(daemon, "nats")
            began, sent = clock(), await scene.cluster.sent_by(scene.stream.durable, survivor)
            for _ in range(OUTAGE_SECONDS):
                await asyncio.sleep(1)  # the length of the outage
                assert "nats" in await daemon.obstacles(), "ready, though nothing can be consumed"
            requests = await scene.cluster.sent_by(scene.stream.durable, survivor) - sent
            seconds, lines = clock() - began, _lines(daemon) - said
        assert requests <= REQUESTS_PER_SECOND * seconds, f"{requests} requests in {seconds:.0f} s"
        assert lines <= LINES, f"{lines} log lines in one outage"


async def _leader(scene: Scene) -> str:
    """The name of the server that leads the stream."""
    js = scene.stream.client.jetstream(timeout=ANSWER_SECONDS)

    async def leader() -> str | None:
        info = await js.stream_info(scene.stream.name)
        return info.cluster.leader if info.cluster else None

    name: str = await scene.eventually("the stream has a leader", leader)
    return name


async def _refused(scene: Scene) -> None:
    """Wait until the server that is left refuses: until then it may answer as the leader that it was.

    From then on each request is refused at once, so a spin shows.
    """
    js = scene.stream.client.jetstream(timeout=ANSWER_SECONDS)

    async def refused() -> bool:
        try:
            await js.consumer_info(scene.stream.name, scene.stream.durable)
        except ServiceUnavailableError:
            return True
        return False

    await scene.eventually("the server that is left refuses requests", refused)


def _lines(daemon: Daemon) -> int:
    """How many lines the daemon has logged about NATS."""
    return sum(line["logger"].startswith("tracker_daemon.consumer") for line in daemon.lines())
