"""All policies at one time, read once and chosen by many times, without asking anyone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tracker_daemon.selection.contest import Contest
from tracker_daemon.selection.evidence import gather
from tracker_daemon.selection.standing import standings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tracker_daemon.postgres import Connection
    from tracker_daemon.selection.contest import Candidate, Choice
    from tracker_daemon.selection.standing import Standings


class Snapshot:
    """What was in force, and what was known, at `as_of`."""

    def __init__(self, as_of: datetime, known: Standings, contests: dict[tuple[str, str], Contest]) -> None:
        """Keep what was read; `load` reads it."""
        self.as_of = as_of
        self.known = known
        self.contests = contests

    @classmethod
    async def load(cls, connection: Connection, only: tuple[str, str] | None = None) -> Self:
        """Read all policies with their evidence, or the one of an agent and decision type.

        Ask inside `reading`; raises `InvalidQuestion` where there is no such policy, and `Illegible` where it
        cannot be read. Of all those that cannot are left out.
        """
        as_of: datetime = await connection.fetchval("SELECT now()")
        known = await standings(connection)
        wanted = known.of if only is None else {only: known.find(*only)}
        contests = {
            key: Contest(standing, await gather(connection, standing), as_of, off=known.off)
            for key, standing in wanted.items()
        }
        return cls(as_of, known, contests)

    def choose(
        self, agent_name: str, decision_type: str, key: str, candidates: Sequence[str] | None = None
    ) -> Choice:
        """Return which model decides, among all candidates or some.

        The same key has the same model as long as the snapshot is the same. Raises `InvalidQuestion` where no
        policy is set, for what is no candidate, and where none of those that are may decide.
        """
        return self._contest(agent_name, decision_type).choose(key, candidates)

    def candidates(self, agent_name: str, decision_type: str) -> tuple[Candidate, ...]:
        """Return how the candidates stand; raise `InvalidQuestion` where no policy is set."""
        return self._contest(agent_name, decision_type).candidates()

    def _contest(self, agent_name: str, decision_type: str) -> Contest:
        self.known.find(agent_name, decision_type)
        return self.contests[agent_name, decision_type]


async def select_model(
    connection: Connection,
    agent_name: str,
    decision_type: str,
    key: str,
    candidates: Sequence[str] | None = None,
) -> Choice:
    """Return which model decides, as the record is now; ask inside `reading`, and see `Snapshot.choose`."""
    snapshot = await Snapshot.load(connection, (agent_name, decision_type))
    return snapshot.choose(agent_name, decision_type, key, candidates)
