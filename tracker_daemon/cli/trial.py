"""What `tracker-daemon demo --experiment` does: compare two rules, and let the better one decide."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tracker_daemon.choices import Assign, Select
from tracker_daemon.cli import experiment
from tracker_daemon.cli.terminal import console
from tracker_daemon.client import DecisionTracker
from tracker_daemon.demo import market
from tracker_daemon.demo.desk import DECISION_TYPE, MODELS, Desk
from tracker_daemon.errors import InvalidQuestion, Unavailable
from tracker_daemon.experiments import Arm, Definition, begin, experiment_results
from tracker_daemon.postgres import connected
from tracker_daemon.queries import reading
from tracker_daemon.selection import Policy, set_policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncpg import Record

    from tracker_daemon.client import Chosen
    from tracker_daemon.demo.desk import Occasion
    from tracker_daemon.embedded import EmbeddedServers
    from tracker_daemon.experiments import Experiment, Results
    from tracker_daemon.postgres import Connection

    Choose = Callable[[str], Awaitable[Chosen]]

COMPARED: Final = 2 / 3
"""The part of all occasions that goes to the experiment."""
AT_ONCE: Final = 8
PATIENCE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.2

_STORED: Final = "SELECT count(*) = $2 AND count(outcome) = $2 FROM llm_decisions WHERE agent_name = $1"
_MODELS: Final = """
WITH decided AS (
    SELECT CASE WHEN experiment IS NOT NULL THEN 'experiment' WHEN propensity IS NOT NULL THEN 'selection'
           ELSE 'default' END AS by, model, outcome, pnl
    FROM llm_decisions WHERE agent_name = $1
)
SELECT by, model, count(*) AS decisions, count(*) / sum(count(*)) OVER (PARTITION BY by) AS share,
       avg((outcome = 'SUCCESS')::int) AS success, avg(pnl) AS pnl
FROM decided GROUP BY by, model ORDER BY by, model DESC
"""


class Trial:
    """One agent over NATS, beside a daemon that stores what it decides and says by which rule to."""

    def __init__(self, tracker: DecisionTracker, connection: Connection, desk: Desk) -> None:
        """Keep what is there."""
        self._tracker = tracker
        self._connection = connection
        self._desk = desk
        self._stored = 0

    async def run(self) -> None:
        """Compare, print what that has shown, select, and print who decided."""
        name, occasions, out = self._desk.name, self._desk.occasions, console()
        first = round(len(occasions) * COMPARED)
        trial = await self._begin()
        await self._results(trial)  # without scipy it fails now, and not after all the work
        out.print(f"Experiment {name}: {first:,} decisions, by the rule that a hash gives each …")
        await self._known(Assign(experiment=name, unit=occasions[0].key))
        await self._decide(occasions[:first], lambda key: self._tracker.assign(name, key, default=MODELS[0]))
        experiment.print_results(await self._results(trial))
        await set_policy(self._connection, self._policy())
        out.print(f"\nPolicy thompson: {len(occasions) - first:,} more, by the rule that it selects …")
        whom = name, DECISION_TYPE
        await self._known(Select(agent_name=name, decision_type=DECISION_TYPE, key=occasions[0].key))
        await self._decide(
            occasions[first:], lambda key: self._tracker.select_model(*whom, key, default=MODELS[0])
        )
        out.print(_models(await self._connection.fetch(_MODELS, name)))

    async def _begin(self) -> Experiment:
        half = Decimal("0.5")
        arms = tuple(Arm(name=model.partition("/")[2], share=half, model=model) for model in MODELS)
        definition = Definition(name=self._desk.name, arms=arms, minimum_effect=0.05)
        return await begin(self._connection, definition)

    async def _results(self, trial: Experiment) -> Results:
        async with reading(self._connection):
            return await experiment_results(self._connection, trial)

    def _policy(self) -> Policy:
        # The market's thirteen years lie behind us, and all of them are to count.
        return Policy(
            agent_name=self._desk.name,
            decision_type=DECISION_TYPE,
            candidates=MODELS,
            default=MODELS[0],
            half_life_days=3650,
        )

    async def _decide(self, occasions: Sequence[Occasion], choose: Choose) -> None:
        """Decide on each occasion, and return once all of it is stored."""

        async def stored() -> bool:
            return bool(await self._connection.fetchval(_STORED, self._desk.name, self._stored))

        columns = TextColumn("{task.completed:>7,.0f}"), BarColumn(bar_width=12), TimeElapsedColumn()
        with Progress(*columns, console=console()) as progress:
            task = progress.add_task("", total=len(occasions))
            for start in range(0, len(occasions), AT_ONCE):
                some = occasions[start : start + AT_ONCE]
                # First all answers, as what the rules compute would keep this program from hearing them.
                chosen = await asyncio.gather(*(choose(occasion.key) for occasion in some))
                for occasion, each in zip(some, chosen, strict=True):
                    await self._act(occasion, each)
                await self._tracker.flush()
                progress.update(task, advance=len(some))
        self._stored += len(occasions)
        await _soon(stored, "the daemon does not store what is decided")

    async def _known(self, question: Assign | Select) -> None:
        """Wait until the daemon knows what it is asked for: it looks every two seconds."""

        async def known() -> bool:
            with suppress(InvalidQuestion):
                await self._tracker.ask(question)
                return True
            return False

        await _soon(known, "the daemon does not say by which rule to decide")

    async def _act(self, occasion: Occasion, chosen: Chosen) -> None:
        made, came = self._desk.decide(occasion, chosen.model)
        await self._tracker.track_decision(**made | chosen.fields())
        known = came.pop("decision_id"), came.pop("outcome"), came.pop("pnl")
        await self._tracker.update_decision_outcome(*known, **came)


async def run(servers: EmbeddedServers, limit: int | None) -> None:
    """Let an agent, with a name of its own each time, decide beside the daemon of these servers."""
    now = datetime.now(UTC)
    desk = Desk(market.load(now), f"desk-{now:%Y%m%d-%H%M%S}", limit)
    async with (
        connected(servers.postgres.dsn()) as connection,
        DecisionTracker.over_nats(servers.nats.url) as tracker,
    ):
        await Trial(tracker, connection, desk).run()


async def _soon(condition: Callable[[], Awaitable[bool]], trouble: str) -> None:
    clock = asyncio.get_running_loop().time
    until = clock() + PATIENCE_SECONDS
    while not await condition():
        if clock() > until:
            raise Unavailable(f"{trouble}: see daemon.log in the demo's folder")
        await asyncio.sleep(LOOK_SECONDS)


def _models(rows: Sequence[Record]) -> Table:
    """Who decided, in either part."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("by", "model", "decisions", "share", "success", "mean P&L"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["by"],
            row["model"],
            f"{row['decisions']:,}",
            f"{row['share']:.1%}",
            f"{row['success']:.1%}",
            f"{row['pnl']:+,.2f}",
        )
    return table
