"""Three daemons on one durable consumer are replaced, one by one, while messages come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.chaos.fault import fault
from tests.newer import EXPANDING, Newer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.acceptance.command import Daemon
    from tests.chaos.scene import Scene

DRAINED: Final = 0
DAEMONS: Final = 3


@fault("rolling restart of three daemons")
async def restarted(scene: Scene) -> None:
    """Each drains and leaves in good order, and another takes its place; two are always at work."""
    daemons = [await scene.daemon() for _ in range(DAEMONS)]
    async for _ in scene.rounds():
        await _replace(scene, daemons, {})


@fault("rolling upgrade, and back")
async def upgraded(scene: Scene) -> None:
    """The first of the newer version migrates the database while two of this one write; then both do."""
    newer = Newer(scene.folder / "newer", EXPANDING)
    daemons = [await scene.daemon() for _ in range(DAEMONS)]
    async for _ in scene.rounds():
        await _replace(scene, daemons, newer.environment)
        migrated = await (await scene.sql()).fetchval("SELECT max(number) FROM tracker_migrations")
        assert migrated == 999, f"the newer version has left the database at {migrated}"
        await _replace(scene, daemons, {})


async def _replace(scene: Scene, daemons: list[Daemon], environment: Mapping[str, str]) -> None:
    for place, daemon in enumerate(daemons):
        assert await daemon.stop() == DRAINED
        daemons[place] = await (await scene.daemon(**environment)).ready()
        scene.injected["restarts"] += 1
