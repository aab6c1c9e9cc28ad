"""Messages that no table can take, alone and in numbers."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.chaos.agents import POISON
from tests.chaos.fault import fault

if TYPE_CHECKING:
    from tests.chaos.scene import Scene

REFUSED = "REFUSED"
"""A symbol that the decoder takes and a rule on the table does not."""
RULE = f"ALTER TABLE llm_decisions ADD CONSTRAINT known_symbol CHECK (symbol <> '{REFUSED}')"


@fault("poison of every kind")
async def every_kind(scene: Scene) -> None:
    """All that the decoder refuses, among good messages."""
    scene.counts_are_exact = True
    await scene.daemon()
    async for _ in scene.rounds():
        await scene.load.publish(*map(scene.agents.poison, POISON))
        scene.injected["payloads refused"] += len(POISON)


@fault("rows that the database refuses")
async def refused_rows(scene: Scene) -> None:
    """First, in the middle, last, and several in one batch; one writer, so that it is one batch."""
    await (await scene.sql()).execute(RULE)
    scene.counts_are_exact = True
    await scene.daemon(TRACKER_POSTGRES_WRITERS="1", TRACKER_BATCH_FLUSH_INTERVAL_SECONDS="0.5")
    async for number in scene.rounds():
        drafts = [scene.agents.decision() for _ in range(19)]
        for place in ((0,), (9,), (18,), (0, 3, 4, 9, 18))[number % 4]:
            drafts[place] = scene.agents.refused(symbol=REFUSED)
            scene.injected["rows refused"] += 1
        await scene.load.publish(*drafts)


@fault("dead letters cannot be stored")
async def no_dead_letters(scene: Scene) -> None:
    """Good rows are committed all the while; what has no dead letter stays with the stream."""
    sql = await scene.sql()
    daemon = await scene.daemon()
    async for number in scene.rounds():
        await sql.execute("ALTER TABLE llm_dead_letters ADD CONSTRAINT none CHECK (false) NOT VALID")
        await scene.load.publish(scene.agents.poison(), scene.agents.decision())
        await scene.until_said(daemon, "a dead letter cannot be stored", number + 1)
        scene.injected["letters refused"] += 1
        await sql.execute("ALTER TABLE llm_dead_letters DROP CONSTRAINT none")


@fault("drift: the database refuses every decision")
async def drift(scene: Scene) -> None:
    """Writing pauses and resumes by itself; the few that became dead letters before are replayed."""
    sql = await scene.sql()
    daemon = await scene.daemon()
    async for _ in scene.rounds():
        await sql.execute(
            "ALTER TABLE llm_decisions ADD CONSTRAINT narrower CHECK (symbol <> 'BTC') NOT VALID"
        )
        await scene.until_paused(daemon)
        scene.injected["rules"] += 1
        await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT narrower")
        await scene.recovered()
        await scene.command("dead-letters", "replay", "--all", "--reason", "rejected_by_database")
        await scene.command("dead-letters", "purge")


@fault("drift overridden: the messages are to blame")
async def drift_overridden(scene: Scene) -> None:
    """Writing pauses until an operator has sent SIGUSR1; then the refused are dead letters."""
    await (await scene.sql()).execute(RULE)
    daemon = await scene.daemon()
    async for number in scene.rounds():
        await scene.until_said(daemon, "as before SIGUSR1", number)
        refused = [scene.agents.refused(symbol=REFUSED) for _ in range(100)]
        await scene.load.stop()  # which on a busy machine publishes enough in between for no drift to show
        await scene.load.publish(*refused)
        await scene.load.start()
        await scene.until_paused(daemon)
        daemon.send(signal.SIGUSR1)
        scene.injected["rows refused"] += len(refused)
