"""What choices are made from, as it was read at one time: experiments, and models with their evidence."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Illegible, experiments
from tracker_daemon.selection import Snapshot
from tracker_daemon.selection.contest import Contest
from tracker_daemon.selection.evidence import gather
from tracker_daemon.selection.standing import standings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tracker_daemon.experiments import Experiment, Register
    from tracker_daemon.postgres import Connection
    from tracker_daemon.selection import Standing

EVIDENCE_SECONDS: Final = 30.0
"""How old evidence may become: of a busy agent it takes a part of a second to add up."""


class Entry(NamedTuple):
    """One policy at work, and since when with this evidence."""

    contest: Contest
    gathered_at: datetime


class Known:
    """All experiments by name, and all policies; pins, switches and benches are those of `as_of`."""

    def __init__(
        self,
        as_of: datetime,
        trials: Register,
        models: Snapshot,
        entries: Mapping[tuple[str, str], Entry],
        began: float,
    ) -> None:
        """Keep what was read, from `began` on by the monotonic clock; `read` reads it."""
        self.as_of = as_of
        self._experiments = {each.definition.name: each for each in trials.legible}
        self._illegible = trials.illegible
        self.models = models
        self.entries = entries
        self._began = began

    @property
    def illegible(self) -> frozenset[str]:
        """Of each experiment and policy that cannot be read, why not."""
        return frozenset([*self._illegible.values(), *self.models.known.illegible.values()])

    def experiment(self, name: str) -> Experiment:
        """Return one; raise `InvalidQuestion` where there is none, `Illegible` where it cannot be read."""
        if why := self._illegible.get(name):
            raise Illegible(why)
        if name not in self._experiments:
            raise InvalidQuestion(f"there is no experiment {name}; see tracker-daemon experiment list")
        return self._experiments[name]

    @property
    def age_seconds(self) -> float:
        """How long ago it was so."""
        return time.monotonic() - self._began

    @classmethod
    async def read(cls, connection: Connection, before: Self | None = None) -> Self:
        """Read what there is; ask inside `reading`. Of `before` is taken what has not changed since."""
        began = time.monotonic()
        as_of: datetime = await connection.fetchval("SELECT now()")
        trials = await experiments(connection)
        in_force = await standings(connection)
        entries = {}
        for key, standing in in_force.of.items():
            entry = before.entries.get(key) if before is not None else None
            if entry is None or not _holds(entry, standing, as_of, off=in_force.off):
                contest = Contest(standing, await gather(connection, standing), as_of, off=in_force.off)
                # What takes computing, now and beside the loop: not when somebody waits for a choice.
                await asyncio.to_thread(contest.candidates)
                entry = Entry(contest, as_of)
            entries[key] = entry
        contests = {key: entry.contest for key, entry in entries.items()}
        return cls(as_of, trials, Snapshot(as_of, in_force, contests), entries, began)


def _holds(entry: Entry, standing: Standing, as_of: datetime, *, off: bool) -> bool:
    young = (as_of - entry.gathered_at).total_seconds() < EVIDENCE_SECONDS
    return young and (entry.contest.standing, entry.contest.off) == (standing, off or standing.off)
