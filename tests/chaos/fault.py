"""A fault of the failure matrix, and how it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from tests.chaos.judge import Verdict
from tests.chaos.scene import Report, Scene

if TYPE_CHECKING:
    from pathlib import Path

    from tracker_daemon.embedded import NatsServer, PostgresServer

FAULTS: list[Fault] = []
"""Every fault there is, in the order of the table; each module of faults adds its own."""


class Fault(Struct, frozen=True):
    """What is done to a scene: `play` injects it once in each round; `quick`: fit for every test run.

    `servers`: whether the scene has one nats-server or a cluster of three.
    """

    name: str
    play: Callable[[Scene], Awaitable[None]]
    quick: bool
    servers: Literal["one", "cluster"]

    async def run(
        self,
        nats: NatsServer,
        postgres: PostgresServer,
        folder: Path,
        *,
        rounds: int,
        seed: int,
        whole: bool = True,
        package: Path | None = None,
    ) -> Report:
        """Play the fault in a scene of its own and return the report."""
        scene = Scene(
            nats,
            postgres,
            folder,
            rounds=rounds,
            seed=seed,
            whole=whole,
            package=package,
            clustered=self.servers == "cluster",
        )
        async with scene:
            await self.play(scene)
            return await scene.conclude()


def fault(
    name: str, *, quick: bool = True, servers: Literal["one", "cluster"] = "one"
) -> Callable[[Callable[[Scene], Awaitable[None]]], Fault]:
    """Make a fault of the function that injects it."""

    def register(play: Callable[[Scene], Awaitable[None]]) -> Fault:
        made = Fault(name, play, quick, servers)
        FAULTS.append(made)
        return made

    return register


def failed(error: BaseException) -> Report:
    """What is reported of a scene that did not come to its end."""
    return Report(Counter(), [], 0, Verdict(0, [], [], [f"{type(error).__name__}: {error}"]))
