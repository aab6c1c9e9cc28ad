"""Decisions whose prompts are like one: near by their embeddings and, on request, by their words too."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.decisions import SHOWN, Told, told
from tracker_daemon.queries.filter import Filter, Selection
from tracker_daemon.queries.search import Ranking, ranked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tracker_daemon.postgres import Connection

MAX_ALIKE: Final = 100
"""Decisions of an answer."""
FEW: Final = 20_000
"""Embeddings that are all compared, without asking the index which to compare."""
CANDIDATES: Final = 2
"""What the index gives for each decision wanted."""
EF_SEARCH: Final = 400
"""Among how many the index looks for the nearest, at a time."""
MAX_QUEUED: Final = 20_000
"""Decisions of the index's queue that are compared; those beyond are left out."""
DEPTH: Final = 100
"""How far down two rankings are fused."""
FUSION_K: Final = 60
"""What is added to each rank, lest one first place decide alone; the constant of the paper."""

# `lacking` wait for an embedding, and `queued` for the index beyond what is compared.
_OUTSET: Final = """
SELECT (
    SELECT atttypmod FROM pg_attribute
    WHERE attrelid = 'llm_decisions'::regclass AND attname = 'prompt_embedding'
) AS width, (
    SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'
) AS vector, (
    SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_prompt_queue
) AS lacking, (
    SELECT GREATEST(count(*) - $1, 0) FROM llm_embedding_queue
) AS queued
"""
_EMBEDDED: Final = """
SELECT EXISTS (SELECT 1 FROM llm_embedding_index) OR EXISTS (SELECT 1 FROM llm_embedding_queue)
"""
_ESTIMATE: Final = "EXPLAIN (FORMAT JSON) SELECT FROM {source} WHERE {condition}"
# A scan of the index goes on until it has enough that the filter lets through, or gives up. What else the
# planner might do is to compare all of them, and whether to is settled before.
_BY_INDEX: Final = f"""
SET LOCAL hnsw.ef_search = {EF_SEARCH}; SET LOCAL hnsw.iterative_scan = relaxed_order;
SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off
"""
_AS_BEFORE: Final = "SET LOCAL enable_seqscan = DEFAULT; SET LOCAL enable_sort = DEFAULT"
_CANDIDATES: Final = """
SELECT id FROM llm_embedding_index i JOIN {source} ON id = i.decision_id WHERE {condition}
ORDER BY direction OPERATOR({vector}.<=>)
         {vector}.subvector({asked}, 1, 4000)::{vector}.halfvec
LIMIT {candidates:d}
"""
_QUEUED: Final = "SELECT decision_id FROM llm_embedding_queue ORDER BY decision_id DESC LIMIT $1"
# Of numbers as they may be stored, float32 cannot hold the squares; to look whether it can takes half as long
# as to divide all by their length.
_DISTANCE: Final = """
CASE WHEN {vector}.vector_norm(prompt_embedding) BETWEEN 1e-15 AND 1e15
    THEN prompt_embedding ELSE {vector}.l2_normalize(prompt_embedding)
END OPERATOR({vector}.<=>) {asked}
"""
# Distances are taken of what is to be compared alone, however the planner goes about it (MATERIALIZED): to
# read a stored embedding is what costs. Zeros have no direction: they are at NaN.
_ALIKE: Final = f"""
WITH compared AS MATERIALIZED (
    SELECT id, created_at, {_DISTANCE} AS distance
    FROM {{source}} WHERE {{among}} AND {{condition}}
), by_embedding AS (
    SELECT id, created_at, rank() OVER (ORDER BY distance) AS place FROM (
        SELECT * FROM compared WHERE distance <> 'NaN'
        ORDER BY distance, created_at DESC, id DESC LIMIT {{depth:d}}
    ) nearest
), by_words AS (
    SELECT * FROM unnest({{words}}::uuid[], {{times}}::timestamptz[], {{places}}::bigint[])
                  AS found (id, created_at, place)
), alike AS (
    SELECT id, e.place AS by_embedding, w.place AS by_words, row_number() OVER (
        ORDER BY COALESCE(1.0 / ({FUSION_K} + e.place), 0) + COALESCE(1.0 / ({FUSION_K} + w.place), 0) DESC,
                 e.place, COALESCE(e.created_at, w.created_at) DESC, id DESC
    ) AS number
    FROM by_embedding e FULL JOIN by_words w USING (id) ORDER BY number LIMIT {{limit:d}}
)
SELECT {SHOWN}, by_embedding, by_words, CASE WHEN {{comparable}}
    THEN NULLIF({_DISTANCE}, 'NaN') END AS distance
FROM alike JOIN {{source}} USING (id) ORDER BY number
"""


class Alike(Struct, frozen=True, kw_only=True):
    """A decision whose prompt is alike; `distance` is the cosine distance: 0 the same direction, 2 opposite.

    `by_embedding` and `by_words` are its ranks, equal ones for what is equally near; None: it is not in that
    ranking. `distance` is None where its embedding cannot be compared.
    """

    decision: Told
    distance: float | None
    by_embedding: int | None
    by_words: int | None


class AlikePrompts(Struct, frozen=True, kw_only=True):
    """Decisions with prompts alike, the nearest first, compared by the embeddings of a model.

    `exact`: all embeddings that the filter chooses were compared; else those that the index took for the
    nearest. `left_out`: embeddings that were not looked at, as the index is far behind; `lacking`: decisions
    whose embedding is still to be made; `embedded`: whether any decision at all has one. `words_left_out` and
    `words_looked_at` are of the ranking by words, as in a search.
    """

    rows: tuple[Alike, ...]
    embedding_model: str | None
    exact: bool
    left_out: int
    lacking: int
    embedded: bool
    words_left_out: int
    words_looked_at: int | None


async def similar_prompts(
    connection: Connection,
    embedding: Sequence[float],
    wanted: Filter,
    limit: int = 20,
    *,
    words: str | None = None,
) -> AlikePrompts:
    """Return the decisions whose prompts are nearest to an embedding; ask inside `reading`.

    Compared are the embeddings of the filter's `embedding_model` alone (None: those of payloads that named
    none), for between two models a distance means nothing. With `words` the order is that of reciprocal rank
    fusion (Cormack, Clarke, Buettcher, SIGIR 2009): of this ranking, and of that by `search.ranked`.
    """
    if not 1 <= limit <= MAX_ALIKE:
        raise InvalidQuestion(f"limit must be from 1 to {MAX_ALIKE}, not {limit}")
    [outset] = await connection.fetch(_OUTSET, MAX_QUEUED)
    vector, direction = outset["vector"], _direction(embedding, outset["width"])
    found = Ranking((), 0, None) if words is None else await ranked(connection, words, wanted, DEPTH)
    depth = limit if words is None else DEPTH
    ids = await _candidates(connection, vector, direction, wanted, depth)
    chosen = Selection(wanted)
    comparable = _comparable(wanted)
    rows = await connection.fetch(
        _ALIKE.format(
            vector=vector,
            asked=_asked(chosen, vector, direction),
            source=chosen.source,
            among="true" if ids is None else f"id = ANY({chosen.parameter(ids)}::uuid[])",
            condition=f"{chosen.condition} AND {comparable}",
            comparable=comparable,
            depth=depth,
            words=chosen.parameter([row["id"] for row in found.rows]),
            times=chosen.parameter([row["created_at"] for row in found.rows]),
            places=chosen.parameter([row["place"] for row in found.rows]),
            limit=limit,
        ),
        *chosen.values,
    )
    return AlikePrompts(
        rows=await _told(rows),
        embedding_model=wanted.embedding_model,
        exact=ids is None,
        left_out=0 if ids is None else outset["queued"],
        lacking=outset["lacking"],
        embedded=any(row["by_embedding"] for row in rows) or await connection.fetchval(_EMBEDDED),
        words_left_out=found.left_out,
        words_looked_at=found.looked_at,
    )


def _direction(embedding: Sequence[float], width: int) -> list[float]:
    """The embedding with a length of 1, of which float32 can take the square; refuse what has none here."""
    if len(embedding) != width:
        raise InvalidQuestion(f"an embedding has {width} numbers here, not {len(embedding)}")
    if not all(map(math.isfinite, embedding)):
        raise InvalidQuestion("an embedding has finite numbers only")
    if not any(embedding):
        raise InvalidQuestion("an embedding of nothing but zeros has no direction, and nothing is near to it")
    largest = max(map(abs, embedding))  # the length of some huge numbers is none that a float can be
    shrunk = [number / largest for number in embedding]
    length = math.hypot(*shrunk)
    return [number / length for number in shrunk]


async def _candidates(
    connection: Connection, vector: str, direction: list[float], wanted: Filter, limit: int
) -> list[UUID] | None:
    """What the index takes for the nearest, and what it has not got yet; None: compare all there is.

    That is where the filter leaves few, or so few that the index gave up before it had enough.
    """
    if await _estimate(connection, wanted) <= FEW:
        return None
    chosen, most = Selection(wanted), limit * CANDIDATES
    query = _CANDIDATES.format(
        vector=vector,
        source=chosen.source,
        condition=f"{chosen.condition} AND {_comparable(wanted)}",
        asked=_asked(chosen, vector, direction),
        candidates=most,
    )
    await connection.execute(_BY_INDEX)
    found = await connection.fetch(query, *chosen.values)
    await connection.execute(_AS_BEFORE)
    if len(found) < most:
        return None
    queued = await connection.fetch(_QUEUED, MAX_QUEUED)
    return [id_ for (id_,) in (*found, *queued)]


async def _estimate(connection: Connection, wanted: Filter) -> float:
    """How many embeddings the planner expects the filter to leave."""
    chosen = Selection(wanted)
    condition = f"{chosen.condition} AND {_comparable(wanted)}"
    plan = await connection.fetchval(
        _ESTIMATE.format(source=chosen.source, condition=condition), *chosen.values
    )
    rows: float = json.loads(plan)[0]["Plan"]["Plan Rows"]
    return rows


def _comparable(wanted: Filter) -> str:
    """The condition, beside the filter's, that there is an embedding of its model."""
    unnamed = " AND embedding_model IS NULL" if wanted.embedding_model is None else ""
    return f"prompt_embedding IS NOT NULL{unnamed}"


def _asked(chosen: Selection, vector: str, direction: list[float]) -> str:
    return f"{chosen.parameter(direction)}::float8[]::{vector}.vector"


async def _told(rows: Sequence[Any]) -> tuple[Alike, ...]:
    found = []
    for values in map(dict, rows):
        ranks = {name: values.pop(name) for name in ("distance", "by_embedding", "by_words")}
        found.append(Alike(decision=told(values), **ranks))
        await asyncio.sleep(0)  # contexts have to be decoded: messages that arrive meanwhile come first
    return tuple(found)
