"""The decisions whose prompts are nearest to an embedding, whether or not the vector index has them yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import Struct

from tracker_daemon.postgres import Connection, schema_of_vector, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERSAMPLING: Final = 20
"""Candidates for each neighbour wanted: signs alone are a coarse measure."""
MIN_CANDIDATES: Final = 200
MAX_EF_SEARCH: Final = 1000
"""As much as pgvector takes; beyond it the scan goes on in turns."""

# The scan of the index goes on until it has enough candidates that still are decisions.
_PREPARE: Final = "SET LOCAL hnsw.ef_search = {ef_search:d}; SET LOCAL hnsw.iterative_scan = relaxed_order"
# One statement, so one snapshot, and in each snapshot a decision is in the queue or in the index. Distances
# are taken of candidates alone, however the planner joins (MATERIALIZED), for reading a stored embedding is
# what costs. A vector of zeros has no direction: its distance is NaN.
_NEAREST: Final = """
WITH candidate AS MATERIALIZED (
    SELECT id, prompt_embedding OPERATOR({vector}.<=>) $1::float8[]::{vector}.vector AS distance
    FROM llm_decisions
    WHERE embedding_model IS NOT DISTINCT FROM $2 AND id IN (
        (
            SELECT d.id
            FROM llm_embedding_index i JOIN llm_decisions d ON d.id = i.decision_id
            WHERE d.embedding_model IS NOT DISTINCT FROM $2
            ORDER BY i.signs OPERATOR({vector}.<~>) {vector}.binary_quantize($1::float8[]::{vector}.vector)
            LIMIT {candidates:d}
        )
        UNION ALL
        SELECT decision_id FROM llm_embedding_queue
    )
)
SELECT id, distance FROM candidate WHERE distance <> 'NaN' ORDER BY distance, id LIMIT {limit:d}
"""


class Neighbour(Struct, frozen=True):
    """A decision and the cosine distance of its embedding: 0 the same direction, 2 the opposite one."""

    id: UUID
    distance: float


async def nearest(
    connection: Connection, embedding: Sequence[float], model: str | None, limit: int
) -> list[Neighbour]:
    """Return the decisions nearest to an embedding of the configured dimension, the nearest first.

    Only those whose embedding is of that `model`, too (None: whose payload did not name one), for between
    two models a distance means nothing.

    Distances are exact. Of what the index has, a neighbour can be missed (its candidates are chosen by the
    signs of their numbers, among 20,000 at most of whatever model); what still waits for the index cannot.
    An embedding of nothing but zeros has no direction: it is nobody's neighbour, and has none. Raises
    `Rejected` for what is no such embedding.
    """
    candidates = max(limit * OVERSAMPLING, MIN_CANDIDATES)
    with translated():
        async with connection.transaction():
            vector = await schema_of_vector(connection)
            await connection.execute(_PREPARE.format(ef_search=min(candidates, MAX_EF_SEARCH)))
            rows = await connection.fetch(
                _NEAREST.format(vector=vector, candidates=candidates, limit=limit), embedding, model
            )
    return [Neighbour(row["id"], row["distance"]) for row in rows]
