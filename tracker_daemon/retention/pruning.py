"""The horizon, and the rows that go once they lie behind it: decisions with all that is theirs, leftovers."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import tenacity

from tracker_daemon.errors import Misconfigured, TrackerError, Unavailable
from tracker_daemon.postgres import Rejected, translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

    from asyncpg import Record

    from tracker_daemon.postgres import Connection

STEP_ROWS: Final = 500
"""Decisions, dead letters or alerts that one step deletes at most."""
WALK_ROWS: Final = 2000
"""Rows that one step looks at, of a table where no index knows which have no decision."""
PATIENCE_SECONDS: Final = 45
"""How long a step gives way to whoever holds its rows: the server ends a writer that is frozen sooner."""
COUNT_SECONDS: Final = 3600.0
"""How long it may take to count a table."""

TABLES: Final = (
    "llm_decisions",
    "llm_outcomes",
    "llm_embedding_queue",
    "llm_embedding_index",
    "llm_text_index",
    "llm_situation_index",
    "llm_dead_letters",
    "llm_alerts",
)
"""Every table that rows are deleted from."""
# Decisions first: an event that is committed meanwhile goes with the next statement. And the queue before the
# index: whoever moves an embedding from one to the other is waited for.
_DECISION: Final = {"llm_decisions": "id"} | dict.fromkeys(TABLES[1:6], "decision_id")
_LETTER: Final = {"llm_dead_letters": "id"}
_ALERT: Final = {"llm_alerts": "id"}

# What was raised and not cleared is where its agent or model stands: without it, it is raised once more.
_SAID: Final = """
published_at IS NOT NULL AND (state = 'cleared' OR EXISTS (
    SELECT FROM llm_alerts later
    WHERE (later.kind, later.scope, later.name) = (llm_alerts.kind, llm_alerts.scope, llm_alerts.name)
      AND later.number > llm_alerts.number
))
"""

_MOVE_HORIZON: Final = "UPDATE tracker_retention SET horizon = GREATEST(horizon, $1) RETURNING horizon"
# From the last step's time on, for what is deleted stays in the index until it is vacuumed.
_OLDEST: Final = """
SELECT id, {time} AS time FROM {table}
WHERE {time} < $1 AND {time} >= COALESCE($2, '-infinity'::timestamptz) AND {condition}
ORDER BY {time} LIMIT {rows:d}
"""
_LEDGER: Final = """
SELECT decision_id, event_id, LEAST(observed_at, received_at) < $1 AS old FROM llm_outcomes
WHERE (decision_id, event_id) > ($2, $3) ORDER BY decision_id, event_id LIMIT {rows:d}
"""
_LEFT_OVER: Final = """
decision_id = ANY({ids}) AND LEAST(observed_at, received_at) < '{before}'::timestamptz
AND NOT EXISTS (SELECT FROM llm_decisions d WHERE d.id = llm_outcomes.decision_id)
"""
# Only daemons from before there was an index leave any in it. Ids come as an array, which is looked up by the
# primary key whatever is guessed about it.
_LEFT_BEHIND: Final = """
WITH walked AS MATERIALIZED (
    SELECT decision_id FROM {index} WHERE decision_id > $1 ORDER BY decision_id LIMIT {rows:d}
)
SELECT (SELECT decision_id FROM walked ORDER BY decision_id OFFSET {rows:d} - 1) AS last, ARRAY(
    SELECT decision_id FROM walked
    EXCEPT SELECT id FROM llm_decisions WHERE id = ANY(ARRAY(SELECT decision_id FROM walked))
) AS gone
"""
# On its own, not row by row: the index of situations is the coordinator's on Citus, decisions are not.
_GONE: Final = """
decision_id = ANY({ids}) AND decision_id NOT IN (SELECT id FROM llm_decisions WHERE id = ANY({ids}))
"""
# On the nodes of Citus, too. The first is less than `deadlock_timeout`: in a deadlock the pruning gives way,
# never a writer. The second ends one that freezes in the middle; not while a statement is prepared, so all of
# them are texts.
_LIMITS: Final = """
SET LOCAL citus.propagate_set_commands = 'local';
SET LOCAL lock_timeout = '500ms'; SET LOCAL idle_in_transaction_session_timeout = '5s'
"""
# These keep the indexes of texts and of situations from making a place for a decision that is about to go.
# Their queues may go on holding the ids: they lead nowhere.
_LOCK: Final = """
SELECT pg_advisory_xact_lock('llm_text_index'::regclass::bigint);
SELECT pg_advisory_xact_lock('llm_situation_index'::regclass::bigint)
"""

_COUNT_OF_DECISION: Final = """
SELECT count(*) FROM {table} t JOIN llm_decisions d ON d.id = t.decision_id WHERE d.created_at < $1
"""
_COUNT_OUTCOMES: Final = """
SELECT count(*) FROM llm_outcomes o LEFT JOIN llm_decisions d ON d.id = o.decision_id
WHERE d.created_at < $1 OR (d.id IS NULL AND LEAST(o.observed_at, o.received_at) < $1)
"""


async def cutoff(connection: Connection, older_than: timedelta | datetime) -> datetime:
    """Return the time that an age means by the server's clock; raise `TrackerError` unless it has passed."""
    with translated():
        now: datetime = await connection.fetchval("SELECT now()")
    before = now - older_than if isinstance(older_than, timedelta) else older_than
    if before >= now:
        raise TrackerError(f"nothing is older than {before:%Y-%m-%d %H:%M:%S %Z}, which is still to come")
    return before


async def move_horizon(connection: Connection, before: datetime) -> datetime:
    """Commit that nothing older is stored any more, and return the horizon, which never moves back."""
    with translated():
        async with connection.transaction():
            horizon: datetime | None = await connection.fetchval(_MOVE_HORIZON, before)
    if horizon is None:
        raise Misconfigured(
            "tracker_retention has lost its row: INSERT INTO tracker_retention DEFAULT VALUES"
        )
    return horizon


async def prune(
    connection: Connection, before: datetime, *, unreplayed: bool
) -> AsyncGenerator[Counter[str], None]:
    """Delete what is older, a transaction a step, and yield the rows that each has deleted, by table.

    Decisions with their outcomes and their places in the indexes; outcomes, and places in the indexes of
    texts and situations, without a decision; dead letters that were replayed, and with `unreplayed` the
    others too; alerts that were published, unless they still stand. The horizon must have been moved.
    """
    settled = _settled(unreplayed=unreplayed)
    for steps in (
        _oldest_first(connection, before, "created_at", _DECISION),
        _left_over(connection, before),
        _left_behind(connection, "llm_text_index"),
        _left_behind(connection, "llm_situation_index"),
        _oldest_first(connection, before, "received_at", _LETTER, settled),
        _oldest_first(connection, before, "created_at", _ALERT, _SAID),
    ):
        async for deleted in steps:
            yield deleted


async def count(connection: Connection, before: datetime, *, unreplayed: bool) -> Counter[str]:
    """Count what `prune` would delete, by table, in one snapshot."""
    queries = {
        "llm_decisions": "SELECT count(*) FROM llm_decisions WHERE created_at < $1",
        "llm_outcomes": _COUNT_OUTCOMES,
        "llm_dead_letters": "SELECT count(*) FROM llm_dead_letters WHERE received_at < $1 AND "
        + _settled(unreplayed=unreplayed),
        "llm_alerts": f"SELECT count(*) FROM llm_alerts WHERE created_at < $1 AND {_SAID}",
    }
    with translated():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return Counter(
                {
                    table: await connection.fetchval(
                        queries.get(table, _COUNT_OF_DECISION.format(table=table)),
                        before,
                        timeout=COUNT_SECONDS,
                    )
                    for table in TABLES
                }
            )


def _settled(*, unreplayed: bool) -> str:
    return "true" if unreplayed else "replayed_at IS NOT NULL"


async def _oldest_first(
    connection: Connection, before: datetime, time: str, keys: Mapping[str, str], condition: str = "true"
) -> AsyncIterator[Counter[str]]:
    """Delete the rows of the first of the tables in the order of time, and what belongs to them."""
    table = next(iter(keys))
    oldest = _OLDEST.format(table=table, time=time, condition=condition, rows=STEP_ROWS)
    last: datetime | None = None
    seen: set[UUID] = set()
    while rows := await _read(connection, oldest, before, last):
        ids = {row["id"] for row in rows}
        if ids == seen:
            raise _held(table, "a trigger keeps them")
        yield await _delete(connection, {name: f"{key} = ANY({_array(ids)})" for name, key in keys.items()})
        last, seen = rows[-1]["time"], ids


async def _left_over(connection: Connection, before: datetime) -> AsyncIterator[Counter[str]]:
    """Delete events without a decision; the decision may still come, but is older then, and expired."""
    last = UUID(int=0), UUID(int=0)
    ledger = _LEDGER.format(rows=WALK_ROWS)
    while True:
        rows = await _read(connection, ledger, before, *last)
        if ids := {row["decision_id"] for row in rows if row["old"]}:
            condition = _LEFT_OVER.format(ids=_array(ids), before=before.isoformat())
            yield await _delete(connection, {"llm_outcomes": condition})
        else:
            yield Counter()
        if len(rows) < WALK_ROWS:  # or it would go on for as long as outcomes come
            return
        last = rows[-1]["decision_id"], rows[-1]["event_id"]


async def _left_behind(connection: Connection, index: str) -> AsyncIterator[Counter[str]]:
    """Delete places in an index without a decision."""
    last: UUID | None = UUID(int=0)
    places = _LEFT_BEHIND.format(index=index, rows=WALK_ROWS)
    while last is not None:  # a step that is not full has none
        [walked] = await _read(connection, places, last)
        if ids := walked["gone"]:
            yield await _delete(connection, {index: _GONE.format(ids=_array(ids))})
        else:
            yield Counter()
        last = walked["last"]


async def _read(connection: Connection, query: str, *values: Any) -> list[Record]:
    # In a transaction: behind PgBouncer two round trips outside of one may reach two servers.
    with translated():
        async with connection.transaction(readonly=True):
            return await connection.fetch(query, *values)


async def _delete(connection: Connection, conditions: Mapping[str, str]) -> Counter[str]:
    """Delete, in one transaction, the rows of each table that meet its condition."""

    async def attempt() -> Counter[str]:
        deleted: Counter[str] = Counter()
        with translated():
            async with connection.transaction():
                await connection.execute(_LIMITS)
                await connection.execute(_LOCK)
                for table, condition in conditions.items():
                    status = await connection.execute(f"DELETE FROM {table} WHERE {condition}")
                    deleted[table] = int(status.split()[-1])
        return deleted

    def passes(error: BaseException) -> bool:
        hopeless = isinstance(error, Misconfigured) or connection.is_closed()
        return isinstance(error, Unavailable) and not hopeless

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(passes),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    try:
        return await retrying(attempt)
    except Rejected as error:  # by a rule of the operator's own
        raise _held(next(iter(conditions)), error.safely) from error


def _held(table: str, why: str) -> Misconfigured:
    return Misconfigured(
        f"{table} does not let its rows go ({why}): look at its triggers and at foreign keys to it"
    )


def _array(ids: Iterable[UUID]) -> str:
    return f"'{{{','.join(map(str, sorted(ids)))}}}'::uuid[]"
