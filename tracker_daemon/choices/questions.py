"""The two questions, as JSON: they are answered by what is known, without a word to the database."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import asdict

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Assignment, assign, find
from tracker_daemon.queries import QUESTIONS
from tracker_daemon.selection import Choice, Snapshot

if TYPE_CHECKING:
    from tracker_daemon.choices.known import Known
    from tracker_daemon.experiments import Experiment
    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries import Question

Name = Annotated[str, Meta(min_length=1, max_length=100)]
"""Of an experiment, an agent, a model."""
Key = Annotated[str, Meta(min_length=1, max_length=1000)]


class Assigned(Assignment, frozen=True, kw_only=True):
    """Which arm a unit gets, by what was known at `as_of`, `age_seconds` ago."""

    as_of: datetime
    age_seconds: float


class Assign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which arm of an experiment does a unit get? As long as it runs, always the same."""

    experiment: Name
    unit: Key

    async def answer(self, connection: Connection) -> Assigned:
        """Ask inside `reading`; raise `InvalidQuestion` where no such experiment runs."""
        as_of: datetime = await connection.fetchval("SELECT now()")
        return self._of(await find(connection, self.experiment), as_of, 0.0)

    def among(self, known: Known) -> Assigned:
        """The same by what is known."""
        return self._of(known.experiment(self.experiment), known.as_of, known.age_seconds)

    def _of(self, found: Experiment, as_of: datetime, age: float) -> Assigned:
        if found.stopped_at is not None:
            raise InvalidQuestion(
                f"{self.experiment} is stopped since {found.stopped_at:%Y-%m-%d %H:%M:%S} UTC, and gives "
                "nobody an arm: decide by your default"
            )
        told = assign(found.definition, self.unit)
        return Assigned(**asdict(told), as_of=as_of, age_seconds=age)


class Selected(Choice, frozen=True, kw_only=True):
    """Which model decides; pins and switches are those of `age_seconds` ago, evidence that of `as_of`."""

    age_seconds: float


class Select(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model is to decide, among all candidates of the policy or some? `key`: what is decided about."""

    agent_name: Name
    decision_type: Annotated[str, Meta(min_length=1, max_length=50)]
    key: Key
    candidates: Annotated[tuple[Name, ...], Meta(min_length=1)] | None = None

    async def answer(self, connection: Connection) -> Selected:
        """Ask inside `reading`; raise `InvalidQuestion` as `Snapshot.choose` does."""
        models = await Snapshot.load(connection, (self.agent_name, self.decision_type))
        return self._of(models, 0.0)

    def among(self, known: Known) -> Selected:
        """The same by what is known."""
        return self._of(known.models, known.age_seconds)

    def _of(self, models: Snapshot, age: float) -> Selected:
        choice = models.choose(self.agent_name, self.decision_type, self.key, self.candidates)
        return Selected(**asdict(choice), age_seconds=age)


CHOICES: Final[dict[str, type[Assign | Select]]] = {"assign": Assign, "select": Select}
"""The two by the name under which they are asked."""

ENDPOINTS: Final[dict[str, type[Question | Assign | Select]]] = {**QUESTIONS, **CHOICES}
"""All that is answered over NATS."""
