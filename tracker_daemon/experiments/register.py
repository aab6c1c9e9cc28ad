"""The experiments that there are: begun, stopped, and never changed in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion, Misconfigured
from tracker_daemon.experiments.experiment import Definition, Experiment
from tracker_daemon.postgres import translated
from tracker_daemon.queries import asked

if TYPE_CHECKING:
    from asyncpg import Record

    from tracker_daemon.postgres import Connection

_BEGIN: Final = "INSERT INTO llm_experiments (name, definition) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_STOP: Final = "UPDATE llm_experiments SET stopped_at = now() WHERE name = $1 AND stopped_at IS NULL"
_FIND: Final = "SELECT name, definition, started_at, stopped_at FROM llm_experiments WHERE name = $1"
_ALL: Final = (
    "SELECT name, definition, started_at, stopped_at FROM llm_experiments ORDER BY started_at DESC, name"
)


class Illegible(Misconfigured):
    """What is written about an experiment or a policy cannot be read; all others can."""


class Register(Struct, frozen=True):
    """The experiments that can be read, the latest first; of the others, by name, why not."""

    legible: list[Experiment]
    illegible: dict[str, str]


async def begin(connection: Connection, definition: Definition) -> Experiment:
    """Start an experiment; one that runs by the same definition goes on as it is.

    Raises `InvalidQuestion` for what is no definition, and where the name is taken: what was assigned under
    it has other arms, or shares.
    """
    try:
        readable = asked(definition, Definition)
    except InvalidQuestion as error:
        raise InvalidQuestion(f"this is no experiment: {error}") from error
    if readable != definition:
        raise InvalidQuestion(f"the parameters of {definition.name} hold what JSON has not, such as NaN")
    with translated():
        async with connection.transaction():
            await connection.execute(_BEGIN, definition.name, msgspec.json.encode(definition).decode())
            experiment = await _found(connection, definition.name)
    if experiment.definition != definition:
        raise InvalidQuestion(
            f"{definition.name} has begun with other arms, shares or aims, and an experiment cannot change "
            "in mid-flight: stop it, and begin another under a new name"
        )
    if experiment.stopped_at is not None:
        raise InvalidQuestion(f"{definition.name} has been stopped: begin another under a new name")
    return experiment


async def stop(connection: Connection, name: str) -> Experiment:
    """Stop an experiment, for good; one that is stopped stays so."""
    with translated():
        async with connection.transaction():
            await connection.execute(_STOP, name)
            return await _found(connection, name)


async def find(connection: Connection, name: str) -> Experiment:
    """Return the experiment of that name; raise `InvalidQuestion` where there is none."""
    with translated():
        async with connection.transaction(readonly=True):
            return await _found(connection, name)


async def experiments(connection: Connection) -> Register:
    """Return all experiments; one that cannot be read takes no other down."""
    with translated():
        async with connection.transaction(readonly=True):
            rows = await connection.fetch(_ALL)
    found = Register([], {})
    for row in rows:
        try:
            found.legible.append(_experiment(row))
        except Illegible as error:
            found.illegible[row["name"]] = str(error)
    return found


async def _found(connection: Connection, name: str) -> Experiment:
    row = await connection.fetchrow(_FIND, name)
    if row is None:
        raise InvalidQuestion(f"there is no experiment {name}; see tracker-daemon experiment list")
    return _experiment(row)


def _experiment(row: Record) -> Experiment:
    try:
        definition = msgspec.json.decode(row["definition"], type=Definition)
    except (msgspec.DecodeError, InvalidQuestion, RecursionError) as error:
        raise Illegible(
            f"the experiment {row['name']} cannot be read: {error}; if a later version of tracker-daemon has "
            "begun it, update this one"
        ) from error
    return Experiment(definition=definition, started_at=row["started_at"], stopped_at=row["stopped_at"])
