"""Who has fallen below the floor, and who has recovered: each change once, kept and published."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal
from uuid import uuid4

import orjson
from msgspec import Struct

from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tracker_daemon.postgres import Connection
    from tracker_daemon.scores.score import Score

KIND: Final = "low_success"
EVIDENCE: Final = 10
"""Resolved decisions without which nothing is said: of fewer, Wilson's interval is too sure near 0 and 1."""
State = Literal["raised", "cleared"]

_STATES: Final = """
SELECT DISTINCT ON (scope, name) scope, name, number, state
FROM llm_alerts WHERE kind = $1
ORDER BY scope, name, number DESC
"""
# Of two daemons that both believe to hold the lease, one finds the number taken.
_RECORD: Final = """
INSERT INTO llm_alerts (id, kind, scope, name, number, state, body)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
"""
_WAITING: Final = (
    "SELECT id, body FROM llm_alerts WHERE published_at IS NULL ORDER BY created_at, scope, name, number"
)
_PUBLISHED: Final = "UPDATE llm_alerts SET published_at = now() WHERE id = $1"


class Standing(Struct, frozen=True):
    """The last change of an agent or model: its number, and what it said."""

    number: int = 0
    state: State = "cleared"


def change(score: Score, floor: float, state: State) -> State | None:
    """What a score changes; None: nothing.

    Raised when even the upper end of the interval lies below the floor, cleared when the rate itself is back
    at it: between the two nothing is said, so that chance alone does not raise and clear in turns.
    """
    if score.resolved < EVIDENCE:
        return None
    if state == "cleared" and score.interval[1] < floor:
        return "raised"
    if state == "raised" and score.rate >= floor:
        return "cleared"
    return None


async def record_changes(connection: Connection, scores: Sequence[Score], floor: float) -> None:
    """Keep every change against what was kept last."""
    with translated():
        async with connection.transaction():
            rows = await connection.fetch(_STATES, KIND)
            standing = {(row["scope"], row["name"]): Standing(row["number"], row["state"]) for row in rows}
            for score in scores:
                last = standing.get((score.scope, score.name), Standing())
                if (state := change(score, floor, last.state)) is not None:
                    number = last.number + 1
                    await connection.execute(_RECORD, *_row(score, floor, number, state))


def _row(score: Score, floor: float, number: int, state: State) -> tuple[object, ...]:
    id_ = uuid4()
    lower, upper = score.interval
    body = {
        "id": id_,
        "timestamp": datetime.now(UTC),
        "kind": KIND,
        "state": state,
        score.scope: score.name,
        "floor": floor,
        "successful": score.successes,
        "failed": score.failures,
        "resolved_success_rate": score.rate,
        "lower": lower,
        "upper": upper,
    }
    return id_, KIND, score.scope, score.name, number, state, orjson.dumps(body).decode()


async def waiting_changes(connection: Connection) -> list[tuple[UUID, bytes]]:
    """What was kept and not published yet, in order: id, and the JSON to publish."""
    with translated():
        async with connection.transaction(readonly=True):
            return [(row["id"], row["body"].encode()) for row in await connection.fetch(_WAITING)]


async def mark_published(connection: Connection, id_: UUID) -> None:
    """Keep that a change was published; whoever dies before publishes it again, under the same id."""
    with translated():
        async with connection.transaction():
            await connection.execute(_PUBLISHED, id_)
