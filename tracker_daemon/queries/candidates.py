"""Which decisions a question about situations compares: those that its index holds nearest, or might."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import Struct

from tracker_daemon.queries.filter import Filter
from tracker_daemon.queries.places import GROWTH, LEAST, Look, Places
from tracker_daemon.situations.asking import asking_on
from tracker_daemon.situations.generations import known

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries.situation import Situation

PLACES: Final = 200
"""The nearest, of which an answer compares some or all; five for each precedent, if that is more."""
COMPARED: Final = 2
"""Places that an answer compares for each precedent, where the index has axes for all that is asked."""
MOST_PLACES: Final = 10_000
"""Where the outcome matters: it is looked up for twice so many at most."""
QUEUED_ROWS: Final = 10
"""Of the queue, the last ones, up to 1,000 decisions, which are compared, too."""

_KNOWN: Final = ("symbol", "agent_name", "decision_type", "since", "until", "as_of", "outcome")
"""Conditions that the index, or a look at a few rows, can tell."""

# Each decision is in the index or the queue once a sweep has seen them all. A generation counts for as long
# as anything lies in it. The settings hold until the transaction ends: for a thousand cells the planner would
# rather read the whole table, in parallel or by compiled code, which takes ten times as long; and a prepared
# statement may keep its plan, since cells and ids are looked up alike, whichever they are.
_OUTSET: Final = """
SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('jit', 'off', true), set_config('plan_cache_mode', 'auto', true), ARRAY(
    SELECT ROW(generation, learnt_at) FROM llm_situation_axes
    WHERE EXISTS (SELECT 1 FROM llm_situation_axes WHERE swept_at IS NOT NULL)
      AND generation BETWEEN (SELECT min(cell) >> 16 FROM llm_situation_index)
                         AND (SELECT max(cell) >> 16 FROM llm_situation_index)
) AS generations, (
    SELECT COALESCE(max(changed), 0) FROM llm_situation_cells
) AS changed, ARRAY(
    SELECT ROW(path, (scales -> path ->> 'spread')::float8) FROM (
        SELECT scales FROM llm_scales WHERE learnt_at <= COALESCE($2::timestamptz, 'infinity')
        ORDER BY learnt_at DESC LIMIT 1
    ) learnt CROSS JOIN unnest($1::text[]) path
    WHERE scales -> path IS NOT NULL
) AS spreads, ARRAY(
    SELECT unnest(decisions)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC LIMIT $3) last
) AS latest, (
    SELECT COALESCE(sum(cardinality(decisions)), 0)
    FROM (SELECT decisions FROM llm_situation_queue ORDER BY id DESC OFFSET $3) others
) AS waiting, (
    SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'
) AS vector
"""

_NOT_BY_INDEX: Final = "SET LOCAL plan_cache_mode = force_custom_plan"


class Candidates(Struct, frozen=True):
    """Decisions to compare; `waiting`: so many others wait for a place in the index, or for a new one."""

    ids: list[UUID]
    waiting: int


async def candidates(
    connection: Connection, situation: Situation, wanted: Filter, limit: int, *, resolved: bool
) -> Candidates | None:
    """Return what to compare for an answer of so many; ask inside `reading`. None: the index cannot say.

    There is none yet, or it has no axes for most of the situation, or does not know what the filter chooses
    by, or of what it holds near too little has the outcome asked for.
    """
    if any(getattr(wanted, name) is not None for name in Filter.__struct_fields__ if name not in _KNOWN):
        return None
    found = await _indexed(connection, situation, wanted, limit, resolved=resolved)
    if found is None:
        await connection.execute(_NOT_BY_INDEX)
    return found


async def _indexed(
    connection: Connection, situation: Situation, wanted: Filter, limit: int, *, resolved: bool
) -> Candidates | None:
    """The same for what the index knows of."""
    counting = situation.weighted()
    paths = [indicator.path for indicator, _ in counting]
    [outset] = await connection.fetch(_OUTSET, paths, wanted.as_of, QUEUED_ROWS)
    looks = []
    for one in await known(connection, outset["generations"], outset["changed"]):
        asking = asking_on(one.axes, counting, dict(outset["spreads"]), situation.min_overlap)
        if asking is None:
            return None
        looks.append(Look(one, asking))
    if not looks:
        return None
    places = Places(connection, wanted, outset["vector"], situation.max_distance)
    found: dict[UUID, None] = {}
    for look in looks:
        chosen = await _chosen(places, look, limit, resolved=resolved)
        if chosen is None:
            return None
        found |= dict.fromkeys(chosen)
    return Candidates([*(found | dict.fromkeys(outset["latest"]))], outset["waiting"])


async def _chosen(places: Places, look: Look, limit: int, *, resolved: bool) -> list[UUID] | None:
    """What to compare: the nearest that the whole filter chooses. None: of many, too few have the outcome.

    Where not all that is asked has axes, it is more: the rest may bring any of them forward.
    """
    enough = max(PLACES, 5 * limit)
    placed = look.asking.part >= 1 - LEAST
    compared = COMPARED * limit if placed else enough
    if not resolved and places.wanted.outcome is None:
        return [each.decision_id for each in (await places.nearest(look, limit, enough))[:compared]]
    count = 2 * limit
    while True:
        near = [each.decision_id for each in await places.nearest(look, count, max(2 * count, enough))]
        if placed:
            near = near[: 2 * count]
        passing = await places.passing(near, resolved=resolved)
        if len(passing.intersection(near[:count])) >= limit or len(near) < count:
            return [id_ for id_ in near if id_ in passing][:compared]
        if count >= MOST_PLACES:
            return None
        count = min(count * GROWTH, MOST_PLACES)
