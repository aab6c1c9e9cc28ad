"""The prompts that lack an embedding: which they are, and the UPDATE that gives them one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tracker_daemon.embeddings.provider import Embedding
    from tracker_daemon.postgres import Connection

LACKING: Final = r"prompt_embedding IS NULL AND left(prompt, $1) ~ '\S'"
"""Whether a decision is to get an embedding: of nothing but white space there is none."""

_READ: Final = f"""
SELECT id, left(prompt, $1) AS text FROM llm_decisions WHERE id = ANY($2::uuid[]) AND {LACKING} ORDER BY id
"""
# All of it is one message, transaction and all: a daemon that freezes keeps no row locked from the projection
# of outcomes. In a deadlock with that, this one gives way: its patience is less than `deadlock_timeout`. Each
# decision has an UPDATE of its own, by its key, which is what Citus routes; one for all costs as much. The
# model's name comes in hexadecimal digits, which no server's settings make anything else of.
_BEGIN: Final = "SET LOCAL lock_timeout = '500ms'"
_FILL: Final = """
UPDATE llm_decisions
SET prompt_embedding = '{numbers}', embedding_model = convert_from(decode('{model}', 'hex'), 'UTF8')
WHERE id = '{id}' AND prompt_embedding IS NULL
"""
_ENQUEUE: Final = """
INSERT INTO llm_embedding_queue (decision_id)
SELECT id FROM llm_decisions WHERE id = ANY('{{{ids}}}'::uuid[])
ON CONFLICT DO NOTHING
"""


async def read(connection: Connection, ids: Sequence[UUID], characters: int) -> dict[UUID, str]:
    """What the prompts of those decisions that have no embedding begin with, at most so many characters."""
    with translated():
        async with connection.transaction(readonly=True):
            return {row["id"]: row["text"] for row in await connection.fetch(_READ, characters, ids)}


async def fill(connection: Connection, model: str, embeddings: Mapping[UUID, Embedding]) -> None:
    """Give decisions their embeddings, and queue them for the vector index; one that has one keeps it."""
    name = model.encode().hex()
    updates = [
        _FILL.format(model=name, id=id_, numbers=orjson.dumps(embeddings[id_].tolist()).decode())
        for id_ in sorted(embeddings)
    ]
    enqueue = _ENQUEUE.format(ids=",".join(map(str, embeddings)))
    with translated():
        await connection.execute(";".join([_BEGIN, *updates, enqueue]))
