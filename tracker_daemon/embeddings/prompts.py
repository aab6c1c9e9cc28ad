"""The prompts that lack an embedding: which they are, and the UPDATE that gives them one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from msgspec import Struct

from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from tracker_daemon.embeddings.provider import Embedding
    from tracker_daemon.postgres import Connection

TELLING: Final = r"left(prompt, $1) ~ '\S'"
"""Whether a prompt can have an embedding: nothing but white space has none."""


class Which(Struct, frozen=True):
    """Decisions that are to get an embedding, by a `condition` in SQL; `again`: they have one."""

    condition: str
    again: bool = False


LACKING: Final = Which("prompt_embedding IS NULL")


def of_models(models: Iterable[str]) -> Which:
    """Decisions whose embeddings are of these models, to get new ones."""
    names = ", ".join(map(_literal, models))
    return Which(f"embedding_model IN ({names})", again=True)


_READ: Final = f"""
SELECT id, left(prompt, $1) AS text FROM llm_decisions
WHERE id = ANY($2::uuid[]) AND {{which}} AND {TELLING} ORDER BY id
"""
# All of it is one message, transaction and all: a daemon that freezes keeps no row locked from the projection
# of outcomes. In a deadlock with that, this one gives way: its patience is less than `deadlock_timeout`. Each
# decision has an UPDATE of its own, by its key, which is what Citus routes; one for all costs as much.
_BEGIN: Final = "SET LOCAL lock_timeout = '500ms'"
_FILL: Final = """
UPDATE llm_decisions
SET prompt_embedding = '{numbers}', embedding_model = {model}
WHERE id = '{id}' AND {which}
"""
_ENQUEUE: Final = """
INSERT INTO llm_embedding_queue (decision_id)
SELECT id FROM llm_decisions WHERE id = ANY('{{{ids}}}'::uuid[])
ON CONFLICT DO NOTHING
"""
# Out of the queue first: whoever is moving them into the index at the time is waited for, or waits and then
# sees the new ones.
_REQUEUE: Final = f"""
DELETE FROM llm_embedding_queue WHERE decision_id = ANY('{{{{{{ids}}}}}}'::uuid[]);
{_ENQUEUE};
DELETE FROM llm_embedding_index WHERE decision_id = ANY('{{{{{{ids}}}}}}'::uuid[])
"""


async def read(connection: Connection, which: Which, ids: Sequence[UUID], characters: int) -> dict[UUID, str]:
    """What the prompts of those among some decisions begin with, at most so many characters."""
    query = _READ.format(which=which.condition)
    with translated():
        async with connection.transaction(readonly=True):
            return {row["id"]: row["text"] for row in await connection.fetch(query, characters, ids)}


async def fill(
    connection: Connection, which: Which, model: str, embeddings: Mapping[UUID, Embedding]
) -> None:
    """Give decisions their embeddings, and queue them for the index; one not of these keeps its own."""
    updates = [
        _FILL.format(
            model=_literal(model),
            id=id_,
            which=which.condition,
            numbers=orjson.dumps(embeddings[id_].tolist()).decode(),
        )
        for id_ in sorted(embeddings)
    ]
    queue = (_REQUEUE if which.again else _ENQUEUE).format(ids=",".join(map(str, sorted(embeddings))))
    statements = [queue, *updates] if which.again else [*updates, queue]
    with translated():
        await connection.execute(";".join([_BEGIN, *statements]))


def _literal(name: str) -> str:
    """In hexadecimal digits, which no server's settings make anything else of."""
    return f"convert_from(decode('{name.encode().hex()}', 'hex'), 'UTF8')"
