"""What was changed about a selection: each change a row that stays, and an event on `llm.alerts`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID, uuid4

import orjson
from msgspec import Struct, field

from tracker_daemon.errors import Unavailable
from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.postgres import Connection

Kind = Literal[
    "defined", "promoted", "benched", "retried", "pinned", "unpinned", "switched_off", "switched_on"
]
EVERYBODY: Final = ""
"""In place of an agent: what is about all agents."""

_KEEP: Final = """
INSERT INTO llm_selection_events (agent_name, number, id, decision_type, kind, model, reason, figures)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
"""
_SAY: Final = """
INSERT INTO llm_alerts (id, kind, scope, name, number, state, body)
VALUES ($1, 'selection', 'agent', $2, $3, $4, $5)
"""
_EVENTS: Final = """
SELECT id, agent_name, decision_type, kind, model, reason, figures, role, created_at
FROM llm_selection_events
WHERE ($1::text IS NULL OR agent_name IN ($1, '')) ORDER BY created_at DESC, agent_name, number DESC LIMIT $2
"""


class Overtaken(Unavailable):
    """Somebody else has changed the same selection in between: look again, and decide anew."""


class Change(Struct, frozen=True, kw_only=True):
    """What is to be changed, and why, in words and in figures."""

    agent_name: str
    decision_type: str | None
    kind: Kind
    model: str | None = None
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


class Event(Struct, frozen=True, kw_only=True):
    """A change that was made, when, and by which role of the database; no agent means all of them."""

    id: UUID
    agent_name: str | None
    decision_type: str | None
    kind: Kind
    model: str | None
    reason: str
    figures: dict[str, Any]
    role: str
    created_at: datetime


async def keep(connection: Connection, changes: Sequence[Change], numbers: Mapping[str, int]) -> None:
    """Keep changes, which count on from the last `numbers` of their agents, and have them published.

    In the caller's transaction; raises `Overtaken` where a number is taken.
    """
    last = dict(numbers)
    for change in changes:
        number = last[change.agent_name] = last.get(change.agent_name, 0) + 1
        id_, figures = uuid4(), orjson.dumps(change.figures).decode()
        kept = await connection.execute(
            _KEEP,
            change.agent_name,
            number,
            id_,
            change.decision_type,
            change.kind,
            change.model,
            change.reason,
            figures,
        )
        if kept != "INSERT 0 1":
            raise Overtaken(f"the selection for {change.agent_name or 'all agents'} has changed meanwhile")
        await connection.execute(_SAY, id_, change.agent_name, number, change.kind, _body(id_, change))


def _body(id_: UUID, change: Change) -> str:
    body: dict[str, Any] = {
        "id": id_,
        "timestamp": datetime.now(UTC),
        "kind": "selection",
        "state": change.kind,
        "agent": change.agent_name or None,
        "decision_type": change.decision_type,
        "model": change.model,
        "reason": change.reason,
        "figures": change.figures,
    }
    return orjson.dumps({name: value for name, value in body.items() if value is not None}).decode()


async def events(connection: Connection, agent_name: str | None = None, limit: int = 100) -> list[Event]:
    """Return the latest changes, the latest first: of all agents, or of one with those that are about all."""
    with translated():
        async with connection.transaction(readonly=True):
            rows = await connection.fetch(_EVENTS, agent_name, limit)
    return [
        Event(
            **{
                **row,
                "agent_name": row["agent_name"] or None,
                "figures": orjson.loads(row["figures"]),
            }
        )
        for row in map(dict, rows)
    ]
